"""BDIA-DDIM (Zhang et al. 2023, arXiv 2307.10829): remembers a state, exactly invertible.

With the state at the level before, q > s > r, and a the signal scale of the process,

    y_r = y_s + (r - s) eps + gamma (a_q/a_r) [y_q - y_s - (q - s) eps],    eps = eps(y_s, s),

which is solved for y_q. The inverse amplifies rounding errors by gamma^(-steps).
"""

from collections.abc import Iterator, Sequence

from jaxdiff.solvers.reversible import Frame, Pair, growth
from jaxdiff.solvers.scalar import D, Scalar, State
from jaxdiff.solvers.steps import eps_prediction, euler_step


def bdia(
    D: D, y: State | Pair, levels: Sequence[Scalar], gamma: float = 1.0, frame: Frame = "vp"
) -> Iterator[State]:
    """BDIA-DDIM (arXiv 2307.10829), exactly invertible. One evaluation per step; begins with Euler.

    Of order 2 for gamma = 1 (a leapfrog scheme), where the errors of Euler steps down and up
    cancel, and of order 1 below.

    Args:
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: one state, or the two that ``encode`` found, at the first two levels.
        levels: decreasing noise levels of the grid, one more than steps.
        gamma: in (0, 1]. Below 1 the inverse amplifies by gamma^(-steps).
        frame: as for :func:`edict`.

    Yields:
        State at every level after the first, of the shape of ``y``.

    Source: Zhang et al., Exact Diffusion Inversion via Bi-directional Integration Approximation,
    arXiv 2307.10829.
    """
    _check_gamma(gamma)
    before, now = y if isinstance(y, tuple) else (y, euler_step(D, y, *levels[:2]))
    yield now
    for q, s, r in _triples(levels):
        eps, back = eps_prediction(D, now, s), gamma * growth(r, q, frame)
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
    after, now = y, y + (s - r) * eps_prediction(D, y, s)
    yield now, after
    for q, s, r in reversed(_triples(levels)):
        eps, back = eps_prediction(D, now, s), gamma * growth(r, q, frame)
        after, now = now, now + (q - s) * eps + (after - now - (r - s) * eps) / back
        yield now, after


def _check_gamma(gamma: float) -> None:
    if not 0 < gamma <= 1:
        raise ValueError(f"bdia needs 0 < gamma <= 1, not {gamma}")


def _triples(levels: Sequence[Scalar]) -> list[tuple[Scalar, Scalar, Scalar]]:
    return list(zip(levels, levels[1:], levels[2:], strict=False))
