"""Rounds of reflow, each on the ends of the flow before, and a distillation (2209.03003)."""

from collections.abc import Callable

import jax

from jaxdiff.distance import Distance, squared
from jaxdiff.distill.parts.stage import Before, Data, DataOf, Stage
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.trajectory.rectified_flow import reflow, reflow_distillation
from jaxdiff.sampling.pairs import Spread, here, pairs_like
from jaxdiff.sampling.sampler import Sampler


def reflow_stages(
    teacher: Sampler,
    student: Callable[[Before | None, float], Student],
    *,
    rounds: int = 1,
    pairs: int = 1_000_000,
    num_steps: int = 16,
    seed: int = 0,
    shares: tuple[float, float] = (0.6, 0.4),
    progress: bool = False,
    distance: Distance = squared,
    **options: object,
) -> list[Stage]:
    """Rounds of reflow, each on the ends of the flow before, then the last one's distillation.

    Args:
        teacher: the sampler whose pairs the first round is trained on.
        student: ``student(before, share)`` is the student of a stage, which starts as the stage
            before left it; ``share`` is the stage's share of all updates.
        rounds: 1 makes the teacher's 1-rectified flow a 2-rectified one.
        pairs: number of stored pairs of each stage; with labels, those of the data.
        num_steps: Euler steps with which a reflowed student makes pairs for the next stage.
        seed: of the noise of the pairs.
        shares: of the updates, of all rounds together and of the distillation; 0 for the last
            leaves that out.
        progress: show bars while pairs are made.
        distance: of the distillation.
        options: of :func:`jaxdiff.distill.trajectory.rectified_flow.reflow`.

    Returns:
        Stages in order, for :func:`jaxdiff.training.fit_stages`.

    Raises:
        ValueError: for fewer than one round or pair.
    """
    if rounds < 1 or pairs < 1:
        raise ValueError(f"reflow needs at least one round and one pair; got {rounds}, {pairs}")
    whole = sum(shares)

    def data_of(number: int) -> DataOf:
        def data(given: Data, before: Before | None, spread: Spread = here) -> Data:
            maker = teacher if before is None else before.sampler(num_steps=num_steps)
            own = seed + number
            return pairs_like(
                given, maker, pairs, jax.random.key(own), seed=own, progress=progress, spread=spread
            )

        return data

    def round_of(number: int) -> Stage:
        share = shares[0] / whole / rounds
        make = lambda before: reflow(student(before, share), **options)  # type: ignore[arg-type]  # noqa: E731
        return Stage(f"reflow-{number + 2}", make, share, data_of(number))

    stages = [round_of(number) for number in range(rounds)]
    if shares[1] > 0:
        share = shares[1] / whole
        make = lambda before: reflow_distillation(student(before, share), distance=distance)  # noqa: E731
        stages.append(Stage("distil", make, share, data_of(rounds)))
    return stages
