"""Decoupled DMD: classifier-free guidance and the difference of scores, with noise of their own.

Source: Liu et al., arXiv 2511.22677.
"""

from typing import Any

import jax

from jaxdiff.arrays import null_condition
from jaxdiff.distill.parts.frame import Step
from jaxdiff.distill.parts.generator import (
    Levels,
    generator_tables,
    normaliser,
    push,
    renoise,
)
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.two_players import (
    SCORE,
    FakeScore,
    denoising,
    generating,
    refuse_head,
    two_players,
)
from jaxdiff.distill.score.diff_instruct import score_difference
from jaxdiff.distill.score.distribution_matching import (
    matching_direction,
    middle_levels,
    slow_adam,
    whole_grid,
)
from jaxdiff.method import Method
from jaxdiff.ranges import Count, Number, in_range
from jaxdiff.typing import Denoiser


@in_range
def decoupled_dmd(
    teacher: Denoiser,
    student: Student,
    *,
    guidance: Number = 4.5,
    fake_score: FakeScore = SCORE,
    student_levels: tuple[float, ...] | None = None,
    levels: Levels | None = None,
    fake_levels: Levels | None = None,
    engine_levels: Levels | None = None,
    every: Count = 5,
) -> Method:
    """Decoupled DMD (Liu et al., arXiv 2511.22677): guidance and matching with noise of their own.

    Args:
        teacher: the plain conditional ``D(y, level, cond)``, which answers ``cond=None`` with the
            unconditional posterior mean; frozen.
        student: starts as the teacher. AdamW by default, as for
            :func:`jaxdiff.distill.score.distribution_matching.dmd2`.
        guidance: the weight W of classifier-free guidance, 1 being none; (W - 1)(D_c - D_u) is what
            drives the student, the score difference what keeps it in bounds.
        fake_score: the fake score, by default the student's network as it starts; without a head.
        student_levels: noise levels the student is evaluated at, the first its highest; by default
            its highest alone.
        levels: of the matching direction's noise.
        fake_levels: of the fake score's noise.
        engine_levels: of the guidance's noise; by default as ``levels``, which is DMD with a guided
            teacher. (The paper keeps them above the level that the student is at.)
        every: updates of the fake score for one of the student.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for a fake score with a head, or levels of guidance where there is none.

    Deviations: none known; the paper's text-to-image scale is not tried here. Fails: as
    :func:`jaxdiff.distill.score.distribution_matching.dmd2`; too strong guidance saturates. Cost:
    as :func:`jaxdiff.distill.score.distribution_matching.dmd2` with two teacher calls more.
    """
    refuse_head(fake_score, "Decoupled DMD")
    if guidance == 1.0 and engine_levels is not None:
        raise ValueError("engine_levels= are of guidance, and guidance=1 is without")
    noises = (student.high,) if student_levels is None else student_levels
    levels, grid = middle_levels(student, levels), whole_grid(student, fake_levels)
    engine = engine_levels or levels

    def student_loss(step: Step) -> Any:
        key_match, key_engine = jax.random.split(step.key)
        direction, x = matching_direction(step, *renoise(key_match, step.x, levels))
        y, s = renoise(key_engine, step.x, engine)
        T = step.context.frozen["teacher"]
        nothing = None if student.null is None else null_condition(step.cond, student.null)
        plain = lambda y, s: T(y, s, nothing)  # noqa: E731
        size = normaliser(step.x, x) * (guidance - 1.0)
        return push(step.x, direction + score_difference(step.teacher, plain, y, s, size))

    return two_players(
        student, fake_score, generating(noises), student_loss,
        lambda step: denoising(step, grid, student.sigma_data), generator_tables(noises),
        teacher=teacher, optimisers=(slow_adam(every), slow_adam()), every=every,
    )  # fmt: skip
