"""A classifier as one file of safetensors, whole: what it is evaluated with, and no code.

    "params/..."  parameters by their paths
    "state/..."   batch statistics, and what is reused of a teacher
    header        the network: its name among those of this package, and its fields

A student of SimKD is not usable without its projector and its teacher's last layer, which its
authors' checkpoints lack; here both are variables of its network and lie in the file.
"""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.classify.trained import Trained
from jaxdiff.method import WithState
from jaxdiff.networks import (
    VGG,
    EfficientNetLite,
    ImageClassifier,
    MobileNetV2,
    ResNetCIFAR,
    ShuffleNetV1,
    ShuffleNetV2,
    WideResNet,
)
from jaxdiff.networks.reused import MeanHead, Reused
from jaxdiff.pretrained.names import flat
from jaxdiff.pretrained.saving import write_tensors
from jaxdiff.pretrained.tensors import open_tensors, tree_of

FORMAT = "jaxdiff classifier"
NETWORKS = {
    kind.__name__: kind
    for kind in (ResNetCIFAR, WideResNet, VGG, MobileNetV2, ShuffleNetV1, ShuffleNetV2,
                 EfficientNetLite, Reused, MeanHead)
}  # fmt: skip
DTYPES = ("dtype", "param_dtype")


def save_classifier(path: str | os.PathLike[str], trained: Trained) -> None:
    """Save a classifier: a teacher, or the student that ``method.sampler(state)`` is.

    Args:
        path: of the file, ``.safetensors``.
        trained: its network is one of this package's, or a student of SimKD made of them.

    Returns:
        None, when the file is written.

    Raises:
        TypeError: for anything else than one classifier.
        ValueError: for a network of the user's own, variables of another network, and another
            suffix, before anything is written.
        OSError: where the file cannot be written.
    """
    if not isinstance(trained, Trained):
        raise TypeError(
            f"a file holds one Trained classifier, not {type(trained).__name__}; of an ensemble "
            "save the members"
        )
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"{path}: a classifier is saved in a file called .safetensors")
    params, state = trained.variables
    header = {
        "format": FORMAT, "network": json.dumps(_said(trained.network.module)),
        "shape": json.dumps(list(trained.network.shape)),
    }  # fmt: skip
    leaves = flat({"params": params, "state": state})
    found = {"/".join(at): np.shape(leaf) for at, leaf in leaves.items()}
    _check_shapes(path, trained.network, found)
    write_tensors(path, {"/".join(at): np.asarray(leaf) for at, leaf in leaves.items()}, header)


def load_classifier(path: str | os.PathLike[str]) -> Trained:
    """Read a classifier that :func:`save_classifier` wrote.

    Args:
        path: of the file.

    Returns:
        The classifier, to be evaluated or to teach.

    Raises:
        OSError: if there is no file.
        ValueError: naming the file, for another file, a network that this package does not have,
            and variables that are not the network's.
    """
    tensors = open_tensors(path)
    said = tensors.metadata
    if said.get("format") != FORMAT:
        raise ValueError(f"{path} is no file of save_classifier")
    try:
        height, width, channels = json.loads(said["shape"])
        network = ImageClassifier(_made(json.loads(said["network"])), (height, width, channels))
        jax.eval_shape(network.init, jax.random.key(0))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} names no network of this package: {error!r}") from error
    _check_shapes(path, network, {name: tensors[name].shape for name in tensors})
    tree = tree_of({name: jnp.asarray(tensors[name]) for name in tensors})
    return Trained(network, WithState(tree["params"], tree.get("state", {})))


def _check_shapes(
    path: str | os.PathLike[str], network: ImageClassifier, found: dict[str, tuple[int, ...]]
) -> None:
    """Raise ValueError, naming the file, for variables that are not the network's."""
    wanted = jax.eval_shape(network.init, jax.random.key(0))
    leaves = flat({"params": wanted.value, "state": wanted.state})
    shapes = {"/".join(at): leaf.shape for at, leaf in leaves.items()}
    for name in [*shapes, *found]:
        here, there = shapes.get(name), found.get(name)
        if here != there:
            raise ValueError(f"{path}: {name} has shape {there}, and its network's has {here}")


def _said(value: Any) -> Any:
    """Return a network, or one of its fields, as JSON has it."""
    if NETWORKS.get(type(value).__name__) is type(value):
        fields = [f.name for f in dataclasses.fields(value) if f.name not in ("parent", "name")]
        given = {name: getattr(value, name) for name in fields}
        made = {k: _dtype_name(v) if k in DTYPES else _said(v) for k, v in given.items()}
        return {"network": type(value).__name__} | made
    if isinstance(value, (tuple, list)):
        return [_said(part) for part in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"a {type(value).__name__} is none of the networks that a file names, which are "
        f"{', '.join(NETWORKS)}: keep its variables by jaxdiff.training.checkpoint.save"
    )


def _made(said: Any) -> Any:
    """Return the network, or the field, that JSON says."""
    if isinstance(said, dict):
        fields = {k: v for k, v in said.items() if k != "network"}
        made = {k: _dtype(v) if k in DTYPES else _made(v) for k, v in fields.items()}
        return NETWORKS[said["network"]](**made)
    return tuple(map(_made, said)) if isinstance(said, list) else said


def _dtype_name(dtype: Any) -> str | None:
    return None if dtype is None else jnp.dtype(dtype).name


def _dtype(name: str | None) -> Any:
    return None if name is None else getattr(jnp, jnp.dtype(name).name)
