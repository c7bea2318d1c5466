"""Score distillation: anything differentiable that draws, drawn by a diffusion model.

A scene with parameters theta renders x(theta). Score distillation sampling (Poole et al.
2209.14988, eq. 3) moves it against

    E w(s) (eps_teacher(y, s) - eps) dx/dtheta,           y = x + s eps,

which is the gradient of a KL divergence whose other side is a point. For a distribution of scenes,
in practice several particles, the noise is replaced by what a second denoiser, trained on the
renderings, says of it (variational score distillation, Wang et al. 2305.16213, eq. 9):

    E w(s) (eps_teacher(y, s) - eps_fake(y, s)) dx/dtheta.

With eps = (y - D)/s the two are w (x - D_teacher)/s and w (D_fake - D_teacher)/s. No gradient
passes through a denoiser.
"""

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from jaxdiff.arrays import check_rows
from jaxdiff.denoisers import as_partial
from jaxdiff.distance import squared
from jaxdiff.distill.parts.frame import Step
from jaxdiff.distill.parts.generator import Levels, Weight, in_time, push, renoise
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.two_players import FakeScore, two_players
from jaxdiff.distill.score.diff_instruct import score_difference
from jaxdiff.method import Batch, Context, Decay, Method, Metrics, Player
from jaxdiff.process import VP
from jaxdiff.ranges import Natural, in_range
from jaxdiff.typing import Array, Denoiser, Key, Params

Render = Callable[[Params, Key], Array]

MIDDLE = in_time(cast(Any, VP()))
WHOLE = in_time(cast(Any, VP()), 1e-3, 1.0)  # a thousand steps, the first of which has noise
_LATE = in_time(cast(Any, VP()), 0.02, 0.5)


def variance(level: Array) -> Array:
    """Return the weight s^2/(1 + s^2), sigma(t)^2 of a variance-preserving process."""
    return level**2 / (1.0 + level**2)


def inverse_square(level: Array) -> Array:
    """Return the weight s^-2, of an error of the data that is to be one of the noise."""
    return level**-2


def score_distillation(
    teacher: Denoiser,
    render: Render,
    scene: Params | Callable[[Key], Params],
    *,
    levels: Levels = MIDDLE,
    weight: Weight = variance,
    optimiser: optax.GradientTransformation | None = None,
    ema: dict[str, Decay] | None = None,
) -> Method:
    """Score distillation sampling, SDS (Poole et al., arXiv 2209.14988).

    Args:
        teacher: ``D(y, level, cond)``, frozen; guided, in the paper by a weight of 100.
        render: ``render(scene, key) -> (batch, *shape)``, differentiable; the key is for views.
        scene: the parameters to start from, or ``init(key)``.
        levels: of the noise; the paper's are uniform in 2 to 98 % of a VP process's time.
        weight: w(s) of the difference of noises.
        optimiser: Adam at 1e-2 by default.
        ema: averages to keep, by name.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Batches hold "label", a condition per rendering, or nothing that is used.
    The player is "student"; ``sampler(state)`` returns ``render`` with the scene bound:
    ``sampler(state)(key)``.
    Fails: it seeks a mode and averages its detail away; only a large guidance weight helps, which
    saturates colours. A scene ends where the mean of the scores over noise levels vanishes, not at
    a sample.
    Cost: one rendering with gradient and one teacher call per update.
    """

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        key_view, key_noise = jax.random.split(key)
        x = render(params, key_view)
        y, s = renoise(key_noise, x, levels)
        denoise = lambda y, s: context.frozen["teacher"](y, s, batch.get("label"))  # noqa: E731
        difference = score_difference(denoise, lambda y, s: x, y, s, weight(s) / s)
        value = jnp.mean(push(x, difference))
        return value, {"loss": value}

    return Method(
        init=lambda key: {"student": scene(key) if callable(scene) else scene},
        players={"student": Player(loss, optimiser or optax.adam(1e-2), ema=ema or {})},
        sampler=functools.partial(_rendering, render), frozen={"teacher": as_partial(teacher)},
        check=_labelled(render, scene, "score_distillation"),
    )  # fmt: skip


@in_range
def variational_score_distillation(
    teacher: Denoiser,
    render: Render,
    scene: Params | Callable[[Key], Params],
    fake: Student,
    *,
    rank: Natural = 4,
    levels: Levels = MIDDLE,
    late_levels: Levels = _LATE,
    late_from: Natural = 5000,
    fake_levels: Levels = WHOLE,
    weight: Weight = variance,
    fake_weight: Weight = inverse_square,
    optimiser: optax.GradientTransformation | None = None,
    ema: dict[str, Decay] | None = None,
) -> Method:
    """Variational score distillation, VSD (Wang et al., arXiv 2305.16213, algorithm 1).

    Args:
        teacher: ``D(y, level, cond)``, frozen; guided by 7.5 in the paper.
        render: ``render(scene, key) -> (batch, *shape)``: of several particles, if the scene holds
            them, a random one per rendering.
        scene: parameters, or ``init(key)``.
        fake: the denoiser of renderings: the teacher's network and its parameters. AdamW at 1e-4
            after 500 steps of warm-up, unless it brings an optimiser.
        rank: of the adapters to it that are trained; 0 trains all its parameters.
        levels: of the scene's noise, uniform in 2 to 98 % of a VP process's time by default.
        late_levels: of the scene's noise from update ``late_from`` on, 2 to 50 %, which brings out
            detail.
        late_from: the update from which ``late_levels`` are drawn.
        fake_levels: of the fake score's, uniform in all of that time.
        weight: w(s) of the difference of noises.
        fake_weight: of the fake score's squared error of the data, s^-2 by default, which makes it
            that of the noise; s^-2 + 1 that of the velocity.
        optimiser: Adam at 1e-3 with b2 = 0.99 by default, the published code's for fields.
        ema: as in :func:`score_distillation`.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Deviations: the fake score is not conditioned on the camera. Its error is that of the noise, as
    in the paper; in published code it is another network than the teacher, with the velocity's.
    Fails: as two players do, where the fake score lags behind the scene; with one particle it is
    close to SDS of a scene that keeps its detail.
    Cost: SDS with a further call of the fake score, and its training step.
    """

    def student_loss(step: Step) -> Array:
        late = step.context.step >= late_from

        def drawn(key: Key, like: Array) -> Array:
            return jnp.where(late, late_levels(key, like), levels(key, like))

        y, s = renoise(step.key, step.x, drawn)
        return push(step.x, score_difference(step.teacher, step.fake, y, s, weight(s) / s))

    def critic_loss(step: Step) -> Array:
        y, s = renoise(step.key, step.x, fake_levels)
        return fake_weight(s) * squared(step.fake(y, s), step.x)

    scenes = optax.adam(1e-3, b2=0.99, eps=1e-15)
    scores = optax.adamw(optax.linear_schedule(0.0, 1e-4, 501), weight_decay=0.01)
    drawn = fake._replace(params=scene, optimiser=optimiser, ema=ema or {})
    method = two_players(
        drawn, FakeScore(fake, rank=rank), lambda step, key: render(step.params, key), student_loss,
        critic_loss, tables=_no_tables, teacher=teacher, optimisers=(scenes, scores),
    )  # fmt: skip
    check = _labelled(render, scene, "variational_score_distillation")
    return method._replace(sampler=functools.partial(_rendering, render), check=check)


def _labelled(
    render: Render, scene: Params | Callable[[Key], Params], method: str
) -> Callable[[Batch], None]:
    """``check(batch)``: a label for every rendering, if there are labels."""

    def check(batch: Batch) -> None:
        key = jax.random.key(0)
        made = jax.eval_shape(lambda: render(scene(key) if callable(scene) else scene, key))
        if "label" in batch and jax.process_count() == 1:  # else each has its part of them
            name = f'{method} renders {made.shape}: batch "label"'
            check_rows(batch["label"], made.shape[0], name)

    return check


def _rendering(render: Render, state: Any, ema: str | None = None) -> Callable[[Key], Array]:
    params = state.params["student"] if ema is None else state.ema["student"][ema]
    return functools.partial(render, params)


def _no_tables(num_steps: int) -> Any:
    raise ValueError("a scene is rendered, not sampled in steps")
