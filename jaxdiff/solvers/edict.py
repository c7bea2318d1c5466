"""EDICT (Wallace et al. 2022, arXiv 2211.12446, section 4): two coupled states, exactly invertible.

Each state is moved by the other's eps = (y - D)/s, then they are mixed:

    x <- x + (r - s) eps(y, s),    y <- y + (r - s) eps((a_r/a_s) x, s),
    x <- p x + (1 - p) y,          y <- p y + (1 - p) x.

Here a is the signal scale of the process, in whose frame the network sees the first x at a level
too high. The inverse amplifies what the mixing damps, by p^(-2 steps): rounding errors, and the
latent itself where p is fixed and steps are many.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from jaxdiff.solvers.reversible import Frame, Pair, growth
from jaxdiff.solvers.scalar import D, Scalar, State
from jaxdiff.solvers.steps import eps_prediction


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
        D: denoiser ``D(y, s)``, the posterior mean of the data given the state at level s.
        y: one state, or the two that :func:`jaxdiff.sampling.inversion.encode` found.
        levels: decreasing noise levels of the grid, one more than steps.
        mixing: p in (0, 1); the paper's 0.93, or 1 - 3.5/steps where that is more: the inverse
            amplifies by p^(-2 steps).
        frame: the signal scale, of variance-preserving ("vp", a = 1/sqrt(1 + level^2), as
            published) or variance-exploding ("ve", a = 1) processes.

    Yields:
        State at every level after the first, of the shape of one state.

    Source: Wallace et al., EDICT: Exact Diffusion Inversion via Coupled Transformations, arXiv
    2211.12446.
    """
    p = _check_mixing(mixing, levels)
    first, second = y if isinstance(y, tuple) else (y, y)
    for s, r in pairwise(levels):
        first = first + (r - s) * eps_prediction(D, second, s)
        second = second + (r - s) * eps_prediction(D, growth(s, r, frame) * first, s)
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
        second = second - (r - s) * eps_prediction(D, growth(s, r, frame) * first, s)
        first = first - (r - s) * eps_prediction(D, second, s)
        yield first, second


def _check_mixing(mixing: float | None, levels: Sequence[Scalar]) -> float:
    if mixing is None:
        return max(0.93, 1.0 - 3.5 / (len(levels) - 1))
    if not 0 < mixing < 1:
        raise ValueError(f"edict needs 0 < mixing < 1, not {mixing}")
    return mixing
