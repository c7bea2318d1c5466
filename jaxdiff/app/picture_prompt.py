"""Pictures as prompts of a text model: an IP-Adapter and the features of pictures that it reads.

jaxdiff adapt --run BASE --kind ip --out ip.safetensors             pictures of the data, and texts
jaxdiff sample --run BASE --adapter ip.safetensors --prompt "" --control photo.png
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxdiff.app.image_features import user_features
from jaxdiff.app.models import Model

DROPPED = 0.05  # of texts and of pictures each, as the paper has it
MOST = 2**14  # numbers of a picture whose pixels are features


def features_named(name: str) -> Callable[[np.ndarray], np.ndarray]:
    """Return the function of pictures (n, height, width, channels) in [-1, 1] to features (n, d)
    that --features names. ValueError for another word.
    """
    if name == "pixels":
        return _pixels
    if name.startswith("module:"):
        return user_features(name.removeprefix("module:"), progress=False).function
    raise ValueError(f"--features is pixels or module:FILE.py:FUNCTION, not {name}")


def _pixels(pictures: np.ndarray) -> np.ndarray:
    made = np.asarray(pictures, np.float32).reshape(len(pictures), -1)
    if made.shape[1] > MOST:
        raise ValueError(
            f"the pixels of a picture are {made.shape[1]} numbers, too many for features: give an "
            "image encoder by --features module:FILE.py:FUNCTION"
        )
    return made


def started(model: Model, width: int, out: str, seed: int) -> Any:
    """Return a model's denoiser with an IP-Adapter of so many features at its start.

    out: where it is to be saved. Raises ValueError for a path that is not of a file.
    """
    from jaxdiff.adapt import ip_adapter_of
    from jaxdiff.adapt.steering_files import check_path
    from jaxdiff.pretrained.steering import with_ip_adapter

    control = ip_adapter_of(model.denoiser, width, key=seed)
    check_path(control, out)
    return with_ip_adapter(model.denoiser, control)


def nothing_shown(width: int) -> np.ndarray:
    """Return one sample's features that stand for no picture."""
    return np.zeros(width, np.float32)


def read(network: Any, pictures: np.ndarray, name: str) -> np.ndarray:
    """Return the features of pictures in [-1, 1] that an IP-Adapter reads. ValueError for another
    number of them than it was trained with, and for one that reads several vectors of a picture.
    """
    if network.depth:
        raise ValueError(
            "this IP-Adapter reads features of many places of a picture: from Python, "
            "jaxdiff.pretrained.with_ip_adapter"
        )
    made, wanted = features_named(name)(pictures), network.image_width
    if made.shape[1] != wanted:
        raise ValueError(
            f"the IP-Adapter reads {wanted} features of a picture, and --features {name} has "
            f"{made.shape[1]}: give those that it was trained with"
        )
    return made
