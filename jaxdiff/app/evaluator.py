"""The evaluator: scores of samples beside scores of other real images.

An evaluator has a reference, a feature function, and real images besides. What these score against
the reference is what the best of all samplers would: it is measured on several random draws of as
many as there are samples, and its mean and standard deviation stand beside every number. Reference
and draws are images that the feature function was not trained on, since images that it was look
nearer to each other than any others.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.app.cached import key_of, read, write
from jaxdiff.data.dataset import Dataset, split, to_float
from jaxdiff.data.labels import shared_out
from jaxdiff.metrics.features import Classifier, batched, classifier_features, pixels
from jaxdiff.metrics.frechet import frechet_distance
from jaxdiff.metrics.inception_score import inception_score
from jaxdiff.metrics.kernel import mean_kernel, mmd2
from jaxdiff.metrics.neighbours import PRDC, prdc, squared_radii
from jaxdiff.metrics.protocol import RealDataScore, Score
from jaxdiff.metrics.sliced import sliced_wasserstein
from jaxdiff.metrics.statistics import Statistics, frechet_to, statistics
from jaxdiff.training import hosts
from jaxdiff.training.devices import over_batch
from jaxdiff.typing import Array

Images = np.ndarray
METRICS = ("Frechet distance", "MMD^2", "sliced Wasserstein", "precision", "recall")
SCORED = "Inception score"  # of logits, without a reference
DRAWS, DRAWN = 5, 10_000  # draws, and the most images that they are taken from
STRUCTURE = jax.tree.structure(Classifier([(0, 0)] * 3, 0, 0))  # type: ignore[arg-type]
LEAVES = [f"leaf{i}" for i in range(STRUCTURE.num_leaves)]


@dataclasses.dataclass
class Evaluator:
    """A reference with features and metrics; made by :func:`make_evaluator`.

    features: images (n, h, w, c) in [-1, 1] to features (n, d), the last ``logits`` of which are
    class logits, in which the reference has no part. name: of the features. reference: real
    features (m, d), or their statistics, to which there is only the Frechet distance. real: of
    other real images, of which draws are scored, None where there are none. reference_name,
    real_name: what these are, in words.
    classify: images to class numbers, if there are labels. accuracy: of that on the reference.
    counts: how many images of each class the reference has, if there are labels.
    """

    features: Callable[[Images], np.ndarray]
    name: str
    reference: np.ndarray | Statistics
    reference_name: str
    real: np.ndarray | None
    real_name: str
    seed: int
    classify: Callable[[Images], np.ndarray] | None = None
    accuracy: float | None = None
    counts: np.ndarray | None = None
    progress: bool = False
    logits: int = 0
    _real_data: dict[tuple[str, int], RealDataScore] = dataclasses.field(
        default_factory=dict, repr=False
    )

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics that there are."""
        named = METRICS[:1] if isinstance(self.reference, Statistics) else METRICS
        return (*named, SCORED) if self.logits else named

    @property
    def reference_count(self) -> int:
        """Number of real images in the reference, 0 where it is not known."""
        known = self.reference
        return known.count or 0 if isinstance(known, Statistics) else len(known)

    @functools.cached_property
    def _reference(self) -> np.ndarray:
        return np.asarray(self.features_of_reference, np.float64)

    @property
    def features_of_reference(self) -> np.ndarray:
        """Features (m, d) of the real images in the reference; ValueError for mere statistics."""
        if isinstance(self.reference, Statistics):
            raise ValueError(f"of {self.reference_name} there are only statistics, no features")
        return self.reference

    @functools.cached_property
    def radii(self) -> np.ndarray:
        """Squared distances (m,) of the reference to its neighbours."""
        return squared_radii(self.features_of_reference, progress=self.progress)

    @functools.cached_property
    def within(self) -> float:
        """Mean kernel of the reference."""
        return mean_kernel(self.features_of_reference)

    def statistics(self) -> Statistics:
        """Return mean and covariance of the reference's features."""
        known = self.reference
        return known if isinstance(known, Statistics) else statistics(self._reference)

    def compare(self, x: np.ndarray, names: Sequence[str] | None = None) -> dict[str, float]:
        """Metrics between features (n, d) and the reference, by name; by default all there are."""
        x, logits = np.split(np.asarray(x, np.float64), [x.shape[1] - self.logits], axis=1)
        if isinstance(self.reference, Statistics):
            given = self.reference
            known = {METRICS[0]: lambda: frechet_to(given, x)}
        else:
            known = self._to_features(x)
        known[SCORED] = lambda: inception_score(logits).value
        return {name: known[name]() for name in names or self.metrics}

    def _to_features(self, x: np.ndarray) -> dict[str, Callable[[], float]]:
        """Return the metrics to a reference of features, by name."""
        y = self._reference

        @functools.cache
        def balls() -> PRDC:
            return prdc(x, y, radii=self.radii)

        return {
            "Frechet distance": lambda: frechet_distance(x, y),
            "MMD^2": lambda: mmd2(x, y, within=self.within),
            "sliced Wasserstein": lambda: sliced_wasserstein(x, y),
            "precision": lambda: balls().precision,
            "recall": lambda: balls().recall,
        }

    def real_data_scores(
        self, count: int, names: Sequence[str] | None = None
    ) -> dict[str, RealDataScore]:
        """Return what draws of ``count`` real images score, or of half of those there are if these
        are fewer: computed once. Nothing without other real images.
        """
        if self.real is None:
            return {}
        names = names or self.metrics
        count = min(count, max(1, len(self.real) // 2))
        missing = [name for name in names if (name, count) not in self._real_data]
        if missing:
            draws = [
                np.random.default_rng([self.seed, draw]).permutation(len(self.real))[:count]
                for draw in range(DRAWS)
            ]
            real = self.real
            found = [self.compare(real[rows], missing) for rows in self._shown(draws)]
            for name in missing:
                each = [scores[name] for scores in found]
                self._real_data[name, count] = RealDataScore(
                    float(np.mean(each)), count, self.reference_count, float(np.std(each, ddof=1))
                )
        return {name: self._real_data[name, count] for name in names}

    def _shown(self, draws: list[np.ndarray]) -> Any:
        from tqdm import tqdm

        return tqdm(draws, disable=not self.progress, desc="real images", leave=False)

    def labels(self, count: int) -> np.ndarray | None:
        """Class numbers of ``count`` samples, as often each as in the reference; None without
        labels there.
        """
        return None if self.counts is None else shared_out(self.counts, count)


def measure(
    evaluator: Evaluator,
    images: Images,
    labels: np.ndarray | None = None,
    metrics: Sequence[str] | None = None,
) -> dict[str, Score]:
    """Scores of some images by every metric, each with the score of as many real images beside
    it, if there are any.
    """
    x, real, seed = evaluator.features(images), evaluator.reference_count, evaluator.seed
    values, real_data = evaluator.compare(x, metrics), evaluator.real_data_scores(len(x), metrics)
    against = (evaluator.name, len(x), evaluator.reference_name, real, seed)
    made = {
        name: Score(value, name, *against, real_data.get(name)) for name, value in values.items()
    }
    if evaluator.classify is not None and labels is not None:
        agreement = float(np.mean(evaluator.classify(images) == labels))
        made["agreement"] = Score(
            agreement, "class agreement", evaluator.name, len(x), "its own labels", len(x), seed,
            RealDataScore(evaluator.accuracy or 0.0, real, real),
        )  # fmt: skip
    return made


def make_evaluator(
    others: Dataset,
    reference: Dataset,
    kind: str = "classifier",
    seed: int = 0,
    *,
    shown: str | None = None,
    kept: Path | None = None,
    progress: bool = False,
    **placing: Any,
) -> Evaluator:
    """Return an evaluator that compares with ``reference``.

    Args:
        others: real images of the same kind. A half of every class teaches the classifier whose
            features are compared, the other half is drawn from; without labels on both sides, and
            for ``kind`` "pixels", all are drawn from.
        reference: what samples are compared with.
        kind: "classifier" or "pixels".
        seed: of the classifier and all draws.
        shown: what the reference is, in words.
        kept: a file that keeps what is dear to compute of these images for the next time, when
            it is known again by their contents. Where it cannot be written it is done without.
        progress: show it.
        placing: ``parallel`` and ``devices`` of :func:`jaxdiff.training.devices.over_batch`.
    """
    learns = kind != "pixels" and others.labels is not None and reference.labels is not None
    kept = None if hosts.several() else kept  # all of them compute, or none
    key = "" if kept is None else key_of((others, reference), learns, seed)
    needed = ["radii", "within"] + learns * ["reference", "real", *LEAVES]
    known = {} if kept is None else read(kept, key, needed)
    shown = shown or f"{len(reference)} images of {reference.name}"
    if learns:
        evaluator, classifier = _learned(others, reference, shown, seed, known, progress, placing)
    else:
        x, y = (pixels(to_float(d.images)) for d in (few(others, seed), reference))
        evaluator, classifier = Evaluator(pixels, "pixels", y, shown, x, others.name, seed), None
    evaluator.progress = progress
    if reference.labels is not None:
        evaluator.counts = np.bincount(reference.labels, minlength=reference.num_classes)
    if known:
        evaluator.radii, evaluator.within = known["radii"], float(known["within"])
    elif kept is not None:
        own = {"radii": evaluator.radii, "within": np.float64(evaluator.within)}
        write(kept, key, own | _features_of(evaluator, classifier))
    return evaluator


def _features_of(evaluator: Evaluator, classifier: Classifier | None) -> dict[str, Any]:
    """Return what a learned evaluator keeps besides; pixels are features that nobody need keep."""
    if classifier is None:
        return {}
    leaves = zip(LEAVES, map(np.asarray, jax.tree.leaves(classifier)), strict=True)
    return {"reference": evaluator.reference, "real": evaluator.real} | dict(leaves)


def _learned(
    others: Dataset,
    reference: Dataset,
    shown: str,
    seed: int,
    known: Mapping[str, np.ndarray],
    progress: bool,
    placing: dict[str, Any],
) -> tuple[Evaluator, Classifier]:
    """Return an evaluator by the features of a classifier."""
    taught, drawn = split(others, 0.5, seed)
    drawn = few(drawn, seed)
    if known:
        classifier = jax.tree.unflatten(STRUCTURE, [jnp.asarray(known[name]) for name in LEAVES])
        x, y = known["real"], known["reference"]
    else:
        assert taught.labels is not None
        classifier, _ = classifier_features(to_float(taught.images), taught.labels, seed)
    features = batched(over_batch(_features, classifier, **placing), progress=progress)
    logits = batched(over_batch(_logits, classifier, **placing))
    classify = lambda images: logits(images).argmax(axis=1)  # noqa: E731
    if not known:
        x, y = (features(to_float(d.images)) for d in (drawn, reference))
    accuracy = float(np.mean(classify(to_float(reference.images)) == reference.labels))
    name = f"{others.name} that the classifier was not trained on"
    evaluator = Evaluator(features, "classifier", y, shown, x, name, seed, classify, accuracy)
    return evaluator, classifier


def few(data: Dataset, seed: int) -> Dataset:
    """Return the images that draws are taken from."""
    return data if len(data) <= DRAWN else split(data, DRAWN / len(data), seed)[1]


def _features(classifier: Classifier, images: Array) -> Array:
    return classifier.features(images)


def _logits(classifier: Classifier, images: Array) -> Array:
    return classifier.logits(images)
