"""Students that learn from labels, or from their teacher's logits.

Formulas and sources: :mod:`jaxdiff.classify.losses.logits`; the rest of the loss and the recipe:
:mod:`jaxdiff.classify.frame`.
"""

from collections.abc import Callable

import jax.numpy as jnp

from jaxdiff.classify.frame import (
    BOTH,
    DEFAULT,
    LABELS,
    Modules,
    Recipe,
    Seen,
    Shares,
    Term,
    check_weights,
    distilled,
)
from jaxdiff.classify.losses.logits import (
    correlation_distances,
    decoupled,
    distilled_logits,
    standardised,
)
from jaxdiff.classify.trained import Trained
from jaxdiff.method import Method
from jaxdiff.networks.image_classifier import ImageClassifier
from jaxdiff.typing import Array

MOSTLY_LOGITS = Shares(0.1, 0.0)


def vanilla(student: ImageClassifier, *, recipe: Recipe = DEFAULT) -> Method:
    """Cross-entropy of labels alone: a teacher, or what a student reaches without one."""
    return distilled("vanilla", None, student, recipe=recipe)


def kd(
    teacher: Trained, student: ImageClassifier, *, shares: Shares = BOTH, recipe: Recipe = DEFAULT
) -> Method:
    """Cross-entropy plus T^2 KL at T = 4 (Hinton et al., arXiv 1503.02531)."""
    return distilled("kd", teacher, student, shares=shares, recipe=recipe)


def standardised_kd(
    teacher: Trained, student: ImageClassifier, *, weight: float = 9.0, temperature: float = 2.0,
    shares: Shares = MOSTLY_LOGITS, recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """KD of standardised logits, weight 9 at T = 2, beside 0.1 times cross-entropy (Sun et al.,
    arXiv 2403.01427).
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"standardised_kd: the temperature must be positive; got {temperature}")

    def loss(run: Modules, seen: Seen) -> Array:
        s, t = (standardised(o.value) for o in (seen.student, seen.teacher))
        return distilled_logits(s, t, temperature)

    return distilled("standardised_kd", teacher, student, Term(loss), weight, shares, recipe)


def dkd(
    teacher: Trained, student: ImageClassifier, *, alpha: float = 1.0, beta: float = 8.0,
    warmup: float = 20 / 240, shares: Shares = LABELS, recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """Decoupled KD, of the label's share and of the shares of all others (Zhao et al., arXiv
    2203.08679).

    alpha, beta: weights of the two; the paper's beta goes from 1 to 8 with the pair. warmup: the
    fraction of updates in which the term's weight grows from 0 to 1.
    """
    check_weights("dkd", alpha=alpha, beta=beta)

    def loss(run: Modules, seen: Seen) -> Array:
        logits = seen.student.value, seen.teacher.value
        return decoupled(*logits, seen.label, shares.temperature, alpha, beta)

    return distilled("dkd", teacher, student, Term(loss), grown(recipe, warmup), shares, recipe)


def dist(
    teacher: Trained, student: ImageClassifier, *, beta: float = 2.0, gamma: float = 2.0,
    shares: Shares = LABELS, recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """Correlations of predictions, over classes and over samples (Huang et al., arXiv 2205.10536).

    beta, gamma: weights of the two, as for CIFAR in the paper, with T = 4. That over samples is of
    the batch, and under pmap of each device's part.
    """
    check_weights("dist", beta=beta, gamma=gamma)

    def loss(run: Modules, seen: Seen) -> Array:
        logits = seen.student.value, seen.teacher.value
        return correlation_distances(*logits, shares.temperature, beta, gamma)

    return distilled("dist", teacher, student, Term(loss), 1.0, shares, recipe)


def grown(recipe: Recipe, share: float, weight: float = 1.0) -> Callable[[Array], Array]:
    """Return a weight that grows linearly over the first ``share`` of the updates."""
    if not 0 <= share <= 1:
        raise ValueError(f"the warm-up is a fraction of the updates, 0 to 1; got {share}")
    end = max(1, round(share * recipe.num_updates))

    def now(step: Array) -> Array:
        return weight * jnp.minimum((step + 1).astype(jnp.float32) / end, 1.0)

    return now
