"""Recipes of :mod:`jaxdiff.distill.adversarial`: generators against a discriminator, some with a
teacher beside it.
"""

from typing import Any

import jax.numpy as jnp

from jaxdiff import solvers
from jaxdiff.distill.adversarial.adversarial_distillation import (
    add,
    amplitude,
    ladd,
    logit_normal,
)
from jaxdiff.distill.adversarial.denoising_gan import ddgan, ufogen
from jaxdiff.distill.adversarial.truncated_diffusion import truncated_diffusion
from jaxdiff.distill.parts.critic import HINGE, Critic
from jaxdiff.distill.parts.generator import Weight
from jaxdiff.distill.parts.stage import Stage
from jaxdiff.distill.parts.two_players import NO_PENALTY, FakeScore, Penalty
from jaxdiff.ranges import Count, Fraction, NotNegative, Number, Positive, PositiveBelow1
from jaxdiff.recipes.goal import Goal, one
from jaxdiff.recipes.parts import (
    FEW,
    START,
    adam,
    critic_head,
    fake_score_with_head,
    generator,
    matching_recipe,
    vp_time,
)
from jaxdiff.typing import Array, Cond, Key, Params

LEVELS = (START, 1.2, 0.6, 0.3)  # of students in up to four evaluations


def _add(
    goal: Goal,
    num_steps: Count = 1,
    distillation: NotNegative = 2.5,
    weight: Weight = amplitude,
    first: PositiveBelow1 = 0.02,
    last: Fraction = 0.98,
    penalty: NotNegative = 1e-5,
) -> list[Stage]:
    """Its critic looks through the pretrained network, at a low level of noise.

    num_steps: number of evaluations, 1 to 4.
    first, last: the teacher denoises at levels uniform between these shares of a VP process's time.
    """
    teaching: dict[str, Any] = {} if weight is amplitude else {"weight": weight}
    if (first, last) != (0.02, 0.98):  # the method's own
        teaching["levels"] = vp_time(first, last)
    network, params = goal.network(1, False)
    head = critic_head(goal)

    def logits(own: Params, x: Array, cond: Cond) -> Array:
        label = jnp.full(x.shape[:1], jnp.log(0.1) / 4, x.dtype)
        answer: Any = network(own["trunk"], x / goal.sigma_data, label, cond, full=True)
        return head.logits(own["head"], answer.features, cond)

    def init(key: Key) -> Params:
        assert callable(head.params)
        return {"trunk": params, "head": head.params(key)}

    critic = Critic(logits, init, game=HINGE, optimiser=adam(goal, 0.5))
    method = add(
        goal.teacher, generator(goal), critic, student_levels=LEVELS[: int(num_steps)],
        distillation=distillation, penalty=penalty, **teaching,
    )  # fmt: skip
    return one(method)


def _ladd(
    goal: Goal,
    num_steps: Count = 1,
    mean: Number = 0.0,
    std: Positive = 1.0,
    penalty: NotNegative = 0.02,
    size: Positive | None = None,
    every: Count = 1,
) -> list[Stage]:
    """Its critic looks through the frozen pretrained network.

    num_steps: number of evaluations, 1 to 4.
    mean, std: of the logit of the times of the critic's noise, in rectified flow.
    penalty, size: of R1 in its approximate form, its factor and the size of the move, 0.1 by
        default.
    """
    if not penalty and size is not None:
        raise ValueError(f"size={size} is of the penalty, whose factor is 0")
    student = goal.student()
    teacher = student.denoiser(student.params)
    fake_score = FakeScore(
        head=critic_head(goal), trunk="teacher", scores=False, optimiser=adam(goal, 2.0)
    )
    method = ladd(
        teacher,
        generator(goal, every, rate=0.2),
        fake_score,
        student_levels=LEVELS[: int(num_steps)],
        levels=logit_normal(mean, std),
        penalty=Penalty(penalty, 0.1 if size is None else size) if penalty else NO_PENALTY,
        every=every,
    )
    return one(method)


def _ufogen(
    goal: Goal, reconstruction: NotNegative = 0.01, penalty: NotNegative = 0.01, every: Count = 1
) -> list[Stage]:
    method = ufogen(
        generator(goal, every, rate=0.2), fake_score_with_head(goal), levels=(*LEVELS, 0.0),
        reconstruction=reconstruction, penalty=Penalty(penalty), every=every,
    )  # fmt: skip
    return one(method)


def _ddgan(goal: Goal, latent: int = 4, penalty: NotNegative = 0.01 / 15) -> list[Stage]:
    """With a perceptron for a critic."""
    from jaxdiff.networks.critic import pair_critic

    latent = int(latent)
    network, params = goal.network(1 + latent, False)
    student = generator(goal, high=goal.high, rate=0.2)._replace(network=network, params=params)
    logits, init = pair_critic(
        goal.shape, sigma_data=goal.sigma_data, num_classes=goal.classes or 0
    )
    critic = Critic(logits, init, optimiser=adam(goal, 0.5))
    return one(ddgan(student, critic, latent=latent, penalty=penalty))


def _truncated(
    goal: Goal,
    cut: float = 0.3,
    adversarial: NotNegative = 1.0,
    mean: Number = -1.2,
    std: Positive = 1.2,
    penalty: NotNegative = 0.01,
    every: Count = 1,
) -> list[Stage]:
    """From the cut, where few steps are left, it goes on by DPM-Solver++."""
    method = truncated_diffusion(
        generator(goal, every, goal.high, 0.2), fake_score_with_head(goal), cut=cut,
        adversarial=adversarial, mean=mean, std=std, penalty=penalty,
        solver=solvers.dpmpp, options={"order": 2}, every=every,
    )  # fmt: skip
    return one(method)


RECIPES = {
    "add": matching_recipe(
        _add, add, share=0.4, weakness="the teacher's term pulls each sample to a mean"
    ),
    "ladd": matching_recipe(_ladd, ladd, share=0.6, weakness=FEW),
    "ufogen": matching_recipe(_ufogen, ufogen, share=0.5, weakness=FEW),
    "ddgan": matching_recipe(_ddgan, ddgan, share=0.6, fewest=4, weakness=FEW),
    "truncated_diffusion": matching_recipe(
        _truncated, truncated_diffusion, share=0.4, fewest=2, weakness=FEW
    ),
}
