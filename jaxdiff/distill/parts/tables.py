"""Tables that students sample with."""

from collections.abc import Sequence
from typing import Any

from jaxdiff import grids, solvers
from jaxdiff.distill.parts.student import Student
from jaxdiff.method import Method
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table


def flow_levels(student: Student, num_steps: int, last: float = 0.0) -> list[float]:
    """Return the student's levels from its highest to ``last``, in equal steps of rectified-flow
    time.
    """
    even = grids.flow(num_steps, start=student.high / (1.0 + student.high))
    return [student.high, *even[1:-1].tolist(), last]


def jump_table(levels: Sequence[float], gamma: float = 0.0) -> Table:
    """Jumps of a flow map from level to level, with ``gamma`` noise added after each
    (:func:`jaxdiff.solvers.gamma_sampling`).
    """
    if gamma:
        return table(solvers.gamma_sampling, levels, gamma=gamma)
    return table(solvers.jump, levels)


def in_steps(number: int, method: Method) -> Method:
    """Return the method with a sampler for ``number`` steps only: its student has seen the levels
    of that grid alone, and with others is worse than with its own. ValueError for others.
    """

    def sampler(state: Any, num_steps: int = number, **options: Any) -> Sampler:
        if num_steps != number:
            raise ValueError(f"this student samples in {number} steps, not {num_steps}")
        return method.sampler(state, num_steps=num_steps, **options)

    return method._replace(sampler=sampler)
