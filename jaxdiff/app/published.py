"""Published weights, and a user's own Python module, in the place of a run.

A module is named ``module:FILE.py:FUNCTION``. It is the one way in which a file is executed: the
user names it.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.app.image_features import function_in
from jaxdiff.denoisers import as_partial, description
from jaxdiff.files import read_json
from jaxdiff.grids import karras
from jaxdiff.pretrained.model import Autoencoder, Pretrained
from jaxdiff.process import EDM

MODULE = "module:"


def is_run(path: str | Path) -> bool:
    """Return whether a folder is one of a run: its config.json says of which kind."""
    config = Path(path) / "config.json"
    if not config.exists():
        return False
    try:
        said = read_json(config)
    except ValueError:
        return True  # damaged: the error is the reader's of runs
    return not isinstance(said, dict) or "_class_name" not in said


def is_published(path: str | Path) -> bool:
    """Return whether a command is given published weights, a card's name or a module, no run."""
    from jaxdiff.pretrained.opening import card_of

    there = Path(path)
    if str(path).startswith(MODULE) or there.is_file() or card_of(path) is not None:
        return True
    if there.is_dir():
        names = ("config.json", "model_index.json")
        return not is_run(path) and any((there / name).exists() for name in names)
    return False


def read_published(path: str) -> Pretrained:
    """Return what is read at a path, in single precision: a file, a folder, a card, or a module.

    Raises OSError if there is nothing, ValueError if it is damaged or of no kind that is known.
    """
    if path.startswith(MODULE):
        return _made(path.removeprefix(MODULE))
    from jaxdiff.pretrained.opening import load_pretrained

    return load_pretrained(path, dtype=jnp.float32)


def _made(place: str) -> Pretrained:
    """Return the model that a user's function makes."""
    made: Any = function_in(place)()
    if isinstance(made, Pretrained):
        return made
    shape = getattr(made, "shape", None)
    if not callable(made) or not isinstance(shape, tuple) or not shape:
        raise ValueError(
            f"{place} must return a jaxdiff.pretrained.Pretrained, or a denoiser D(y, level, cond) "
            f"with the shape of a sample as its attribute shape, a tuple; it returned {made!r:.80}"
        )
    given: Any = made
    D, known = as_partial(given), description(given) or {"prediction": "x0", "process": EDM()}
    name = {"name": place}
    grid: Callable[[int], Any] = karras
    return Pretrained(
        D, known.get("params", jax.tree.leaves(D)), None, shape, known["prediction"],
        known["process"], grid, getattr(made, "classes", 0), metadata=name,
    )  # fmt: skip


def read_source(metadata: dict[str, Any]) -> Pretrained:
    """Return the published model that a student was distilled from, which is known again by its
    parameters.

    Raises ValueError if its file does not say, if there is nothing at that path any more, or
    another model.
    """
    from jaxdiff.training.checkpoint import fingerprint

    try:
        path, known = str(metadata["source"]["path"]), str(metadata["source"]["fingerprint"])
    except (KeyError, TypeError) as error:
        raise ValueError("it says neither its network nor the weights it comes from") from error
    if not path.startswith(MODULE) and not is_published(path):
        raise ValueError(
            f"it is a student of the weights {path}, and there are none now: put them back there"
        )
    found = read_published(path)
    if (own := fingerprint(found.params)) != known:
        raise ValueError(f"it is a student of the weights {known} of {path}; there are {own} now")
    return found


def lasting(path: str) -> str:
    """Return a path as it is found again from any folder; a card's name stays."""
    if path.startswith(MODULE):
        file, _, name = path.removeprefix(MODULE).rpartition(":")
        return f"{MODULE}{Path(file).resolve()}:{name}"
    from jaxdiff.pretrained.opening import card_of

    return str(Path(path).resolve()) if card_of(path) is None and Path(path).exists() else path


def without_pictures(model: Any) -> bool:
    """Return whether samples are arrays that are no images, or latents that nothing decodes."""
    return model.arrays or model.bounds is None and "vae" not in model.source.parts


def to_pictures(source: Pretrained | None, samples: np.ndarray, batch: int = 8) -> np.ndarray:
    """Return samples as images in [-1, 1]: those of a run as they are, latents decoded.

    Raises ValueError for latents of a model without an autoencoder.
    """
    if source is None or source.bounds == (-1.0, 1.0):
        return samples
    if source.bounds is not None:
        low, high = source.bounds
        return (2 * samples - (low + high)) / (high - low)
    vae = _autoencoder(source)
    rows = range(0, len(samples), batch)
    parts = [np.asarray(coded("decode", vae, samples[i : i + batch])) for i in rows]
    return np.clip(np.concatenate(parts), -1.0, 1.0)


def from_pictures(source: Pretrained | None, images: np.ndarray, batch: int = 8) -> np.ndarray:
    """Return images in [-1, 1] as the model's samples are. Errors as :func:`to_pictures`."""
    if source is None or source.bounds == (-1.0, 1.0):
        return images
    if source.bounds is not None:
        low, high = source.bounds
        return ((high - low) * images + (low + high)) / np.float32(2)
    vae = _autoencoder(source)
    rows = range(0, len(images), batch)
    parts = [np.asarray(coded("encode", vae, images[i : i + batch])) for i in rows]
    return np.concatenate(parts)


def picture_shape(source: Pretrained | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of the image of a sample. Errors as :func:`to_pictures`."""
    if source is None or source.bounds is not None:
        return shape
    vae = _autoencoder(source)
    image = jax.eval_shape(vae.decode, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return image.shape[1:]


def coded(way: Literal["encode", "decode"], vae: Autoencoder, x: Any) -> jax.Array:
    """Return what an autoencoder makes of images or latents, by one program for all calls."""
    x = jnp.asarray(x, jnp.float32)
    return _coded((way, vae.network, vae.random), vae.params, vae.scale, vae.shift, x)


@functools.partial(jax.jit, static_argnums=0)
def _coded(how: tuple[str, Any, bool], params: Any, scale: Any, shift: Any, x: Any) -> jax.Array:
    way, network, random = how
    vae = Autoencoder(params, network, 0, 0, scale, shift, random)
    return vae.encode(x) if way == "encode" else vae.decode(x)


def _autoencoder(source: Pretrained) -> Any:
    if "vae" not in source.parts:
        raise ValueError(
            f"{source!r} makes latents, and has no autoencoder that images go through: take the "
            "folder of its pipeline"
        )
    return source.parts["vae"]
