"""Features that images are compared by: Inception's, or a user's function."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.app.options import placed, refuse
from jaxdiff.metrics.features import batched
from jaxdiff.training.devices import over_batch
from jaxdiff.typing import Array

BATCH = 64  # images at a time: Inception's first maps take 3 MB for each
OWN = ("classifier", "pixels")


class ImageFeatures(NamedTuple):
    """A feature function that is given.

    function: images (n, h, w, c) in [-1, 1] to features (n, d), the last ``logits`` of them class
    logits. name: of the features, in scores. key: what its features are known again by, "" if they
    are not kept.
    """

    function: Callable[[np.ndarray], np.ndarray]
    name: str
    logits: int = 0
    key: str = ""


def image_features(config: configs.Evaluate, progress: bool = True) -> ImageFeatures | None:
    """Return the feature function that a configuration names; None for one that is learnt from
    the images, or is their pixels.

    Raises ValueError for another word, and for options that have no effect on what is named.
    """
    if config.features != "inception":
        refuse(
            config, "only --features inception reads it", "inception_weights", "inception_resize"
        )
    if config.features in OWN:
        return None
    if config.features == "inception":
        return _inception(config, progress)
    if config.features.startswith("module:"):
        return user_features(config.features.removeprefix("module:"), progress)
    raise ValueError(
        f"--features is classifier, pixels, inception or module:FILE.py:FUNCTION, not "
        f"{config.features}"
    )


def _inception(config: configs.Evaluate, progress: bool) -> ImageFeatures:
    from jaxdiff.pretrained.inception import load_inception

    network = load_inception(config.inception_weights, convention=config.inception_resize)
    made = _with_logits if (classes := network.module.num_classes) else _alone
    on_devices = over_batch(made, network, **placed(config))
    function = batched(on_devices, BATCH, progress)
    key = f"inception {network.digest} {network.convention}"
    return ImageFeatures(function, network.name, classes, key)


def _with_logits(network: Any, images: Array) -> Array:
    return network.features_and_logits(images)


def _alone(network: Any, images: Array) -> Array:
    return network.features(images)


def user_features(place: str, progress: bool) -> ImageFeatures:
    """Return the feature function "FILE.py:FUNCTION", its results checked at every call."""
    found = function_in(place)

    def features(images: np.ndarray) -> np.ndarray:
        made = np.asarray(found(jnp.asarray(images)))
        if made.ndim != 2 or len(made) != len(images) or made.dtype.kind != "f":
            raise ValueError(
                f"{place} must return floats of shape ({len(images)}, d) for images "
                f"{images.shape}; it returned {made.dtype}{list(made.shape)}"
            )
        return made

    return ImageFeatures(batched(features, progress=progress), place)


def function_in(place: str) -> Callable[..., Any]:
    """Return the function "FILE.py:NAME", running the file, which is the user's own.

    Raises FileNotFoundError without the file, ValueError without such a function in it.
    """
    file, _, name = place.rpartition(":")
    if not file or not name.isidentifier():
        raise ValueError(f"{place} should be FILE.py:FUNCTION")
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}, of which {name} should be taken")
    spec = importlib.util.spec_from_file_location(f"_given_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a file of Python")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, name, None)
    if not callable(found):
        raise ValueError(f"{path} has no function {name}")
    return found
