"""Editing: a sample is taken up in noise, and comes down with another condition.

| method | how |
|---|---|
| SDEdit, image to image | :func:`noised`, :func:`last_steps`, then any sampler |
| DDIM inversion, DDIB | :func:`translate`, :func:`jaxdiff.invert` |
| fixed point, EDICT, BDIA | :mod:`jaxdiff.sampling.inversion` |
| AIDI | :func:`anderson_invert` |
| edit-friendly DDPM, CycleDiffusion | :func:`record` |
| null-text inversion | :func:`null_text`, :func:`null_text_guidance` |
| prompt-tuning inversion | :func:`prompt_tuning`, :func:`prompt_tuning_guidance` |
| negative-prompt inversion | :func:`jaxdiff.guidance.negative_prompt` of (edit, source) |
| direct inversion | :func:`jaxdiff.corrections.follow` with a mask of whole samples |
| DiffEdit | :func:`difference_mask`, :func:`jaxdiff.corrections.follow` |
| RF-inversion | :func:`towards_noise` on the way up, :func:`towards_picture` down |
| FlowEdit | :func:`flow_edit` |
"""

from jaxdiff.conditioning.editing.anderson import anderson_invert as anderson_invert
from jaxdiff.conditioning.editing.flow import flow_edit as flow_edit
from jaxdiff.conditioning.editing.mask import difference_mask as difference_mask
from jaxdiff.conditioning.editing.null import null_text as null_text
from jaxdiff.conditioning.editing.null import null_text_guidance as null_text_guidance
from jaxdiff.conditioning.editing.recorded import Recorded as Recorded
from jaxdiff.conditioning.editing.recorded import record as record
from jaxdiff.conditioning.editing.start import last_steps as last_steps
from jaxdiff.conditioning.editing.start import noised as noised
from jaxdiff.conditioning.editing.translation import towards_noise as towards_noise
from jaxdiff.conditioning.editing.translation import towards_picture as towards_picture
from jaxdiff.conditioning.editing.translation import translate as translate
from jaxdiff.conditioning.editing.tuned import prompt_tuning as prompt_tuning
from jaxdiff.conditioning.editing.tuned import prompt_tuning_guidance as prompt_tuning_guidance
