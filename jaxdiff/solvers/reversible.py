r"""Exactly invertible solvers: EDICT and BDIA.

A scheme that carries two states can be undone step by step, to rounding. EDICT (Wallace et al.
2211.12446, section 4) moves each state by the other's eps = (y - D)/s, then mixes them:

    x <- x + (r - s) eps(y, s),    y <- y + (r - s) eps((a_r/a_s) x, s),
    x <- p x + (1 - p) y,          y <- p y + (1 - p) x.

BDIA (Zhang et al. 2307.10829) remembers the state at the level before, q > s > r:

    y_r = y_s + (r - s) eps + gamma (a_q/a_r) [y_q - y_s - (q - s) eps],    eps = eps(y_s, s),

which is solved for y_q. Neither is the same in all frames: a is the signal scale of the process, in
whose frame the network sees the first x at a level too high. The inverses amplify what the mixing
damps, by p^(-2 steps) and gamma^(-steps): rounding errors, and the latent itself where p is fixed
and steps are many. Generators as in :mod:`jaxdiff.solvers.singlestep`; the inverses take the same
decreasing levels and walk them backwards.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal

from jaxdiff.solvers.scalar import D, Scalar, State, sqrt
from jaxdiff.solvers.singlestep import euler_step

Pair = tuple[State, State]
Frame = Literal["vp", "ve"]


def edict(
    D: D,
    y: State | Pair,
    levels: Sequence[Scalar],
    mixing: float | None = None,
    frame: Frame = "vp",
) -> Iterator[State]:
    """EDICT (arXiv 2211.12446), order 1, exactly invertible. Two evaluations per step.

    The two states take turns in going first. A step to level 0 is taken like any other.

    Args:
        y: one state, or the two that :func:`jaxdiff.sampling.inversion.encode` found.
        mixing: p in (0, 1); the paper's 0.93, or 1 - 3.5/steps where that is more: the inverse
            amplifies by p^(-2 steps).
        frame: the signal scale, of variance-preserving ("vp", a = 1/sqrt(1 + level^2), as
            published) or variance-exploding ("ve", a = 1) processes.
    """
    p = _check_mixing(mixing, levels)
    first, second = y if isinstance(y, tuple) else (y, y)
    for s, r in pairwise(levels):
        first = first + (r - s) * _eps(D, second, s)
        second = second + (r - s) * _eps(D, _growth(s, r, frame) * first, s)
        first = p * first + (1 - p) * second
        first, second = p * second + (1 - p) * first, first
        yield first


def edict_inverse(
    D: D, y: State, levels: Sequence[Scalar], mixing: float | None = None, frame: Frame = "vp"
) -> Iterator[Pair]:
    """Undo :func:`edict` from data, its last step first. Yields both states at each level."""
    p = _check_mixing(mixing, levels)
    first, second = y, y
    for s, r in reversed(list(pairwise(levels))):
        first, second = second, (first - (1 - p) * second) / p
        first = (first - (1 - p) * second) / p
        second = second - (r - s) * _eps(D, _growth(s, r, frame) * first, s)
        first = first - (r - s) * _eps(D, second, s)
        yield first, second


def bdia(
    D: D, y: State | Pair, levels: Sequence[Scalar], gamma: float = 1.0, frame: Frame = "vp"
) -> Iterator[State]:
    """BDIA-DDIM (arXiv 2307.10829), exactly invertible. One evaluation per step; begins with Euler.

    Of order 2 for gamma = 1 (a leapfrog scheme), where the errors of Euler steps down and up
    cancel, and of order 1 below.

    Args:
        y: one state, or the two that ``encode`` found, at the first two levels.
        gamma: in (0, 1]. Below 1 the inverse amplifies by gamma^(-steps).
        frame: as for :func:`edict`.
    """
    _check_gamma(gamma)
    before, now = y if isinstance(y, tuple) else (y, euler_step(D, y, *levels[:2]))
    yield now
    for q, s, r in _triples(levels):
        eps, back = _eps(D, now, s), gamma * _growth(r, q, frame)
        before, now = now, now + (r - s) * eps + back * (before - now - (q - s) * eps)
        yield now


def bdia_inverse(
    D: D, y: State, levels: Sequence[Scalar], gamma: float = 1.0, frame: Frame = "vp"
) -> Iterator[Pair]:
    """Undo :func:`bdia` from data, its last step first.

    Yields the states at two neighbouring levels, the higher first. The first step up, from level r
    to s, is y + (s - r) eps(y, s); a round trip is exact with any.
    """
    _check_gamma(gamma)
    s, r = levels[-2:]
    after, now = y, y + (s - r) * _eps(D, y, s)
    yield now, after
    for q, s, r in reversed(_triples(levels)):
        eps, back = _eps(D, now, s), gamma * _growth(r, q, frame)
        after, now = now, now + (q - s) * eps + (after - now - (r - s) * eps) / back
        yield now, after


def _eps(D: D, y: State, s: Scalar) -> State:
    return (y - D(y, s)) / s


def _growth(s: Scalar, r: Scalar, frame: Frame) -> Scalar:
    """The ratio of signal scales a_r/a_s."""
    if frame not in ("vp", "ve"):
        raise ValueError(f"frames are 'vp' and 've', not {frame!r}")
    return sqrt((1.0 + s * s) / (1.0 + r * r)) if frame == "vp" else 1.0


def _check_mixing(mixing: float | None, levels: Sequence[Scalar]) -> float:
    if mixing is None:
        return max(0.93, 1.0 - 3.5 / (len(levels) - 1))
    if not 0 < mixing < 1:
        raise ValueError(f"edict needs 0 < mixing < 1, not {mixing}")
    return mixing


def _check_gamma(gamma: float) -> None:
    if not 0 < gamma <= 1:
        raise ValueError(f"bdia needs 0 < gamma <= 1, not {gamma}")


def _triples(levels: Sequence[Scalar]) -> list[tuple[Scalar, Scalar, Scalar]]:
    return list(zip(levels, levels[1:], levels[2:], strict=False))
