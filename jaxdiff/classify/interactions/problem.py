"""A problem of drug-target prediction: a bipartite graph of which some edges are known.

    known     Y in {0, 1}^(m x n)   Y_ij = 1: drug i is known to act on target j; 0: unknown
    observed  O in {0, 1}^(m x n)   0: the pair is held out, and no method may learn from it
    drugs     S_d, (m, m)           similarity of drugs (chemical structure)
    targets   S_t, (n, n)           similarity of targets (sequence)

Formulation of Yamanishi et al. (Bioinformatics 24, 2008, i232) and of the survey by Mei, Kwoh, Yang
and Li (arXiv 1502.04469). Kernel methods need similarities that are kernels, symmetric and positive
semidefinite; SIMCOMP and Smith-Waterman scores are neither, exactly. The nearest such matrix in the
Frobenius norm (Higham, Linear Algebra Appl. 103, 1988) is the symmetric part with its negative
eigenvalues set to 0.
"""

import warnings
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float

from jaxdiff.brief import short
from jaxdiff.typing import Array, Values

ROUNDING = 1e-6  # relative: less asymmetry, or less below 0, is no news


class Problem(NamedTuple):
    """The data of a method; made and checked by :func:`problem`.

    known: (m, n), 1 for a known interaction (or any number, for affinities); 0 where held out.
    observed: (m, n), 0 for a pair that is held out, else 1. drugs: (m, m). targets: (n, n).
    """

    __repr__ = short

    known: Float[Array, "m n"]
    observed: Float[Array, "m n"]
    drugs: Float[Array, "m m"]
    targets: Float[Array, "n n"]


def problem(known: Values, drugs: Values, targets: Values, *, binary: bool = True) -> Problem:
    """Check three matrices and return them as a problem of which every pair is observed.

    Similarities are symmetrised and made positive semidefinite, with a warning that says what was
    changed and by how much.

    Args:
        known: (m, n) interactions, drugs by targets.
        drugs: (m, m) similarities.
        targets: (n, n) similarities.
        binary: whether interactions must be 0 or 1; affinities are any numbers.

    Returns:
        the problem, of NumPy arrays in the widest floating dtype given (float64 for integers), at
        least float32.

    Raises:
        ValueError: for shapes that do not fit, numbers that are not finite, interactions other than
            0 and 1 where ``binary``, none at all, or similarities that are 0 throughout.
    """
    given = {"known": known, "drugs": drugs, "targets": targets}
    arrays = {name: _numbers(name, values) for name, values in given.items()}
    dtype = np.result_type(np.float32, *arrays.values())
    Y = arrays["known"]
    if Y.ndim != 2 or 0 in Y.shape:
        raise ValueError(f"known must be a matrix, drugs by targets; it has shape {Y.shape}")
    for name, size in zip(("drugs", "targets"), Y.shape, strict=True):
        _check_square(name, arrays[name], size, Y.shape)
    if binary and not np.isin(Y, (0, 1)).all():
        i, j = np.argwhere(~np.isin(Y, (0, 1)))[0]
        raise ValueError(
            f"interactions must be 0 or 1, and known[{i}, {j}] is {Y[i, j]}: choose a "
            "threshold, or binary=False for affinities"
        )
    if not Y.any():
        raise ValueError("known has no interaction: there is nothing to learn from")
    kernels = [nearest_kernel(arrays[name].astype(dtype), name) for name in ("drugs", "targets")]
    return Problem(Y.astype(dtype), np.ones(Y.shape, dtype), *kernels)  # type: ignore[arg-type]


def nearest_kernel(similarity: np.ndarray, name: str = "similarity") -> np.ndarray:
    """Return the nearest symmetric positive semidefinite matrix; warn, naming it, of any change.

    Args:
        similarity: (n, n).
        name: for the warning.

    Source: Higham, Computing a nearest symmetric positive semidefinite matrix (1988), theorem 2.1.
    """
    size = np.abs(similarity).max()
    symmetric = (similarity + similarity.T) / 2
    asymmetry = np.abs(similarity - similarity.T).max()
    values, vectors = np.linalg.eigh(symmetric)
    lowest = float(values[0])
    changes = []
    if asymmetry > ROUNDING * size:
        changes.append(f"symmetrised (entries differed by up to {asymmetry:.3g})")
    if lowest < -ROUNDING * size:
        changes.append(f"its negative eigenvalues, down to {lowest:.3g}, were set to 0")
    if changes:
        warnings.warn(f"{name} is no kernel: {' and '.join(changes)}", stacklevel=3)
    if lowest >= 0:
        return symmetric
    clipped = (vectors * np.maximum(values, 0)) @ vectors.T
    return (clipped + clipped.T) / 2


def hide(whole: Problem, held_out: np.ndarray) -> Problem:
    """Return the problem without what is known of some pairs.

    Args:
        whole: the problem.
        held_out: (..., m, n) booleans; leading axes (folds) give a batch of known and observed.

    Raises:
        TypeError: for a mask that is not of booleans. ValueError: for one of another shape.
    """
    mask = np.asarray(held_out)
    if mask.dtype != np.bool_:
        raise TypeError(f"held_out must be booleans, not {mask.dtype}")
    if mask.shape[-2:] != np.shape(whole.known):
        raise ValueError(
            f"held_out has shape {mask.shape} for interactions {np.shape(whole.known)}"
        )
    observed = np.where(mask, 0, np.asarray(whole.observed))
    return whole._replace(known=whole.known * observed, observed=observed)  # type: ignore[arg-type]


def zero_or_one(whole: Problem, method: str) -> Problem:
    """Return a problem of interactions 0 and 1, for a method that is of no others. Raises
    ValueError, naming it, for affinities; where they are traced, NaN takes the place of them all.
    """
    binary = (whole.known == 0) | (whole.known == 1)
    if isinstance(binary, Tracer):
        return whole._replace(known=jnp.where(jnp.all(binary), whole.known, jnp.nan))
    if not binary.all():
        raise ValueError(
            f"{method} takes interactions 0 and 1, and these are affinities: choose a threshold, "
            "or a method of least squares"
        )
    return whole


def _numbers(name: str, values: Values) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.name == "bfloat16":  # a number to JAX, and none to NumPy
        array = array.astype(np.float32)
    if array.dtype.kind not in "buif":
        raise ValueError(f"{name} must be real numbers, not {array.dtype}")
    array = array if array.dtype.kind == "f" else array.astype(np.float64)
    if not np.isfinite(array).all():
        i = tuple(int(k) for k in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, and {name}{list(i)} is {array[i]}")
    return array


def _check_square(name: str, S: np.ndarray, size: int, shape: tuple[int, ...]) -> None:
    if S.shape != (size, size):
        swapped = " (is known given as targets by drugs?)" if S.shape == shape[::-1] else ""
        swapped = swapped or (
            " (known seems to be targets by drugs: transpose it)"
            if S.shape in {(k, k) for k in shape} and shape[0] != shape[1]
            else ""
        )
        raise ValueError(
            f"{name} must have shape {(size, size)} beside known of shape {shape}, drugs by "
            f"targets; it has {S.shape}{swapped}"
        )
    if not S.any():
        raise ValueError(f"{name} is 0 throughout: no similarity, and nothing to predict from")
