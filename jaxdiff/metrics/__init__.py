"""Distances of samples to data: metrics over any feature function, with their protocol."""

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
from jaxdiff.metrics.inception_score import InceptionScore, inception_score
from jaxdiff.metrics.kernel import (
    KID,
    kid,
    kid_indices,
    mean_kernel,
    median_bandwidth,
    mmd2,
    polynomial,
    rbf,
)
from jaxdiff.metrics.neighbours import PRDC, Nearest, nearest_distances, prdc, squared_radii
from jaxdiff.metrics.protocol import RealDataScore, Score, real_data_score, score
from jaxdiff.metrics.similarity import psnr, ssim
from jaxdiff.metrics.sliced import (
    exact_wasserstein,
    max_sliced_wasserstein,
    random_directions,
    sliced_wasserstein,
)
from jaxdiff.metrics.statistics import (
    Statistics,
    frechet_to,
    read_statistics,
    statistics,
    write_statistics,
)

__all__ = [
    "KID",
    "PRDC",
    "Classifier",
    "FeatureFunction",
    "RealDataScore",
    "InceptionScore",
    "Moments",
    "Nearest",
    "Score",
    "Statistics",
    "batched",
    "classifier_features",
    "exact_wasserstein",
    "frechet_distance",
    "frechet_to",
    "gaussian_w2_squared",
    "inception_score",
    "kid",
    "kid_indices",
    "max_sliced_wasserstein",
    "mean_kernel",
    "median_bandwidth",
    "merge",
    "mmd2",
    "moments",
    "nearest_distances",
    "pixels",
    "polynomial",
    "prdc",
    "psnr",
    "random_directions",
    "rbf",
    "read_statistics",
    "real_data_score",
    "score",
    "sliced_wasserstein",
    "squared_radii",
    "ssim",
    "statistics",
    "streamed_moments",
    "write_statistics",
]
