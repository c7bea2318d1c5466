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
from jaxdiff.adapt.lora_file import load_lora, save_lora
from jaxdiff.adapt.low_rank import LowRank, combined, unmerge

__all__ = [
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
