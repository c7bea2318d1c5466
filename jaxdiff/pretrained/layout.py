"""From published names and shapes to a network's own parameters.

A layout is a list of rules: a pattern of published module names (a regular expression that matches
the whole name, or that of one tensor) and the path of the module here. Of a module "weight" is its
kernel, scale or embedding, whichever it has, "bias" its bias, and running averages its batch
statistics. Kernels are turned round:

    linear        (out, in)                 -> (in, out)
    convolution   (out, in, height, width)  -> (height, width, in, out);  1-D likewise

A convolution of size 1 may be a linear layer here and the other way round. Every tensor finds its
place, every parameter its tensor, or an error names those that did not.
"""

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.typing import Array, Params

LEAVES = {
    "weight": ("kernel", "scale", "embedding"), "bias": ("bias",),
    "running_mean": ("mean",), "running_var": ("var",),
}  # fmt: skip
_pattern = functools.cache(re.compile)  # re's own cache is smaller than a family's rules
Change = Callable[[str, np.ndarray], np.ndarray]


def keep(name: str, value: np.ndarray) -> np.ndarray:
    """Return the tensor as it is."""
    return value


class Layout(NamedTuple):
    r"""Names and layouts of a family's tensors.

    rules: patterns of published names and paths here, "down_\1/conv"; the first that matches is
    taken, and a path ends in the parameter where the pattern is that of a tensor. unused: patterns
    of tensors that are constants, or of parts that are not read. change: what is done to a tensor,
    by its published name, before its kernel is turned round (the order of q, k and v).
    """

    rules: tuple[tuple[str, str], ...]
    unused: tuple[str, ...] = ()
    change: Change = keep

    def path(self, name: str) -> tuple[str, str] | None:
        """Return the path here of a tensor: of a module and the published parameter's name, or of
        a parameter and "". None if it is not used. KeyError if no rule matches.
        """
        if any(_pattern(pattern).fullmatch(name) for pattern in self.unused):
            return None
        module, _, leaf = name.rpartition(".")
        for pattern, path in self.rules:
            if match := _pattern(pattern).fullmatch(name):
                return match.expand(path), ""
            if leaf in LEAVES and (match := _pattern(pattern).fullmatch(module)):
                return match.expand(path), leaf
        raise KeyError(name)


def fill(
    shapes: Params,
    tensors: Mapping[str, Any],
    layout: Layout,
    *,
    dtype: Any = None,
    put: Callable[[tuple[str, ...], np.ndarray], Array] | None = None,
) -> Params:
    """Return a network's parameters, of a file's tensors.

    Args:
        shapes: what ``jax.eval_shape`` says of the network's variables: a tree of dictionaries,
            {"params": ..., "batch_stats": ...} or the parameters alone.
        tensors: by published name, read one by one.
        layout: where they belong.
        dtype: that of the floating parameters; by default each keeps that of the file.
        put: ``put(path, array)`` places a parameter on a device or a mesh; ``jnp.asarray`` if None.

    Raises:
        ValueError: naming tensors without a place, parameters without a tensor, and shapes that do
            not fit.
    """
    wanted = _flat(shapes)
    places, strange = _places(wanted, tensors, layout)
    missing = [path for path in wanted if path not in places]
    if strange or missing:
        raise ValueError(
            f"{getattr(tensors, 'source', '') or 'the tensors'}: "
            + "; ".join(
                f"{what} ({len(names)}): {_some(names)}"
                for what, names in (
                    ("tensors without a place in the network", strange),
                    ("parameters without a tensor", ["/".join(p) for p in missing]),
                )
                if names
            )
        )
    made: dict[str, Any] = {}
    for path in wanted:
        name = places[path]
        tensor = layout.change(name, np.asarray(tensors[name]))
        value = _turned(name, tensor, path, wanted[path].shape)
        if dtype is not None and jnp.issubdtype(value.dtype, jnp.floating):
            value = value.astype(dtype)
        node = made
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = jnp.asarray(value) if put is None else put(path, value)
    return made


def check_layout(shapes: Params, published: Mapping[str, Iterable[int]], layout: Layout) -> None:
    """Check, without any numbers, that a layout gives every published tensor its place.

    published: shape of every tensor. Raises ValueError as :func:`fill` does.
    """
    zeros = {name: np.broadcast_to(np.zeros((), np.int8), [*s]) for name, s in published.items()}
    fill(shapes, zeros, layout, put=lambda path, value: jnp.zeros(()))


def _places(
    wanted: Mapping[tuple[str, ...], Any], tensors: Mapping[str, Any], layout: Layout
) -> tuple[dict[tuple[str, ...], str], list[str]]:
    """Return the tensor of each parameter, and the tensors that have no place."""
    places: dict[tuple[str, ...], str] = {}
    strange: list[str] = []
    for name in tensors:
        try:
            found = layout.path(name)
        except KeyError:
            strange.append(name)
            continue
        if found is None:
            continue
        path = _leaf(wanted, *found)
        if path is None or path in places:
            strange.append(name)
        else:
            places[path] = name
    return places, strange


def _leaf(wanted: Mapping[tuple[str, ...], Any], module: str, leaf: str) -> tuple[str, ...] | None:
    base = tuple(module.split("/"))
    ends = [()] if not leaf else [(end,) for end in LEAVES[leaf]]
    for root in ((), ("params",), ("batch_stats",)):
        for end in ends:
            if (*root, *base, *end) in wanted:
                return (*root, *base, *end)
    return None


def _turned(name: str, value: np.ndarray, path: tuple[str, ...], shape: Any) -> np.ndarray:
    """Return a tensor as a parameter of this shape, its kernel turned round."""
    given = value.shape
    if path[-1] == "kernel" and value.ndim >= 2:
        if len(shape) == 2 and set(given[2:]) <= {1}:
            value = value.reshape(given[:2])
        elif value.ndim == 2:
            value = value.reshape(*given, *[1] * (len(shape) - 2))
        value = value.transpose(*range(2, value.ndim), 1, 0)
    if value.shape != tuple(shape):
        raise ValueError(
            f"{name} has shape {list(given)}, which does not fit {'/'.join(path)}, {list(shape)}"
        )
    return value


def _flat(tree: Params) -> dict[tuple[str, ...], Any]:
    flat, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {tuple(key.key for key in path): leaf for path, leaf in flat}


def _some(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
