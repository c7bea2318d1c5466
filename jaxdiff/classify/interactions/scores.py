"""How well scores rank held-out pairs, with intervals over folds.

AUC is the area under the curve of true against false positive rate. AUPR is the area under the
curve of precision against recall by trapezoids, as tables of drug-target prediction have it;
average precision, the sum of steps, is another number. Intervals are mean +- t_{0.975, k-1} s /
sqrt(k) of k folds, which overlap in training data: they are narrower than those of new data would
be.

Of affinities: mean squared error, and the concordance index, the share of pairs of unequal affinity
that the scores put in the right order, ties counting one half (Gonen and Heller, Biometrika 92,
2005, 965).
"""

from typing import NamedTuple

import numpy as np


class Interval(NamedTuple):
    """A mean over folds, and half the width of its interval of 95 %."""

    mean: float
    half: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} ± {self.half:.3f}"


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the ROC curve of labels (count,), 0 or 1. ValueError for one class."""
    from sklearn.metrics import roc_auc_score

    _check_classes(labels, scores)
    return float(roc_auc_score(labels, scores))


def aupr(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the area under the precision-recall curve of labels (count,), by trapezoids.

    ValueError for labels of one class.

    >>> round(aupr(np.array([1, 0, 1]), np.array([3.0, 2.0, 1.0])), 4)
    0.7917
    """
    from sklearn.metrics import auc as trapezoids
    from sklearn.metrics import precision_recall_curve

    _check_classes(labels, scores)
    precision, recall, _ = precision_recall_curve(labels, scores)
    return float(trapezoids(recall, precision))


def concordance(affinities: np.ndarray, scores: np.ndarray) -> float:
    """Return the concordance index of scores (count,) with affinities (count,).

    Raises ValueError where all affinities are equal.

    >>> concordance(np.array([1.0, 2.0, 3.0]), np.array([0.1, 0.3, 0.2]))  # two of three
    0.6666666666666666
    """
    _check_scores(affinities, scores)
    order = np.argsort(affinities, kind="stable")
    y, s = affinities[order], scores[order]
    first = np.searchsorted(y, y, side="left")  # so many are smaller
    right = 0.0
    for i in range(len(y)):
        below = s[: first[i]]
        right += np.count_nonzero(below < s[i]) + 0.5 * np.count_nonzero(below == s[i])
    total = int(first.sum())
    if total == 0:
        raise ValueError("all affinities are equal: there is no order to find")
    return float(right / total)


def interval(values: np.ndarray) -> Interval:
    """Return mean and interval of numbers (folds,). ValueError for fewer than two."""
    from scipy import stats

    values = np.asarray(values)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval needs at least two folds, (folds,); got {values.shape}")
    error = values.std(ddof=1) / len(values) ** 0.5
    return Interval(float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1) * error))


def _check_classes(labels: np.ndarray, scores: np.ndarray) -> None:
    _check_scores(labels, scores)
    if not np.isin(labels, (0, 1)).all() or len(np.unique(labels)) != 2:
        raise ValueError(
            f"labels must be 0 and 1, some of each; these are {np.unique(labels)[:5]}: with fewer "
            "folds each has both"
        )


def _check_scores(labels: np.ndarray, scores: np.ndarray) -> None:
    if np.ndim(labels) != 1 or np.shape(labels) != np.shape(scores):
        raise ValueError(
            f"labels and scores must have one shape (count,); got {np.shape(labels)} and "
            f"{np.shape(scores)}"
        )
    check_finite(scores)


def check_finite(scores: np.ndarray) -> None:
    """Raise ValueError for scores that are not finite."""
    if not np.isfinite(scores).all():
        raise ValueError(
            "scores must be finite, and the method gave NaN or infinity: try dtype=jnp.float64, "
            "and for affinities a method that is not of 0 and 1 alone"
        )
