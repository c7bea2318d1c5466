"""Inception score: how sure a classifier is of each sample, and how different it finds them.

    IS = exp E_x KL(p(y | x) || p(y)),     p(y) = E_x p(y | x)

(Salimans et al. 2016, arXiv 1606.03498, section 4), between 1 and the number of classes. It is
customarily computed on ten parts of the samples, in the order they come in, and their mean and
standard deviation given. No real images are involved: it does not notice a model that repeats one
image per class.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxdiff.metrics.features import checked


class InceptionScore(NamedTuple):
    """value: mean over the parts. std: their standard deviation."""

    value: float
    std: float


def inception_score(logits: ArrayLike, splits: int = 10) -> InceptionScore:
    """Return the inception score of class logits (n, classes), without the last layer's bias as
    published.

    Args:
        logits: (n, classes).
        splits: parts of the samples whose scores are averaged.

    Returns:
        Mean and standard deviation over the parts.

    Raises:
        ValueError: for fewer samples than ``splits``.

    Source: Salimans et al., Improved Techniques for Training GANs, arXiv 1606.03498.
    """
    if splits < 1:
        raise ValueError(f"splits must be at least 1, not {splits}")
    x = checked(logits, "logits", least=splits)
    edges = [len(x) * i // splits for i in range(splits + 1)]
    each = [_score(x[a:b]) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return InceptionScore(float(np.mean(each)), float(np.std(each)))


def _score(logits: np.ndarray) -> float:
    from scipy.special import log_softmax, logsumexp

    log_p = log_softmax(logits, axis=1)
    log_mean = logsumexp(log_p, axis=0) - np.log(len(logits))
    return float(np.exp(np.mean(np.sum(np.exp(log_p) * (log_p - log_mean), axis=1))))
