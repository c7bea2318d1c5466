"""Embeddings of a network's position in the process: those of the noise label and of the class.

A label l (time t, or c_noise = log(s)/4 in EDM) becomes the vector [cos(w_k l), sin(w_k l)],
computed in float32 (float64 for float64 labels) whatever the network computes in: a bfloat16 label
would have three digits. ``scale`` is the largest angular frequency, in radians per unit of the
label, so labels closer than about 1/scale look alike, and a derivative with respect to the label
(consistency and flow-map training) grows with it.

The default, 100 radians, resolves both t in [0, 1] and c_noise in [-1.6, 1.1] to a hundredth, which
is finer than a denoiser changes. Integer time steps 0..999 want scale 1 or less.

A class index becomes a learned row; index ``num_classes`` is the null class, which stands for "no
condition" and is what a condition of None means (classifier-free guidance, 2207.12598). Rows start
as N(0, 1), as in DDPM and EDM, whose entries are a little larger than those of the label's
perceptron: with rows of norm 1 classes are learned about ten times more slowly. Several labels
share the perceptron's first layer, each with the same part of its variance.

Sources: Vaswani et al. 1706.03762, section 3.5; Tancik et al. 2006.10739; Karras et al. 2206.00364,
appendix F.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check
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

    Args:
        label: (batch,), float32 or float64.
        width: even, at least 4.
        scale: the highest frequency, in radians per unit of the label.

    Returns:
        (batch, width): cosines and sines.
    """
    return _waves(label, scale * np.geomspace(1.0, 1e-3, width // 2))


def fourier(label: Array, width: int, scale: float = 100.0) -> Array:
    """Embed labels by random Fourier features (2006.10739), frequencies from N(0, scale^2).

    The draw is part of the definition (a fixed seed), not a parameter. Shapes as
    :func:`sinusoidal`.

    Args:
        label: (batch,), float32 or float64.
        width: even, the number of features.
        scale: standard deviation of the frequencies.

    Returns:
        (batch, width).

    Source: Tancik et al., Fourier Features Let Networks Learn High Frequency Functions in Low
    Dimensional Domains, arXiv 2006.10739.
    """
    return _waves(label, scale * np.random.default_rng(0).standard_normal(width // 2))


def timestep_waves(label: Array, width: int, shift: float = 0.0) -> Array:
    """Embed labels as most published networks do, whose labels are integer timesteps: frequencies
    10000^(-k/(width/2 - shift)), k = 0 .. width/2 - 1, radians per unit, the cosines first. The
    frequencies are rounded as theirs are: of an angle of thousands the last digits count.

    label: (batch,), float32 or float64. Returns (batch, width).
    """
    half = width // 2
    powers = np.float32(-math.log(10000.0)) * np.arange(half, dtype=np.float32)
    powers = (powers / np.float32(half - shift)).astype(np.float64)
    return _waves(label, np.exp(powers).astype(np.float32))


def periodic(label: Array, width: int, scale: float = 1.0) -> Array:
    """:func:`timestep_waves` of scale times the label, for :class:`Embedding`."""
    return timestep_waves(scale * label, width)


class Embedding(nn.Module):
    """One vector per sample: a two-layer perceptron of the label's waves, plus the class's row.

    width: length of the result. num_classes: 0 for a network without classes. scale: see the
    module's text. features: :func:`sinusoidal`, :func:`fourier` or any function of (label, width,
    scale). waves: how many of them, ``width`` if 0. null_class: whether there is a row for no
    condition; without it a condition must be given.
    """

    width: int
    num_classes: int = 0
    scale: float = 100.0
    features: Features = sinusoidal
    param_dtype: Any = jnp.float32
    waves: int = 0
    null_class: bool = True

    @nn.compact
    def __call__(self, label: Array, cond: Cond = None) -> Array:
        """Embed the label and the condition.

        label: (batch,), or (batch, k) for k labels. cond: class indices (batch,), or None. Returns
        (batch, width) in float32, or float64 for float64 labels. Raises ValueError or TypeError for
        a label or condition of another shape or kind.
        """
        label = _checked_label(label)
        dense = {"dtype": label.dtype, "param_dtype": self.param_dtype}
        waves = self.waves or self.width
        columns = [self.features(column, waves, self.scale) for column in label.T]
        e = nn.silu(nn.Dense(self.width, **dense)(jnp.concatenate(columns, axis=-1)))
        e = nn.Dense(self.width, **dense)(e)
        if cond is None and self.num_classes and not self.null_class and self.is_initializing():
            cond = jnp.zeros(label.shape[:1], jnp.int32)
        index = class_index(cond, self.num_classes, label.shape[0], null=self.null_class)
        if index is None:
            return e
        return e + class_row(index, self.num_classes - (not self.null_class), self.width, **dense)


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


def class_index(cond: Cond, num_classes: int, batch: int, *, null: bool = True) -> Array | None:
    """Return the rows to look up: ``cond``, or the null class for None; None without classes.

    Args:
        cond: (batch,) integers, or None for the null class.
        num_classes: of the network; 0 for one without classes.
        batch: number of samples.
        null: whether there is a null class; without it a condition must be given.

    Returns:
        (batch,) integers, or None for a network without classes.

    Raises:
        ValueError: for a condition on a network without classes or of a wrong shape, or none where
            there is no null class.
        TypeError: for a condition that is not integer, and for a dictionary.

    Indices lie in [0, num_classes], the last being the null class; any other gives NaN under
    ``jax.jit``, never another class, and is refused where its value is known. Raises ValueError for
    a condition on a network without classes or of a wrong shape, TypeError for one that is not
    integer.
    """
    if num_classes == 0 and cond is not None:
        raise ValueError(
            "cond was given to a network without classes; build it with num_classes=..."
        )
    if num_classes == 0:
        return None
    if cond is None and not null:
        raise ValueError(
            f"this network has {num_classes} classes and none for no condition: give cond"
        )
    if cond is None:
        return jnp.full((batch,), num_classes, jnp.int32)
    if isinstance(cond, Mapping):
        raise TypeError(
            f"this network takes class indices (batch,) alone; cond has {', '.join(map(str, cond))}"
        )
    index = jnp.asarray(cond)
    if not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"cond must hold integer class indices, not {index.dtype}")
    if index.shape != (batch,):
        raise ValueError(f"cond has shape {index.shape}, but one class per sample is ({batch},)")
    message = f"classes are numbered 0 to {num_classes - 1}"
    message += f", and {num_classes} is none" if null else ""
    last = num_classes if null else num_classes - 1
    check(message, lambda c: (c >= 0).all() and (c <= last).all(), index)
    # JAX counts -1 from the end; beyond the end it fills with NaN
    return jnp.where(index < 0, num_classes + 1, index.astype(jnp.int32))


def class_row(index: Array, num_classes: int, width: int, **dense: Any) -> Array:
    """Look up the rows (batch, width) of classes, for a module's own ``nn.compact`` call."""
    start = nn.initializers.normal(1.0)
    return nn.Embed(num_classes + 1, width, embedding_init=start, **dense)(index)


def _checked_label(label: Array) -> Array:
    label = jnp.asarray(label)
    if label.ndim not in (1, 2):
        raise ValueError(
            f"label has shape {label.shape}; it must be (batch,) or (batch, number of labels)"
        )
    return label.astype(wide(label.dtype)).reshape(label.shape[0], -1)
