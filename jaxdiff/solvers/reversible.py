"""Exactly invertible solvers, EDICT and BDIA: what they share.

A scheme that carries two states can be undone step by step, to rounding. Neither is the same in all
frames: a is the signal scale of the process. The inverses amplify what the schemes damp, rounding
errors among it; they take the same decreasing levels and walk them backwards.
"""

from typing import Literal

from jaxdiff.solvers.scalar import Scalar, State, sqrt

Pair = tuple[State, State]


Frame = Literal["vp", "ve"]


def growth(s: Scalar, r: Scalar, frame: Frame) -> Scalar:
    """Return the ratio of signal scales a_r/a_s."""
    if frame not in ("vp", "ve"):
        raise ValueError(f"frames are 'vp' and 've', not {frame!r}")
    return sqrt((1.0 + s * s) / (1.0 + r * r)) if frame == "vp" else 1.0
