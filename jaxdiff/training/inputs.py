"""Checks of the training loop's arguments, before anything is compiled."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.method import Batch

FORM = (
    'data is a function of the step: data(step) -> {"image": (batch, ...), ...}, the same batch '
    "for the same step, so that a run can be resumed. jaxdiff.data.batches(dataset, batch_size) "
    "makes one of images in memory; of a list of batches, lambda step: batches[step % len(batches)]"
)
KEYS = ("image", "label", "noise", "start", "path", "index")  # what methods look for in a batch
LABELS = (
    "Does its network take as many labels as the method has? A map between two levels is "
    "conditioned on two, guidance and numbers of steps are further ones: "
    "init(module, key, shape, labels=2)"
)


def check_data(data: Any) -> None:
    """Raise TypeError for data that are no function of the step."""
    if not callable(data):
        raise TypeError(f"{FORM}. This is {type(data).__name__}")


def checked(
    data: Callable[..., Mapping[str, Any]], check: Callable[[Batch], None] | None
) -> Callable[..., Mapping[str, Any]]:
    """Return the same data, each batch checked, for the loop and for the method. The numbers of
    images that lie on a device are fetched and looked at in the first batch alone.
    """
    fetched = False

    def batch_of(step: int, *rows: Any) -> Mapping[str, Any]:
        nonlocal fetched
        batch = data(step, *rows)
        check_batch(batch, fetch=not fetched)
        fetched = True
        if check is not None:
            check(batch)
        return batch

    return batch_of


def check_batch(batch: Any, fetch: bool = True) -> None:
    """Raise TypeError or ValueError for what no method can train on; ``fetch`` images that are on a
    device to look at their numbers.
    """
    if not isinstance(batch, Mapping):
        raise TypeError(f"{FORM}. It returned {type(batch).__name__}")
    for path, leaf in jax.tree_util.tree_flatten_with_path(dict(batch))[0]:
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        if (
            getattr(leaf, "dtype", None) == np.float64
            and jax.dtypes.canonicalize_dtype(np.float64) != np.float64
        ):
            raise TypeError(
                f"batch {name!r} is float64, which jax would round to float32 without a word: give "
                "float32 (x.astype(np.float32)), or switch on jax_enable_x64"
            )
        if np.ndim(leaf) and np.shape(leaf)[0] == 0:
            raise ValueError(f"batch {name!r} is empty: its shape is {np.shape(leaf)}")
    if (image := batch.get("image")) is not None and not isinstance(image, Mapping):
        _check_image(image, fetch)


def _check_image(image: Any, fetch: bool) -> None:
    if not hasattr(image, "dtype"):
        raise TypeError(f'batch "image" is {type(image).__name__}: give one array, batch first')
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise TypeError(
            f'batch "image" is {image.dtype}: images are floats in [-1, 1] '
            "(jaxdiff.data.to_float of uint8)"
        )
    if image.ndim < 3:  # points have any size
        return
    on_device = isinstance(image, jax.Array)
    if not on_device or (fetch and image.is_fully_addressable):
        _check_numbers(np.asarray(image))
    if image.ndim == 4 and image.shape[1] in (1, 3) and image.shape[2] == image.shape[3] > 4:
        raise ValueError(
            f'batch "image" has shape {image.shape}, channels first; networks here take them '
            "last: np.moveaxis(images, 1, -1)"
        )


def _check_numbers(image: np.ndarray) -> None:
    least, most = image.min(), image.max()
    if most > 1 and least >= 0 and most <= 255 and (image == np.rint(image)).all():
        raise ValueError(
            f'batch "image" holds whole numbers from {float(least):g} to {float(most):g}: images '
            "are floats in [-1, 1]; x / 127.5 - 1 takes 0..255 there"
        )


def explained(error: Exception, batch: Mapping[str, Any]) -> Exception | None:
    """Return what an error in tracing a method's losses may mean for its user, the error itself
    included; None where there is nothing to add.
    """
    text = str(error)
    missing = error.args[0] if isinstance(error, KeyError) and error.args else None
    if isinstance(missing, str) and missing in KEYS and missing not in batch:
        return ValueError(
            f"the method needs {missing!r} in every batch; these have {sorted(batch)}"
        )
    if isinstance(error, TypeError) and "'full'" in text:
        return ValueError(
            "the method needs its network's features or a log variance, network(..., full=True) "
            f"-> jaxdiff.typing.Outputs, which this network does not answer ({text})"
        )
    if isinstance(error, AttributeError) and "NoneType" in text:
        return ValueError(
            f"{text}. If this is an output that the network does not have: a learned log variance "
            "comes with log_variance=True"
        )
    if type(error).__name__ == "ScopeParamShapeError" or isinstance(error, IndexError):
        return ValueError(f"{text}. {LABELS}")
    return None
