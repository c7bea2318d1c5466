"""What tells a network where it is: embeddings of the noise label and of the class.

A label l (time t, or c_noise = log(s)/4 in EDM) becomes the vector [cos(w_k l), sin(w_k l)],
computed in float32 (float64 for float64 labels) whatever the network computes in: a bfloat16 label
would have three digits. ``scale`` is the largest angular frequency, in radians per unit of the
label, so labels closer than about 1/scale look alike, and a derivative with respect to the label
(consistency and flow-map training) grows with it.

The default, 100 radians, resolves both t in [0, 1] and c_noise in [-1.6, 1.1] to a hundredth, which
is finer than a denoiser changes. Integer time steps 0..999 want scale 1 or less.

A class index becomes a learned row; index ``num_classes`` is the null class, which stands for "no
condition" and is what a condition of None means (classifier-free guidance, 2207.12598).

Sources: Vaswani et al. 1706.03762, section 3.5; Tancik et al. 2006.10739; Karras et al. 2206.00364,
appendix F.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdiff.typing import Array, Cond

Features: TypeAlias = Callable[[Array, int, float], Array]


def wide(dtype: Any) -> Any:
    """Return the dtype for statistics, softmax and embeddings: float32, or float64 for float64."""
    return jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32


def _waves(label: Array, frequencies: np.ndarray) -> Array:
    angle = label[:, None] * jnp.asarray(frequencies, label.dtype)[None, :]
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=-1)


def sinusoidal(label: Array, width: int, scale: float = 100.0) -> Array:
    """Embed labels by geometrically spaced frequencies, from scale/1000 to scale radians per unit.

    label: (batch,), float32 or float64. width: even, at least 4. Returns (batch, width).
    """
    return _waves(label, scale * np.geomspace(1.0, 1e-3, width // 2))


def fourier(label: Array, width: int, scale: float = 100.0) -> Array:
    """Embed labels by random Fourier features (2006.10739), frequencies from N(0, scale^2).

    The draw is part of the definition (a fixed seed), not a parameter. Shapes as
    :func:`sinusoidal`.
    """
    return _waves(label, scale * np.random.default_rng(0).standard_normal(width // 2))


class Embedding(nn.Module):
    """One vector per sample: a two-layer perceptron of the label's waves, plus the class's row.

    width: length of the result. num_classes: 0 for a network without classes. scale: see the
    module's text. features: :func:`sinusoidal`, :func:`fourier` or any function of (label, width,
    scale).
    """

    width: int
    num_classes: int = 0
    scale: float = 100.0
    features: Features = sinusoidal
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, label: Array, cond: Cond = None) -> Array:
        """Embed the label and the condition.

        label: (batch,), or (batch, k) for k labels. cond: class indices (batch,), or None. Returns
        (batch, width) in float32, or float64 for float64 labels. Raises ValueError or TypeError for
        a label or condition of another shape or kind.
        """
        label = _checked_label(label)
        dense = {"dtype": label.dtype, "param_dtype": self.param_dtype}
        columns = [self.features(column, self.width, self.scale) for column in label.T]
        e = nn.silu(nn.Dense(self.width, **dense)(jnp.concatenate(columns, axis=-1)))
        e = nn.Dense(self.width, **dense)(e)
        index = class_index(cond, self.num_classes, label.shape[0])
        if index is None:
            return e
        return e + nn.Embed(self.num_classes + 1, self.width, **dense, embedding_init=_unit)(index)


class LogVariance(nn.Module):
    """A learned log variance of the loss at a noise label (2312.02696, section 2.3; zero at the
    start): a linear function of the first label's waves, 128 numbers.
    """

    scale: float = 100.0
    features: Features = sinusoidal
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, label: Array) -> Array:
        """Map labels (batch,) or (batch, k) to (batch,), in the dtype of embeddings."""
        waves = self.features(_checked_label(label)[:, 0], 128, self.scale)
        zero = nn.initializers.zeros
        dense = nn.Dense(1, kernel_init=zero, dtype=waves.dtype, param_dtype=self.param_dtype)
        return dense(waves)[:, 0]


def class_index(cond: Cond, num_classes: int, batch: int) -> Array | None:
    """Return the rows to look up: ``cond``, or the null class for None; None without classes.

    Indices lie in [0, num_classes], the last being the null class; one beyond gives NaN, never
    another class. Raises ValueError for a condition on a network without classes or of a wrong
    shape, TypeError for one that is not integer.
    """
    if num_classes == 0 and cond is not None:
        raise ValueError(
            "cond was given to a network without classes; build it with num_classes=..."
        )
    if num_classes == 0:
        return None
    if cond is None:
        return jnp.full((batch,), num_classes, jnp.int32)
    index = jnp.asarray(cond)
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"cond must hold integer class indices, not {index.dtype}")
    if index.shape != (batch,):
        raise ValueError(f"cond has shape {index.shape}, but one class per sample is ({batch},)")
    return index.astype(jnp.int32)


def _checked_label(label: Array) -> Array:
    label = jnp.asarray(label)
    if label.ndim not in (1, 2):
        raise ValueError(
            f"label has shape {label.shape}; it must be (batch,) or (batch, number of labels)"
        )
    return label.astype(wide(label.dtype)).reshape(label.shape[0], -1)


def _unit(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    return nn.initializers.normal(1.0 / math.sqrt(shape[-1]))(key, shape, dtype)
