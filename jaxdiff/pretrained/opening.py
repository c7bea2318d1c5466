"""One opening for all files of weights: what a file is is read off its names."""

import dataclasses
import difflib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jaxdiff.files import naming, read_json
from jaxdiff.pretrained import dit_embedders, flux, pixart, sd3
from jaxdiff.pretrained.autoencoders import is_autoencoder
from jaxdiff.pretrained.cards import CARDS, SHIPPED, Card, facts
from jaxdiff.pretrained.clip import (
    is_clip,
)
from jaxdiff.pretrained.controls import is_control
from jaxdiff.pretrained.diffusers import read_unet
from jaxdiff.pretrained.dit import read_dit
from jaxdiff.pretrained.edm import read_edm
from jaxdiff.pretrained.edm2 import read_edm2
from jaxdiff.pretrained.guided import read_guided
from jaxdiff.pretrained.inception import is_inception
from jaxdiff.pretrained.mnist_ddpm import read_mnist_ddpm
from jaxdiff.pretrained.model import Pretrained, Source
from jaxdiff.pretrained.original import read_original
from jaxdiff.pretrained.pickles import read_pickle
from jaxdiff.pretrained.pipeline import read_pipeline
from jaxdiff.pretrained.saved import read_saved
from jaxdiff.pretrained.score_sde import read_score_sde
from jaxdiff.pretrained.tensors import PICKLES, Tensors, open_tensors, tensors_in

Reader = Callable[[Source], Pretrained | None]
READERS: dict[str, Reader] = {
    "files of save_safetensors": read_saved,
    "EDM": read_edm,
    "EDM2": read_edm2,
    "guided diffusion, improved diffusion, consistency models": read_guided,
    "DiT, SiT": read_dit,
    "MNIST DDPM (J. Hughes)": read_mnist_ddpm,
    "score_sde": read_score_sde,
    "UNet2DModel and UNet2DConditionModel (diffusers)": read_unet,
    "Stable Diffusion's original files": read_original,
    "DiT with embedders of its blocks": dit_embedders.read,
    "PixArt": pixart.read,
    "SD3": sd3.read,
    "Flux": flux.read,
}
"""By family: a function that returns the model of a source, None if it is none of its family's."""

WEIGHTS = (
    "diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors", "model.safetensors.index.json", "diffusion_pytorch_model.bin",
    "diffusion_pytorch_model.bin.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip


def open_source(
    path: str | os.PathLike[str],
    *,
    config: Mapping[str, Any] | None = None,
    variant: str = "",
    dtype: Any = None,
    put: Any = None,
) -> Source:
    """Open a file, or a folder with a config.json and a file of weights, without reading numbers.

    config: the publisher's options, added to those of config.json. variant: "fp16" for files called
    so ("diffusion_pytorch_model.fp16.safetensors").

    Raises:
        OSError: if there is nothing at ``path``.
        ValueError: naming the file, if it is damaged or not of a kind that is read.
    """
    path, given = Path(path), dict(config or {})
    if path.is_dir():
        index, own = path / "model_index.json", path / "config.json"
        if index.exists():
            return Source(path, {**_said(index), **given}, None, Tensors({}), dtype, put)
        if not own.exists():
            raise ValueError(f"{path} is a folder without a config.json or a model_index.json")
        return Source(path, {**_said(own), **given}, None, weights_in(path, variant), dtype, put)
    if path.suffix in PICKLES:
        made = read_pickle(path)
        return Source(path, given, made, tensors_in(made, str(path), None), dtype, put)
    return Source(path, given, None, open_tensors(path), dtype, put)


def _said(path: Path) -> dict[str, Any]:
    """Return the fields of a configuration. ValueError, naming the file, if it has none."""
    if not isinstance(said := read_json(path), dict):
        raise ValueError(f"{path} is a {type(said).__name__}, and should be a dictionary of fields")
    return said


def weights_in(folder: Path, variant: str = "") -> Tensors:
    """Open the file of weights in a folder. ValueError, naming what there is, if there is none."""
    for name in WEIGHTS:
        stem, _, rest = name.partition(".")
        start, _, end = name.rpartition(".")
        # of a sharded file's index both forms go about
        forms = [f"{start}.{variant}.{end}", f"{stem}.{variant}.{rest}"] if variant else [name]
        for path in (folder / form for form in forms):
            if path.exists():
                return open_tensors(path)
    there = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
    raise ValueError(f"{folder} has no weights{f' of variant {variant}' * bool(variant)}: {there}")


def card_of(path: str | os.PathLike[str], cards: Mapping[str, Card] = CARDS) -> Card | None:
    """Return the card of this name, None if there is none or if a file, a run or a folder of
    weights of this name is nearer. Another folder of this name, of pictures say, hides no card.
    """
    there = Path(path)
    model = there.is_dir() and any(
        (there / n).exists() for n in ("config.json", "model_index.json")
    )
    return None if there.is_file() or model else cards.get(str(path))


def found(path: str | os.PathLike[str], cards: Mapping[str, Card] = CARDS) -> Path:
    """Return the path of a file or folder, or of the files of the card of this name, which are
    fetched if they do not come with the package.

    Raises FileNotFoundError, with the names that are most like it, if it is neither.
    """
    if (card := card_of(path, cards)) is not None:
        if not card.files[0].url:
            return SHIPPED / card.files[0].path
        from jaxdiff.pretrained.download import fetch_card

        return fetch_card(card)
    if Path(path).exists():
        return Path(path)
    like = difflib.get_close_matches(str(path).lower(), cards, 4, 0.5)
    known = f"; cards with a name like it: {', '.join(like)}" if like else ""
    raise FileNotFoundError(f"there is no file, folder or card {str(path)!r}{known}")


def load_pretrained(
    path: str | os.PathLike[str],
    *,
    config: Mapping[str, Any] | None = None,
    variant: str = "",
    dtype: Any = None,
    put: Any = None,
) -> Pretrained:
    """Return the model in a file or folder of published weights. Nothing of the file is executed.

    Two small class-conditional models come with the package: "mnist" and "digits".

    Args:
        path: a file or folder, or, where there is none of this name, the name of a card
            (:data:`jaxdiff.pretrained.cards.CARDS`), whose files are fetched if they do not come
            with the package. Read are EDM's and EDM2's pickles, checkpoints of guided-diffusion,
            DiT, SiT and the like, folders of diffusers, and what ``save_safetensors`` wrote.
        config: what neither names nor shapes of a file's tensors say, by the publisher's names, for
            a model that is not one of the published; what is missing is said. It is added to what a
            folder's config.json says.
        variant: of the weights in a folder, "fp16".
        dtype: of the floating parameters; by default that of the file.
        put: ``put(path, array)`` places each parameter as it is read, on a device or a mesh.

    Returns:
        The model: a denoiser with its parameters, network, shape of a sample, process, grid,
        conditions and metadata.

    Raises:
        OSError: if there is nothing at ``path``, or a file of a card cannot be fetched.
        ValueError: if it is damaged, or of no family that is known; what it holds is said.
    """
    card = card_of(path)
    path = found(path)
    source = open_source(path, config=config, variant=variant, dtype=dtype, put=put)
    if is_inception(source.tensors):
        raise ValueError(
            f"{path} is an Inception-v3, by whose features images are compared, and no model to "
            "sample from: jaxdiff.pretrained.load_inception opens it"
        )
    if is_autoencoder(source):
        raise ValueError(
            f"{path} is an autoencoder of images and latents, and no model to sample from: "
            "jaxdiff.pretrained.load_autoencoder opens it"
        )
    if kind := is_clip(source):
        raise ValueError(
            f"{path} is an encoder of {kind}s, and no model to sample from: "
            f"jaxdiff.pretrained.load_{kind}_encoder opens it"
        )
    if kind := is_control(source):
        name = {"ControlNetModel": "controlnet", "T2IAdapter": "t2i_adapter"}[kind]
        raise ValueError(
            f"{path} is a {kind}, which steers a U-Net, and no model to sample from: "
            f"jaxdiff.pretrained.load_{name} opens it, and with_{name} puts it beside the U-Net"
        )
    part = lambda path: open_source(path, variant=variant, dtype=dtype, put=put)  # noqa: E731
    with naming(path):
        model = read_pipeline(source, part, read_model) or read_model(source)
    if card is None:
        return model
    return dataclasses.replace(model, metadata={**model.metadata, **facts(card)})


def read_model(source: Source) -> Pretrained:
    """Return the model of a source with one network. ValueError if no family's reader knows it."""
    for reader in READERS.values():
        if (model := reader(source)) is not None:
            return model
    path = source.path
    kind = source.config.get("_class_name")
    names = ", ".join(list(source.tensors)[:3])
    raise ValueError(
        f"{path} is {f'a {kind}' if kind else f'a file of {len(source.tensors)} tensors ({names})'}"
        f", which is of none of the families that are read: {', '.join(READERS)}"
    )
