"""Small changes of frozen networks: trained alone, saved alone, put into any model of the base.

``jd.adapt``: an adapter is ``init`` and ``apply``, and an adapted network is a network
(:mod:`jaxdiff.adapt.frame`).
"""

from jaxdiff.adapt.box_files import load_boxes, save_boxes
from jaxdiff.adapt.dreambooth import dreambooth, with_prior
from jaxdiff.adapt.embedding_encoder import PictureWords, domain_tuning, picture_words
from jaxdiff.adapt.files import Loaded, kind_of, load_adapter, save_adapter, with_adapter
from jaxdiff.adapt.frame import (
    Adapted,
    Adapter,
    Partly,
    adapted,
    adapter_only,
    check_adapter,
    merged,
    moved,
    network_with,
    prepare,
    trainable,
)
from jaxdiff.adapt.grown import BOXES, widened, with_boxes
from jaxdiff.adapt.imagic import imagic_denoiser, imagic_stages
from jaxdiff.adapt.injection import (
    STEERING,
    controlnet_of,
    ip_adapter_of,
    steering_of,
    t2i_adapter_of,
)
from jaxdiff.adapt.lora_file import load_lora, save_lora
from jaxdiff.adapt.low_rank import LowRank, combined, unmerge
from jaxdiff.adapt.patterns import matching, paths
from jaxdiff.adapt.steering_files import load_steering, save_steering, steered
from jaxdiff.adapt.svdiff import SpectralShift
from jaxdiff.adapt.textual_inversion import (
    TextualInversion,
    custom_diffusion,
    load_token,
    more_tokens,
    save_token,
)
from jaxdiff.adapt.whole import Together, Whole

__all__ = [
    "PictureWords",
    "domain_tuning",
    "picture_words",
    "moved",
    "Loaded",
    "kind_of",
    "load_adapter",
    "save_adapter",
    "with_adapter",
    "Adapted",
    "Adapter",
    "BOXES",
    "LowRank",
    "Partly",
    "STEERING",
    "SpectralShift",
    "TextualInversion",
    "Together",
    "Whole",
    "adapted",
    "adapter_only",
    "check_adapter",
    "combined",
    "controlnet_of",
    "custom_diffusion",
    "dreambooth",
    "imagic_denoiser",
    "imagic_stages",
    "ip_adapter_of",
    "load_lora",
    "load_token",
    "matching",
    "merged",
    "more_tokens",
    "network_with",
    "paths",
    "prepare",
    "save_lora",
    "save_token",
    "load_boxes",
    "load_steering",
    "save_boxes",
    "save_steering",
    "steered",
    "steering_of",
    "t2i_adapter_of",
    "trainable",
    "unmerge",
    "widened",
    "with_boxes",
    "with_prior",
]
