"""Scoring samples against real images, and the report of ``jaxdiff evaluate``."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxdiff import config as configs
from jaxdiff import runs
from jaxdiff.data.dataset import Dataset, split, to_float
from jaxdiff.metrics.features import Classifier, batched, classifier_features, pixels
from jaxdiff.metrics.frechet import frechet_distance
from jaxdiff.metrics.kernel import mmd2
from jaxdiff.metrics.neighbours import prdc
from jaxdiff.metrics.protocol import Floor, Score
from jaxdiff.metrics.sliced import sliced_wasserstein
from jaxdiff.training import hosts
from jaxdiff.training.devices import over_batch
from jaxdiff.typing import Array

Images = np.ndarray


class Judge(NamedTuple):
    """What samples are compared with, and how.

    features: images (n, h, w, c) in [-1, 1] to features (n, d). name: of the features. reference:
        real features, seen by
    neither the model nor the feature function. real: features of other real images, which give the
    floor.
    classify: images to class numbers, if there are labels. accuracy: of that on the reference.
    """

    features: Callable[[Images], np.ndarray]
    name: str
    reference: np.ndarray
    reference_name: str
    real: np.ndarray
    seed: int
    classify: Callable[[Images], np.ndarray] | None = None
    accuracy: float | None = None


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "Frechet distance": frechet_distance,
    "MMD^2": mmd2,
    "sliced Wasserstein": sliced_wasserstein,
    "precision": lambda x, y: prdc(x, y).precision,
    "recall": lambda x, y: prdc(x, y).recall,
}


def make_judge(
    real: Dataset, reference: Dataset, kind: str = "classifier", seed: int = 0, **placing: Any
) -> Judge:
    """A judge whose feature function is trained on ``real`` (if it has labels) and compares with
    ``reference``. placing: ``parallel`` and ``devices`` of
    :func:`jaxdiff.training.devices.over_batch`.
    """
    shown = f"{len(reference)} images of {reference.name} that were set aside"
    if kind == "pixels" or real.labels is None:
        a, b = (pixels(to_float(d.images)) for d in (real, reference))
        return Judge(lambda x: pixels(x), "pixels", b, shown, a, seed)
    classifier, _ = classifier_features(to_float(real.images), real.labels, seed)
    features = batched(over_batch(_features, classifier, **placing))
    logits = batched(over_batch(_logits, classifier, **placing))
    classify = lambda x: logits(x).argmax(axis=1)  # noqa: E731
    right = classify(to_float(reference.images)) == reference.labels
    a, b = (features(to_float(d.images)) for d in (real, reference))
    return Judge(features, "classifier", b, shown, a, seed, classify, float(np.mean(right)))


def _features(classifier: Classifier, images: Array) -> Array:
    return classifier.features(images)


def _logits(classifier: Classifier, images: Array) -> Array:
    return classifier.logits(images)


def measure(
    judge: Judge,
    images: Images,
    labels: np.ndarray | None = None,
    metrics: tuple[str, ...] = tuple(METRICS),
) -> dict[str, Score]:
    """Scores of some images by every metric, each with the score of as many real images beside
    it.
    """
    x = judge.features(images)
    other = np.random.default_rng(judge.seed).permutation(len(judge.real))[: len(x)]
    made = {}
    for name in metrics:
        metric = METRICS[name]
        floor = Floor(metric(judge.real[other], judge.reference), len(other), len(judge.reference))
        made[name] = Score(
            metric(x, judge.reference), name, judge.name, len(x),
            judge.reference_name, len(judge.reference), judge.seed, floor,
        )  # fmt: skip
    if judge.classify is not None and labels is not None:
        agreement = float(np.mean(judge.classify(images) == labels))
        made["agreement"] = Score(
            agreement, "class agreement", judge.name, len(x), "its own labels", len(x), judge.seed,
            Floor(judge.accuracy or 0.0, len(judge.reference), len(judge.reference)),
        )  # fmt: skip
    return made


def evaluate(config: configs.Evaluate, progress: bool = True) -> str:
    """Score a run at several step counts; write the report and return the table."""
    from jaxdiff.report.images import image_grid
    from jaxdiff.report.page import Picture, Section, Table, write_page
    from jaxdiff.report.terminal import format_table

    model = runs.load_model(config.run)
    data = runs.read_data(config.data or configs.Data(**model.about["data"]), progress)
    if data.shape != model.shape:
        raise ValueError(
            f"the run makes images of shape {model.shape}, the reference has {data.shape}"
        )
    halves, placing = split(data, 0.5, config.seed), runs.placed(config)
    judge = make_judge(*halves, config.features, config.seed, **placing)
    few = tuple(n for n in (1, 2, 4) if str(n) in model.about.get("samplers", {}))
    steps = config.steps or (few if model.student else (5, 10, 20))
    steps = (None,) if config.table else steps  # a table has its own
    labels = runs.class_labels(config.count, model.classes)
    rows, numbers, sections = [], {}, []
    for n in steps:
        sampler = runs.make_sampler(model, config, n)
        images = runs.generate(
            sampler,
            config.count,
            model.shape,
            labels,
            batch=config.batch,
            seed=config.seed,
            progress=progress,
            **placing,
        )
        scores = measure(judge, images, labels)
        evaluations = sampler.table.nfe * (2 if config.guidance is not None else 1)
        rows.append([sampler.table.name, evaluations, *(s.value for s in scores.values())])
        key = f"{sampler.table.name}, {config.table if n is None else f'{n} steps'}"
        numbers[key] = {"nfe": evaluations, **{k: s.to_dict() for k, s in scores.items()}}
        picture = Picture(image_grid(images[:50], 10), f"Samples of {key}.", "A grid of samples.")
        sections.append(Section(key, [str(s) for s in scores.values()], [picture]))
    names = list(next(iter(numbers.values())))[1:]
    floors = [next(iter(numbers.values()))[k]["floor"]["value"] for k in names]
    rows.append(["real images", None, *floors])
    scored = Table(["sampler", "NFE", *names], rows, references=1)
    out = Path(config.out or Path(config.run) / "evaluation.html")
    everything: dict[str, Any] = {"config": configs.to_dict(config), "scores": numbers}
    text = format_table(scored.headers, rows, references=1)
    if not hosts.speaks():
        return text
    path = write_page(
        out, f"Scores of {config.run}", judge.reference_name,
        [Section("Scores", ["Every row against the same real images."], [], [scored]), *sections],
        everything,
    )  # fmt: skip
    return f"{text}\n\nreport: {path.resolve()}"
