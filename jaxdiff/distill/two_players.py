"""A student against an opponent: the frame of every method that matches distributions.

The student makes samples. The opponent learns what they are like: as their denoiser, the "fake
score" that stands for the unknown score of the student's samples (Luo et al. 2305.18455, Wang et
al. 2305.16213), as a critic's head on the features of a network, or as both. Each has a loss of its
own and sees the other's parameters behind a stop-gradient, so that a method is two formulas:

    student    each(now):   gradients flow through now.x to the student's parameters
    opponent   other(now):  now.x is held fixed; now.fake and now.logits carry gradients
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff.distance import squared
from jaxdiff.distill.adversarial import Head, approximate_penalty, gradient_penalty
from jaxdiff.distill.generator import Levels, generate, renoise
from jaxdiff.distill.lora import adapted, adapters
from jaxdiff.distill.primitives import drop_labels, perturb
from jaxdiff.distill.student import Student, trained
from jaxdiff.method import Batch, Context, Method, Metrics, Player
from jaxdiff.prediction import as_partial, edm_weight
from jaxdiff.process import Number
from jaxdiff.sampling.sample import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Cond, Denoiser, Key, Params


class Play(NamedTuple):
    """What the two losses are made of in one step.

    x: what the student made. student, fake: denoisers ``D(y, level)`` of the two players, condition
    and dropout masks bound. teacher: the frozen one, or None. logits: ``logits(y, level,
    **options)`` of the opponent's head, options of its trunk's denoiser. x0: the batch's data.
    cond: their labels, some dropped, or None. key: for this step's draws. params: the student's.
    """

    x: Any
    student: Callable[..., Any]
    fake: Callable[..., Any]
    teacher: Any
    logits: Callable[..., Array]
    x0: Any
    cond: Cond
    batch: Batch
    context: Context
    key: Key
    params: Params


Each = Callable[[Play], Array | tuple[Array, Metrics]]
Generate = Callable[[Play, Key], Any]


class Opponent(NamedTuple):
    """The second player.

    model: its denoiser, whose optimiser and averages are the player's; None for the student's own
        network as it starts.
    rank: of adapters to the model's first parameters, which alone are trained
        (:mod:`jaxdiff.distill.lora`); 0 for all of its parameters.
    head: a critic on features, or None. trunk: whose features, "fake" (the opponent's network,
        which the critic's loss then trains too) or "teacher" (frozen).
    optimiser: unless the model brings its own; None for the method's.
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


SCORE = Opponent()  # the student's own network, all of it, without a critic
NO_PENALTY = Penalty()


class Observer(NamedTuple):
    """A further player, which sees both: running statistics.

    params: where it starts. each: ``each(now, params)``, its loss. optimiser, every: its own.
    """

    params: Params
    each: Callable[[Play, Params], Array]
    optimiser: optax.GradientTransformation
    every: int = 1


def two_players(
    student: Student,
    opponent: Opponent,
    make: Generate,
    each: Each,
    other: Each,
    tables: Callable[..., Table],
    *,
    teacher: Denoiser | None,
    optimisers: tuple[optax.GradientTransformation, optax.GradientTransformation],
    every: int = 1,
    frozen: Mapping[str, Any] | None = None,
    observers: Mapping[str, Observer] | None = None,
) -> Method:
    """Make the method of the players "fake", updated first, and "student".

    Args:
        make: ``make(now, key)`` is ``now.x``; of a generator, :func:`generating`.
        each, other: losses per sample of student and opponent, or these and metrics.
        tables: ``tables(steps, **options)`` is the table that the student samples with.
        teacher: ``D(y, level, cond)``, frozen; with parameters, as a ``jax.tree_util.Partial``.
        optimisers: of student and opponent, unless they bring their own.
        every: updates of the opponent for one of the student.
        frozen: further trees for ``now.context.frozen``.
        observers: further players by name, updated between the two.

    The opponent's parameters are {"network": ..., "head": ...}, as it has them. Raises ValueError
    for an opponent that does not fit together.
    """
    model, head = opponent.model or student._replace(ema={}, optimiser=None), opponent.head
    _check(opponent, model, teacher)
    held = dict(frozen or {}) | ({} if teacher is None else {"teacher": as_partial(teacher)})
    if opponent.rank:
        held["base"] = model.params

    def play(own: Params, other: Params, context: Context, batch: Batch, key: Key) -> Play:
        key_label, key_dropout, key_make, key = jax.random.split(key, 4)
        cond = drop_labels(key_label, batch.get("label"), student.label_drop, student.classes)
        T = context.frozen.get("teacher")

        def D(y: Array, s: Array, **options: Any) -> Any:
            return student.denoiser(own)(y, s, cond, key=key_dropout, **options)

        def fake(y: Array, s: Array, **options: Any) -> Any:
            params = other["network"]  # not there if it does not score
            params = adapted(context.frozen["base"], params) if opponent.rank else params
            return model.denoiser(params)(y, s, cond, key=key_dropout, **options)

        def told(y: Array, s: Array, **options: Any) -> Any:
            return T(y, s, cond, **options)

        def logits(y: Array, s: Array, **options: Any) -> Array:
            if head is None:
                raise ValueError("this loss needs a critic: give opponent=Opponent(head=...)")
            trunk = told if opponent.trunk == "teacher" else fake
            return head.logits(other["head"], trunk(y, s, full=True, **options).features, cond)

        now = Play(
            x=None, student=D, fake=fake, teacher=None if T is None else told, logits=logits,
            x0=batch.get("image"), cond=cond, batch=batch, context=context, key=key, params=own,
        )  # fmt: skip
        return now._replace(x=make(now, key_make))

    def student_loss(params: Params, context: Context, batch: Batch, key: Key) -> Any:
        return _mean(each(play(params, context.params["fake"], context, batch, key)))

    def fake_loss(params: Params, context: Context, batch: Batch, key: Key) -> Any:
        now = play(context.params["student"], params, context, batch, key)
        return _mean(other(now._replace(x=jax.lax.stop_gradient(now.x))))

    def observed(observer: Observer) -> Player:
        def loss(params: Params, context: Context, batch: Batch, key: Key) -> Any:
            now = play(context.params["student"], context.params["fake"], context, batch, key)
            return _mean(observer.each(now, params))

        return Player(loss, observer.optimiser, observer.every)

    def init(key: Key) -> dict[str, Params]:
        keys = jax.random.split(key, 3)
        made = {}
        if opponent.scores:
            network = _start(model.params, keys[1])
            adapt = opponent.rank > 0
            made["network"] = adapters(network, opponent.rank, keys[1]) if adapt else network
        if head is not None:
            made["head"] = _start(head.params, keys[2])
        watching = {name: observer.params for name, observer in (observers or {}).items()}
        return {"fake": made, **watching, "student": _start(student.params, keys[0])}

    def sampler(state: Any, steps: int = 1, ema: str | None = None, **options: Any) -> Sampler:
        return Sampler(trained(student, state, ema), tables(steps, **options))

    first, second = optimisers
    second = model.optimiser or opponent.optimiser or second
    return Method(
        init=init,
        players={
            "fake": Player(fake_loss, second, ema=model.ema),
            **{name: observed(observer) for name, observer in (observers or {}).items()},
            "student": Player(student_loss, student.optimiser or first, every, student.ema),
        },
        sampler=sampler,
        frozen=held,
    )


def generating(levels: Sequence[float]) -> Generate:
    """Samples of the student's evaluations at ``levels``, as many as the batch has data
    (:func:`jaxdiff.distill.generator.generate`).
    """
    return lambda now, key: generate(now.student, levels, now.x0, key)[0]


def denoising(now: Play, levels: Levels, sigma_data: Number = 0.5) -> Array:
    """The fake score's loss per sample, (batch,): denoising score matching on what the student
    made, with EDM's weight s^-2 + sigma_data^-2.
    """
    y, s = renoise(now.key, now.x, levels)
    return edm_weight(s, sigma_data) * squared(now.fake(y, s), now.x)


def fooling(now: Play, opponent: Opponent, y: Array, s: Array) -> Array:
    """The student's loss on the opponent's head, a scalar."""
    assert opponent.head is not None
    return opponent.head.game.student(now.logits(y, s))


def judging(
    now: Play, opponent: Opponent, s: Array, eps: Array, penalty: Penalty
) -> tuple[Array, Metrics]:
    """The critic's loss, a scalar, on data and samples with the same noise; and its mean logits."""
    assert opponent.head is not None
    real = perturb(now.x0, s, eps)
    seen, made = now.logits(real, s), now.logits(perturb(now.x, s, eps), s)
    value = opponent.head.game.critic(seen, made)
    own = lambda y: now.logits(y, s)  # noqa: E731
    if penalty.factor:
        key = jax.random.fold_in(now.key, 2)  # 0 and 1 are those of split, which drew s and eps
        exact = penalty.size is None
        size = (
            gradient_penalty(own, real)
            if exact
            else approximate_penalty(own, real, key, penalty.size or 0.0)
        )
        value = value + penalty.factor * jnp.mean(size)
    return value, {"real": jnp.mean(seen), "made": jnp.mean(made)}


def opposing(
    now: Play,
    opponent: Opponent,
    levels: Levels,
    sigma_data: Number,
    critic: float,
    penalty: Penalty = NO_PENALTY,
) -> Array | tuple[Array, Metrics]:
    """The loss per sample of a fake score (:func:`denoising`) and ``critic`` times that of its
    head, if it has one, on the same noisy samples.
    """
    if opponent.head is None:
        return denoising(now, levels, sigma_data)
    key_level, key_noise = jax.random.split(now.key)
    s = levels(key_level, now.x)
    eps = jax.random.normal(key_noise, now.x.shape, now.x.dtype)
    error = squared(now.fake(perturb(now.x, s, eps), s), now.x)
    judged, metrics = judging(now, opponent, s, eps, penalty)
    return edm_weight(s, sigma_data) * error + critic * judged, metrics


def _mean(answer: Array | tuple[Array, Metrics]) -> tuple[Array, Metrics]:
    values, metrics = answer if isinstance(answer, tuple) else (answer, {})
    value = jnp.mean(values)
    return value, {"loss": value, **metrics}


def _start(params: Params | Callable[[Key], Params], key: Key) -> Params:
    return params(key) if callable(params) else params


def _check(opponent: Opponent, model: Student, teacher: Denoiser | None) -> None:
    if opponent.trunk not in ("fake", "teacher"):
        raise ValueError(f'the trunk of a head is "fake" or "teacher", not {opponent.trunk!r}')
    if opponent.head is not None and opponent.trunk == "teacher" and teacher is None:
        raise ValueError("a head on the teacher's features needs a teacher")
    if not opponent.scores and (opponent.head is None or opponent.trunk == "fake"):
        raise ValueError("an opponent that does not score is a head on the teacher's features")
    if opponent.rank and callable(model.params):
        raise ValueError("adapters need the parameters they are added to, not a way to draw them")
