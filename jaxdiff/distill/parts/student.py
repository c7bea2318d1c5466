"""The student of a method: a network, its start, and the denoiser made of it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.typing import DTypeLike

from jaxdiff.arrays import check_null, check_rows
from jaxdiff.brief import short
from jaxdiff.denoisers import denoiser, description
from jaxdiff.distill.parts.primitives import Drop, check_drop, drop_condition
from jaxdiff.method import Batch, Decay, is_init
from jaxdiff.process import EDM, Number, Process
from jaxdiff.typing import Array, Cond, Denoiser, Key, Network, Params

_KARRAS = EDM()


class Student(NamedTuple):
    """The student, which a method trains.

    network: ``network(params, x, label, cond, key=...)``.
    params: where it starts, usually the teacher's parameters; or ``init(key) -> params``.
    prediction, process, sigma_data, label, compute_dtype: how the network is made a denoiser
        (:func:`jaxdiff.denoisers.denoiser`).
    low, high: the lowest noise level that is distinguished from none, and the level that sampling
        starts from.
    classes: number of classes, if the data have labels; the class of this number means no label.
    null: of other conditions, the value that stands for none: one sample's, a tree without the
        batch axis (:func:`jaxdiff.distill.parts.primitives.drop_condition`).
    label_drop: fraction of the samples whose condition is replaced by it, whole; of entries of a
        dictionary, {"text": 0.1, ...}, each by itself
        (:func:`jaxdiff.distill.parts.primitives.drop_condition`); None for the method's own, which
        is 0 but for score matching's.
    optimiser: None for the method's own.
    ema: moving averages to keep, by name (:mod:`jaxdiff.training.ema`).
    """

    __repr__ = short

    network: Network
    params: Params | Callable[[Key], Params]
    prediction: str = "edm"
    process: Process = _KARRAS
    sigma_data: Number = 0.5
    label: Callable[[Array], Array] | None = None
    low: float = 0.002
    high: float = 80.0
    classes: int | None = None
    null: Cond = None
    label_drop: Drop | None = None
    optimiser: optax.GradientTransformation | None = None
    ema: Mapping[str, Decay] = {}
    compute_dtype: DTypeLike | None = None

    def denoiser(self, params: Params, sigma_min: float = 0.0) -> jax.tree_util.Partial:
        """Return the student's denoiser; with ``sigma_min`` it is the identity at that level."""
        return denoiser(
            self.network, params, prediction=self.prediction, process=self.process,
            sigma_data=self.sigma_data, sigma_min=sigma_min, label=self.label,
            compute_dtype=self.compute_dtype,
        )  # fmt: skip

    @classmethod
    def of(cls, D: Denoiser, **changes: Any) -> "Student":
        """Return the student that starts as a denoiser: its network and parameters, and how they
        are made a denoiser.

        D: made by :func:`jaxdiff.denoisers.denoiser`. changes: further fields, and other values
        of these. Raises TypeError for another denoiser.
        """
        made = description(D)
        if made is None:
            raise TypeError(
                "Student.of needs a denoiser as jaxdiff.denoiser(network, params, ...) makes it, "
                "without guidance or another function around it"
            )
        return cls(**made)._replace(**changes)

    @property
    def no_condition(self) -> Cond:
        """Return what stands for no condition: ``null``, or the index beyond the last class."""
        return self.classes if self.null is None else self.null

    def condition(self, key: Key, batch: Batch) -> Cond:
        """Return the batch's conditions, ``batch["label"]``, some of them dropped; None without."""
        return drop_condition(key, batch.get("label"), self.label_drop or 0.0, self.no_condition)

    def check(self, batch: Batch) -> None:
        """Raise ValueError for labels of a batch on the host that this student's network lacks, or
        that do not go with its null or with the images.
        """
        check_labels(batch, self.classes)
        labels = batch.get("label")
        if self.null is not None and labels is None:
            raise ValueError('the student has a null condition, and the batch no "label"')
        if labels is not None and "image" in batch:
            check_rows(labels, len(batch["image"]), 'batch "label"')
        if labels is not None and (look := getattr(self.network, "check_cond", None)):
            look(labels)
        if self.label_drop and labels is not None:
            check_drop(self.label_drop, labels, self.null)
        if self.null is not None:
            check_null(self._with_null(labels), self.null)

    def _with_null(self, labels: Any) -> Any:
        """Return the entries that have a null; all of them where they are dropped together."""
        if not isinstance(self.label_drop, Mapping):
            return labels
        return {name: value for name, value in labels.items() if name in self.null}  # type: ignore[operator]


def check_labels(batch: Batch, classes: int | None) -> None:
    """Raise ValueError unless the batch's labels, on the host, are classes that there are."""
    if classes is None:
        return
    labels = batch.get("label")
    if labels is None:
        raise ValueError(
            f'the network has {classes} classes, and the batch no "label": give them, or None for '
            f"classes; {classes} everywhere is no class"
        )
    rows = np.shape(batch.get("image", labels))[:1]
    numbers = np.zeros(0) if isinstance(labels, Mapping) else np.asarray(labels)
    if numbers.dtype.kind not in "iu" or numbers.shape != rows:
        kind = type(labels).__name__ if isinstance(labels, Mapping) else numbers.dtype
        raise ValueError(
            f"the network has {classes} classes, so labels are whole numbers, one for each of the "
            f"{rows[0]} samples; these are {kind} of shape {numbers.shape}"
        )
    if numbers.min() < 0 or numbers.max() > classes:
        raise ValueError(
            f"labels run from {numbers.min()} to {numbers.max()}; the classes are numbered 0 to "
            f"{classes - 1}, and {classes} is none"
        )


def check_teacher(teacher: Denoiser | None, student: Student) -> None:
    """Raise ValueError for a student with its teacher's network and parameters that reads them
    otherwise: with another prediction the same numbers are another model.
    """
    made = None if teacher is None else description(teacher)
    if made is None or made["network"] != student.network or is_init(student.params):
        return
    leaves, own = jax.tree.leaves(made["params"]), jax.tree.leaves(student.params)
    if len(leaves) != len(own) or any(a is not b for a, b in zip(leaves, own, strict=True)):
        return
    for name in ("prediction", "process", "label"):
        there, here = made[name], getattr(student, name)
        same = there is here or (type(there) is type(here) if name == "process" else there == here)
        if not same:
            raise ValueError(
                f"the student has the teacher's network and parameters, but {name} {here!r} where "
                f"the teacher has {there!r}: it would start as another model. "
                "Student.of(teacher) takes all of it over"
            )


def trained(
    student: Student, state: Any, ema: str | None = None, sigma_min: float = 0.0
) -> jax.tree_util.Partial:
    """Return the denoiser of a trained student: its parameters, or the average named ``ema``."""
    params = state.params["student"] if ema is None else state.ema["student"][ema]
    return student.denoiser(params, sigma_min)
