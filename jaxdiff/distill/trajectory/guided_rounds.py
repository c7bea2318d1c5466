"""Both stages of the distillation of a guided model, and the rounds of the second (2210.03142)."""

from collections.abc import Callable
from typing import Any

from jaxdiff.distill.parts.stage import Before, Stage
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.trajectory.guided import (
    Range,
    guidance_distillation,
    guided_progressive_distillation,
)
from jaxdiff.distill.trajectory.progressive import (
    halvings,
    share_of,
)
from jaxdiff.method import Method
from jaxdiff.ranges import Count, Positive, in_range
from jaxdiff.typing import Denoiser


@in_range
def guided_stages(
    teacher: Denoiser,
    student: Student | Callable[[float], Student],
    *,
    first: int = 128,
    last: int = 1,
    guidance_range: Range = (1.0, 5.0),
    stochastic: bool = False,
    guidance_share: Positive = 2.0,
    substeps: Count = 2,
    num_updates: int = 50_000,
    **options: Any,
) -> list[Stage]:
    """Both stages of 2210.03142: the guided model in one network, then halvings from ``first``
    steps to ``last``, and with ``stochastic`` one more round for the sampler with noise.

    Args:
        teacher: conditional ``D(y, level, cond)`` that answers ``cond=None`` with the unconditional
            posterior mean; frozen.
        student: or ``student(share)``, as of
            :func:`jaxdiff.distill.trajectory.progressive.progressive_stages`.
        first: steps of the student in the first round of stage 2.
        last: steps of the last student.
        guidance_range: the range of guidance weights, 1 the plain conditional model.
        stochastic: add a round for the sampler with noise.
        guidance_share: updates of stage 1, in rounds.
        substeps: of the first round of stage 2; 2 afterwards.
        num_updates: of a round; twice as many in those of two steps and of one.
        options: ``levels``, ``weight``, ``distance`` of both stages.

    Returns:
        Stages in order, for :func:`jaxdiff.training.fit_stages`.
    """
    rounds = [(n, False) for n in halvings(first, last)] + [(last, True)] * stochastic
    shares = [guidance_share, *(share_of(n) for n, _ in rounds)]
    own = [student(a / sum(shares)) if callable(student) else student for a in shares]
    shared = {"guidance_range": guidance_range, **options}

    def begin(before: Before | None) -> Method:
        length = round(guidance_share * num_updates)
        return guidance_distillation(teacher, own[0], num_updates=length, **shared)

    def halve(number: int, num_steps: int, noisy: bool) -> Callable[[Before | None], Method]:
        def method(before: Before | None) -> Method:
            assert before is not None
            learner = own[number]._replace(params=before.params)
            return guided_progressive_distillation(
                learner.denoiser(before.params), learner, num_steps=num_steps, stochastic=noisy,
                substeps=substeps if number == 1 else 2,
                num_updates=round(num_updates * shares[number]), **shared,
            )  # fmt: skip

        return method

    stages = [Stage("guidance", begin, shares[0])]
    for number, (num_steps, noisy) in enumerate(rounds, 1):
        name = f"{num_steps}-steps-with-noise" if noisy else f"{num_steps}-steps"
        stages.append(Stage(name, halve(number, num_steps, noisy), shares[number]))
    return stages
