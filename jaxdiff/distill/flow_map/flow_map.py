"""Flow maps by their differential equations: align your flow, and self-distillation.

G(x, t -> r) = x - (t - r) u(x, t, r) carries the state of a flow dx/dt = v(x, t) from t down to r;
u(x, t, t) = v(x, t). Each of three identities, with that condition, has the exact map as its only
solution:

    Eulerian      d/dt G = 0 along the flow:    dG/dt + (dG/dx) v(x, t) = 0
    Lagrangian    the end moves with the flow:  dG/dr = v(G, r)
    semigroup     G(x, t -> r) = G(G(x, t -> q), q -> r),     r <= q <= t.

Align your flow (Sabour et al. 2506.14603) has a teacher's v. Its gradients (theorems 3.2, 3.3),

    sign(t - r) G^T sg[dG/dt],          sign(r - t) G^T sg[dG/dr - v(G, r)],

are those of regressions of u onto what it should be,

    v - (t - r) du/dt  (mean flow's target),      v(G, r) + (t - r) du/dr.

Self-distillation (Boffi et al. 2505.18825, after their 2406.07507) has no teacher. Where r = t
the network learns u(x, t, t) by flow matching; elsewhere its own u(., t, t) is the v of an identity
whose residual is squared. Semigroup with random q is also the interval splitting of SplitMeanFlow
(2507.16884), with q halfway and powers of two for t - r the shortcut models (2410.12557); the
Lagrangian residual is that of terminal velocity matching.

Times, field and u are those of :mod:`jaxdiff.distill.flow_map.mean_flow`.
"""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax

from jaxdiff.arrays import expand
from jaxdiff.distill.flow_map.mean_flow_targets import (
    Field,
    MeanField,
    adaptive_loss,
    check_weight,
    mean_field,
    mean_flow_target,
    normalised_loss,
    teacher_field,
)
from jaxdiff.distill.flow_map.times import Pairs, flow_map_tables, noisy
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tangents import along, warmup
from jaxdiff.method import Method
from jaxdiff.ranges import Natural, NotNegative, in_range
from jaxdiff.typing import Array, Denoiser, Key

Residual: TypeAlias = Callable[[MeanField, Array, Array, Array, Array, Key], Array]
"""``residual(u, x, t, r, field, key)``, of the shape of x; ``field`` is v where r = t."""


def flow_jump(u: MeanField, x: Array, t: Array, r: Array) -> Array:
    """G(x, t -> r) = x - (t - r) u(x, t, r)."""
    return x - expand(t - r, x) * u(x, t, r)


def lagrangian_target(
    u: MeanField, x: Array, t: Array, r: Array, field: Field, share: Array | float = 1.0
) -> tuple[Array, Array]:
    """u(x, t, r), and sg[v(G, r) + share (t - r) du/dr] that it should be."""
    value, rate = along(lambda r: u(x, t, r), (r,), (jnp.ones_like(r),))
    end = jax.lax.stop_gradient(x - expand(t - r, x) * value)
    return value, jax.lax.stop_gradient(field(end, r) + expand(share * (t - r), x) * rate)


def _along(f: Callable[[Array], Array], at: Array, tangent: Array) -> tuple[Array, Array]:
    """Value and derivative, both with gradients."""
    with jax.default_matmul_precision("highest"):
        return jax.jvp(f, (at,), (tangent,))


def _own_field(u: MeanField, x: Array, t: Array, diagonal: Array, field: Array) -> Array:
    """Return the field where it is given, on the diagonal, else the network's own; held fixed."""
    return jax.lax.stop_gradient(jnp.where(expand(diagonal, x) > 0, field, u(x, t, t)))


def lagrangian(u: MeanField, x: Array, t: Array, r: Array, field: Array, key: Key) -> Array:
    """dG/dr - sg[v(G, r)] (2505.18825, LSD)."""
    value, rate = _along(lambda r: u(x, t, r), r, jnp.ones_like(r))
    end = jax.lax.stop_gradient(x - expand(t - r, x) * value)
    v = _own_field(u, end, r, _equal(t, r), field)
    return value - expand(t - r, x) * rate - v


def eulerian(u: MeanField, x: Array, t: Array, r: Array, field: Array, key: Key) -> Array:
    """dG/dt + sg[(dG/dx) v(x, t)] (2505.18825, ESD)."""
    v = _own_field(u, x, t, _equal(t, r), field)
    _, in_time = _along(lambda t: flow_jump(u, x, t, r), t, jnp.ones_like(t))
    _, in_space = along(lambda x: flow_jump(u, x, t, r), (x,), (v,))
    return in_time + in_space


def semigroup(halfway: bool = False) -> Residual:
    """u(x, t, r) - sg[w u(x, t, q) + (1 - w) u(G(x, t -> q), q, r)], q = t - w (t - r) (2505.18825,
    PSD): w is uniform in (0, 1), or 1/2.
    """

    def residual(u: MeanField, x: Array, t: Array, r: Array, field: Array, key: Key) -> Array:
        w = jnp.full_like(t, 0.5) if halfway else jax.random.uniform(key, t.shape, t.dtype)
        q = t - w * (t - r)
        first = u(x, t, q)
        second = u(x - expand(t - q, x) * first, q, r)
        two = expand(w, x) * first + expand(1.0 - w, x) * second
        v = jnp.where(expand(_equal(t, r), x) > 0, field, two)
        return u(x, t, r) - jax.lax.stop_gradient(v)

    return residual


def _equal(t: Array, r: Array) -> Array:
    return (t == r).astype(t.dtype)


def interval_pairs(mean: float = -0.8, std: float = 1.0) -> Pairs:
    """Length t - r logit-normal, then r uniform in what remains (2506.14603, appendix)."""

    def pairs(key: Key, x0: Array) -> tuple[Array, Array]:
        key_length, key_place = jax.random.split(key)
        shape = x0.shape[:1]
        d = jax.nn.sigmoid(mean + std * jax.random.normal(key_length, shape, x0.dtype))
        r = jax.random.uniform(key_place, shape, x0.dtype) * (1.0 - d)
        return r + d, r

    return pairs


def uniform_pairs(unequal: float = 0.25) -> Pairs:
    """Uniform in the triangle r < t; r = t but for the share ``unequal``, t then uniform
    (2505.18825, section 4: three quarters on the diagonal).
    """

    def pairs(key: Key, x0: Array) -> tuple[Array, Array]:
        key_times, key_unequal = jax.random.split(key)
        a, b = jax.random.uniform(key_times, (2, *x0.shape[:1]), x0.dtype)
        off = jax.random.bernoulli(key_unequal, unequal, a.shape)
        return jnp.where(off, jnp.maximum(a, b), a), jnp.where(off, jnp.minimum(a, b), a)

    return pairs


INTERVALS = interval_pairs()
UNIFORM = uniform_pairs()


@in_range
def align_your_flow(
    teacher: Denoiser,
    student: Student,
    *,
    form: str = "eulerian",
    pairs: Pairs = INTERVALS,
    warmup_updates: Natural = 10_000,
    power: NotNegative = 1.0,
    c: NotNegative = 0.1,
) -> Method:
    """Align your flow (Sabour et al., arXiv 2506.14603): a teacher's flow map by continuous-time
    distillation, AYF-EMD or AYF-LMD.

    Args:
        teacher: ``D(y, level, cond)``; autoguided, as in the paper, by handing over the guided
            denoiser.
        student: its network takes two labels (see
            :func:`jaxdiff.distill.flow_map.mean_flow.mean_flow` for good ones). RAdam with learning
            rate 1e-4 by default.
        form: "eulerian" or "lagrangian".
        pairs: of times.
        warmup_updates: in which the derivative's share grows from 0 to 1 (algorithm 1).
        power, c: of the normalisation g/(|g| + c)^power.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for another form, and for a c where power is 0.

    Recipe: batch 2048, 50k updates, ImageNet 64 and 512. Deviations: weight 1/(t - r), so that u,
    not G, is what is regressed; guidance is fixed, not an input; no adversarial finish. Failure:
    the Lagrangian form needs v at the student's own samples, where a learned teacher may be wrong
    (over-smooth images, the paper says). Cost: 1.7 times score matching with a teacher of the
    student's size: one call with a derivative, one of the teacher.
    """
    if form not in ("eulerian", "lagrangian"):
        raise ValueError(f'form must be "eulerian" or "lagrangian", not {form!r}')
    check_weight(power, c, 0.1)

    def student_loss(step: Step) -> Array:
        x, t, r, _, _ = noisy(student, pairs, step)
        u, v = mean_field(student, step), teacher_field(step.teacher)  # type: ignore[arg-type]
        share = warmup(step.context.step, warmup_updates).astype(x.dtype)
        if form == "eulerian":
            value, target = mean_flow_target(u, x, t, r, v(x, t), share=share)
        else:
            value, target = lagrangian_target(u, x, t, r, v, share)
        return normalised_loss(value, target, power, c)

    tables = flow_map_tables(student)
    return regression(student, student_loss, tables, optimiser=optax.radam(1e-4), teacher=teacher)


@in_range
def self_distilled_flow_map(
    student: Student,
    *,
    residual: Residual = lagrangian,
    teacher: Denoiser | None = None,
    pairs: Pairs = UNIFORM,
    power: NotNegative = 0.0,
    c: NotNegative = 1e-3,
) -> Method:
    """Self-distilled flow maps (Boffi et al., arXiv 2505.18825): flow matching where r = t, an
    identity of flow maps elsewhere.

    Args:
        student: its network takes two labels. RAdam with learning rate 1e-3 by default.
        residual: :func:`lagrangian`, :func:`eulerian` or ``semigroup()``.
        teacher: its field in place of eps - x0 on the diagonal.
        pairs: of times, by default three quarters on the diagonal.
        power, c: of an adaptive weight
            (:func:`jaxdiff.distill.flow_map.mean_flow_targets.adaptive_loss`).

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for a c where power is 0.

    Recipe: CIFAR-10, batch 512, 400k updates, where the Lagrangian form was the best. Deviation: no
    learned weight of t and r. Failure: the Eulerian form is unstable (the paper's finding): its
    gradient passes through the derivative but not through its partner. Cost, in units of score
    matching: 2.4 (Lagrangian: a gradient through a derivative), 2.9 (Eulerian), 1.7 (semigroup:
    two more calls, no derivative).
    """
    check_weight(power, c, 1e-3)

    def student_loss(step: Step) -> Array:
        x, t, r, field, key = noisy(student, pairs, step)
        if step.teacher is not None:
            field = teacher_field(step.teacher)(x, t)
        error = residual(mean_field(student, step), x, t, r, field, key)
        return adaptive_loss(error, jnp.zeros_like(error), power, c)

    tables = flow_map_tables(student)
    return regression(student, student_loss, tables, optimiser=optax.radam(1e-3), teacher=teacher)
