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
from jaxdiff.networks.embedding import Embedding, class_index, fourier, sinusoidal
from jaxdiff.networks.mlp import MLP
from jaxdiff.networks.unet import UNet

__all__ = [
    "MLP",
    "Embedding",
    "UNet",
    "class_index",
    "count_parameters",
    "fourier",
    "from_equinox",
    "from_linen",
    "from_nnx",
    "graft",
    "init",
    "sinusoidal",
]
