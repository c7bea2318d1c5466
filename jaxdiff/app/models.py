"""The model that a command works on: a denoiser with its parameters and what is known of it."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdiff.app import config_file
from jaxdiff.app.config_data import Data
from jaxdiff.app.config_measure import Measure
from jaxdiff.app.latents import kept_autoencoder, latent_source
from jaxdiff.app.network import build_network, compute_dtype
from jaxdiff.app.objective import process_named
from jaxdiff.app.published import read_published, read_source
from jaxdiff.app.text import tokenizer_of
from jaxdiff.data.words import WordTokenizer
from jaxdiff.denoisers import denoiser, description
from jaxdiff.pretrained.model import Pretrained

LEVELS = (0.002, 80.0)  # of networks that are trained here


class Model(NamedTuple):
    """The model of a run or of published weights.

    denoiser: with its parameters. params: these alone. shape: of an image. classes: number of
    classes, 0 without. student: whether it is distilled. metadata: everything saved with it.
    module: the linen module, None where it is not known. source: of published weights, and of
    their students, what was read.
    """

    denoiser: Any
    params: Any
    shape: tuple[int, ...]
    classes: int
    student: bool
    metadata: dict[str, Any]
    module: Any = None
    source: Pretrained | None = None

    @property
    def published(self) -> Pretrained | None:
        """Return the published weights that it is, or was distilled from; None for a run's own."""
        return self.source if self.metadata.get("network") is None else None

    @property
    def levels(self) -> tuple[float, float]:
        """Return the lowest noise level above 0, and the one that sampling starts from."""
        return LEVELS if self.source is None else self.source.levels

    @property
    def tokenizer(self) -> WordTokenizer | None:
        """Return the tokenizer of a run that is conditioned on texts; None of any other model."""
        return tokenizer_of(self.metadata.get("tokenizer"))

    @property
    def measure(self) -> Measure | None:
        """Return what a run's network was trained to be shown; None if it is shown nothing."""
        return measure_in(self.metadata)

    @property
    def pairs(self) -> int:
        """Return the channels of the picture that a run of pairs is shown beside x; 0 of others."""
        return int(self.metadata.get("pairs", 0))

    @property
    def shown(self) -> bool:
        """Return whether a run's network is shown an array beside x."""
        return bool(self.pairs) or self.measure is not None

    @property
    def arrays(self) -> bool:
        """Return whether samples are arrays that are no images."""
        return bool((self.metadata.get("data") or {}).get("arrays"))

    def check_images(self, command: str) -> None:
        """Raise ValueError for a model of arrays that are no images, with which a command cannot
        work.
        """
        if self.arrays:
            size = "x".join(map(str, self.shape))
            raise ValueError(
                f"jaxdiff {command} works on images, and this model makes arrays of {size}: sample "
                "it, and compare the numbers (jaxdiff.metrics)"
            )

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Return the values between which samples lie, None for latents and other arrays."""
        if self.arrays:
            return None
        return (-1.0, 1.0) if self.source is None else self.source.bounds

    def __repr__(self) -> str:
        size = "x".join(map(str, self.shape))
        count = sum(np.size(leaf) for leaf in jax.tree.leaves(self.params))
        kind = f"student by {self.metadata.get('method')}" if self.student else "teacher"
        return f"Model({kind}: {size}, {self.classes} classes, {count} parameters)"


def model_of(params: Any, metadata: dict[str, Any], folder: Path | None = None) -> Model:
    """Return the model of these parameters and metadata. ValueError for metadata that no model
    has.
    """
    known = {f.name for f in dataclasses.fields(config_file.ModelMetadata)}
    own = {name: value for name, value in metadata.items() if name in known}
    own = config_file.from_dict(config_file.ModelMetadata, own, "model")
    source = read_source(metadata) if own.network is None else None
    network: Any = None
    if own.network is None:
        module = source.network if source else None
    else:
        module, network = build_network(
            own.network, own.classes, own.measure, own.shape, own.tokenizer, own.pairs
        )
    if metadata.get("kind") == "student":
        from jaxdiff.app.student_file import load_denoiser

        D: Any = load_denoiser(metadata, params, module, source)
    elif metadata.get("kind") == "teacher" and source is None:
        D = denoiser(
            network, params, prediction=own.prediction,
            process=process_named(own.process, own.sigma_data), sigma_data=own.sigma_data,
            compute_dtype=compute_dtype(own.network),
        )  # fmt: skip
    else:
        raise ValueError(f"a model is a teacher or a student, not {metadata.get('kind')!r:.60}")
    if own.autoencoder is not None:
        vae = kept_autoencoder(own.autoencoder, folder)
        process = process_named(own.process, own.sigma_data)
        source = latent_source(
            D, params, module, own.shape, own.classes, own.prediction, process, vae
        )
    names = own.class_names or tuple(map(str, range(own.classes)))
    student = metadata["kind"] == "student"
    said = {"class_names": names, "kind": metadata["kind"]}
    metadata = metadata | config_file.to_dict(own) | said
    return Model(D, params, own.shape, own.classes, student, metadata, module, source)


def published_model(path: str) -> Model:
    """Return the model of a file or folder of published weights, a card's name or a user's module.

    Raises OSError and ValueError as :func:`jaxdiff.app.published.read_published`.
    """
    found = read_published(path)
    made = description(found.denoiser)
    own = found.metadata.get("data_path")  # of a model that comes with the package, on data at hand
    names = found.metadata.get("class_names") or map(str, range(found.classes))
    metadata = {
        "kind": "teacher", "network": None, "shape": list(found.shape), "classes": found.classes,
        "class_names": tuple(names),
        "data": None if own is None else dataclasses.asdict(Data(own)),
        "sigma_data": 0.5 if made is None else float(made["sigma_data"]), "source": {"path": path},
    }  # fmt: skip
    return Model(
        found.denoiser, found.params, found.shape, found.classes, False, metadata, found.network,
        found,
    )  # fmt: skip


def measure_in(metadata: dict[str, Any]) -> Measure | None:
    """Return what metadata say that a network is trained to be shown; None for nothing."""
    known = metadata.get("measure")
    return None if known is None else config_file.from_dict(Measure, known, "measure")
