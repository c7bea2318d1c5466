"""A student against a fake score: the frame of every method that matches distributions.

The student makes samples. The fake score learns what they are like: as their denoiser, which stands
for the unknown score of the student's samples (Luo et al. 2305.18455, Wang et al. 2305.16213), as a
discriminator's head on the features of a network, or as both. Each has a loss of its own and sees
the other's parameters behind a stop-gradient, so that a method is two formulas:

    student_loss(step):  gradients flow through step.x to the student's parameters
    critic_loss(step):   step.x is held fixed; step.fake and step.logits carry gradients

The player that learns has dropout, one set of masks for all of its calls in a step; what the other
makes or says is without, as it is in sampling (published code of SiD and FastGen's likewise).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff.distance import squared
from jaxdiff.distill.parts.critic import Head, approximate_penalty, gradient_penalty
from jaxdiff.distill.parts.frame import (
    Step,
    StudentLoss,
    bind,
    bind_teacher,
    drawn,
    given,
    mean_loss,
    sampler_of,
    with_teacher,
)
from jaxdiff.distill.parts.generator import Levels, generate, renoise
from jaxdiff.distill.parts.lora import adapted, adapters
from jaxdiff.distill.parts.primitives import perturb
from jaxdiff.distill.parts.student import Student, check_teacher
from jaxdiff.method import Batch, Context, Method, Metrics, Player, is_init
from jaxdiff.prediction import edm_weight
from jaxdiff.process import Number
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Denoiser, Key, Params

Generate = Callable[[Step, Key], Any]


class FakeScore(NamedTuple):
    """The second player: a denoiser of what the student makes, a discriminator's head, or both.

    model: its denoiser, whose optimiser and averages are the player's; None for the student's own
        network as it starts.
    rank: of adapters to the model's first parameters, which alone are trained
        (:mod:`jaxdiff.distill.parts.lora`); 0 for all of its parameters.
    head: a critic on features, or None. trunk: whose features, "fake" (the fake score's network,
        which the critic's loss then trains too) or "teacher" (frozen).
    optimiser: None for the model's, or, if it brings none, the method's.
    scores: whether it is a denoiser at all; if not, it is a head on the teacher's features.
    """

    model: Student | None = None
    rank: int = 0
    scores: bool = True
    head: Head | None = None
    trunk: str = "fake"
    optimiser: optax.GradientTransformation | None = None


class Penalty(NamedTuple):
    """R1 of a critic: its factor, and the size of the move in its approximate form; None for the
    exact one.
    """

    factor: float = 0.0
    size: float | None = None


SCORE = FakeScore()  # the student's own network, all of it, without a critic
NO_PENALTY = Penalty()


class Observer(NamedTuple):
    """A further player, which sees both: running statistics.

    params: where it starts. loss: ``loss(step, params)``. optimiser, every: its own.
    """

    params: Params
    loss: Callable[[Step, Params], Array]
    optimiser: optax.GradientTransformation
    every: int = 1


def two_players(
    student: Student,
    fake_score: FakeScore,
    make: Generate,
    student_loss: StudentLoss,
    critic_loss: StudentLoss,
    tables: Callable[..., Table],
    *,
    teacher: Denoiser | None,
    optimisers: tuple[optax.GradientTransformation, optax.GradientTransformation],
    every: int = 1,
    student_from: int = 0,
    frozen: Mapping[str, Any] | None = None,
    observers: Mapping[str, Observer] | None = None,
) -> Method:
    """Make the method of the players "fake", updated first, and "student".

    Args:
        make: ``make(step, key)`` is ``step.x``; of a generator, :func:`generating`.
        student_loss, critic_loss: losses per sample of student and fake score, or these and
            metrics.
        tables: ``tables(num_steps, **options)`` is the table that the student samples with.
        teacher: ``D(y, level, cond)``, frozen; with parameters, as a ``jax.tree_util.Partial``.
        optimisers: of student and fake score, unless they bring their own.
        every: updates of the fake score for one of the student. student_from: the fake score's
            updates before the student's first.
        frozen: further trees for ``step.context.frozen``.
        observers: further players by name, updated between the two.

    The fake score's parameters are {"network": ..., "head": ...}, as it has them. Raises ValueError
    for a fake score that does not fit together.
    """
    model, head = fake_score.model or student._replace(ema={}, optimiser=None), fake_score.head
    _check(fake_score, model, teacher)
    check_teacher(teacher, student)
    held = with_teacher(frozen, teacher)
    if fake_score.rank:
        held["base"] = model.params

    def bound(
        own: Params, other: Params, context: Context, batch: Batch, key: Key, learns: str = ""
    ) -> Step:
        key_label, key_dropout, key_make, key = jax.random.split(key, 4)
        cond, masked = bind(student, batch, key_label, key_dropout)
        teacher = bind_teacher(context, cond)

        def of(player: str, D: Any) -> Any:
            return masked(D) if player == learns else given(D, cond)

        def fake(y: Array, s: Array, **options: Any) -> Any:
            params = other["network"]  # not there of a discriminator alone
            params = adapted(context.frozen["base"], params) if fake_score.rank else params
            return of("fake", model.denoiser(params))(y, s, **options)

        def logits(y: Array, s: Array, **options: Any) -> Array:
            if head is None:
                raise ValueError("this loss needs a critic: give fake_score=FakeScore(head=...)")
            trunk = teacher if fake_score.trunk == "teacher" else fake
            return head.logits(other["head"], trunk(y, s, full=True, **options).features, cond)

        step = Step(
            student=of("student", student.denoiser(own)), teacher=teacher, x0=batch.get("image"),
            cond=cond, batch=batch, context=context, key=key, params=own, own=masked,
            fake=fake, logits=logits,
        )  # fmt: skip
        return step._replace(x=make(step, key_make))

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> Any:
        step = bound(params, context.params["fake"], context, batch, key, "student")
        return mean_loss(student_loss(step))

    def fake_loss(params: Params, context: Context, batch: Batch, key: Key) -> Any:
        step = bound(context.params["student"], params, context, batch, key, "fake")
        return mean_loss(critic_loss(step._replace(x=jax.lax.stop_gradient(step.x))))

    def observed(observer: Observer) -> Player:
        def loss(params: Params, context: Context, batch: Batch, key: Key) -> Any:
            own, other = context.params["student"], context.params["fake"]
            return mean_loss(observer.loss(bound(own, other, context, batch, key), params))

        return Player(loss, observer.optimiser, observer.every)

    def init(key: Key) -> dict[str, Params]:
        keys = jax.random.split(key, 3)
        made = {}
        if fake_score.scores:
            network = drawn(model.params, keys[1])
            adapt = fake_score.rank > 0
            made["network"] = adapters(network, fake_score.rank, keys[1]) if adapt else network
        if head is not None:
            made["head"] = drawn(head.params, keys[2])
        watching = {name: observer.params for name, observer in (observers or {}).items()}
        return {"fake": made, **watching, "student": drawn(student.params, keys[0])}

    first, second = optimisers
    second = model.optimiser or fake_score.optimiser or second
    return Method(
        init=init,
        players={
            "fake": Player(fake_loss, second, ema=model.ema),
            **{name: observed(observer) for name, observer in (observers or {}).items()},
            "student": Player(
                loss, student.optimiser or first, every, student.ema,
                turn=(lambda step: step >= student_from) if student_from else None,
            ),
        },
        sampler=sampler_of(student, tables),
        frozen=held,
        check=student.check,
    )  # fmt: skip


def generating(levels: Sequence[float]) -> Generate:
    """Samples of the student's evaluations at ``levels``, as many as the batch has data
    (:func:`jaxdiff.distill.parts.generator.generate`).
    """
    return lambda step, key: generate(step.student, levels, step.x0, key)[0]


def denoising(step: Step, levels: Levels, sigma_data: Number = 0.5) -> Array:
    """Return the fake score's loss per sample, (batch,): denoising score matching on what the
    student made, with EDM's weight s^-2 + sigma_data^-2.
    """
    y, s = renoise(step.key, step.x, levels)
    return edm_weight(s, sigma_data) * squared(step.fake(y, s), step.x)


def generator_loss(step: Step, fake_score: FakeScore, y: Array, s: Array) -> Array:
    """Return the student's loss on the fake score's head, a scalar."""
    assert fake_score.head is not None
    return fake_score.head.game.student(step.logits(y, s))


Noisy = tuple[Array, Array]  # states (batch, *shape) and their levels (batch,)


def same_noise(step: Step, s: Array, eps: Array) -> tuple[Noisy, Noisy]:
    """Data and samples with the same noise."""
    return (perturb(step.x0, s, eps), s), (perturb(step.x, s, eps), s)


def discriminator_loss(
    step: Step, fake_score: FakeScore, real: Noisy, made: Noisy, penalty: Penalty
) -> tuple[Array, Metrics]:
    """Return the critic's loss, a scalar, on noisy data and samples; and its mean logits."""
    if not penalty.factor >= 0 or not (penalty.size is None or penalty.size > 0):
        raise ValueError(f"a penalty's factor is at least 0 and its size above 0, not {penalty}")
    if not penalty.factor and penalty.size is not None:
        raise ValueError(f"size={penalty.size} is of a penalty, whose factor is 0")
    assert fake_score.head is not None
    real_logits, made_logits = step.logits(*real), step.logits(*made)
    value = fake_score.head.game.critic(real_logits, made_logits)
    y, s = real
    own = lambda y: step.logits(y, s)  # noqa: E731
    if penalty.factor:
        key = jax.random.fold_in(step.key, 7)  # beyond those that split it
        exact = penalty.size is None
        size = (
            gradient_penalty(own, y)
            if exact
            else approximate_penalty(own, y, key, penalty.size or 0.0)
        )
        value = value + penalty.factor * jnp.mean(size)
    return value, {"real": jnp.mean(real_logits), "made": jnp.mean(made_logits)}


def head_of(fake_score: FakeScore, method: str, without: str = "") -> Head:
    """Return the fake score's head; ValueError, with what to do ``without`` one, if it has none."""
    if fake_score.head is None:
        raise ValueError(
            f"{method} has a critic: give the fake score a head, FakeScore(head=...), such as "
            f"jaxdiff.networks.feature_head makes{without}"
        )
    return fake_score.head


def refuse_head(fake_score: FakeScore, method: str, instead: str = "") -> None:
    """ValueError for a fake score with a head, which the method would neither train nor
    evaluate.
    """
    if fake_score.head is not None:
        raise ValueError(f"{method} has no critic, and the fake score has a head{instead}")


def _check(fake_score: FakeScore, model: Student, teacher: Denoiser | None) -> None:
    if fake_score.trunk not in ("fake", "teacher"):
        raise ValueError(f'the trunk of a head is "fake" or "teacher", not {fake_score.trunk!r}')
    if fake_score.head is not None and fake_score.trunk == "teacher" and teacher is None:
        raise ValueError("a head on the teacher's features needs a teacher")
    if not fake_score.scores and (fake_score.head is None or fake_score.trunk == "fake"):
        raise ValueError("a discriminator alone (scores=False) is a head on the teacher's features")
    if not fake_score.scores and (fake_score.model is not None or fake_score.rank):
        raise ValueError("a discriminator alone (scores=False) has no use for a model or adapters")
    if fake_score.head is None and fake_score.trunk != "fake":
        raise ValueError(f"trunk={fake_score.trunk!r} is of a head, and the fake score has none")
    if fake_score.optimiser is not None and model.optimiser is not None:
        raise ValueError("the fake score has an optimiser, and its model another: give one")
    if fake_score.rank < 0:
        raise ValueError(f"the rank of adapters is at least 0, for none, not {fake_score.rank}")
    if fake_score.rank and is_init(model.params):
        raise ValueError("adapters need the parameters they are added to, not a way to draw them")
