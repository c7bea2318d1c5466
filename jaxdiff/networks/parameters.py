"""Parameters of networks: drawn, counted, and put into those of a larger network."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from jax.core import Tracer

from jaxdiff.arrays import QUICK
from jaxdiff.method import WithState
from jaxdiff.networks.adapters import hashable
from jaxdiff.typing import Cond, Key, Params


def _draw(module: nn.Module, key: Key, shape: tuple[int, ...], labels: int, cond: Cond) -> Any:
    label = jnp.zeros((1,) if labels == 1 else (1, labels), jnp.float32)
    return module.init({"params": key}, jnp.zeros((1, *shape), jnp.float32), label, cond)


_draw_at_once = jax.jit(
    _draw, static_argnames=("module", "shape", "labels"), compiler_options=QUICK
)


def init(
    module: nn.Module, key: Key, shape: tuple[int, ...], *, cond: Cond = None, labels: int = 1
) -> Params:
    """Draw a linen module's parameters, in one compiled call (or as part of the caller's).

    Args:
        module: a linen module.
        key: typed key.
        shape: of one sample, without the batch.
        cond: an example of the condition, batch 1; not needed for the networks of this package,
            whose parameters do not depend on it.
        labels: numbers per sample that give the level or time (2 for a map between two times; the
            label then has shape (batch, 2)).

    Returns:
        The collection "params".

    Raises ValueError for a module with state besides its parameters (batch statistics), TypeError
    for one that cannot be hashed.
    """
    params, state = init_with_state(module, key, shape, cond=cond, labels=labels)
    if state:
        raise ValueError(
            f"the module keeps {sorted(state)} besides its parameters: init_with_state gives both, "
            "and the network takes it as state=; or use group or layer norm instead of batch norm"
        )
    return params


def init_with_state(
    module: nn.Module, key: Key, shape: tuple[int, ...], *, cond: Cond = None, labels: int = 1
) -> WithState:
    """Draw a linen module's parameters and its state besides them, as :func:`init` does.

    Returns WithState(params, state), a tuple: the "params" collection, and all others by name,
    {"batch_stats": ...}; {} for a module without state. Raises TypeError as :func:`init`.

    Args:
        module: a linen module.
        key: typed key.
        shape: of one sample, without the batch.
        cond: as for :func:`init`.
        labels: as for :func:`init`.

    Returns:
        The parameters and the state, a pair.
    """
    # compiler options are for the outermost jit only
    draw = _draw if isinstance(key, Tracer) else _draw_at_once
    variables = dict(draw(hashable(module), key, tuple(shape), labels, cond))
    return WithState(variables.pop("params"), variables)


def graft(params: Params, onto: Params) -> Params:
    """Return ``onto`` with a smaller network's parameters in it, so that it computes the same.

    For a student that has more labels or heads than its teacher: a leaf that both have is copied;
    where ``onto`` is longer along the first axis (the weights of the further labels), the rest is
    zero; what only ``onto`` has stays as it is. Both are trees of dictionaries.

    Args:
        params: of the smaller network.
        onto: of the larger network.

    Returns:
        Parameters of the larger network.

    Raises:
        ValueError: naming a leaf that does not fit, or that only ``params`` has.
    """
    own: dict[str, Any] = traverse_util.flatten_dict(params, sep="/")
    grown: dict[str, Any] = traverse_util.flatten_dict(onto, sep="/")
    if missing := sorted(set(own) - set(grown)):
        raise ValueError(f"the larger network has no {missing[0]}")
    for name, leaf in own.items():
        there = grown[name].shape
        if leaf.ndim != len(there) or leaf.shape[1:] != there[1:] or leaf.shape > there:
            raise ValueError(f"{name} has shape {leaf.shape}; it does not go into {there}")
        more = [(0, n - m) for m, n in zip(leaf.shape, there, strict=True)]
        grown[name] = jnp.pad(leaf, more)
    return traverse_util.unflatten_dict(grown, sep="/")


def count_parameters(params: Params) -> int:
    """Return the number of parameters in a tree of arrays, or of their shapes.

    Args:
        params: a tree of arrays, or of their shapes.

    Returns:
        The number of scalars.
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
