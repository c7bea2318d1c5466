"""Blocks that DDPM++, NCSN++ and ADM share, in EDM's form (2206.00364, F.1, table 7).

    h = conv(resample(silu(norm(x)))),
    adaptive:  h = silu(norm(h) (1 + a(e)) + b(e))     otherwise:  h = silu(norm(h + b(e)))
    x <- s (skip(resample(x)) + conv(dropout(h))),     then    x <- s (x + attention(norm(x)))

with e the embedding of noise level, class and augmentation. A norm has min(32, channels // 4)
groups. Statistics, softmax, embeddings and their linear layers are in float32 at least.

A condition is class indices (batch,), the number of classes standing for none of them, or a
dictionary {"class": indices, "augment": labels}. An augmentation's labels (batch, augment) say how
an image was changed before noise was added (2206.00364, appendix F.2); without them, as in
sampling, it was not. None is no condition at all: a class's vector is 0 then.
"""

import math
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdiff.networks.attention import AttentionFn, Place, attend, softmax_attention
from jaxdiff.networks.conv import Conv
from jaxdiff.networks.embedding import class_index, wide
from jaxdiff.networks.resampling import BOX, Filter, doubled, halved
from jaxdiff.networks.unet import Norm
from jaxdiff.typing import Array, Cond

Fan: TypeAlias = Literal["fan_in", "fan_avg"]
XAVIER: Fan = "fan_avg"
KAIMING: Fan = "fan_in"


def scaled(scale: float, fan: Fan = XAVIER) -> Any:
    """Return an initialiser of uniform numbers, of variance ``scale`` in units of 1/fan."""
    if not scale:
        return nn.initializers.zeros
    return nn.initializers.variance_scaling(scale, fan, "uniform")


def norm(x: Array, eps: float, param_dtype: Any, name: str) -> Array:
    """Normalise ``x`` by groups, within a module's own ``nn.compact`` call."""
    return Norm(max(1, min(32, x.shape[-1] // 4)), param_dtype, eps, name=name)(x)


class EDMBlock(nn.Module):
    """The residual block of the module's text.

    channels: of the output. resample: "keep", "halve" or "double". taps: the filter of that.
    adaptive: see above. scale: s. eps: of the norms. project: whether the skip of a block that
    resamples has a 1x1 convolution where the channels stay. heads: of the attention, 0 for none.
    starts: variances of the initial weights, of the block's and of the attention's first layer, and
    of the last ones of both, in units of 1/fan; fan: of inputs or of the mean of
    inputs and outputs.
    """

    channels: int
    resample: str = "keep"
    taps: Filter = BOX
    adaptive: bool = True
    scale: float = 1.0
    eps: float = 1e-5
    project: bool = False
    heads: int = 0
    dropout: float = 0.0
    starts: tuple[float, float, float] = (1.0, 1.0, 0.0)
    fan: Fan = XAVIER
    dtype: Any = None
    param_dtype: Any = jnp.float32
    attention: AttentionFn = softmax_attention
    stage: str = ""

    @nn.compact
    def __call__(self, x: Array, e: Array, deterministic: bool = True) -> Array:
        """Map ``x`` (batch, height, width, any) to ``channels`` channels, given ``e``."""
        kinds = {"dtype": jnp.dtype(self.dtype or x.dtype), "param_dtype": self.param_dtype}
        first, last = scaled(self.starts[0], self.fan), scaled(self.starts[2], self.fan)
        h = self._resampled(nn.silu(norm(x, self.eps, self.param_dtype, "norm_in")))
        h = Conv(self.channels, kernel_init=first, **kinds, name="conv_in")(h)
        width = self.channels * (1 + self.adaptive)
        modulation = nn.Dense(
            width, dtype=e.dtype, param_dtype=self.param_dtype, kernel_init=first, name="modulation"
        )(e).astype(h.dtype)[:, None, None]
        if self.adaptive:
            a, b = jnp.split(modulation, 2, axis=-1)
            h = nn.silu(norm(h, self.eps, self.param_dtype, "norm_out") * (1 + a) + b)
        else:
            h = nn.silu(norm(h + modulation, self.eps, self.param_dtype, "norm_out"))
        h = nn.Dropout(self.dropout)(h, deterministic=deterministic)
        h = Conv(self.channels, kernel_init=last, **kinds, name="conv_out")(h)
        x = self._resampled(x)
        changed = x.shape[-1] != self.channels
        if changed or (self.project and self.resample != "keep"):
            x = nn.Dense(self.channels, kernel_init=first, **kinds, name="skip")(x)
        x = (x + h) * self.scale
        if not self.heads:
            return x
        starts = {"first": scaled(self.starts[1], self.fan), "last": last}
        attention = EDMAttention(self.heads, self.eps, **starts, **kinds, name="attention")
        return (x + attention(x, self.attention, self.stage)) * self.scale

    def _resampled(self, x: Array) -> Array:
        change = {"keep": lambda x, taps: x, "halve": halved, "double": doubled}[self.resample]
        return change(x, self.taps)


class EDMAttention(nn.Module):
    """Self-attention over the positions of a map, of its norm; what is to be added to the map."""

    heads: int
    eps: float
    first: Any
    last: Any
    dtype: Any
    param_dtype: Any

    @nn.compact
    def __call__(self, x: Array, attention: AttentionFn, stage: str) -> Array:
        """Return attention's output for ``x`` (batch, height, width, channels)."""
        kinds = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        b, height, width, c = x.shape
        if c % self.heads:
            raise ValueError(f"{self.heads} heads do not divide {c} channels")
        h = norm(x, self.eps, self.param_dtype, "norm").reshape(b, height * width, c)
        qkv = nn.Dense(3 * c, kernel_init=self.first, **kinds, name="qkv")(h)
        qkv = qkv.reshape(b, height * width, 3, self.heads, c // self.heads)
        place = Place("/".join(self.path), "self", (height, width), stage)
        h = attend(attention, qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], place)
        return nn.Dense(c, kernel_init=self.last, **kinds, name="out")(h.reshape(x.shape))


def waves(label: Array, width: int, endpoint: bool = False) -> Array:
    """Return [cos, sin] of labels (batch,) times 10000^(-k/h), k = 0 .. width/2 - 1: (batch,
    width).

    h is width/2, or width/2 - 1 with ``endpoint``.
    """
    half = width // 2
    frequencies = 10000.0 ** (-np.arange(half) / max(1, half - endpoint))
    angle = label[:, None] * jnp.asarray(frequencies, label.dtype)[None]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def embedding_inputs(
    label: Array, cond: Cond, num_classes: int, augment: int
) -> tuple[Array, Array | None, Array | None]:
    """Return labels (batch, k) in float32 at least, class indices and augmentation's labels.

    Raises ValueError or TypeError, naming it, for a label or condition of another kind or shape.
    """
    label = jnp.asarray(label)
    if label.ndim not in (1, 2):
        raise ValueError(f"label is (batch,) or (batch, k); its shape is {label.shape}")
    batch, dtype = label.shape[0], wide(label.dtype)
    parts = cond if isinstance(cond, dict) else {"class": cond}
    if strange := set(parts) - {"class", "augment"}:
        raise ValueError(f"a condition is of 'class' and 'augment'; got {sorted(strange)}")
    changes = parts.get("augment")
    if changes is not None:
        changes = jnp.asarray(changes, dtype)
        if not augment or changes.shape != (batch, augment):
            said = f"({batch}, {augment})" if augment else "no input of this network"
            raise ValueError(f"labels of augmentation are {said}; got shape {changes.shape}")
    elif augment:
        changes = jnp.zeros((batch, augment), dtype)
    index = class_index(parts.get("class"), num_classes, batch)
    return label.astype(dtype).reshape(batch, -1), index, changes


def class_vectors(rows: Array, index: Array) -> Array:
    """Look up the rows (classes, width) of indices (batch,); 0 for the index after the last."""
    return jnp.take(jnp.concatenate([rows, jnp.zeros_like(rows[:1])]), index, axis=0)


class ClassVectors(nn.Module):
    """A linear layer of classes as vectors of one 1 and 0 otherwise, of 0 alone for no class.

    scale: what the vectors are multiplied by. The kernel is (num_classes, width).
    """

    num_classes: int
    width: int
    scale: float = 1.0
    use_bias: bool = False
    kernel_init: Any = nn.initializers.normal(1.0)
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, index: Array, dtype: Any) -> Array:
        """Map indices (batch,) to (batch, width)."""
        shape = (self.num_classes, self.width)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype).astype(dtype)
        vectors = class_vectors(kernel, index) * self.scale
        if not self.use_bias:
            return vectors
        bias = self.param("bias", nn.initializers.zeros, (self.width,), self.param_dtype)
        return vectors + bias.astype(dtype)[None]


def check_image(x: Array, label: Array, resolution: int, channels: int, levels: int) -> None:
    """Raise ValueError for an input of another shape than a network's own."""
    expected = (resolution, resolution, channels)
    if x.ndim != 4 or x.shape[1:] != expected or label.shape[:1] != x.shape[:1]:
        raise ValueError(
            f"this network takes x (batch, {', '.join(map(str, expected))}) and label (batch,); "
            f"got {x.shape} and {label.shape}"
        )
    if resolution % 2 ** (levels - 1):
        raise ValueError(f"{resolution} pixels cannot be halved {levels - 1} times")


def half_of(scale: float = 1.0) -> float:
    """Return sqrt(1/2) times ``scale``."""
    return scale * math.sqrt(0.5)
