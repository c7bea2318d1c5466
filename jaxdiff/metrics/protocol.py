"""A number with what it takes to read it: its protocol, and what real data would have scored.

A metric of a finite sample is not zero between two halves of the real data. The score of real data
against other real data depends on the sample sizes, so it is taken with the sizes of the score
where there are enough real samples; otherwise both are made smaller in proportion, and the sizes
stated with it show that.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

Metric = Callable[[np.ndarray, np.ndarray], float]


class RealDataScore(NamedTuple):
    """Score of ``samples`` real samples against ``reference_samples`` other real samples: the
    mean over random draws and their standard deviation, None of a single one.
    """

    value: float
    samples: int
    reference_samples: int
    std: float | None = None


class Score(NamedTuple):
    """One measured number.

    metric, features, reference: names of the metric, the feature function and the reference set.
    samples, reference_samples: how many were compared with how many.
    seed: of the samples and of whatever the metric draws.
    real_data: the score of real data against real data and its sample sizes, or None if it was not
        measured.
    """

    value: float
    metric: str
    features: str
    samples: int
    reference: str
    reference_samples: int
    seed: int
    real_data: RealDataScore | None = None

    def __str__(self) -> str:
        other = "real data not scored"
        if self.real_data is not None:
            value, samples, reference, std = self.real_data
            spread = "" if std is None else f" +- {std:.2g}"
            other = f"real data {value:.4g}{spread} at {samples} against {reference} real"
        return (
            f"{self.metric} {self.value:.4g} ({other}); {self.samples} samples against "
            f"{self.reference_samples} of {self.reference}, features {self.features}, "
            f"seed {self.seed}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and strings under the field names, ready for JSON."""
        return self._asdict() | {
            "real_data": None if self.real_data is None else self.real_data._asdict()
        }


def real_data_score(
    metric: Metric,
    real: ArrayLike,
    seed: int = 0,
    sizes: tuple[int, int] | None = None,
    draws: int = 5,
) -> RealDataScore:
    """Return ``metric`` between two disjoint random parts of the real features (n, d), the mean and
    the standard deviation of ``draws`` choices of them.

    ``sizes`` are the numbers of generated and reference samples of the score to compare with;
    without them, halves. Where real samples are too few for both, the parts keep the proportion of
    ``sizes`` and use all of them.

    Args:
        metric: ``metric(generated, reference)``, a number.
        real: features (n, d).
        seed: of the choices.
        sizes: numbers of generated and reference samples of the score to compare with; halves if
            None.
        draws: number of choices.

    Returns:
        Mean and standard deviation, with the sizes of the parts.

    Raises:
        ValueError: for too few real samples, or no draw.
    """
    features = np.asarray(real)
    total = len(features)
    n, m = sizes or (total // 2, total - total // 2)
    if min(n, m) < 1 or total < 2:
        raise ValueError(f"cannot split {total} real samples into parts of sizes {n} and {m}")
    if n + m > total:
        n = min(max(1, round(total * n / (n + m))), total - 1)
        m = total - n
    if draws < 1:
        raise ValueError(f"a real-data score needs at least one draw, not {draws}")
    each = []
    for draw in range(draws):
        order = np.random.default_rng([seed, draw]).permutation(total)
        each.append(metric(features[order[:n]], features[order[n : n + m]]))
    return RealDataScore(
        float(np.mean(each)), n, m, float(np.std(each, ddof=1)) if draws > 1 else None
    )


def score(
    metric: Metric,
    generated: ArrayLike,
    reference: ArrayLike,
    *,
    name: str,
    features: str,
    reference_name: str,
    seed: int = 0,
    real: ArrayLike | None = None,
) -> Score:
    """Measure ``metric(generated, reference)`` on features (n, d) and (m, d) and write down how.

    ``real``: all real features there are, whose score against each other is taken; None for no such
    score.

    Args:
        metric: ``metric(generated, reference)``, a number.
        generated: features (n, d).
        reference: features (m, d).
        name: of the metric.
        features: name of the feature function.
        reference_name: of the reference.
        seed: of the real-data score.
        real: all real features there are, whose score against each other is taken; None for no such
            score.

    Returns:
        The value with its protocol.
    """
    x, y = np.asarray(generated), np.asarray(reference)
    value = float(metric(x, y))
    real_data = None if real is None else real_data_score(metric, real, seed, (len(x), len(y)))
    return Score(value, name, features, len(x), reference_name, len(y), seed, real_data)
