r"""Scores of predicted probabilities P (n, classes) against labels.

accuracy, and precision, recall and F = 2PR/(P + R) averaged over classes
ROC-AUC and AUPR of each class against the others, averaged; AUPR by trapezoids
Brier score   mean of |p - onehot|^2
calibration   sum over ten bins of confidence of (share of samples) |accuracy - confidence|
              (expected calibration error; Guo et al., arXiv 1706.04599, equation 3)
"""

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from jaxdiff.classify.interactions.scores import auc, aupr


def scores(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return every score.

    labels: (n,) integers 0 ... classes - 1, each present. probabilities: (n, classes).
    """
    guess = probabilities.argmax(axis=1)
    classes = range(probabilities.shape[1])
    precision, recall, f, _ = precision_recall_fscore_support(
        labels,
        guess,
        average="macro",
        zero_division=0,  # pyright: ignore[reportArgumentType]
    )
    ones = np.eye(len(classes))[labels]
    against = [((labels == c).astype(int), probabilities[:, c]) for c in classes]
    return {
        "accuracy": float(np.mean(guess == labels)),
        "precision": float(precision),
        "recall": float(recall),
        "F": float(f),
        "ROC-AUC": float(np.mean([auc(*pair) for pair in against])),
        "AUPR": float(np.mean([aupr(*pair) for pair in against])),
        "Brier": float(np.mean(np.sum((probabilities - ones) ** 2, axis=1))),
        "calibration error": calibration_error(labels, probabilities),
    }


def calibration_error(labels: np.ndarray, probabilities: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error of the guessed class.

    >>> calibration_error(np.array([0, 1]), np.array([[0.75, 0.25], [0.75, 0.25]]))
    0.25
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    places = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        np.sum(places == b) * abs(right[places == b].mean() - confidence[places == b].mean())
        for b in np.unique(places)
    ]
    return float(np.sum(gaps) / len(labels))
