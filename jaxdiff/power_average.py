"""Power-function averages of a run's parameters, and averages made of stored ones afterwards.

At time t the average of exponent gamma weighs the parameters of time tau by

    p(tau) = (gamma + 1)/t (tau/t)^gamma,        0 <= tau <= t,

whatever the unit of time, updates or images. Its width, the standard deviation of p relative to t,
is what it is called by. Stored averages ("snapshots") of any two widths span others: the one whose
profile is nearest in the sense of least squares has coefficients X with A X = B, A and B the inner
products of the profiles.

Source: Karras et al. 2312.02696, section 3 and appendix C (equations 121 to 151, algorithms 2, 3).
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

WIDEST = 12**-0.5  # the width of gamma = 0, the mean


def exponent(width: float) -> float:
    """Return the gamma whose profile has standard deviation ``width``, as a fraction of the run.

    Solves width^2 (gamma+2)^2 (gamma+3) = gamma + 1 (eq. 126, algorithm 2); 0.05 gives 16.97 and
    0.1 gives 6.94. Raises ValueError outside (0, 12^(-1/2)], where no gamma >= 0 exists.
    """
    if not 0 < width <= WIDEST:
        raise ValueError(f"the relative width lies in (0, 0.2886]; got {width}")
    roots = np.roots([1.0, 7.0, 16 - float(width) ** -2, 12 - float(width) ** -2])
    return max(float(np.max(roots.real)), 0.0)


def width(gamma: float) -> float:
    """Return the width of the profile of exponent gamma (eq. 123), the inverse of
    :func:`exponent`.
    """
    if not gamma >= 0:
        raise ValueError(f"the exponent of a power-function average is not negative; got {gamma}")
    return float(np.sqrt((gamma + 1) / (gamma + 2) ** 2 / (gamma + 3)))


def profile(times: ArrayLike, last: float, width: float) -> np.ndarray:
    """Return the weights, of sum 1, of the parameters of these times in the average at time
    ``last``: 0 for later ones (eq. 121).
    """
    times, gamma = np.asarray(times, np.float64), exponent(width)
    weights = np.where(times <= last, (np.minimum(times, last) / last) ** gamma, 0)
    return weights / weights.sum()


def decay(width: float, now: ArrayLike, passed: ArrayLike) -> np.ndarray:
    """Return what is kept of the average by an update to time ``now``, ``passed`` after the one
    before (eq. 127); see :func:`jaxdiff.training.ema.power`, where time counts updates.
    """
    return np.asarray((1 - np.divide(passed, now)) ** (exponent(width) + 1))


def coefficients(times: ArrayLike, widths: ArrayLike, last: float, width: ArrayLike) -> np.ndarray:
    """Return the weights of snapshots in the average of ``width`` at time ``last`` (algorithm 3).

    Args:
        times: when each snapshot was stored, (snapshots,), positive, in the unit of ``last``.
        widths: of each snapshot's average, or one of all.
        last: time of the result; later snapshots count, but should not be given.
        width: of the result, or several, (results,).

    Returns:
        (snapshots,), or (snapshots, results); of sum 1.

    Raises:
        ValueError: for a time that is not positive, a width outside (0, 0.2886], or two snapshots
            of one time and width.
    """
    ofs, own = (np.ravel(x) for x in np.broadcast_arrays(np.asarray(times, np.float64), widths))
    if not ofs.size or not (ofs > 0).all() or not last > 0:
        raise ValueError(f"times of snapshots are positive; got {ofs.tolist()} and {last}")
    if len(set(zip(ofs.tolist(), own.tolist(), strict=True))) < ofs.size:
        raise ValueError("two snapshots have the same time and width")
    a = _inner(ofs[:, None], own[:, None], ofs[None], own[None])
    b = _inner(
        ofs[:, None], own[:, None], np.full((1, np.size(width)), last), np.ravel(width)[None]
    )
    x = np.linalg.solve(a, b)
    x = x / x.sum(axis=0)
    return x if np.ndim(width) else x[:, 0]


def _inner(t: np.ndarray, w: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return inner products of the profiles of widths w at t and v at u (eq. 151)."""
    gamma, delta = _exponents(w), _exponents(v)
    power = np.where(t < u, delta, -gamma)
    return (gamma + 1) * (delta + 1) * (t / u) ** power / ((gamma + delta + 1) * np.maximum(t, u))


def _exponents(widths: Any) -> np.ndarray:
    found = {w: exponent(w) for w in set(np.ravel(widths).tolist())}
    return np.vectorize(found.__getitem__, otypes=[np.float64])(widths)
