"""Attention manipulation: controllers for the hook that every network with attention has.

An attention here is ``attention(q, k, v, place) -> out`` (:mod:`jaxdiff.networks.attention`), a
pytree, bound to a denoiser by ``conditioned(D, attention=...)`` or, for a source and its edit side
by side, by :func:`grouped`; :func:`jaxdiff.blending.within` limits it to some levels.

| method | function |
|---|---|
| perturbed attention, smoothed energy, skip-layer guidance | :func:`perturbed`, :func:`smoothed`, :func:`skipped` |
| self-attention guidance | :func:`self_attention_guidance` |
| Prompt-to-Prompt, its local blend | :func:`prompt_to_prompt`, :func:`local_blend` |
| plug and play, MasaCtrl, StyleID | :func:`plug_and_play`, :func:`masactrl`, :func:`style_injection` |
| attend-and-excite, paint with words | :func:`attend_and_excite`, :func:`paint_with_words` |
| self-guidance, and what it is of | :func:`self_guidance`; :func:`centroid`, :func:`size`, :func:`shape`, :func:`appearance` |
| maps as arrays | :func:`attention_maps`, :func:`word_maps` |
"""  # noqa: E501

from jaxdiff.conditioning.attention.blend import local_blend as local_blend
from jaxdiff.conditioning.attention.groups import grouped as grouped
from jaxdiff.conditioning.attention.maps import attend_and_excite as attend_and_excite
from jaxdiff.conditioning.attention.maps import attention_maps as attention_maps
from jaxdiff.conditioning.attention.maps import paint_with_words as paint_with_words
from jaxdiff.conditioning.attention.maps import self_attention_guidance as self_attention_guidance
from jaxdiff.conditioning.attention.maps import word_maps as word_maps
from jaxdiff.conditioning.attention.places import CROSS as CROSS
from jaxdiff.conditioning.attention.places import SELF as SELF
from jaxdiff.conditioning.attention.places import At as At
from jaxdiff.conditioning.attention.prompts import prompt_to_prompt as prompt_to_prompt
from jaxdiff.conditioning.attention.properties import appearance as appearance
from jaxdiff.conditioning.attention.properties import centroid as centroid
from jaxdiff.conditioning.attention.properties import self_guidance as self_guidance
from jaxdiff.conditioning.attention.properties import shape as shape
from jaxdiff.conditioning.attention.properties import size as size
from jaxdiff.conditioning.attention.shared import adain as adain
from jaxdiff.conditioning.attention.shared import masactrl as masactrl
from jaxdiff.conditioning.attention.shared import plug_and_play as plug_and_play
from jaxdiff.conditioning.attention.shared import style_injection as style_injection
from jaxdiff.conditioning.attention.worse import perturbed as perturbed
from jaxdiff.conditioning.attention.worse import skipped as skipped
from jaxdiff.conditioning.attention.worse import smoothed as smoothed
