"""Students that learn from their teacher's pooled features: how samples lie to each other, or the
features themselves.

Formulas and sources: :mod:`jaxdiff.classify.losses.relations` and
:mod:`jaxdiff.classify.losses.contrast`; the rest of the loss and the recipe:
:mod:`jaxdiff.classify.frame`.
"""

import jax
import numpy as np

from jaxdiff.classify.frame import (
    BOTH,
    DEFAULT,
    Modules,
    Recipe,
    Seen,
    Shares,
    Term,
    check_weights,
    distilled,
)
from jaxdiff.classify.losses import contrast, relations
from jaxdiff.classify.losses.maps import hint
from jaxdiff.classify.trained import Trained
from jaxdiff.method import Batch, Method, WithState
from jaxdiff.networks.image_classifier import ImageClassifier
from jaxdiff.networks.transfer import Connector, Embedding
from jaxdiff.typing import Array


def probabilistic_transfer(
    teacher: Trained, student: ImageClassifier, *, weight: float = 3e4, shares: Shares = BOTH,
    recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """Which samples are neighbours, PKT (Passalis and Tefas, arXiv 1803.10837)."""

    def loss(run: Modules, seen: Seen) -> Array:
        return relations.probabilistic(seen.student.features[-1], seen.teacher.features[-1])

    return distilled("probabilistic_transfer", teacher, student, Term(loss), weight, shares, recipe)


def relational_kd(
    teacher: Trained, student: ImageClassifier, *, distance_weight: float = 25.0,
    angle_weight: float = 50.0, weight: float = 1.0, shares: Shares = BOTH,
    recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """Distances of pairs and angles of triples, RKD (Park et al., arXiv 1904.05068)."""
    check_weights("relational_kd", distance_weight=distance_weight, angle_weight=angle_weight)

    def loss(run: Modules, seen: Seen) -> Array:
        pair = seen.student.features[-1], seen.teacher.features[-1]
        return relations.relational(*pair, distance_weight, angle_weight)

    return distilled("relational_kd", teacher, student, Term(loss), weight, shares, recipe)


def correlation_congruence(
    teacher: Trained, student: ImageClassifier, *, size: int = 128, weight: float = 0.02,
    shares: Shares = BOTH, recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """Errors of neighbours in the batch against each other, CC (Peng et al., arXiv 1904.01802), of
    linear embeddings of ``size`` numbers, which are learnt for both networks.
    """

    def loss(run: Modules, seen: Seen) -> Array:
        return relations.congruence(
            run("student", seen.student.features[-1]), run("teacher", seen.teacher.features[-1])
        )

    term = Term(loss, embeddings(teacher, student, size, normed=False))
    return distilled("correlation_congruence", teacher, student, term, weight, shares, recipe)


def embeddings(
    teacher: Trained, student: ImageClassifier, size: int, normed: bool = True
) -> dict[str, tuple[Embedding, Array]]:
    """Return modules that embed both pooled features. Raises ValueError for a size below 1."""
    if size < 1:
        raise ValueError(f"embeddings have a size of 1 at least; got {size}")
    s, t = (n.outputs().features[-1] for n in (student, teacher.network))
    return {"student": (Embedding(size, normed), s), "teacher": (Embedding(size, normed), t)}


def contrastive_distillation(
    teacher: Trained, student: ImageClassifier, labels: np.ndarray, *, size: int = 128,
    negatives: int = 16_384, temperature: float = 0.07, weight: float = 0.8,
    shares: Shares = BOTH, recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """Which of many images a teacher's embedding is of, CRD (Tian et al., arXiv 1910.10699).

    Args:
        teacher, student, weight, shares, recipe: as of all methods.
        labels: of the whole training set, (images,): images of other classes are contrasts.
        size: of the embeddings. negatives: K of them for each sample. temperature: tau.

    Batches have "index" besides, each sample's place in ``labels``, where its label stands too:
    ``method.check`` raises ValueError for another. The memory is state, 2 images
    size numbers. Under pmap every device writes the rows of all; with gradient accumulation, whose
    parts start from the same memory and are averaged, rows move by less. Deviation: contrasts are
    drawn with replacement, where the authors draw without as far as there are enough.
    """
    of = contrast.others(labels)
    number = len(labels)
    if not 1 <= negatives or not temperature > 0:
        raise ValueError(
            f"negatives and temperature must be positive; got {negatives} and {temperature}"
        )

    def loss(run: Modules, seen: Seen) -> Array:
        index = seen.batch["index"]
        v_s = run("student", seen.student.features[-1])
        v_t = run("teacher", seen.teacher.features[-1])
        stored: contrast.Memory = run.state["memory"]
        chosen = contrast.contrasts(seen.key, index, seen.label, of, negatives)
        value, scale = contrast.contrastive(v_s, v_t, stored, chosen, temperature)
        axis = seen.context.axis_name
        if axis is not None:
            v_s, v_t, index = (jax.lax.all_gather(x, axis, tiled=True) for x in (v_s, v_t, index))
        run.state["memory"] = contrast.moved(stored, v_s, v_t, index, scale)
        return value

    term = Term(
        loss, embeddings(teacher, student, size),
        lambda key: contrast.memory(key, number, size), ("index",),
    )  # fmt: skip
    method = distilled("contrastive_distillation", teacher, student, term, weight, shares, recipe)

    def check(batch: Batch) -> None:
        if method.check is not None:
            method.check(batch)
        check_index(batch, labels)

    return method._replace(check=check)


def check_index(batch: Batch, labels: np.ndarray) -> None:
    """Raise ValueError unless the "index" of a batch are places of its labels among all (images,),
    as a place that there is not would be taken for the last one.
    """
    index, label, every = np.asarray(batch["index"]), np.asarray(batch["label"]), np.asarray(labels)
    if index.shape != label.shape or index.dtype.kind not in "iu":
        raise ValueError(
            f"contrastive_distillation: 'index' must be {label.shape} integers, one per sample; "
            f"got {index.dtype}{index.shape}"
        )
    if index.size and not 0 <= index.min() <= index.max() < len(every):
        raise ValueError(
            f"contrastive_distillation: 'index' goes from {index.min()} to {index.max()}; there "
            f"are {len(every)} labels"
        )
    if (other := every[index] != label).any():
        i = int(np.argmax(other))
        raise ValueError(
            f"contrastive_distillation: sample {i} has label {label[i]}, and image {index[i]}, by "
            f"its 'index', {every[index[i]]}: is the index that of another order?"
        )


def regression_of_representation(
    teacher: Trained, student: ImageClassifier, *, weight: float = 1.0, shares: Shares = BOTH,
    recipe: Recipe = DEFAULT,
) -> Method:  # fmt: skip
    """The teacher's pooled features, and the logits that its last layer gives of the student's
    (Yang et al., ICLR 2021, SRRL).

    Raises ValueError for a teacher whose logits are not of a layer "fc" of its pooled features.
    """
    check_last_layer(teacher, "regression_of_representation")
    s, t = (n.outputs().features[-1] for n in (student, teacher.network))

    def loss(run: Modules, seen: Seen) -> Array:
        fc = last_layer(seen.context.frozen["teacher"])
        out = run("connector", seen.student.features[-1])
        logits = out @ fc["kernel"] + fc["bias"][None]
        return hint(out, seen.teacher.features[-1]) + hint(logits, seen.teacher.value)

    term = Term(loss, {"connector": (Connector(t.shape[-1], True), s)})
    return distilled("regression_of_representation", teacher, student, term, weight, shares, recipe)


def last_layer(variables: WithState) -> dict[str, Array]:
    """Return kernel and bias of the layer that gives a classifier's logits."""
    params, state = variables
    held = state["teacher"]["variables"]["params"] if "teacher" in state else params
    return held["fc"]


def check_last_layer(teacher: Trained, name: str) -> None:
    """Raise ValueError unless a teacher's logits are those of a linear layer "fc", with a bias, of
    its pooled features, as they are of the networks here.
    """
    outputs = teacher.network.outputs()
    read, classes = outputs.features[-1].shape[-1], outputs.value.shape[1]
    try:
        found = {key: leaf.shape for key, leaf in last_layer(teacher.variables).items()}
    except KeyError:
        found = {}
    if found != {"kernel": (read, classes), "bias": (classes,)}:
        raise ValueError(
            f"{name} reuses the teacher's last layer: parameters 'fc' of kernel ({read}, "
            f"{classes}), which reads the pooled features, and bias; those of "
            f"{type(teacher.network.module).__name__} are {found or 'not there'}"
        )
