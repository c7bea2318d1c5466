"""A correction of every state that a sampler accepts: projections, conditions, measurements.

``correct(y, level, key) -> y`` is an optional argument of every solve. It is given

    y       the accepted state (batch, *shape),
    level   its noise level: a scalar, or (batch,) where every sample has its own steps,
    key     (batch,) typed keys, each sample's own for this state; None if the solve was given none,

and what it returns, of the shape and dtype of y, takes the state's place: all that comes after
starts from it. The denoised outputs that a multistep solver remembers stay as they were, and so
does what a solver carries beside its state (the second state of EDICT). States within a step, which
are evaluated but not accepted, are not corrected, nor is the start; the last state is, at level 0
too. A solver that accepts a state it has already evaluated keeps that evaluation.

The accepted states are numbered from 1. A sample's key is fold_in(fold_in(fold_in(key, i),
CORRECTION), n) for sample i and state n, so that a random correction is the same in any batch and
on any number of devices. As a ``jax.tree_util.Partial`` its parameters are arguments of the
compiled program, as a denoiser's are, and gradients flow through it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from jax.typing import DTypeLike

from jaxdiff.noise import CORRECTION, sample_keys
from jaxdiff.sampling.checks import check_typed
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Correct, Key


def as_correction(correct: Correct | None) -> Partial | None:
    """The correction as an argument that compiled functions take. TypeError for no function."""
    if correct is None or isinstance(correct, Partial):
        return correct
    if not callable(correct):
        raise TypeError(
            f"a correction is a function correct(y, level, key); this is {type(correct).__name__}"
        )
    return Partial(correct)


def correction_keys(
    name: str, correct: Correct | None, key: Key | None, start: Array, index: Array | None
) -> Key | None:
    """Each sample's own key in a solver ``name`` that draws no noise itself. ValueError for a key
    without a correction, TypeError for one that is not typed.
    """
    if key is None and index is None:
        return None
    if correct is None:
        raise ValueError(f"{name} draws no noise: key= and index= are for correct=")
    if key is None:
        return None
    check_typed(key)
    return sample_keys(key, start, index)


def corrected(
    correct: Correct, y: Array, level: Array, keys: Key | None, number: Array | int
) -> Array:
    """Return the corrected state number ``number``, one for all or (batch,).

    Raises ValueError, TypeError unless it has the shape and dtype of ``y``.
    """
    own = None
    if keys is not None:
        numbers = jnp.broadcast_to(jnp.asarray(number, jnp.int32), y.shape[:1])
        fold = lambda key, n: jax.random.fold_in(jax.random.fold_in(key, CORRECTION), n)  # noqa: E731
        own = jax.vmap(fold)(keys, numbers)
    out = correct(y, level, own)
    if getattr(out, "shape", None) != y.shape:
        found = f"shape {out.shape}" if hasattr(out, "shape") else type(out).__name__
        raise ValueError(f"correct was given states of shape {y.shape} and returned {found}")
    if out.dtype != y.dtype:
        raise TypeError(f"correct was given states in {y.dtype} and returned {out.dtype}")
    return jnp.asarray(out).astype(y.dtype)  # not weakly typed


def check_correction(t: Table, key: Key | None) -> None:
    """Raise ValueError for a table that does not know which of its states are accepted, TypeError
    for a key that is not typed.
    """
    if key is not None:
        check_typed(key)
    if t.count is not None or not t.accepted:
        raise ValueError(
            "correct= is for accepted states, and a padded table does not know its own: use the "
            "table it was made from"
        )


def row_correction(
    correct: Correct, t: Table, keys: Key | None, dtype: DTypeLike
) -> Callable[[Array | int, int, Array], Array]:
    """``fix(n, row, y)`` of the state that row ``row`` before evaluation ``n`` makes: corrected if
    it is accepted.
    """
    shape, places = t.states.shape[:2], np.array(t.accepted)
    numbers = np.zeros(shape[0] * shape[1], np.int32)
    numbers[places] = np.arange(1, len(places) + 1)
    levels = jnp.zeros(len(numbers), dtype).at[places].set(jnp.asarray(t.levels, dtype)[1:])
    numbers, levels = numbers.reshape(shape), levels.reshape(shape)

    def fix(n: Array | int, row: int, y: Array) -> Array:
        if isinstance(n, int):
            number = int(numbers[n, row])
            return corrected(correct, y, levels[n, row], keys, number) if number else y
        if not numbers[:-1, row].any():  # in no turn of the scan
            return y
        number = jnp.asarray(numbers)[n, row]
        apply = lambda y: corrected(correct, y, levels[n, row], keys, number)  # noqa: E731
        return lax.cond(number > 0, apply, lambda y: y, y)

    return fix
