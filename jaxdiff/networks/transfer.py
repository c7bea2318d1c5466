"""Networks trained beside a student to compare its features with its teacher's.

    Regressor       relu(norm(conv(f))) of the teacher's channels and, if a convolution can, size
    Bottleneck      1 x 1, 3 x 3 and 1 x 1 convolutions: SimKD's projector, SemCKD's projections
    Variational     means by three 1 x 1 convolutions, a variance per channel
    Connector       a linear map or 1 x 1 convolution with norm
    Embedding       a linear map, to unit vectors or as it is
    RowMLP          unit vectors of a row of similarities, SemCKD's queries and keys
    Paraphraser     an autoencoder of the teacher's last map, and the student's translator
    Fusion          attention-based fusion of a map with the next deeper one (ReviewKD)

Each is called as ``module(f, ..., train=, axis_name=)``. Sources are named at each.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.networks.classifier_layers import KAIMING, Layers
from jaxdiff.networks.embedding import wide
from jaxdiff.typing import Array


class Transfer(nn.Module):
    """Common fields: they compute in the dtype of their map, and keep parameters in it, or
    in float32 if that is wider.
    """

    def layers(self, f: Array, train: bool, axis_name: str | None) -> Layers:
        """Return the layers of a call, which compute in the dtype of ``f``."""
        return Layers(train, axis_name, f.dtype, wide(f.dtype))


class Regressor(Transfer):
    """A student's map brought to a teacher's channels, relu(norm(conv(f))) (FitNets, Romero et al.,
    arXiv 1412.6550).

    side: of the teacher's map. A map of twice its side is halved by stride 2, one of half of it
    doubled by a transposed 4 x 4 convolution; a larger one gets a convolution without zeros around,
    a smaller one keeps its side.
    """

    features: int = 1
    side: int = 1

    @nn.compact
    def __call__(self, f: Array, *, train: bool = False, axis_name: str | None = None) -> Array:
        """Map (batch, height, width, channels)."""
        layers, own = self.layers(f, train, axis_name), f.shape[1]
        if own == 2 * self.side:
            h = layers.conv(f, self.features, 3, 2, use_bias=True, name="conv")
        elif 2 * own == self.side:
            h = nn.ConvTranspose(
                self.features, (4, 4), (2, 2), ((2, 2), (2, 2)), dtype=f.dtype,
                param_dtype=wide(f.dtype), kernel_init=KAIMING, name="conv",
            )(f)  # fmt: skip
        else:
            side = own - self.side + 1 if own > self.side else 3
            pad = 0 if own > self.side else 1
            h = layers.conv(f, self.features, side, padding=pad, use_bias=True, name="conv")
        return nn.relu(layers.norm(h, "norm"))


class Bottleneck(Transfer):
    """1 x 1 to ``within`` channels, 3 x 3, 1 x 1 to ``features``, without biases, the first two
    with norm and ReLU, the last too if ``closed``: SimKD's projector (Chen et al., arXiv
    2203.14001), as the map that it replaces is after a ReLU.
    """

    features: int = 1
    within: int = 1
    closed: bool = True

    @nn.compact
    def __call__(self, f: Array, *, train: bool = False, axis_name: str | None = None) -> Array:
        """Map (batch, height, width, channels)."""
        layers = self.layers(f, train, axis_name)
        h = layers.normed(f, self.within, 1, name="first")
        h = layers.normed(h, self.within, 3, name="middle")
        if self.closed:
            return layers.normed(h, self.features, 1, name="last")
        return layers.conv(h, self.features, 1, name="last_conv")


class Variational(Transfer):
    """Mean and variance of a teacher's map given the student's (Ahn et al., arXiv 1904.05835).

    within: channels of the two hidden convolutions, ``features`` if 0. variance: at the start.
    """

    features: int = 1
    within: int = 0
    variance: float = 5.0

    @nn.compact
    def __call__(
        self, f: Array, *, train: bool = False, axis_name: str | None = None
    ) -> tuple[Array, Array]:
        """Return means (batch, height, width, features), and variances (features,)."""
        layers, within = self.layers(f, train, axis_name), self.within or self.features
        h = nn.relu(layers.conv(f, within, 1, name="conv1"))
        h = nn.relu(layers.conv(h, within, 1, name="conv2"))
        start = math.log(math.expm1(self.variance - 1e-5))
        init = nn.initializers.constant(start)
        rho = self.param("rho", init, (self.features,), wide(f.dtype))
        variance = jax.nn.softplus(rho.astype(f.dtype)) + 1e-5
        return layers.conv(h, self.features, 1, name="conv3"), variance


class Connector(Transfer):
    """norm(W f), a 1 x 1 convolution of a map or a linear map of features, without bias: of SRRL
    (Yang et al., ICLR 2021) with a ReLU, of AB and OFD (arXiv 1811.03233, 1904.01866) without.
    """

    features: int = 1
    relu: bool = False

    @nn.compact
    def __call__(self, f: Array, *, train: bool = False, axis_name: str | None = None) -> Array:
        """Map (batch, ..., channels)."""
        layers = self.layers(f, train, axis_name)
        h = nn.Dense(
            self.features, use_bias=False, dtype=f.dtype, param_dtype=wide(f.dtype),
            kernel_init=KAIMING, name="linear",
        )(f)  # fmt: skip
        h = layers.norm(h, "norm")
        return nn.relu(h) if self.relu else h


class Embedding(Transfer):
    """W f + b, of features or a flattened map (CC, arXiv 1904.01802), as a unit vector if
    ``normed`` (CRD, arXiv 1910.10699).
    """

    size: int = 128
    normed: bool = True

    @nn.compact
    def __call__(self, f: Array, *, train: bool = False, axis_name: str | None = None) -> Array:
        """Map (batch, ...) to (batch, size)."""
        flat = f.reshape(f.shape[0], -1)
        e = self.layers(f, train, axis_name).dense(flat, self.size, "linear")
        if not self.normed:
            return e
        return e / jnp.sqrt(jnp.sum(e**2, axis=1, keepdims=True) + 1e-24)


class RowMLP(Transfer):
    """Unit vectors of rows (batch, batch): linear to 2 k, ReLU, linear to k = batch // ``factor``,
    at least 1 (SemCKD, Chen et al., arXiv 2012.03236). The batch size is part of its shape.
    """

    factor: int = 4

    @nn.compact
    def __call__(self, rows: Array, *, train: bool = False, axis_name: str | None = None) -> Array:
        """Map (batch, batch) to (batch, k)."""
        layers, size = self.layers(rows, train, axis_name), max(1, rows.shape[1] // self.factor)
        h = nn.relu(layers.dense(rows, 2 * size, "linear1"))
        h = layers.dense(h, size, "linear2")
        return h / jnp.sqrt(jnp.sum(h**2, axis=1, keepdims=True) + 1e-24)


class Encoder(Transfer):
    """Three 3 x 3 convolutions with norm and leaky ReLU (slope 0.1): channels kept in the first,
    then ``features``. FT's encoder of the teacher's factor and translator of the student's (Kim et
    al., arXiv 1802.04977).
    """

    features: int = 1
    first: int = 0

    @nn.compact
    def __call__(self, f: Array, *, train: bool = False, axis_name: str | None = None) -> Array:
        """Map (batch, height, width, channels)."""
        layers, h = self.layers(f, train, axis_name), f
        for i, width in enumerate((self.first or f.shape[-1], self.features, self.features)):
            h = layers.norm(layers.conv(h, width, name=f"conv{i}"), f"norm{i}")
            h = nn.leaky_relu(h, 0.1)
        return h


class Paraphraser(Transfer):
    """FT's autoencoder of the teacher's map: its factor and its reconstruction (Kim et al., arXiv
    1802.04977). features: channels of the factor.
    """

    features: int = 1

    @nn.compact
    def __call__(
        self, f: Array, *, train: bool = False, axis_name: str | None = None
    ) -> tuple[Array, Array]:
        """Return (batch, height, width, features), and the reconstruction of ``f``."""
        flags = {"train": train, "axis_name": axis_name}
        factor = Encoder(self.features, name="encoder")(f, **flags)
        decoder = Encoder(f.shape[-1], self.features, name="decoder")
        return factor, decoder(factor, **flags)


class Fusion(Transfer):
    """Attention-based fusion of ReviewKD (Chen et al., arXiv 2104.09044, fig. 3): the map, by 1 x 1
    to ``within`` channels, and what comes from deeper, each times its share at every pixel; then
    3 x 3 to ``features`` channels at the teacher's size (height, width).
    """

    within: int = 1
    features: int = 1
    size: tuple[int, ...] = (1, 1)

    @nn.compact
    def __call__(
        self, f: Array, deeper: Array | None = None, *, train: bool = False,
        axis_name: str | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Return the map to compare with the teacher's, and that for the next shallower fusion."""
        layers = self.layers(f, train, axis_name)
        h = layers.norm(layers.conv(f, self.within, 1, name="conv1"), "norm1")
        if deeper is not None:
            y = resized(deeper, f.shape[1:3])
            both = jnp.concatenate([h, y], axis=-1)
            share = nn.sigmoid(layers.conv(both, 2, 1, use_bias=True, name="attention"))
            h = h * share[..., :1] + y * share[..., 1:]
        h = resized(h, self.size)
        return layers.norm(layers.conv(h, self.features, name="conv2"), "norm2"), h


def resized(f: Array, size: tuple[int, ...]) -> Array:
    """Return a map with the nearest pixels of another size, pixel i being floor(i n / m)."""
    if f.shape[1:3] == tuple(size):
        return f
    rows, columns = (jnp.arange(m) * n // m for n, m in zip(f.shape[1:3], size, strict=True))
    return f[:, rows][:, :, columns]
