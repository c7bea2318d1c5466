"""Consistency models: one network that maps every point of a trajectory to its end.

f(y, s) is trained to agree with itself at two levels t > r of one trajectory,

    E w(t, r) d( f_theta(y_t, t), sg f_target(y_r, r) ),

with f(y, s) = c_skip y + c_out F and f(y, s_min) = y exactly. The members of the family differ in
how the pair is made:

    consistency distillation  r, t neighbours on a grid; y_r is one solver step of a teacher from
    y_t = x0 + t eps consistency training      the same, with y_r = x0 + r eps and the same eps: no
    teacher easy consistency tuning   t log-normal, r = t (1 - q^-(k+1) n(t)) drawing nearer to t in
    stages k; starts from a
                              diffusion model, with which it coincides at r = 0

Sources: Song et al. 2303.01469 (CD, CT), Geng et al. 2406.14548 (ECT). Both branches use one
dropout key.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import solvers
from jaxdiff.distill.primitives import (
    Distance,
    drop_labels,
    log_normal_levels,
    perturb,
    pseudo_huber,
    squared,
)
from jaxdiff.method import Batch, Context, Decay, Method, Metrics, Player
from jaxdiff.prediction import as_partial, denoiser, expand
from jaxdiff.sampling.sample import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.singlestep import heun_step
from jaxdiff.typing import Array, Denoiser, Key, Network, Params


class Pair(NamedTuple):
    """Two points of one trajectory: (batch, *shape) states at levels t > r, each (batch,)."""

    y_t: Array
    t: Array
    y_r: Array
    r: Array


def consistency_loss(
    f: Callable[[Array, Array], Array],
    target: Callable[[Array, Array], Array],
    pair: Pair,
    distance: Distance,
    weight: Array,
) -> Array:
    """Weight d(f(y_t, t), sg target(y_r, r)) per sample, shape (batch,)."""
    return weight * distance(f(pair.y_t, pair.t), jax.lax.stop_gradient(target(pair.y_r, pair.r)))


def ect_level(t: Array, stage: Array, q: float = 2.0, k: float = 8.0, b: float = 1.0) -> Array:
    """The lower level r = t (1 - q^-(stage+1) (1 + k sigmoid(-b t))), not below 0 (2406.14548, eq.
    13 and appendix).

    ``k = 0`` is the constant mapping. ``stage`` may be traced.
    """
    ratio = jnp.power(q, -(jnp.asarray(stage, t.dtype) + 1.0))
    return t * jnp.maximum(1.0 - ratio * (1.0 + k * jax.nn.sigmoid(-b * t)), 0.0)


def karras_level(index: Array, scales: Array, low: float, high: float, rho: float) -> Array:
    """Level number ``index`` (0 the highest) of the Karras grid of ``scales`` levels; both may be
    traced.
    """
    u = index / (scales - 1.0)
    return (high ** (1 / rho) + u * (low ** (1 / rho) - high ** (1 / rho))) ** rho


def ct_scales(step: Array, steps: int, first: int = 2, last: int = 150) -> Array:
    """N(k) = ceil(sqrt(k/K ((s1+1)^2 - s0^2) + s0^2) - 1) + 1 of consistency training (2303.01469,
    appendix C).
    """
    done = step.astype(float) / steps
    return jnp.ceil(jnp.sqrt(done * ((last + 1.0) ** 2 - first**2) + first**2) - 1.0) + 1.0


def ct_decay(
    steps: int, start: float = 0.9, first: int = 2, last: int = 150, reference: bool = False
) -> Decay:
    """mu(k) = exp(s0 log(mu0)/N(k)), the decay of consistency training's target network (same
    place).

    The published code divides by N(k) - 1, which ``reference`` does too.
    """
    return lambda step: jnp.exp(
        first * np.log(start).item() / (ct_scales(step, steps, first, last) - int(reference))
    )


def _consistency(
    network: Network,
    params: Params | Callable[[Key], Params],
    pair: Callable[[Context, Array, Any, Key], Pair],
    *,
    distance: Distance,
    weight: Callable[[Array, Array], Array],
    sigma_data: float,
    sigma_min: float,
    high: float,
    middle: tuple[float, ...],
    classes: int | None,
    label_drop: float,
    optimiser: optax.GradientTransformation,
    ema: dict[str, Decay] | None,
    target: Decay | None = None,
    frozen: Any = None,
) -> Method:
    """What the three methods share: the loss, the target network and the sampler."""

    def wrap(p: Params) -> jax.tree_util.Partial:
        return denoiser(network, p, sigma_data=sigma_data, sigma_min=sigma_min)

    def loss(p: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        x0 = batch["image"]
        key_pair, key_label, key_dropout = jax.random.split(key, 3)
        labels = drop_labels(key_label, batch.get("label"), label_drop, classes)
        points = pair(context, x0, labels, key_pair)
        theirs = p if target is None else context.ema["student"]["target"]

        def of(params: Params) -> Callable[[Array, Array], Array]:
            D = wrap(params)
            return lambda y, s: D(y, s, labels, key=key_dropout)

        f, g = of(p), of(theirs)
        value = jnp.mean(consistency_loss(f, g, points, distance, weight(points.t, points.r)))
        return value, {"loss": value}

    def sampler(state: Any, steps: int = 1, ema: str | None = None, levels: Any = None) -> Sampler:
        chosen = state.params["student"] if ema is None else state.ema["student"][ema]
        levels = student_levels(steps, high, middle) if levels is None else levels
        return Sampler(wrap(chosen), table(solvers.consistency, levels, smallest=sigma_min))

    averages = dict(ema or {}) | ({} if target is None else {"target": target})
    start = params if callable(params) else lambda key: params
    return Method(
        init=lambda key: {"student": start(key)},
        players={"student": Player(loss, optimiser, ema=averages)},
        sampler=sampler,
        frozen=frozen,
    )


def student_levels(steps: int, high: float, middle: tuple[float, ...]) -> list[float]:
    """Levels of a sampler in ``steps`` evaluations: the highest, then the method's intermediate
    ones, then 0.

    With more steps than known intermediate levels, they are spread log-uniformly between the ends
    of those known.
    """
    if steps < 1:
        raise ValueError(f"a sampler has at least 1 step, not {steps}")
    known = list(middle[: steps - 1])
    if len(known) < steps - 1:
        known = [float(s) for s in np.geomspace(high, min(middle, default=0.1), steps)[1:]]
    return [high, *known, 0.0]


def easy_consistency(
    network: Network,
    params: Params,
    *,
    stage_steps: int = 20_000,
    q: float = 2.0,
    k: float = 8.0,
    b: float = 1.0,
    c: float = 0.0,
    mean: float = -1.1,
    std: float = 2.0,
    sigma_data: float = 0.5,
    high: float = 80.0,
    middle: tuple[float, ...] = (0.821,),
    classes: int | None = None,
    label_drop: float = 0.0,
    optimiser: optax.GradientTransformation | None = None,
    ema: dict[str, Decay] | None = None,
) -> Method:
    """Easy consistency tuning (Geng et al., arXiv 2406.14548): fine-tune a diffusion model into a
    consistency model.

    Args:
        network: the teacher's network.
        params: the teacher's parameters, where the student starts.
        stage_steps: after each so many steps the stage grows by one and r moves nearer to t by the
            factor q. (The paper's CIFAR-10 run has 250 kimg x 10 per stage at batch 128.)
        q, k, b: of the mapping r(t), see :func:`ect_level`. The paper's one-hour recipe has q = 256
            throughout.
        c: of the pseudo-Huber distance; 0 is the paper's unsquared norm.
        mean, std: of log t.
        high: the level sampling starts from. middle: the intermediate level of two-step sampling
            (0.821 for CIFAR-10).
        optimiser: RAdam with learning rate 1e-4 by default.
    """

    def pair(context: Context, x0: Array, labels: Any, key: Key) -> Pair:
        key_level, key_noise = jax.random.split(key)
        t = log_normal_levels(key_level, x0, mean, std)
        r = ect_level(t, context.step // stage_steps, q, k, b)
        eps = jax.random.normal(key_noise, x0.shape, x0.dtype)
        return Pair(perturb(x0, t, eps), t, perturb(x0, r, eps), r)

    return _consistency(
        network, params, pair,
        distance=pseudo_huber(c), weight=lambda t, r: 1.0 / (t - r),
        sigma_data=sigma_data, sigma_min=0.0,
        high=high, middle=middle, classes=classes, label_drop=label_drop,
        optimiser=optimiser or optax.radam(1e-4), ema=ema,
    )  # fmt: skip


def consistency_distillation(
    teacher: Denoiser,
    network: Network,
    params: Params,
    *,
    scales: int = 18,
    step: Callable[..., Array] = heun_step,
    distance: Distance = squared,
    target: Decay | None = None,
    low: float = 0.002,
    high: float = 80.0,
    rho: float = 7.0,
    sigma_data: float = 0.5,
    middle: tuple[float, ...] = (0.821,),
    classes: int | None = None,
    label_drop: float = 0.0,
    optimiser: optax.GradientTransformation | None = None,
    ema: dict[str, Decay] | None = None,
) -> Method:
    """Consistency distillation (Song et al., arXiv 2303.01469, algorithm 2).

    Args:
        teacher: ``D(y, level, cond)``; with parameters, as a ``jax.tree_util.Partial``. It is
            frozen.
        network, params: the student's network and where it starts, usually the teacher's.
        scales: number of levels on the Karras grid between ``low`` and ``high``.
        step: the teacher's solver step ``step(D, y, t, r)``, one number per sample; Heun by
            default.
        distance: per sample; the paper uses LPIPS, which needs a feature network, l2 or l1.
        target: decay of the target network; None, as in the released CIFAR-10 run, is the student
            itself.
        optimiser: RAdam with learning rate 4e-4 by default.
    """

    def pair(context: Context, x0: Array, labels: Any, key: Key) -> Pair:
        key_level, key_noise = jax.random.split(key)
        t, r = _neighbours(key_level, x0, scales, low, high, rho)
        y_t = perturb(x0, t, jax.random.normal(key_noise, x0.shape, x0.dtype))
        D = lambda y, s: context.frozen(y, s.reshape(-1), labels)  # noqa: E731
        y_r = step(D, y_t, expand(t, x0), expand(r, x0))
        return Pair(y_t, t, jax.lax.stop_gradient(y_r), r)

    return _consistency(
        network, params, pair,
        distance=distance, weight=lambda t, r: jnp.ones_like(t),
        sigma_data=sigma_data, sigma_min=low,
        high=high, middle=middle, classes=classes, label_drop=label_drop,
        optimiser=optimiser or optax.radam(4e-4), ema=ema,
        target=target, frozen=as_partial(teacher),
    )  # fmt: skip


def consistency_training(
    network: Network,
    params: Params | Callable[[Key], Params],
    *,
    steps: int,
    first: int = 2,
    last: int = 150,
    decay: float = 0.9,
    distance: Distance = squared,
    low: float = 0.002,
    high: float = 80.0,
    rho: float = 7.0,
    sigma_data: float = 0.5,
    middle: tuple[float, ...] = (0.821,),
    classes: int | None = None,
    label_drop: float = 0.0,
    optimiser: optax.GradientTransformation | None = None,
    ema: dict[str, Decay] | None = None,
) -> Method:
    """Consistency training (Song et al., arXiv 2303.01469, algorithm 3): a consistency model
    without a teacher.

    Args:
        network, params: the network, and parameters to start from or ``init(key) -> params``.
        steps: length K of the training, which the schedules N(k) and mu(k) refer to.
        first, last: s0 and s1, the number of levels at the start and at the end. decay: mu0.
        optimiser: RAdam with learning rate 4e-4 by default.
    """

    def pair(context: Context, x0: Array, labels: Any, key: Key) -> Pair:
        key_level, key_noise = jax.random.split(key)
        t, r = _neighbours(
            key_level, x0, ct_scales(context.step, steps, first, last), low, high, rho
        )
        eps = jax.random.normal(key_noise, x0.shape, x0.dtype)
        return Pair(perturb(x0, t, eps), t, perturb(x0, r, eps), r)

    return _consistency(
        network, params, pair,
        distance=distance, weight=lambda t, r: jnp.ones_like(t),
        sigma_data=sigma_data, sigma_min=low,
        high=high, middle=middle, classes=classes, label_drop=label_drop,
        optimiser=optimiser or optax.radam(4e-4), ema=ema,
        target=ct_decay(steps, decay, first, last),
    )  # fmt: skip


def _neighbours(
    key: Key, x0: Array, scales: Array | int, low: float, high: float, rho: float
) -> tuple[Array, Array]:
    """Neighbouring levels t > r on the Karras grid of ``scales`` levels, one uniform pair per
    sample.
    """
    scales = jnp.asarray(scales).astype(x0.dtype)
    index = jnp.floor(jax.random.uniform(key, x0.shape[:1], x0.dtype) * (scales - 1.0))
    index = jnp.minimum(index, scales - 2.0)  # the product may round up to scales - 1
    return tuple(karras_level(index + i, scales, low, high, rho) for i in (0.0, 1.0))  # type: ignore[return-value]
