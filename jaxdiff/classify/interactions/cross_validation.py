"""A method on every fold at once: one program, vectorised over folds.

    F_k = method(O_k * Y, O_k, S_d, S_t),    k = 1 ... folds,    O_k = 0 where fold k holds out,

and AUC and AUPR of F_k on the pairs that fold k holds out.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxdiff.brief import short
from jaxdiff.classify.interactions.problem import Problem, hide
from jaxdiff.classify.interactions.scores import Interval, auc, aupr, check_finite, interval
from jaxdiff.typing import Array, Key

Predictor: TypeAlias = Callable[[Problem, Key], Array]


class Validation(NamedTuple):
    """Outcome of :func:`cross_validate`: scores (folds, m, n), auc and aupr (folds,)."""

    __repr__ = short

    scores: np.ndarray
    auc: np.ndarray
    aupr: np.ndarray

    @property
    def intervals(self) -> tuple[Interval, Interval]:
        """Return AUC and AUPR: mean and half of the interval of 95 %."""
        return interval(self.auc), interval(self.aupr)


def cross_validate(
    method: Predictor, whole: Problem, held_out: np.ndarray, key: Key, **options: Any
) -> Validation:
    """Score a method on held-out pairs.

    Args:
        method: ``method(problem, key) -> scores (m, n)``; every fold has its own key. Of a method
            without one, ``lambda problem, key: rls_kron(problem)``.
        whole: all that is known; interactions 0 or 1.
        held_out: (folds, m, n), of :func:`jaxdiff.classify.interactions.folds.held_out`.
        key: typed key.
        options: of :func:`predict_folds`.

    Raises:
        ValueError: for affinities, folds of another shape, a fold without interactions, or with
            nothing else, or for scores that are not finite.
        TypeError: as :func:`predict_folds`.
    """
    _check_folds(whole, held_out)
    known = np.asarray(whole.known)
    if not np.isin(known, (0, 1)).all():
        raise ValueError(
            "AUC and AUPR are of interactions 0 or 1, and these are affinities: take predict_folds "
            "and the concordance of its scores"
        )
    positive = (np.asarray(held_out) * known).sum(axis=(1, 2))
    if (alike := (positive == 0) | (positive == np.sum(held_out, axis=(1, 2)))).any():
        raise ValueError(
            f"fold {int(np.argmax(alike))} holds out pairs of one class only: use fewer folds"
        )
    scores = predict_folds(method, whole, held_out, key, **options)
    pairs = [(known[mask], F[mask]) for F, mask in zip(scores, held_out, strict=True)]
    return Validation(
        scores, np.array([auc(*pair) for pair in pairs]), np.array([aupr(*pair) for pair in pairs])
    )


def predict_folds(
    method: Predictor,
    whole: Problem,
    held_out: np.ndarray,
    key: Key,
    *,
    folds_at_once: int | None = None,
    dtype: DTypeLike = jnp.float32,
) -> np.ndarray:
    """Return a method's scores of every fold, (folds, m, n).

    Args:
        method, whole, held_out, key: as of :func:`cross_validate`.
        folds_at_once: how many are vectorised, at least 1; None for all, and for one on a CPU,
            which is no slower by it. There jaxlib's decompositions of a batch occupy a thread each
            while they wait for others: two of them, on two cores, for ever.
        dtype: of the arithmetic, floating; float64 needs no switch of JAX's.

    Raises:
        ValueError: for folds of another shape, one that leaves nothing known, or none at once, and
            for scores that are not finite.
        TypeError: for folds that are not booleans, or a dtype that is not floating.
    """
    _check_folds(whole, held_out)
    if folds_at_once is not None and folds_at_once < 1:
        raise ValueError(f"folds_at_once must be at least 1, or None for all; got {folds_at_once}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype must be floating, not {jnp.dtype(dtype)}")
    hidden = hide(whole, held_out)
    if (empty := ~np.any(hidden.known != 0, axis=(1, 2))).any():
        raise ValueError(
            f"fold {int(np.argmax(empty))} holds out everything that is known: nothing is left to "
            "learn from"
        )
    with precision(dtype):
        keys = jax.random.split(key, len(hidden.known))
        arrays = jax.tree.map(lambda x: jnp.asarray(x, dtype), hidden)
        every = 1 if jax.default_backend() == "cpu" else len(hidden.known)
        scores = np.asarray(_run(method, folds_at_once or every, arrays, keys))
    check_finite(scores)
    return scores


def precision(dtype: DTypeLike) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which there are arrays of this dtype."""
    double = jnp.dtype(dtype) == jnp.float64
    return jax.enable_x64(True) if double else contextlib.nullcontext()


def _check_folds(whole: Problem, held_out: np.ndarray) -> None:
    shape = np.shape(held_out)
    if len(shape) != 3 or shape[1:] != np.shape(whole.known) or not shape[0]:
        raise ValueError(
            f"held_out must be (folds, m, n), (folds, {', '.join(map(str, np.shape(whole.known)))})"
            f" for these interactions; it has shape {shape}"
        )
    if np.asarray(held_out).dtype != np.bool_:
        raise TypeError(f"held_out must be booleans, not {np.asarray(held_out).dtype}")


def _all_folds(method: Predictor, at_once: int, hidden: Problem, keys: Key) -> Array:
    def one(fold: tuple[Array, Array, Key]) -> Array:
        known, observed, key = fold
        return method(Problem(known, observed, hidden.drugs, hidden.targets), key)

    return jax.lax.map(one, (hidden.known, hidden.observed, keys), batch_size=at_once)


_run = jax.jit(_all_folds, static_argnums=(0, 1))
