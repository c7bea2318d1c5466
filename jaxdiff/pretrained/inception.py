"""The published weights of Inception-v3 for the Frechet distance, and features by them.

The one set of weights (TensorFlow, 5 December 2015) goes about in these forms, which are
distinguished by the names of their tensors:

    pytorch-fid, torch-fidelity   Mixed_5b.branch3x3dbl_1.conv.weight     .pth, .safetensors
    TensorFlow's graph            mixed/tower_1/conv/conv2d_params        .npz of its constants
    NVIDIA's translation          layers.mixed.tower_1.conv. ...          .pt, a TorchScript archive
    jax-fid                       Mixed_5b, branch3x3dbl_1, conv, kernel  .pickle

Nothing of a file is executed. TensorFlow's kernels are (height, width, in, out); its scales are all
one, and are not in every file.
"""

import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.networks.inception import BLOCKS, STEM, Activations, Convention, Inception, prepared
from jaxdiff.pretrained.cards import INCEPTION
from jaxdiff.pretrained.layout import Layout, fill
from jaxdiff.pretrained.tensors import Tensors, open_tensors
from jaxdiff.typing import Array, Params

TELLING = "mixed_7c/double_3x3_3b/conv/kernel"
LAST = ("kernel", "conv2d_params", "weights")  # names of kernels whose channels come last
LEAVES = {
    "kernel": ("weight", "kernel", "conv2d_params", "weights"),
    "scale": ("weight", "scale", "gamma"), "bias": ("bias", "biases", "beta"),
    "mean": ("running_mean", "mean", "moving_mean"),
    "var": ("running_var", "var", "moving_variance"),
}  # fmt: skip


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InceptionFeatures:
    """Features and logits of images in [-1, 1] by Inception-v3; a pytree of its variables.

    variables: parameters and batch statistics. module: the network. convention: how images are
    brought to its size (:mod:`jaxdiff.networks.inception`): TensorFlow's way, as the distance was
    defined and torch-fidelity and EDM compute it, or pytorch-fid's. digest: SHA-256 of the file, by
    which what was computed with it is known again.
    """

    variables: Params
    module: Inception = dataclasses.field(metadata={"static": True})
    convention: Convention = dataclasses.field(default="tensorflow", metadata={"static": True})
    digest: str = dataclasses.field(default="", metadata={"static": True})

    def __repr__(self) -> str:
        """Return one short line."""
        classes = self.module.num_classes
        return f"InceptionFeatures({classes} classes, {self.convention}, {self.digest[:8]})"

    @property
    def name(self) -> str:
        """Return the name of the features, as scores state it."""
        return "Inception" + (", pytorch-fid's resize" if self.convention == "pytorch" else "")

    @jax.jit
    def features(self, images: Array) -> Array:
        """Return features (batch, 2048) of images (batch, height, width, 1 or 3) in [-1, 1]."""
        return self._activations(images).features

    @jax.jit
    def features_and_logits(self, images: Array) -> Array:
        """Return features and logits without the bias side by side, (batch, 2048 + classes)."""
        if not self.module.num_classes:
            raise ValueError("these weights of Inception have no last layer, hence no logits")
        made = self._activations(images)
        return jnp.concatenate([made.features, cast(Array, made.unbiased)], axis=1)

    def _activations(self, images: Array) -> Activations:
        made: Any = self.module.apply(self.variables, prepared(images, self.convention))
        return made


def load_inception(
    path: str | os.PathLike[str], *, convention: Convention = "tensorflow", dtype: Any = None
) -> InceptionFeatures:
    """Return the feature function of a file of Inception's weights.

    Args:
        path: of a file in one of the forms above, or its address, "https://...#sha256=...", or
            "inception-fid", which stands for pytorch-fid's file; fetched if need be.
        convention: "tensorflow", or "pytorch" for numbers to compare with pytorch-fid's.
        dtype: what it computes in, float32 by default.

    Returns:
        The feature function, images in [-1, 1] to (n, 2048).

    Raises:
        OSError: if there is no such file, or it cannot be fetched.
        ValueError: naming it, if it is damaged, or of another network.

    Source: Szegedy et al., Rethinking the Inception Architecture for Computer Vision, arXiv
    1512.00567.
    """
    path = _file(path)
    if path.suffix == ".pb":
        raise ValueError(
            f"{path} is a graph of TensorFlow's, which is not read: save its constants by name in "
            "an .npz, or take the same weights from pytorch-fid (.pth)"
        )
    module, variables = inception_of(open_tensors(path), dtype=dtype)
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return InceptionFeatures(variables, module, convention, digest)


def _file(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file, fetching what is named by an address or a card."""
    from jaxdiff.pretrained.download import fetch_card, fetch_url

    if str(path).startswith(("https://", "http://")):
        return fetch_url(str(path))
    if str(path) in INCEPTION and not Path(path).exists():
        return fetch_card(INCEPTION[str(path)])
    return Path(path)


def is_inception(names: Mapping[str, Any]) -> bool:
    """Return whether these are the tensors of an Inception-v3, of whichever training."""
    return any(place(name) == TELLING for name in names)


def inception_of(tensors: Tensors, dtype: Any = None) -> tuple[Inception, Params]:
    """Return the network of a file's tensors, and its variables.

    Raises ValueError for a network that is not the one of the Frechet distance.
    """
    if not is_inception(tensors):
        raise ValueError(f"{tensors.source or 'this'} holds no weights of Inception-v3")
    if any("AuxLogits" in name for name in tensors):
        raise ValueError(
            f"{tensors.source} is an Inception-v3 trained anew (it has AuxLogits, as torchvision's "
            "has), whose Frechet distances are no one else's; the one of the metric is "
            "pt_inception-2015-12-05-6726825d.pth"
        )
    placed, layout = _placed(tensors)
    shape = placed.shapes.get("head/kernel")
    module = Inception(shape[0] if shape else 0, dtype=dtype)
    return module, fill(inception_shapes(module.num_classes), placed, layout)


@functools.cache
def inception_shapes(num_classes: int = 1008) -> Params:
    """Return the shapes of the network's variables, without computing anything."""
    image = jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32)
    return jax.eval_shape(Inception(num_classes).init, jax.random.key(0), image)


def _placed(tensors: Tensors) -> tuple[Tensors, Layout]:
    """Return the tensors under this library's names, kernels (out, in, height, width)."""
    names = {name: place(name) for name in tensors if not name.endswith("num_batches_tracked")}
    twice = [n for n, p in names.items() if list(names.values()).count(p) > 1]
    if twice:
        raise ValueError(f"{tensors.source} has one tensor under two names: {', '.join(twice[:4])}")
    last = {p for n, p in names.items() if re.split(r"[./]", n)[-1] in LAST}

    def outer_first(name: str, value: np.ndarray) -> np.ndarray:
        return np.moveaxis(value, (-1, -2), (0, 1)) if name in last else value

    placed = tensors.renamed(names.get)
    shapes = {
        n: (s[-1], s[-2], *s[:-2]) if n in last and len(s) > 1 else s
        for n, s in placed.shapes.items()
    }
    readers = {
        name: (shapes[name], placed.dtypes[name], functools.partial(placed.__getitem__, name))
        for name in placed
    }
    if not any(name.endswith("norm/scale") for name in readers):  # all one, in TensorFlow's
        for name in [n for n in readers if n.endswith("norm/bias")]:
            ones = functools.partial(np.ones, shapes[name], np.float32)
            readers[name.replace("norm/bias", "norm/scale")] = (shapes[name], np.dtype("f4"), ones)
    layout = Layout(((r"(.+)", r"\1"),), change=outer_first)
    return Tensors(readers, tensors.metadata, tensors.source), layout


def place(name: str) -> str:
    """Return this library's path of a tensor, "mixed_5b/5x5_1/norm/mean"; the name itself for one
    that Inception does not have.
    """
    words = re.split(r"[./]", name)
    if words[0] == "layers":
        words = words[1:]
    for count in range(len(words) - 1, 0, -1):
        node = "_".join(words[:count])
        if node in MODULES:
            kind = _leaf(MODULES[node], words[count:])
            return name if kind is None else f"{MODULES[node]}/{kind}"
    return name


def _leaf(module: str, words: list[str]) -> str | None:
    """Return the parameter, "norm/mean", that these words within a module say; None for none.

    A "weight" right in the module of a convolution is its kernel; one of "bn" a scale.
    """
    if module == "head":
        found = [
            leaf for leaf in ("kernel", "bias") if words[-1:] == words and words[0] in LEAVES[leaf]
        ]
        return found[0] if found else None
    inner = (
        {"conv": "conv", "bn": "norm", "batchnorm": "norm"}.get(words[0], "") if words[1:] else ""
    )
    for leaf, said in LEAVES.items():
        part = "conv" if leaf == "kernel" else "norm"
        if words[-1] in said and inner in ("", part) and len(words) == 1 + bool(inner):
            return f"{part}/{leaf}"
    return None


def _modules() -> dict[str, str]:
    """Return this library's path of every module, by its published names, their parts joined by
    "_".
    """
    found = {"fc": "head", "softmax": "head", "output": "head"}
    stem = [layer for layer in STEM if not isinstance(layer, str)]
    for i, (path, _, size, *_) in enumerate(stem):
        published = f"Conv2d_{path.removeprefix('conv_')}_{size[0]}x{size[1]}"
        found[published] = found[_numbered("conv", i)] = path
    for i, (path, block) in enumerate(BLOCKS.items()):
        towers = 0
        for branch in block[0]:
            tower = ""
            if len(branch) > 1:
                tower, towers = f"_{_numbered('tower', towers)}", towers + 1
            layers = [(n, _numbered("conv", j)) for j, (n, *_) in enumerate(branch[:-1])]
            last = branch[-1]
            if isinstance(last[0], tuple):
                layers += [(e[0], f"mixed_{_numbered('conv', j)}") for j, e in enumerate(last)]
            else:
                layers.append((last[0], _numbered("conv", len(branch) - 1)))
            for name, node in layers:
                found[f"{_numbered('mixed', i)}{tower}_{node}"] = f"{path}/{name}"
                found[f"{path.replace('mixed', 'Mixed')}_{_branch(name)}"] = f"{path}/{name}"
        if block[1] != "halved":
            found[f"{_numbered('mixed', i)}_{_numbered('tower', towers)}_conv"] = f"{path}/pool"
            found[f"{path.replace('mixed', 'Mixed')}_branch_pool"] = f"{path}/pool"
    return found


def _numbered(word: str, i: int) -> str:
    return f"{word}_{i}" if i else word


def _branch(name: str) -> str:
    """Return PyTorch's name of a layer: "branch3x3dbl_1" of "double_3x3_1"."""
    twice = re.fullmatch(r"double_(\dx\d)_(\w+)", name)
    return f"branch{twice[1]}dbl_{twice[2]}" if twice else f"branch{name}"


MODULES = _modules()
