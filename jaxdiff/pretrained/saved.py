"""Files that this library wrote: one file of safetensors whose header says what the model is.

The header's texts are those of :func:`jaxdiff.pretrained.saving.card`: network and its fields,
process and its numbers, prediction, what the network is conditioned on, grid. A network is one of
:mod:`jaxdiff.networks`, made of its fields; nothing of the file is run.
"""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdiff import grids, process
from jaxdiff.denoisers import denoiser
from jaxdiff.networks.adapters import from_linen
from jaxdiff.pretrained.model import Autoencoder, Pretrained, Source
from jaxdiff.pretrained.tensors import tree_of
from jaxdiff.process import Discrete, Process, discrete_label
from jaxdiff.typing import Array

FORMAT = "jaxdiff"
PLAIN = "metadata."  # before the names of a model's metadata
_DTYPES = ("dtype", "param_dtype")


def read_saved(source: Source) -> Pretrained | None:
    """Return the model of a file that ``save_safetensors`` wrote; None for other files.

    Raises ValueError for a header that lacks what a model needs, or says what there is not: a
    network or a process of another name, a label or a grid that was a function of the user's own.
    """
    said = source.tensors.metadata
    if said.get("format") != FORMAT:
        return None
    card: dict[str, Any] = {key: _value(text) for key, text in said.items()}
    try:
        network = _network(said["network"], card["fields"])
        own = _process(said["process"], card["process_numbers"])
        options = {
            "prediction": said["prediction"], "process": own, "label": _label(said["label"]),
            "sigma_data": float(card["sigma_data"]), "sigma_min": float(card["sigma_min"]),
            "compute_dtype": jnp.dtype(said["compute_dtype"]) if said["compute_dtype"] else None,
        }  # fmt: skip
        shape, classes = tuple(card["shape"]), int(card["classes"])
        grid = _grid(card["grid"], own)
    except KeyError as error:
        raise ValueError(
            f"its header does not say {error.args[0]!r}: save the model anew"
        ) from error
    params = tree_of({name: _placed(source, name) for name in source.tensors})
    metadata = {k.removeprefix(PLAIN): v for k, v in card.items() if k.startswith(PLAIN)}
    D = denoiser(from_linen(network), params, **options)
    return Pretrained(
        D, params, network, shape, said["prediction"], own, grid, classes, said["cond"], metadata
    )


def is_saved_autoencoder(source: Source) -> bool:
    """Return whether ``save_safetensors`` wrote a file of an autoencoder."""
    said = source.tensors.metadata
    return said.get("format") == FORMAT and "scale" in said and "grid" not in said


def read_saved_autoencoder(source: Source) -> Autoencoder:
    """Return the autoencoder of a file that ``save_safetensors`` wrote. Errors as
    :func:`read_saved`'s.
    """
    said = source.tensors.metadata
    card: dict[str, Any] = {key: _value(text) for key, text in said.items()}
    try:
        network = _network(said["network"], card["fields"])
        scale, shift = (np.asarray(card[k], np.float64) for k in ("scale", "shift"))
        factor, channels, random = int(card["factor"]), int(card["channels"]), bool(card["random"])
    except KeyError as error:
        raise ValueError(
            f"its header does not say {error.args[0]!r}: save the autoencoder anew"
        ) from error
    params = tree_of({name: _placed(source, name) for name in source.tensors})
    metadata = {k.removeprefix(PLAIN): v for k, v in card.items() if k.startswith(PLAIN)}
    return Autoencoder(params, network, factor, channels, scale, shift, random, metadata)


def _value(text: str) -> Any:
    """Return what a text of the header says: JSON where it is one, itself otherwise."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _placed(source: Source, name: str) -> Array:
    value = source.tensors[name]
    if source.dtype is not None and jnp.issubdtype(value.dtype, jnp.floating):
        value = value.astype(source.dtype)
    return jnp.asarray(value) if source.put is None else source.put(tuple(name.split("/")), value)


def _network(name: str, fields: Mapping[str, Any]) -> Any:
    """Return a network of the library, made of its fields."""
    from flax import linen

    from jaxdiff import networks

    kind: Any = getattr(networks, name, None)
    if not (isinstance(kind, type) and issubclass(kind, linen.Module)):
        raise ValueError(
            f"its network is a {name!r:.60}, which is none of jaxdiff.networks: for one of your own"
            " make jd.denoiser(network, params), with params of the two functions tree_of and "
            "open_tensors of jaxdiff.pretrained.tensors"
        )
    made: dict[str, Any] = {}
    for key, value in fields.items():
        if key not in kind.__dataclass_fields__:
            raise ValueError(f"a {name} has no field {key!r:.60}")
        default = kind.__dataclass_fields__[key].default
        if key in _DTYPES:
            made[key] = jnp.dtype(value)
        elif callable(default) and not isinstance(default, type):
            if value != getattr(default, "__name__", None):
                raise ValueError(
                    f"its {name} has {key} = {value}, another function than the default: make the "
                    "network with it, and its denoiser of the file's tensors "
                    "(jaxdiff.pretrained.tensors.open_tensors)"
                )
        else:
            made[key] = _tuples(value)
    return kind(**made)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _process(name: str, numbers: Mapping[str, Any]) -> Any:
    kind: Any = getattr(process, name, None)
    if not (isinstance(kind, type) and hasattr(kind, "alpha")):
        raise ValueError(f"its process is a {name!r:.60}, which is none of jaxdiff.process")
    if kind is Discrete:
        return Discrete(np.exp(2 * np.asarray(numbers["log_alphas"], np.float64)))
    return kind(**numbers)


def label_text(label: Callable[[Array], Array] | None, own: Process) -> str:
    """Return what a network is conditioned on as a text: "" for the level or time itself, "step"
    for the step of a table, "other" for a function of the user's own.
    """
    if label is None:
        return ""
    steps = own.log_alphas.shape[0] if isinstance(own, Discrete) else 0
    if not steps or label is not discrete_label(steps):
        return "other"
    return f"step of {steps}"


def _label(text: str) -> Callable[[Array], Array] | None:
    if not text:
        return None
    steps = text.removeprefix("step of ")
    if not steps.isdecimal():
        raise ValueError(
            "its network is conditioned on a function of the level that is not in the file: make "
            "its denoiser of the file's tensors (jaxdiff.pretrained.tensors.open_tensors)"
        )
    return discrete_label(int(steps))


def grid_text(grid: Any) -> str:
    """Return a grid as JSON: name and options of one of :mod:`jaxdiff.grids`, null for another."""
    function, options = getattr(grid, "func", grid), getattr(grid, "keywords", {})
    name = getattr(function, "__name__", "")
    if getattr(grids, name, None) is not function or getattr(grid, "args", ()):
        return "null"
    return json.dumps({"name": name, **options})


def _grid(said: Any, own: Process) -> Callable[[int], Any]:
    """Return the grid of a text; of a table of betas without one, that of its equal steps."""
    if said is None:
        if not isinstance(own, Discrete):
            raise ValueError(
                "its grid was a function of the user's own, which is not in the file: make its "
                "denoiser of the file's tensors (jaxdiff.pretrained.tensors.open_tensors)"
            )
        from jaxdiff.pretrained.diffusers import natural_grid

        return natural_grid(own)
    function: Any = getattr(grids, said["name"], None)
    if not callable(function):
        raise ValueError(f"its grid is {said['name']!r:.60}, which is none of jaxdiff.grids")
    return functools.partial(function, **{k: v for k, v in said.items() if k != "name"})
