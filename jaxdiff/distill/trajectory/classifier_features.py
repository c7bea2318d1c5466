"""Classifier-based feature distillation: what a frozen classifier sees replaces the pixels.

A round of progressive distillation (:mod:`jaxdiff.distill.trajectory.progressive`) whose distance
between the student's denoised output a and the one requested, b, is a divergence of the
classifier's sharpened features F,

    p(a) = softmax(F(a)/tau),    E KL( p(b) || p(a) ) + beta ( gamma H + (1 - gamma) Div ),
    H = -E sum_k c_k log c_k,    Div = sum_k q_k log q_k,  c = softmax(logits(a)), q = E c,

where H requires decided outputs and Div for varied ones, of the classes that the classifier knows.
Published code sharpens p(b) alone, which even the student that agrees with its teacher does not
minimise; here both are sharpened, and ``reference=True`` is the published form.

Softmax does not see what is added to all features, and KL vanishes to second order: features that
do not determine an image leave it undetermined.

Source: Sun et al., arXiv 2211.12039 (RCFD).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.distance import Distance
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.stage import Stage
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.tables import in_steps
from jaxdiff.distill.trajectory.progressive import (
    Levels,
    annealed,
    clipped,
    cosine_levels,
    euler_tables,
    progressive_distillation,
    progressive_loss,
    progressive_stages,
    target_point,
)
from jaxdiff.method import Method, Metrics
from jaxdiff.prediction import uniform_weight
from jaxdiff.ranges import Count, Positive, in_range
from jaxdiff.typing import Array, Denoiser

Features = Callable[[Array], Array]


def feature_divergence(
    features: Features, temperature: float = 0.9, reference: bool = False
) -> Distance:
    """KL( softmax(F(b)/temperature) || softmax(F(a)/temperature) ) per sample, a distance of
    ``features`` (batch, *shape) to (batch, k). With ``reference`` F(a) is not divided.
    """

    def distance(a: Array, b: Array) -> Array:
        student = _log_softmax(features, a, 1.0 if reference else temperature)
        wanted = _log_softmax(features, b, temperature)
        return jnp.sum(jnp.exp(wanted) * (wanted - student), axis=1)

    return distance


def decided_and_varied(log_share: Array, gamma: float = 0.75) -> Array:
    """Return the sum gamma H + (1 - gamma) Div of log probabilities (batch, k), a scalar; the
    second is of the batch's mean.
    """
    share = jnp.exp(log_share)
    entropy = -jnp.mean(jnp.sum(share * log_share, axis=1))
    mean = jnp.mean(share, axis=0)
    return gamma * entropy + (1.0 - gamma) * jnp.sum(jax.scipy.special.xlogy(mean, mean))


@in_range
def feature_distillation(
    teacher: Denoiser,
    student: Student,
    features: Features,
    *,
    num_steps: int = 4,
    temperature: Positive = 0.9,
    beta: float = 0.0,
    gamma: float = 0.75,
    logits: Features | None = None,
    reference: bool = False,
    levels: Levels = cosine_levels,
    weight: Callable[..., Array] = uniform_weight,
    substeps: int = 2,
    clip: float | None = None,
    num_updates: int = 10_000,
) -> Method:
    """One halving by classifier-based feature distillation (Sun et al., arXiv 2211.12039).

    Args:
        teacher, student, levels, substeps, clip: as of
            :func:`jaxdiff.distill.trajectory.progressive.progressive_distillation`.
        features: images (batch, *shape) to (batch, k): a classifier's last features; with
            parameters, as a ``jax.tree_util.Partial``. Frozen.
        num_steps: N, of the student. The paper starts from the 8-step model of progressive
            distillation: 4, 2, 1.
        temperature: tau; 0.9 with DenseNet-201, 0.95 with ResNet-18.
        beta, gamma: of the term for data of known classes, 0.003 and 0.75 with ResNet-18. Its Div
            is of the whole batch, and under pmap of each device's.
        logits: images to (batch, classes), the classifier's answers, for that term; with
            parameters, as a ``jax.tree_util.Partial``. Frozen.
        reference: the published form (see the module).
        weight: ``weight(level, sigma_data)``; none in the paper.
        num_updates: of a halving, at rate 5e-5, falling linearly to 0, and batch 128 in the paper.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Sampled in ``num_steps`` Euler steps, no others. Each update costs ``substeps`` teacher calls,
    and the classifier on two images, once with gradient. Deviations: both sides are sharpened (see
    the module); rounds may take other grids than the paper's. Fails: with a classifier that does
    not distinguish images; scores that are themselves of a classifier's features flatter it. Raises
    ValueError for a temperature that is not positive, gamma outside [0, 1], or beta without logits.
    """
    if beta and logits is None:
        raise ValueError("the term of beta is of the classifier's answers: give logits=")
    if not temperature > 0 or not 0 <= gamma <= 1:
        raise ValueError(
            f"temperature must be positive and gamma in [0, 1]; got {temperature}, {gamma}"
        )

    def student_loss(step: Step) -> tuple[Array, Metrics]:
        F = jax.tree.map(jax.lax.stop_gradient, step.context.frozen["features"])
        point = target_point(step, student, num_steps, levels, substeps=substeps, clip=clip)
        out = step.student(point.y, point.s)
        loss = progressive_loss(
            lambda y, s: out, point, weight(point.s, student.sigma_data),
            feature_divergence(F, temperature, reference),
        )  # fmt: skip
        if not beta:
            return loss, {}
        term = decided_and_varied(_log_softmax(step.context.frozen["logits"], out, 1.0), gamma)
        return loss + beta * term, {"decided_and_varied": term}

    frozen = {"features": features} | ({} if logits is None else {"logits": logits})
    held = {name: f if isinstance(f, Partial) else Partial(f) for name, f in frozen.items()}
    method = regression(
        student, student_loss, euler_tables(student, levels), optimiser=annealed(num_updates),
        teacher=teacher, frozen=held,
    )  # fmt: skip
    return clipped(in_steps(num_steps, method), clip)


@in_range
def feature_stages(
    teacher: Denoiser,
    student: Student | Callable[[float], Student],
    features: Features,
    *,
    first: int = 512,
    begin: Count = 8,
    last: int = 1,
    feature_updates: int = 10_000,
    features_only: Mapping[str, Any] | None = None,
    **options: Any,
) -> list[Stage]:
    """Progressive distillation from ``first`` to ``begin`` steps, then halvings to ``last`` by
    classifier-based feature distillation.

    Args:
        teacher: ``D(y, level, cond)``, frozen.
        student: or ``student(share)``, where ``share`` is a round's part of all updates.
        features: images (batch, *shape) to (batch, k), a classifier's last features; frozen.
        first: steps of the student in the first round of progressive distillation.
        begin: steps of its last round.
        last: steps of the last student.
        feature_updates: of the latter's default optimiser, per halving.
        features_only: options of :func:`feature_distillation` alone (temperature, beta, ...).
        options: of :func:`jaxdiff.distill.trajectory.progressive.progressive_stages` and of both
            methods.

    Returns:
        Stages in order, for :func:`jaxdiff.training.fit_stages`.
    """

    def make(teacher: Denoiser, student: Student, **here: Any) -> Method:
        if here["num_steps"] >= begin:
            return progressive_distillation(teacher, student, **here)
        here |= {"num_updates": feature_updates, **(features_only or {})}
        return feature_distillation(teacher, student, features, **here)

    return progressive_stages(teacher, student, first=first, last=last, make=make, **options)


def random_features(
    shape: tuple[int, ...], *, width: int = 256, scale: float = 0.5, seed: int = 0
) -> Partial:
    """Return a fixed classifier that knows no data: tanh of ``width`` random hyperplanes that cut a
    ball of radius ``scale`` per number, times 2. Wide enough it determines an image; it measures
    nothing.
    """
    random = np.random.default_rng(seed)
    size = int(np.prod(shape))
    slopes = random.normal(size=(size, width)) / (scale * size**0.5)
    shifts = random.uniform(-1.5, 1.5, size=width)
    return Partial(_random_features, *(jnp.asarray(a, jnp.float32) for a in (slopes, shifts)))


def _random_features(slopes: Array, shifts: Array, x: Array) -> Array:
    slopes, shifts = slopes.astype(x.dtype), shifts.astype(x.dtype)
    return 2.0 * jnp.tanh(x.reshape(x.shape[0], -1) @ slopes + shifts[None])


def _log_softmax(features: Any, x: Array, temperature: float) -> Array:
    return jax.nn.log_softmax(features(x) / temperature, axis=1)
