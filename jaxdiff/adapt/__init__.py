"""Small changes of frozen networks: trained alone, saved alone, put into any model of the base.

``jd.adapt``: an adapter is ``init`` and ``apply``, and an adapted network is a network
(:mod:`jaxdiff.adapt.frame`).
"""

from jaxdiff.adapt.frame import (
    Adapted,
    Adapter,
    Partly,
    adapted,
    adapter_only,
    check_adapter,
    matching,
    merged,
    paths,
    trainable,
)
from jaxdiff.adapt.grown import BOXES, widened, with_boxes
from jaxdiff.adapt.injection import (
    STEERING,
    controlnet_of,
    ip_adapter_of,
    steering_of,
    t2i_adapter_of,
)
from jaxdiff.adapt.lora_file import load_lora, save_lora
from jaxdiff.adapt.low_rank import LowRank, combined, unmerge

__all__ = [
    "BOXES",
    "STEERING",
    "controlnet_of",
    "ip_adapter_of",
    "steering_of",
    "t2i_adapter_of",
    "widened",
    "with_boxes",
    "Adapted",
    "Adapter",
    "LowRank",
    "Partly",
    "adapted",
    "adapter_only",
    "check_adapter",
    "combined",
    "load_lora",
    "matching",
    "merged",
    "paths",
    "save_lora",
    "trainable",
    "unmerge",
]
