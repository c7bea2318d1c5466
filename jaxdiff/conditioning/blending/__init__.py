"""Noise blending: outputs of several conditions, or of several models, become one.

Every function here takes denoisers and returns a denoiser, as :mod:`jaxdiff.conditioning.guidance`
does, where classifier-free guidance, autoguidance and negative prompts are. The condition of those
with one weight is what ``null`` goes with, or a :class:`jaxdiff.guidance.Prompts`. A weight is a
number, one per sample, or a function of the level (:mod:`jaxdiff.conditioning.weights`).
"""

from jaxdiff.conditioning.blending.cfg_zero_star import zero_star as zero_star
from jaxdiff.conditioning.blending.composition import composed as composed
from jaxdiff.conditioning.blending.composition import mixed as mixed
from jaxdiff.conditioning.blending.composition import (
    perpendicular_negative as perpendicular_negative,
)
from jaxdiff.conditioning.blending.composition import sine as sine
from jaxdiff.conditioning.blending.composition import two_weights as two_weights
from jaxdiff.conditioning.blending.frequency import frequency_decoupled as frequency_decoupled
from jaxdiff.conditioning.blending.magnitude import magnitude_aware as magnitude_aware
from jaxdiff.conditioning.blending.multidiffusion import regions as regions
from jaxdiff.conditioning.blending.multidiffusion import windows as windows
from jaxdiff.conditioning.blending.projected import adaptive_projected as adaptive_projected
from jaxdiff.conditioning.blending.projected import (
    adaptive_projected_ddim as adaptive_projected_ddim,
)
from jaxdiff.conditioning.blending.projected import both_outputs as both_outputs
from jaxdiff.conditioning.blending.rescale import rescaled as rescaled
from jaxdiff.conditioning.blending.saliency import magic_fusion as magic_fusion
from jaxdiff.conditioning.blending.tangential_damping import tangential as tangential
from jaxdiff.conditioning.weights import interval as interval
from jaxdiff.conditioning.weights import plus_plus as plus_plus
from jaxdiff.conditioning.weights import within as within
