"""Distillation of logits z of a student s and a teacher t, with p = softmax(z / T).

    KD                    T^2 KL(p_t || p_s)
    standardised KD       the same of (z - mean z) / std z, per sample
    decoupled KD (DKD)    T^2 [ alpha KL(b_t || b_s) + beta KL(q_t || q_s) ],
                          b = (p of the label, the rest),  q = p of the other classes, normalised
    DIST                  T^2 [ beta (1 - mean over samples of r) + gamma (1 - mean over classes) ],
                          r the correlation of p_s and p_t over a sample's classes, or a class's
                          samples

KD = DKD with alpha = 1 and a beta of each sample's own, 1 - p_t of the label. As T grows the
gradient of KD with respect to z_s approaches that of half the squared distance of centred logits
over the number of classes.

Sources: KD, Hinton et al., arXiv 1503.02531; standardised, Sun et al., arXiv 2403.01427; DKD, Zhao
et al., arXiv 2203.08679, eq. 7; DIST, Huang et al., arXiv 2205.10536, eqs. 8 to 10.
"""

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check, pick
from jaxdiff.classify.losses.maps import check_pairs
from jaxdiff.typing import Array


def cross_entropy(logits: Array, label: Array) -> Array:
    """Return the mean of -log softmax(logits) at the labels (batch,), integers; NaN for a label
    that is no class.
    """
    return -jnp.mean(pick(jax.nn.log_softmax(logits, axis=1), label))


def divergence(log_student: Array, log_teacher: Array) -> Array:
    """Return the mean over the batch of KL(teacher || student), of log probabilities (batch, k)."""
    share = jnp.exp(log_teacher)
    return jnp.mean(jnp.sum(share * (log_teacher - log_student), axis=1))


def distilled_logits(student: Array, teacher: Array, temperature: float = 4.0) -> Array:
    """Return T^2 KL(p_t || p_s), mean over the batch (Hinton et al., arXiv 1503.02531). Raises
    ValueError for a temperature that is known not to be positive.
    """
    check("the temperature must be positive", lambda t: t > 0, temperature)
    logs = (jax.nn.log_softmax(z / temperature, axis=1) for z in (student, teacher))
    return temperature**2 * divergence(*logs)


def standardised(logits: Array) -> Array:
    """Return logits of mean 0 and standard deviation 1 in every sample, by n - 1 (Sun et al., arXiv
    2403.01427).
    """
    centred = logits - jnp.mean(logits, axis=1, keepdims=True)
    return centred / (jnp.std(logits, axis=1, keepdims=True, ddof=1) + 1e-7)


def decoupled(
    student: Array, teacher: Array, label: Array, temperature: float = 4.0, alpha: float = 1.0,
    beta: float = 8.0,
) -> Array:  # fmt: skip
    """Return alpha TCKD + beta NCKD, times T^2 (Zhao et al., arXiv 2203.08679, eq. 7).

    label: (batch,), the classes that are distinguished from all others.
    """
    of_label = jax.nn.one_hot(label, student.shape[1], dtype=jnp.bool_)

    def parts(logits: Array) -> tuple[Array, Array]:
        log_share = jax.nn.log_softmax(logits / temperature, axis=1)
        own = pick(log_share, label)
        others = jnp.where(of_label, -jnp.inf, log_share)
        rest = jax.nn.logsumexp(others, axis=1)
        within = jnp.where(of_label, 0.0, log_share - rest[:, None])
        return jnp.stack([own, rest], axis=1), within

    (pair_s, within_s), (pair_t, within_t) = parts(student), parts(teacher)
    share = jnp.where(of_label, 0.0, jnp.exp(within_t))
    others = jnp.mean(jnp.sum(share * (within_t - within_s), axis=1))
    return temperature**2 * (alpha * divergence(pair_s, pair_t) + beta * others)


def correlation_distances(
    student: Array, teacher: Array, temperature: float = 4.0, beta: float = 2.0,
    gamma: float = 2.0,
) -> Array:  # fmt: skip
    """Return beta (1 - r of samples) + gamma (1 - r of classes), times T^2 (Huang et al., arXiv
    2205.10536). Raises ValueError for a batch of one, in which a class has no correlation.
    """
    check_pairs(student, "the correlation over samples")
    s, t = (jax.nn.softmax(z / temperature, axis=1) for z in (student, teacher))
    return temperature**2 * (beta * _apart(s, t, 1) + gamma * _apart(s, t, 0))


def _apart(s: Array, t: Array, axis: int) -> Array:
    """Return 1 less the mean of Pearson's correlation along an axis."""
    s, t = (x - jnp.mean(x, axis=axis, keepdims=True) for x in (s, t))
    norms = jnp.sqrt(jnp.sum(s**2, axis=axis) * jnp.sum(t**2, axis=axis) + 1e-24)
    return 1.0 - jnp.mean(jnp.sum(s * t, axis=axis) / norms)
