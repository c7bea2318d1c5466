r"""Measurements as what a conditional network is shown, and batches that are measured anew.

    b = [p(u), m, sigma],    u = A x0 + sigma eps,    p(u) = u, or A^+ u of another shape than x0's,

m the operator's support where it has one (1 where a pixel is seen, 0 in a hole), sigma the noise's
standard deviation, the same number everywhere: a network trained on b for sigma from a range is
told at sampling how far to trust u. With A an average, u a smaller image and sigma drawn, this is
the noise-conditioning augmentation of cascades.

The measurement is drawn in the data, not in the loss: every method (training, distillation) then
has it in its batch, and what a sample meets depends on seed, update and row alone.

Sources: Saharia et al., arXiv 2111.05826 (Palette), section 3; Ho et al., "Cascaded diffusion
models", arXiv 2106.15282, section 3; the level as a map, Zhang et al., "FFDNet", arXiv 1710.04026.
Deviation: Palette fills holes with noise; here they are 0, and m says where they are.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.conditioning.operators.algebra import Operator
from jaxdiff.conditioning.operators.linear import Linear, sizes
from jaxdiff.conditioning.operators.matrices import mask
from jaxdiff.conditioning.operators.measurement import Measurement
from jaxdiff.typing import Array, Key

Observe = Callable[[Key, Array], Array]
Draw = Callable[[Key], Operator]


def beside(measurement: Measurement) -> Array:
    """Return what a network is shown of measurements, b of the module's text.

    Args:
        measurement: of (batch, *measured), or of one sample (*measured).

    Returns:
        (batch, *axes, channels) floats with the axes of samples (*axes, any); a batch of 1 for an
        observation of one sample.

    Raises:
        ValueError: for a measurement that has no sample's shape and no pseudo-inverse, and for
            noise that is not one number for each sample.
    """
    operator, u = measurement.operator, measurement.observation
    u = u[None] if u.ndim == len(operator.measured) else u
    parts = [picture(operator, u)]
    if operator.support is not None:
        parts.append(jnp.broadcast_to(operator.support[None].astype(u.dtype), parts[0].shape))
    noise = measurement.noise
    if noise.ndim and noise.shape[1:] != (1,) * len(operator.measured):
        raise ValueError(
            f"a network is shown one level of noise for each sample, not {noise.shape} numbers"
        )
    rows = noise.astype(u.dtype).reshape(-1, *(1,) * len(operator.shape))
    parts.append(jnp.broadcast_to(rows, (u.shape[0], *operator.shape[:-1], 1)))
    return jnp.concatenate(parts, axis=-1)


def picture(operator: Operator, u: Array) -> Array:
    """Return measurements (batch, *measured) in the shape of samples: as they are, or by the
    pseudo-inverse. ValueError for an operator without one.
    """
    if operator.measured == operator.shape:
        return u
    if not isinstance(operator, Linear) or operator.basis is None:
        raise ValueError(
            f"measurements {operator.measured} are no samples {operator.shape}, and this operator "
            "has no pseudo-inverse: a network cannot be shown them beside x"
        )
    return operator.pseudo_inverse(u)


def observing(operator: Operator | Draw, noise: float | tuple[float, float] = 0.0) -> Observe:
    """Return a function that measures a sample anew with every key.

    Args:
        operator: of samples; or a function of a key that draws one, as :func:`random_box` makes.
        noise: standard deviation of the measurement, or the two ends of the range that it is drawn
            from uniformly.

    Returns:
        ``observe(key, sample) -> b``, (*axes, channels) of a sample (*axes, any).

    Raises:
        TypeError: for what is no operator. ValueError: for noise that is negative or no range, and
            for an operator that has nothing to show (:func:`beside`).
    """
    low, high = (noise, noise) if isinstance(noise, int | float) else noise
    if not 0 <= low <= high < float("inf"):
        raise ValueError(f"noise is a standard deviation, or two that are ordered; got {noise}")
    if not isinstance(operator, Operator) and not callable(operator):
        raise TypeError(f"an operator is made by jaxdiff.operators, not {type(operator)}")
    if isinstance(operator, Operator):
        jax.eval_shape(functools.partial(picture, operator), _like(operator))
    return functools.partial(_observed, operator, float(low), float(high))


def random_box(shape: tuple[int, ...], least: float = 0.25, most: float = 0.75) -> Draw:
    """Return a function that draws masks with a hole: a box of random sides at a random place.

    Args:
        shape: of one image (height, width, channels), or of a signal (length, channels).
        least, most: of the length of a side that the hole's is, 0 < least <= most < 1.

    Returns:
        ``draw(key)``, the operator of a mask.

    Raises:
        ValueError: for other numbers, or a shape without an axis besides the channels.
    """
    shape = sizes(shape)
    if not 0 < least <= most < 1 or len(shape) < 2:
        raise ValueError(
            f"a hole has sides of a share between 0 and 1 of an image's; got {least} to {most} of "
            f"{shape}"
        )
    return functools.partial(_drawn_box, shape, least, most)


def measured_batches(
    data: Callable[..., Mapping[str, Any]], observe: Observe, seed: int = 0
) -> "MeasuredBatches":
    """Return batches whose samples have a measurement beside them.

    Args:
        data: ``data(step)``, batches {"image": x0, "label": classes}, as for
            :func:`jaxdiff.training.loop.fit`.
        observe: of :func:`observing`, or any function of a key and a sample.
        seed: of what is drawn.

    Returns:
        ``batch(step)``: {"image": x0, "label": {"beside": b, "classes": classes}}, without classes
        where there are none; other entries of a dictionary of labels stay.
    """
    size = getattr(data, "batch_size", None)
    return MeasuredBatches(data, jax.jit(jax.vmap(observe)), seed, size)


@dataclasses.dataclass(frozen=True, eq=False)
class MeasuredBatches:
    """Batches as a function of the step, made by :func:`measured_batches`."""

    data: Callable[..., Mapping[str, Any]]
    observe: Callable[[Any, Any], Array]
    seed: int
    batch_size: int | None

    def __call__(self, step: int, rows: slice = slice(None)) -> dict[str, Any]:
        """Return the batch of a step, or the given rows of it alone."""
        batch = dict(self.data(step) if self.batch_size is None else self.data(step, rows))
        count = self.batch_size or len(batch["image"])
        numbers = np.arange(count, dtype=np.int32)[rows]
        key = jax.random.fold_in(jax.random.key(self.seed), step)
        seen = np.asarray(self.observe(_keys(key, numbers), batch["image"]))
        label = batch.get("label")
        known = label if isinstance(label, Mapping) else {"classes": label}
        return batch | {
            "label": {k: v for k, v in known.items() if v is not None} | {"beside": seen}
        }


@jax.jit
def _keys(key: Key, numbers: Array) -> Key:
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers)


def _like(operator: Operator) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *operator.measured), jnp.float32)


def _observed(operator: Any, low: float, high: float, key: Key, x0: Array) -> Array:
    """Return b of one sample."""
    key_operator, key_level, key_noise = jax.random.split(key, 3)
    A = operator if isinstance(operator, Operator) else operator(key_operator)
    u = A.apply(x0[None])
    level = jax.random.uniform(key_level, (), u.dtype, low, high)
    eps = jax.random.normal(key_noise, u.shape, u.dtype)
    eps = eps if A.support is None else jnp.where(A.support[None], eps, 0)
    return beside(Measurement(A, u + level * eps, level))[0]


def _drawn_box(shape: tuple[int, ...], least: float, most: float, key: Key) -> Linear:
    hidden = jnp.ones(shape, jnp.bool_)
    for axis, n in enumerate(shape[:-1]):
        key_side, key_place, key = jax.random.split(key, 3)
        share = jax.random.uniform(key_side, (), jnp.float32, least, most)
        side = jnp.clip(jnp.round(share * n), 1, n - 1).astype(jnp.int32)
        first = jax.random.randint(key_place, (), 0, n - side + 1, jnp.int32)
        here = jnp.arange(n, dtype=jnp.int32)
        inside = (here >= first) & (here < first + side)
        others = tuple(i for i in range(len(shape)) if i != axis)
        hidden = hidden & jnp.expand_dims(inside, others)
    return mask(~hidden)
