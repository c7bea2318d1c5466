"""Continuous-time consistency models: neighbouring levels merge, and a derivative takes their
place.

f(y, s) maps a state to the end of its trajectory, so df/ds = 0 along dy/ds = (y - D)/s with a
teacher's D, or dy/ds = eps in the mean over x0 given y without one. The limit of the discrete
losses has the gradient of a squared difference to f moved by its own derivative, held fixed
(arXiv 2303.01469, theorems 5 and 6),

    w |f - sg(f - (dt/du) df/dt)|^2,        t(u) the Karras grid, u uniform in (0, 1).

The simplified form (sCM, arXiv 2410.11081) has TrigFlow's coordinates, where level s is the angle
t = arctan(s/sd), sd the data's standard deviation, and x = cos t y:

    f = cos t x - sin t sd F(x, t),                     dx/dt = sd F_teacher, or cos t z - sin t x0
    g = -cos^2 t (sd F - dx/dt) - r cos t sin t (x + sd dF/dt)         at r = 1 cos t df/dt
    e^-l(t)/D w |F - sg(F + g/(|g| + c))|^2 + l(t)                     with z = sd eps, l learned

(r grows from 0 to 1 in warm-up; w = 1/(sd tan t) the paper's prior weight, its l the negative of
ours.) EDM's preconditioning is these coordinates: F is minus the network of an "edm" denoiser.
dF/dt is taken times cos t sin t, by tangents multiplied with it, which keeps it of order 1.

Traps: labels in fast waves make dF/dt noise (take a small ``label_scale``), and so does low
precision. Without a teacher g scatters, and dividing by each sample's own norm moves its mean: in
many dimensions all norms are alike, in few a c above them keeps the mean.
"""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.arrays import expand
from jaxdiff.denoisers import predictor
from jaxdiff.distance import squared
from jaxdiff.distill.consistency.consistency import consistency_tables
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.levels import karras_level, log_normal_levels
from jaxdiff.distill.parts.primitives import perturb
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tangents import along, normalised, warmup
from jaxdiff.method import Method, Metrics
from jaxdiff.process import Number, TrigFlow
from jaxdiff.ranges import Natural, NotNegative, Positive, Range, in_range
from jaxdiff.typing import Array, Denoiser

Field = Callable[[Array, Array], Array]


def trig_rate(x: Array, t: Array, x0: Array, sigma_data: Number = 0.5) -> Array:
    """dx/dt = cos t z - sin t x0 at the point x = cos t x0 + sin t z: the motion towards a datum,
    or by the flow where x0 is the denoised x. t > 0.
    """
    cos, sin = expand(jnp.cos(t), x), expand(jnp.sin(t), x)
    return cos * ((x - cos * x0) / sin) - sin * x0


def scm_tangent(
    F: Array, rate: Array, x: Array, t: Array, dx: Array, warm: Array | float, sigma_data: Number
) -> Array:
    """Return the tangent g (2410.11081, section 4). ``rate`` is cos t sin t dF/dt, ``dx`` is dx/dt,
    ``warm`` is r; ``t`` (batch,).
    """
    cos, sin = expand(jnp.cos(t), x), expand(jnp.sin(t), x)
    return -(cos**2) * (sigma_data * F - dx) - warm * (cos * sin * x + sigma_data * rate)


def scm_error(
    F: Field,
    x: Array,
    t: Array,
    dx: Array,
    *,
    warm: Array | float = 1.0,
    c: float = 0.1,
    per_number: bool = False,
    sigma_data: Number = 0.5,
) -> Array:
    """|F - sg(F + g/(|g| + c))|^2/D per sample; with ``per_number`` |g| is a root mean square."""
    scale = jnp.cos(t) * jnp.sin(t)
    value, rate = along(F, (x, t), (expand(scale, x) * dx, scale))
    g = scm_tangent(value, rate, x, t, dx, warm, sigma_data)
    target = jax.lax.stop_gradient(value + normalised(g, c, per_number))
    return squared(value, target)


def adaptive_weight(error: Array, weight: Array, log_variance: Array) -> Array:
    """Weight e^-l error + l, least where e^l is the weighted error's mean (2312.02696,
    section 2.3; 2410.11081, section 4).
    """
    l = log_variance.astype(error.dtype)
    return weight * jnp.exp(-l) * error + l


def sct(student: Student, **options: Any) -> Method:
    """Simplified continuous-time consistency training, sCT (Lu and Song, arXiv 2410.11081,
    algorithm 1): :func:`scd` without a teacher, dx/dt being that of the pair of datum and noise.
    Cost and failure modes are those of :func:`scd`, less the teacher's call.

    The paper starts from a diffusion model, with log levels N(-1, 1.4^2), dropout 0.2, batches of
    512, a warm-up of 10,000 updates; published code that starts from EDM's has std 1.8, trains up
    to level 800 and samples from 80. Deviation: as of :func:`scd`. Its tangents scatter: give it
    more updates, or larger batches, than :func:`scd`, and in few dimensions a large c. Options are
    those of :func:`scd`.

    Args:
        student: the :class:`Student` that is trained.
        options: of :func:`scd`.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.
    """
    return scd(None, student, **options)


@in_range
def scd(
    teacher: Denoiser | None,
    student: Student,
    *,
    mean: Annotated[float, Range()] = -1.0,
    std: Positive = 1.4,
    warmup_updates: Natural = 10_000,
    c: NotNegative = 0.1,
    per_number: bool = False,
    prior_weight: bool = True,
    learned_weight: bool = True,
    intermediate: tuple[float, ...] = (0.821,),
) -> Method:
    """Simplified continuous-time consistency distillation, sCD (Lu and Song, arXiv 2410.11081,
    algorithm 1).

    Recipe: CIFAR-10, batches of 512, no dropout (0.2 without a teacher): FID 3.66 at 1 evaluation,
    2.52 at 2 (2.85 and 2.06 without a teacher).
    Cost: one network call with gradient and one tangent of it per update, a third more than score
    matching, and the teacher's call. Failure modes: the tangent explodes with labels in fast waves,
    in low precision, or without normalisation and warm-up; a start far from the teacher. Deviation:
    the learned weight is a linear function of the label's waves.

    Args:
        teacher: ``D(y, level, cond)``, frozen; None for :func:`sct`.
        student: starts as the teacher, of prediction "edm", "eps" or "x0"; with a head of the log
            variance if ``learned_weight``. RAdam at 1e-4 with betas 0.9 and 0.99 by default.
        mean, std: of the logarithm of the levels.
        warmup_updates: updates in which r grows to 1.
        c: added to the norm that g is divided by.
        per_number: divide by the root mean square of g in place of its norm (some published code).
        prior_weight: the weight 1/level.
        learned_weight: the learned one on top of it.
        intermediate: levels of sampling (0.821 for CIFAR-10, 1.1 for ImageNet 64).

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.
    """
    sd = student.sigma_data
    process: Any = TrigFlow(sd)

    def student_loss(step: Step) -> Array | tuple[Array, Metrics]:
        key_level, key_noise = jax.random.split(step.key)
        level = log_normal_levels(key_level, step.x0, mean, std)
        t = jnp.arctan(level / sd)
        y = perturb(step.x0, level, jax.random.normal(key_noise, step.x0.shape, step.x0.dtype))
        x = expand(jnp.cos(t), y) * y
        end = step.x0 if step.teacher is None else jax.lax.stop_gradient(step.teacher(y, level))
        raw = step.own(predictor(student.denoiser(step.params), process, "edm"))
        warm = warmup(step.context.step, warmup_updates).astype(x.dtype)
        dx = trig_rate(x, t, end, sd)
        error = scm_error(
            lambda x, t: -raw(x, t), x, t, dx,
            warm=warm, c=c, per_number=per_number, sigma_data=sd,
        )  # fmt: skip
        weight = 1.0 / level if prior_weight else jnp.ones_like(level)
        if not learned_weight:
            return weight * error
        log_variance = _log_variance(raw(x, t, full=True).log_variance)
        return adaptive_weight(error, weight, log_variance), {"error": jnp.mean(error)}

    return regression(
        student, student_loss, consistency_tables(student, intermediate),
        optimiser=optax.radam(1e-4, b2=0.99), teacher=teacher,
    )  # fmt: skip


def _log_variance(head: Array | None) -> Array:
    if head is None:
        raise ValueError(
            "the learned weight needs a network with a log-variance head (log_variance=True); "
            "or give learned_weight=False"
        )
    return head


def continuous_training(student: Student, **options: Any) -> Method:
    """Continuous-time consistency training (Song et al., arXiv 2303.01469, theorem 6):
    :func:`continuous_distillation` without a teacher. Options, recipe, deviation, failure modes and
    cost (less the teacher's call) are the same; the scattered targets make it the least accurate of
    the family.

    Args:
        student: the :class:`Student` that is trained.
        options: of :func:`continuous_distillation`.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.
    """
    return continuous_distillation(None, student, **options)


@in_range
def continuous_distillation(
    teacher: Denoiser | None,
    student: Student,
    *,
    held: bool = True,
    rho: Positive = 7.0,
    intermediate: tuple[float, ...] = (0.821,),
) -> Method:
    """Continuous-time consistency distillation (Song et al., arXiv 2303.01469, theorems 3 and 5).

    Recipe: RAdam at 5e-6 with the target held, at 1e-3 with dropout 0.3 without. Deviation: the
    distance is squared L2.
    Cost: one network call with gradient and one tangent of it per update, and the teacher's call;
    without ``held`` twice that. Failure mode: gradients of very different size among levels, no
    normalisation: :func:`scd` is the stable form.

    Args:
        teacher: ``D(y, level, cond)``, frozen; None for :func:`continuous_training`.
        student: usually starts as the teacher. RAdam at 5e-6 by default, the value of the published
            runs.
        held: the target is held fixed (theorem 5). Without it |df/du|^2 itself is minimised
            (theorem 3), which needs a teacher; the published run has learning rate 1e-3 and dropout
            0.3 there.
        rho: of the Karras grid t(u) in u of which levels are uniform.
        intermediate: levels of sampling.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.
    """
    if teacher is None and not held:
        raise ValueError("without a teacher the target must be held fixed: held=True")

    def grid(u: Array) -> Array:
        return karras_level(1.0 - u, jnp.full_like(u, 2.0), student.low, student.high, rho)

    def student_loss(step: Step) -> Array:
        key_level, key_noise = jax.random.split(step.key)
        u = jax.random.uniform(key_level, step.x0.shape[:1], step.x0.dtype)
        t, stretch = jax.jvp(grid, (u,), (jnp.ones_like(u),))
        eps = jax.random.normal(key_noise, step.x0.shape, step.x0.dtype)
        y = perturb(step.x0, t, eps)
        slope = eps if step.teacher is None else (y - step.teacher(y, t)) / expand(t, y)
        tangents = (expand(stretch, y) * slope, stretch)
        return continuous_error(step.student, y, t, tangents, held)

    return regression(
        student, student_loss, consistency_tables(student, intermediate, student.low),
        optimiser=optax.radam(5e-6), teacher=teacher, sigma_min=student.low,
    )  # fmt: skip


def continuous_error(
    f: Field, y: Array, t: Array, tangents: tuple[Array, Array], held: bool = True
) -> Array:
    """|f - sg(f - df)|^2/D per sample, df the derivative of f along the tangents; |df|^2/D with
    its own gradient if not ``held``.
    """
    tangents = jax.lax.stop_gradient(tangents)
    if held:
        value, rate = along(f, (y, t), tangents)
        return squared(value, jax.lax.stop_gradient(value - rate))
    with jax.default_matmul_precision("highest"):
        rate = jax.jvp(f, (y, t), tangents)[1]
    return squared(rate, jnp.zeros_like(rate))
