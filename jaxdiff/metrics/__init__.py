"""How far samples are from data: metrics over any feature function, with their protocol."""

from jaxdiff.metrics.features import (
    Classifier,
    FeatureFunction,
    batched,
    classifier_features,
    pixels,
)
from jaxdiff.metrics.frechet import (
    Moments,
    frechet_distance,
    gaussian_w2_squared,
    merge,
    moments,
    streamed_moments,
)
from jaxdiff.metrics.kernel import KID, kid, kid_indices, median_bandwidth, mmd2, polynomial, rbf
from jaxdiff.metrics.neighbours import PRDC, Nearest, nearest_distances, prdc
from jaxdiff.metrics.protocol import Floor, Score, real_floor, score
from jaxdiff.metrics.sliced import (
    exact_wasserstein,
    max_sliced_wasserstein,
    random_directions,
    sliced_wasserstein,
)

__all__ = [
    "KID",
    "PRDC",
    "Classifier",
    "FeatureFunction",
    "Floor",
    "Moments",
    "Nearest",
    "Score",
    "batched",
    "classifier_features",
    "exact_wasserstein",
    "frechet_distance",
    "gaussian_w2_squared",
    "kid",
    "kid_indices",
    "max_sliced_wasserstein",
    "median_bandwidth",
    "merge",
    "mmd2",
    "moments",
    "nearest_distances",
    "pixels",
    "polynomial",
    "prdc",
    "random_directions",
    "rbf",
    "real_floor",
    "score",
    "sliced_wasserstein",
    "streamed_moments",
]
