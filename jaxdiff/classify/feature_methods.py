"""Students that learn from their teacher's feature maps.

Features of a network are (stem, stages, pooled); stage i is feature i. Formulas and sources:
:mod:`jaxdiff.classify.losses.maps` and beside it; the rest of the loss, a = b = 1 at T = 4, and the
recipe: :mod:`jaxdiff.classify.frame`. Weights are those by which the authors of SimKD and SemCKD
compare these methods, or, of AB, FT, FSP and NST, the authors of CRD (arXiv 1910.10699).
"""

import functools
import math
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from jaxdiff.classify.frame import (
    BOTH,
    DEFAULT,
    LABELS,
    Modules,
    Number,
    Recipe,
    Seen,
    Shares,
    Term,
    distilled,
    first_part,
    value,
)
from jaxdiff.classify.logit_methods import grown
from jaxdiff.classify.losses import boundaries, maps, review
from jaxdiff.classify.trained import Trained
from jaxdiff.method import Method
from jaxdiff.networks.image_classifier import ImageClassifier
from jaxdiff.networks.transfer import Connector, Fusion, Regressor, Variational
from jaxdiff.typing import Array, Outputs


def stages(outputs: Outputs) -> tuple[Array, ...]:
    """Return the maps after the stages, without stem and pooled."""
    return outputs.features[1:-1]


def both_stages(teacher: Trained, student: ImageClassifier, name: str) -> tuple[Outputs, Outputs]:
    """Return the shapes of both networks' Outputs. Raises ValueError for other numbers of
    stages.
    """
    s, t = student.outputs(), teacher.network.outputs()
    if len(s.features) != len(t.features):
        raise ValueError(
            f"{name} pairs stages: the student has {len(s.features) - 2}, the teacher "
            f"{len(t.features) - 2}; SemCKD takes any"
        )
    return s, t


def stage_of(outputs: Outputs, stage: int, name: str) -> Array:
    """Return a stage's map. Raises ValueError for one that is not there."""
    if not 0 <= stage < len(outputs.features) - 1:
        raise ValueError(
            f"{name}: there are stages 1 to {len(outputs.features) - 2}, and the stem, 0; not "
            f"{stage}"
        )
    return outputs.features[stage]


def fitnet(
    teacher: Trained, student: ImageClassifier, *, stage: int = 2, weight: float = 100.0,
    shares: Shares = BOTH, recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """Squared distance of one stage's map after a regressor (Romero et al., arXiv 1412.6550).

    stage: 2, the middle of three, as the comparisons have it. Deviation, theirs: the hint is
    trained with the rest, not before it.
    """
    s, t = (stage_of(n.outputs(), stage, "fitnet") for n in (student, teacher.network))

    def loss(run: Modules, seen: Seen) -> Array:
        out = run("regressor", seen.student.features[stage])
        return maps.hint(*maps.aligned(out, seen.teacher.features[stage]))

    term = Term(loss, {"regressor": (Regressor(t.shape[-1], t.shape[1]), s)})
    return distilled("fitnet", teacher, student, term, weight, shares, recipe)


def attention_transfer(
    teacher: Trained, student: ImageClassifier, *, weight: float = 1000.0, shares: Shares = BOTH,
    recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """Attention maps of every stage (Zagoruyko and Komodakis, arXiv 1612.03928)."""
    both_stages(teacher, student, "attention_transfer")

    def loss(run: Modules, seen: Seen) -> Array:
        pairs = zip(stages(seen.student), stages(seen.teacher), strict=True)
        return sum_of(maps.attention(s, t) for s, t in pairs)

    return distilled("attention_transfer", teacher, student, Term(loss), weight, shares, recipe)


def sum_of(terms: Iterable[Array]) -> Array:
    """Return the sum of scalars."""
    return functools.reduce(jnp.add, terms)


def similarity_preserving(
    teacher: Trained, student: ImageClassifier, *, weight: float = 3000.0, shares: Shares = BOTH,
    recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """Which samples of a batch are alike in the last map (Tung and Mori, arXiv 1907.09682)."""

    def loss(run: Modules, seen: Seen) -> Array:
        return maps.similarity(seen.student.features[-2], seen.teacher.features[-2])

    return distilled("similarity_preserving", teacher, student, Term(loss), weight, shares, recipe)


def variational_information(
    teacher: Trained, student: ImageClassifier, *, variance: float = 5.0, weight: float = 1.0,
    shares: Shares = BOTH, recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """A bound of the information that every stage has of the teacher's, VID (Ahn et al., arXiv
    1904.05835). variance: of each channel at the start, positive.
    """
    if not 1e-5 < variance < float("inf"):  # which the variance does not fall below
        raise ValueError(f"the variance at the start must be above 1e-5; got {variance}")
    s, t = both_stages(teacher, student, "variational_information")
    pairs = list(zip(stages(s), stages(t), strict=True))
    modules = {
        f"regressor{i}": (Variational(f_t.shape[-1], variance=variance), f_s)
        for i, (f_s, f_t) in enumerate(pairs)
    }

    def loss(run: Modules, seen: Seen) -> Array:
        terms = []
        for i, pair in enumerate(zip(stages(seen.student), stages(seen.teacher), strict=True)):
            f_s, f_t = maps.aligned(*pair)
            mean, variance = run(f"regressor{i}", f_s)
            terms.append(maps.variational(mean, variance, f_t))
        return sum_of(terms)

    return distilled(
        "variational_information", teacher, student, Term(loss, modules), weight, shares, recipe
    )


def neuron_selectivity(
    teacher: Trained, student: ImageClassifier, *, weight: float = 50.0, shares: Shares = BOTH,
    recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """Where channels respond, as a distance of distributions, NST (Huang and Wang, arXiv
    1707.01219), of every stage.
    """
    both_stages(teacher, student, "neuron_selectivity")

    def loss(run: Modules, seen: Seen) -> Array:
        pairs = zip(stages(seen.student), stages(seen.teacher), strict=True)
        return sum_of(maps.selectivity(s, t) for s, t in pairs)

    return distilled("neuron_selectivity", teacher, student, Term(loss), weight, shares, recipe)


def flow_of_procedure(
    teacher: Trained, student: ImageClassifier, *, weight: float = 50.0, first: float = 1 / 8,
    shares: Shares = BOTH, recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """Gram matrices between successive maps, FSP (Yim et al., CVPR 2017), alone in the ``first``
    part of the updates, which the labels have for themselves after, with KD.

    Raises ValueError for a student of other widths than its teacher's.
    """
    s, t = both_stages(teacher, student, "flow_of_procedure")
    widths = [[f.shape[-1] for f in o.features[:-1]] for o in (s, t)]
    if widths[0] != widths[1]:
        raise ValueError(
            f"flow_of_procedure compares channels one by one: the student's maps have {widths[0]} "
            f"of them, the teacher's {widths[1]}"
        )

    def loss(run: Modules, seen: Seen) -> Array:
        (f, g) = (o.features[:-1] for o in (seen.student, seen.teacher))
        return sum_of(maps.flow(f[i], f[i + 1], g[i], g[i + 1]) for i in range(len(f) - 1))

    return distilled(
        "flow_of_procedure", teacher, student, Term(loss), *phases(weight, first, shares, recipe)
    )


def phases(
    weight: float, first: float, shares: Shares, recipe: Recipe
) -> tuple[Number, Shares, Recipe]:
    """Return the term's weight, which is 0 after the first part of the updates, the shares of the
    rest of the loss, which are 0 in it, and the recipe.
    """
    if not 0 < first < 1:
        raise ValueError(f"the first part is a fraction of the updates, within 0 to 1; got {first}")
    before, after = first_part(recipe, first)
    a, b = shares.classes, shares.logits
    later = shares._replace(
        classes=lambda step: value(a, step) * after(step),
        logits=lambda step: value(b, step) * after(step),
    )
    return (lambda step: weight * before(step)), later, recipe


def activation_boundaries(
    teacher: Trained, student: ImageClassifier, *, weight: float = 1.0, margin: float = 1.0,
    first: float = 1 / 8, shares: Shares = BOTH, recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """Which of the teacher's neurons are active, AB (Heo et al., arXiv 1811.03233), alone in the
    ``first`` part of the updates, then labels and KD.

    Stages count 1, 1/2, 1/4, ... from the last, each with 3/1000 of its sum over the numbers of a
    sample's map, as the comparisons have it. Deviation: the connectors read the student's maps
    after their ReLU.
    """
    if not 0 < margin < float("inf"):
        raise ValueError(f"the margin must be positive and finite; got {margin}")
    s, t = both_stages(teacher, student, "activation_boundaries")
    count = len(stages(s))
    modules = {
        f"connector{i}": (Connector(f_t.shape[-1]), f_s)
        for i, (f_s, f_t) in enumerate(zip(stages(s), stages(t), strict=True))
    }

    def loss(run: Modules, seen: Seen) -> Array:
        terms = []
        for i, pair in enumerate(zip(stages(seen.student), stages(seen.teacher), strict=True)):
            f_s, f_t = maps.aligned(*pair)
            connected = run(f"connector{i}", f_s)
            each = boundaries.activation_boundary(connected, f_t, margin)
            terms.append(2.0 ** (i + 1 - count) * 3e-3 * math.prod(f_t.shape[1:]) * each)
        return sum_of(terms)

    return distilled(
        "activation_boundaries", teacher, student, Term(loss, modules),
        *phases(weight, first, shares, recipe),
    )  # fmt: skip


def review_kd(
    teacher: Trained, student: ImageClassifier, *, weight: float = 5.0, warmup: float = 20 / 240,
    shares: Shares = LABELS, recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """Every stage of the teacher by all deeper stages of the student (Chen et al., arXiv
    2104.09044, ReviewKD).

    weight: the paper's is 5 for ResNet-8x4 with 32x4, and differs from pair to pair. warmup: the
    fraction of updates over which it grows from 0. Deviations: the stages alone, without the pooled
    features, which the authors' code fuses as a map of one pixel; the teacher's maps are after
    their ReLU, where that code takes those before, which not every network here gives.
    """
    s, t = both_stages(teacher, student, "review_kd")
    within = min(512, max(f.shape[-1] for f in stages(s)))
    deepest: Any = None
    modules: dict[str, Any] = {}
    for i in reversed(range(len(stages(s)))):
        f_t = stages(t)[i]
        f_s: Any = stages(s)[i]
        modules[f"fusion{i}"] = (Fusion(within, f_t.shape[-1], f_t.shape[1:3]), f_s, deepest)
        deepest = f_s.update(shape=(*f_t.shape[:3], within))

    def loss(run: Modules, seen: Seen) -> Array:
        terms, deeper = [], None
        for i in reversed(range(len(stages(seen.student)))):
            out, deeper = run(f"fusion{i}", stages(seen.student)[i], deeper)
            terms.append(review.hierarchical(out, stages(seen.teacher)[i]))
        return sum_of(terms)

    return distilled(
        "review_kd", teacher, student, Term(loss, modules), grown(recipe, warmup, weight), shares,
        recipe,
    )  # fmt: skip
