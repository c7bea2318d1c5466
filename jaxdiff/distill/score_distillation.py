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

from jaxdiff.distance import squared
from jaxdiff.distill.diff_instruct import score_difference
from jaxdiff.distill.generator import Levels, Weight, in_time, push, renoise
from jaxdiff.distill.student import Student
from jaxdiff.distill.two_players import Opponent, Play, two_players
from jaxdiff.method import Batch, Context, Decay, Method, Metrics, Player
from jaxdiff.prediction import as_partial
from jaxdiff.process import VP
from jaxdiff.typing import Array, Denoiser, Key, Params

Render = Callable[[Params, Key], Array]

_LEVELS = in_time(cast(Any, VP()))


def variance(level: Array) -> Array:
    """The weight s^2/(1 + s^2), sigma(t)^2 of a variance-preserving process."""
    return level**2 / (1.0 + level**2)


def score_distillation(
    teacher: Denoiser,
    render: Render,
    scene: Params | Callable[[Key], Params],
    *,
    levels: Levels = _LEVELS,
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
        optimiser: Adam at 1e-2 by default. ema: averages to keep, by name.

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
        told = lambda y, s: context.frozen["teacher"](y, s, batch.get("label"))  # noqa: E731
        difference = score_difference(told, lambda y, s: x, y, s, weight(s) / s)
        value = jnp.mean(push(x, difference))
        return value, {"loss": value}

    return Method(
        init=lambda key: {"student": scene(key) if callable(scene) else scene},
        players={"student": Player(loss, optimiser or optax.adam(1e-2), ema=ema or {})},
        sampler=functools.partial(_rendering, render), frozen={"teacher": as_partial(teacher)},
    )  # fmt: skip


def variational_score_distillation(
    teacher: Denoiser,
    render: Render,
    scene: Params | Callable[[Key], Params],
    fake: Student,
    *,
    rank: int = 4,
    levels: Levels = _LEVELS,
    weight: Weight = variance,
    optimiser: optax.GradientTransformation | None = None,
    ema: dict[str, Decay] | None = None,
) -> Method:
    """Variational score distillation, VSD (Wang et al., arXiv 2305.16213, algorithm 1).

    Args:
        teacher: ``D(y, level, cond)``, frozen; guided by 7.5 in the paper.
        render: ``render(scene, key) -> (batch, *shape)``: of several particles, if the scene holds
            them, a random one per rendering. scene: parameters, or ``init(key)``.
        fake: the denoiser of renderings: the teacher's network and its parameters. Adam at 1e-4
            unless it brings an optimiser.
        rank: of the adapters to it that are trained; 0 trains all its parameters.
        levels, weight, optimiser, ema: as in :func:`score_distillation`; the paper's optimiser is
            AdamW at 1e-3 for scenes that are images or fields.

    The fake score's loss is that of its noise, |eps_fake - eps|^2.
    Deviation: the fake score is not told the camera.
    Fails: as two players do, where the fake score lags behind the scene; with one particle it is
    close to SDS of a scene that keeps its detail.
    Cost: SDS with a further call of the fake score, and its training step.
    """

    def each(now: Play) -> Array:
        y, s = renoise(now.key, now.x, levels)
        return push(now.x, score_difference(now.teacher, now.fake, y, s, weight(s) / s))

    def other(now: Play) -> Array:
        y, s = renoise(now.key, now.x, levels)
        return s**-2 * squared(now.fake(y, s), now.x)

    drawn = fake._replace(params=scene, optimiser=optimiser, ema=ema or {})
    method = two_players(
        drawn, Opponent(fake, rank=rank), lambda now, key: render(now.params, key), each, other,
        tables=_no_tables, teacher=teacher, optimisers=(optax.adam(1e-2), optax.adam(1e-4)),
    )  # fmt: skip
    return method._replace(sampler=functools.partial(_rendering, render))


def _rendering(render: Render, state: Any, ema: str | None = None) -> Callable[[Key], Array]:
    params = state.params["student"] if ema is None else state.ema["student"][ema]
    return functools.partial(render, params)


def _no_tables(steps: int) -> Any:
    raise ValueError("a scene is rendered, not sampled in steps")
