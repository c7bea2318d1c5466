"""Primitives of the losses: perturbed data, jumps and their inverse, conditioning drop-out.

All work on batches.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff.arrays import expand, null_condition, rows_of
from jaxdiff.typing import Array, Cond, Key

Drop: TypeAlias = float | Mapping[str | tuple[str, ...], float]
"""Probability that a condition is dropped, or of entries of a dictionary: ``{"text": 0.1}`` each by
itself, ``{("text", "image"): 0.05}`` together.
"""


def perturb(x0: Array, level: Array, eps: Array) -> Array:
    """Y = x0 + level eps, with one level per sample."""
    return x0 + expand(level, x0) * eps


def jump(y: Array, s: Array, r: Array, x: Array) -> Array:
    """Return the state at level r of the straight line from y at level s to x at 0: one Euler, or
    DDIM, step whose denoised output is x. Levels (batch,), s > 0.
    """
    ratio = expand(r / s, y)
    return ratio * y + (1.0 - ratio) * x


def implied(y: Array, s: Array, z: Array, r: Array) -> Array:
    """Return the denoised output whose Euler step from y at level s is z at level r < s; inverse of
    :func:`jump`.

        x = (z - (r/s) y)/(1 - r/s)

    The regression target of progressive distillation (arXiv 2202.00512, appendix G), TRACT and
    multistep consistency. Loses digits as r nears s.
    """
    ratio = expand(r / s, y)
    return (z - ratio * y) / (1.0 - ratio)


def drop_condition(key: Key, cond: Cond, probability: Drop, null: Cond) -> Cond:
    """Conditions of which some samples' are replaced by ``null``, which stands for no condition
    (arXiv 2207.12598); whole, or entry by entry (InstructPix2Pix, arXiv 2211.09800, section 3.2).

    Args:
        key: typed key.
        cond: a tree of arrays of any dtype, batch first, or None.
        probability: that a sample's is replaced, all of its numbers and leaves together; or, of a
            dictionary, that an entry is, independently of the others, and that several are
            together, of a tuple of their names. Entries that are not named stay.
        null: one sample's value: a tree of the same structure, its leaves without the batch, or
            single numbers; for class indices the number of classes. Of entries, those that are
            named are enough.

    Raises ValueError for a null that does not go with the condition, for leaves of it without a row
    for every sample, and as :func:`check_drop`.
    """
    if cond is None or not probability:
        return cond
    check_drop(probability, cond, null)
    rows = rows_of(cond, "cond")
    if not isinstance(probability, Mapping):
        dropped = jax.random.bernoulli(key, probability, (rows,))
        return _replaced(dropped, cond, null_condition(cond, null))
    gone: dict[str, Array] = {}
    keys = jax.random.split(key, len(probability))
    for own, names in zip(keys, sorted(probability, key=str), strict=True):
        hit = jax.random.bernoulli(own, probability[names], (rows,))
        for name in entries(names):
            gone[name] = gone[name] | hit if name in gone else hit
    made: dict[str, Any] = dict(cond)  # type: ignore[arg-type]
    for name, dropped in gone.items():
        part = {name: made[name]}
        made |= _replaced(dropped, part, null_condition(part, {name: null[name]}))  # type: ignore[index]
    return made


def _replaced(dropped: Array, cond: Cond, nulls: Cond) -> Any:
    """Return conditions with the rows that are dropped, (batch,), replaced."""

    def one(x: Array, n: Array) -> Array:
        return jnp.where(dropped.reshape(-1, *(1,) * (x.ndim - 1)), n, x)

    return jax.tree.map(one, cond, nulls)


def entries(names: str | tuple[str, ...]) -> tuple[str, ...]:
    """Return the entries that a key of a :data:`Drop` names."""
    return names if isinstance(names, tuple) else (names,)


def check_drop(probability: Drop, cond: Cond, null: Cond) -> None:
    """Raise ValueError, naming the entry, for a probability outside [0, 1], and for entries that
    the condition or its null has not; TypeError for entries of what is no dictionary.
    """
    each = probability if isinstance(probability, Mapping) else {"": probability}
    for names, p in each.items():
        if not 0 <= p <= 1:
            of = f" of {names!r}" * bool(names)
            raise ValueError(f"the probability of dropping a condition{of} is in [0, 1], not {p}")
    if not isinstance(probability, Mapping):
        return
    if not isinstance(cond, Mapping) or not isinstance(null, Mapping):
        raise TypeError(
            f"label_drop names the entries {[*probability]}: condition and null= must be "
            f"dictionaries, but are {type(cond).__name__} and {type(null).__name__}"
        )
    for name in (name for names in probability for name in entries(names)):
        for tree, what in ((cond, "the condition"), (null, "its null")):
            if name not in tree:
                raise ValueError(
                    f"label_drop names {name!r}, which {what} has not; its entries are "
                    f"{', '.join(map(repr, tree))}"
                )
