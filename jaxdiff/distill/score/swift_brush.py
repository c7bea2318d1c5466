"""SwiftBrush: variational score distillation of a generator, in place of a scene.

A student g is moved as the scenes of :mod:`jaxdiff.distill.score.score_distillation` are, by what a
fake score of low rank says of its samples x = g(z) (Nguyen and Tran, 2312.05239, eq. 7):

    student    E s^2/(1 + s^2) (eps_teacher(y, s) - eps_fake(y, s)) dx/dtheta,      y = x + s eps
    fake       E alpha(s)^2 |eps_fake(y, s) - eps|^2,               alpha^2 = 1/(1 + s^2).
"""

import optax

from jaxdiff.distance import squared
from jaxdiff.distill.parts.frame import Step
from jaxdiff.distill.parts.generator import Levels, Weight, generator_tables, push, renoise
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.two_players import FakeScore, generating, two_players
from jaxdiff.distill.score.diff_instruct import score_difference
from jaxdiff.distill.score.score_distillation import MIDDLE, WHOLE, variance
from jaxdiff.method import Method
from jaxdiff.ranges import Count, Positive, in_range
from jaxdiff.typing import Array, Denoiser


def faded(level: Array) -> Array:
    """Return the weight 1/(s^2 (1 + s^2)), which makes an error of the data alpha^2 times the
    noise's.
    """
    return 1.0 / (level**2 * (1.0 + level**2))


@in_range
def swiftbrush(
    teacher: Denoiser,
    student: Student,
    fake: Student,
    *,
    rank: Count = 64,
    start: Positive | None = None,
    levels: Levels = MIDDLE,
    fake_levels: Levels = WHOLE,
    weight: Weight = variance,
    fake_weight: Weight = faded,
    every: Count = 1,
) -> Method:
    """SwiftBrush (Nguyen and Tran, arXiv 2312.05239, algorithm 1).

    Args:
        teacher: ``D(y, level, cond)``, frozen; guided by 4.5 in the paper.
        student: starts as the teacher. Adam at 1e-6 by default, its gradients clipped at norm 1.
        fake: the teacher's own network and parameters, which stay as they are. Adam at 1e-3,
            clipped likewise, unless it brings an optimiser.
        rank: of the adapters to it that are trained; 0 for all of its parameters.
        start: the level of the generator's input, the student's highest by default.
        levels, weight: of the student's noise, uniform in 2 to 98 % of a VP process's time, and
            w(s) of the difference of noises.
        fake_levels, fake_weight: of the adapters', uniform in all of that time, and of the squared
            error of the data.
        every: updates of the fake score for one of the student.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Batches' data are used for their shape and labels only. Sampled in one evaluation.
    Deviations: the fake score is not guided, as it is in published code, by the teacher's weight,
    for which a tenth of its own updates are without a condition there; adapters are not scaled (by
    108/64 in the paper).
    Fails and costs: as :func:`jaxdiff.distill.score.diff_instruct.diff_instruct`, in the memory of
    the adapters.
    """
    top = student.high if start is None else start

    def student_loss(step: Step) -> Array:
        y, s = renoise(step.key, step.x, levels)
        return push(step.x, score_difference(step.teacher, step.fake, y, s, weight(s) / s))

    def critic_loss(step: Step) -> Array:
        y, s = renoise(step.key, step.x, fake_levels)
        return fake_weight(s) * squared(step.fake(y, s), step.x)

    slow, fast = (
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate)) for rate in (1e-6, 1e-3)
    )
    return two_players(
        student, FakeScore(fake, rank=rank), generating([top]), student_loss, critic_loss,
        generator_tables([top]), teacher=teacher, optimisers=(slow, fast), every=every,
    )  # fmt: skip
