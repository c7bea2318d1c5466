"""Networks, and adapters that make any library's network a pure function of its parameters.

Importing this package imports flax.
"""

from jaxdiff.networks.adapters import (
    count_parameters,
    from_equinox,
    from_linen,
    from_nnx,
    graft,
    init,
)
from jaxdiff.networks.critic import pair_critic
from jaxdiff.networks.dit import DiT
from jaxdiff.networks.embedding import Embedding, class_index, fourier, sinusoidal
from jaxdiff.networks.heads import FeatureHead, feature_head
from jaxdiff.networks.mlp import MLP
from jaxdiff.networks.unet import UNet

__all__ = [
    "MLP",
    "DiT",
    "Embedding",
    "FeatureHead",
    "UNet",
    "class_index",
    "count_parameters",
    "feature_head",
    "fourier",
    "from_equinox",
    "from_linen",
    "from_nnx",
    "graft",
    "init",
    "pair_critic",
    "sinusoidal",
]
