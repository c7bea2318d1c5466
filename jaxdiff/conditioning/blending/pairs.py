r"""Parts of guidance by two conditions: the two outputs, in the prediction they are blended in.

A blend that is not linear depends on what is blended. In the frame y = x0 + s eps every prediction
is p y + q D with numbers of the level alone,

    x0    D
    eps   (y - D)/s
    flow  eps - D                              of the rectified flow
    v     (eps - s D)/sqrt(1 + s^2)            of variance-preserving processes

so that any model's outputs can be blended as any of them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import expand, null_condition
from jaxdiff.brief import Changed
from jaxdiff.conditioning.guidance import Prompts
from jaxdiff.conditioning.together import null_class, together
from jaxdiff.conditioning.weights import Weight, as_weight, weight_at
from jaxdiff.denoisers import as_partial
from jaxdiff.sampling.checks import as_states
from jaxdiff.typing import Array, Cond, Denoiser

PREDICTIONS = ("x0", "eps", "v", "flow")


def prediction_weights(name: str, level: Array, y: Array) -> tuple[Array, Array]:
    """Return p and q of a prediction p y + q D, shaped to multiply ``y``. The level is positive."""
    s = expand(level, y)
    if name == "x0":
        return jnp.zeros_like(s), jnp.ones_like(s)
    if name == "eps":
        return 1 / s, -1 / s
    if name == "flow":
        return 1 / s, -1 / s - 1
    root = jnp.sqrt(1 + s**2)
    return 1 / (s * root), -root / s


def check_name(name: str) -> None:
    """Raise ValueError for a prediction that outputs are not blended in."""
    if name not in PREDICTIONS:
        raise ValueError(f"outputs are blended as one of {PREDICTIONS}, not as {name!r}")


def two_outputs(
    denoiser: Partial, y: Array, level: Array, cond: Cond, null: Cond, options: dict[str, Any]
) -> tuple[Array, Array]:
    """Return the output for the condition and that which is put against it: for its negative in a
    :class:`Prompts`, or for the null condition. One call where they are alike.
    """
    if isinstance(cond, Prompts):
        near, far = cond.positive, cond.negative
    else:
        near, null = cond, null_class(denoiser, cond) if null is None else null
        far = None if null is None else null_condition(cond, null)
    towards, plain = (
        as_states(output, y) for output in together(denoiser, y, level, (near, far), options)
    )
    return towards, plain


class Blend(NamedTuple):
    """The static half of a blend of two outputs, equal for equal blends.

    combine: ``combine(conditional, plain, weight, *numbers)`` of predictions (batch, *shape).
    prediction: what they are.
    """

    combine: Callable[..., Array]
    prediction: str

    def __call__(
        self, denoiser: Partial, weight: Any, null: Cond, numbers: tuple[Any, ...], y: Array,
        level: Array, cond: Cond = None, **options: Any,
    ) -> Array:  # fmt: skip
        """Return the blended denoised output."""
        outputs = two_outputs(denoiser, y, level, cond, null, options)
        p, q = prediction_weights(self.prediction, level, y)
        towards, plain = (p * y + q * D for D in outputs)
        numbers = tuple(expand(n, y) for n in numbers)
        made = self.combine(towards, plain, weight_at(weight, level, y), *numbers)
        return (made - p * y) / q


def blended(
    combine: Callable[..., Array], denoiser: Denoiser, weight: Weight, null: Cond,
    prediction: str, *numbers: Any,
) -> Partial:  # fmt: skip
    """Return the denoiser whose two outputs are combined: see :class:`Blend`.

    Its condition is one that ``null`` goes with, or a :class:`Prompts`. Raises ValueError for an
    unknown prediction.
    """
    check_name(prediction)
    blend = Blend(combine, prediction)
    return Changed(blend, as_partial(denoiser), as_weight(weight), null, numbers)


def inner(a: Array, b: Array) -> Array:
    """Return the inner product of each sample's numbers, (batch, 1, ...)."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)), keepdims=True)


def norm(a: Array) -> Array:
    """Return the norm of each sample's numbers, (batch, 1, ...), with gradient 0 at 0."""
    square = inner(a, a)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1)), 0)


def ratio(a: Array | float, b: Array) -> Array:
    """Return a/b, and 0 where b is 0."""
    nonzero = b != 0
    return jnp.where(nonzero, a / jnp.where(nonzero, b, 1), 0)
