"""Networks of any library as pure functions ``network(params, x, label, cond, key=None)``.

The module goes into the function, its parameters come out as a tree. The function is a frozen
dataclass, equal and of equal hash for equal modules, so that it can be a static argument of a
jitted function without recompilation. With a ``key`` the network draws its dropout masks from it
(the same key, the same masks: primal and tangent of a jvp and the two branches of a consistency
loss share them); without one it is deterministic.

    network = from_linen(UNet(num_classes=10))
    params = init(network.module, jax.random.key(0), (8, 8, 1))
    network(params, x, label, cond)

A linen module may keep state besides its parameters, batch norm's running averages:

    params, state = init_with_state(module, jax.random.key(0), (8, 8, 1))
    network(params, x, label, cond, state=state)                        # evaluation
    out, state = network(params, x, label, cond, state=state, key=key)  # training

The training loop keeps it (:class:`jaxdiff.method.WithState`, which ``init_with_state`` returns).
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxdiff.brief import short
from jaxdiff.networks.embedding import class_index
from jaxdiff.typing import Array, Cond, Key, Network, Params


def from_linen(module: nn.Module) -> "Linen":
    """Return the network of a linen module; its ``params`` are the module's "params" collection.

    The module's call is ``module(x, label, cond)``, with a keyword ``deterministic`` if it has
    dropout or batch norm (whose ``use_running_average`` it is).

    Args:
        module: a linen module.

    Returns:
        ``network(params, x, label, cond, **options)``.
    """
    return Linen(hashable(module))


@dataclass(frozen=True)
class Linen:
    """A linen module as a network. Keyword arguments besides ``key`` go to the module's call."""

    module: nn.Module

    def __call__(
        self,
        params: Params,
        x: Array,
        label: Array,
        cond: Cond = None,
        /,
        *,
        key: Key | None = None,
        state: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Apply the module.

        state: the module's collections besides "params". With a key, which is for training, the
        result is (output, next state). Raises ValueError if ``params`` or ``state`` is the
        dictionary of all variables.
        """
        if "params" in (state or {}) or (isinstance(params, dict) and "params" in params):
            raise ValueError(
                'params holds a "params" collection; pass that subtree, variables["params"], and '
                "the others as state"
            )
        if "deterministic" in inspect.signature(type(self.module).__call__).parameters:
            kwargs["deterministic"] = key is None
        rngs = {} if key is None else {"dropout": key}
        mutable = False if state is None or key is None else list(state)
        variables = {"params": params, **(state or {})}
        return self.module.apply(variables, x, label, cond, rngs=rngs, mutable=mutable, **kwargs)

    def check_cond(self, cond: Cond) -> None:
        """Raise ValueError for class indices, known ones, that a module with ``num_classes`` does
        not have, alone or as "classes" of a dictionary, and for what a module with a ``check_cond``
        of its own refuses.
        """
        if own := getattr(self.module, "check_cond", None):
            return own(cond)
        classes = getattr(self.module, "num_classes", 0)
        given: Any = cond.get("classes") if isinstance(cond, Mapping) else cond
        if classes and np.ndim(given) == 1 and jnp.issubdtype(jnp.result_type(given), jnp.integer):
            class_index(given, classes, np.shape(given)[0], null=self._null_row())

    def _null_row(self) -> bool:
        """Say whether a module with classes has a row for none."""
        # a table of published U-Nets has no row beside its num_classes
        own_row = getattr(self.module, "classes", "") != "index"
        return own_row and getattr(self.module, "null_class", True)

    @property
    def null(self) -> int | None:
        """The class index that stands for none, as a condition of None does, of the package's own
        modules that have one; None of others.
        """
        own = type(self.module).__module__.startswith("jaxdiff.")
        if not own or hasattr(self.module, "check_cond") or not self._null_row():
            return None
        return getattr(self.module, "num_classes", 0) or None


def hashable(module: nn.Module) -> nn.Module:
    """Return the module; TypeError, with what to do, for one that cannot be hashed."""
    try:
        hash(module)
    except TypeError as error:
        raise TypeError(
            f"{type(module).__name__} has a field that cannot be hashed, such as a list or a dict; "
            "use tuples"
        ) from error
    return module


def from_nnx(module: nnx.Module) -> tuple[Network, Params]:
    """Split an nnx module, called as ``module(x, label, cond)``, into a network and its parameters.

    The split happens here, once; each call merges. The module itself is not touched. Raises
    ValueError for a module with state other than parameters and random streams (batch statistics).

    Args:
        module: an nnx module.

    Returns:
        The network, and its parameters.
    """
    graph, params, streams, rest = nnx.split(module, nnx.Param, nnx.RngState, ...)
    if jax.tree.leaves(rest):
        raise ValueError(
            "the module keeps state besides its parameters, which a pure function of "
            "(params, x, label, cond) cannot update; use group or layer norm instead of batch norm"
        )
    names = tuple(path for path, _ in nnx.to_flat_state(streams))
    return NNX(graph, names), nnx.to_pure_dict(params)


@dataclass(frozen=True)
class NNX:
    """An nnx module as a network; ``streams`` are the places of its random keys and counters."""

    __repr__ = short

    graph: Any
    streams: tuple[tuple[Any, ...], ...]

    def __call__(
        self,
        params: Params,
        x: Array,
        label: Array,
        cond: Cond = None,
        /,
        *,
        key: Key | None = None,
        **kwargs: Any,
    ) -> Array:
        """Merge and apply the module."""
        module = nnx.merge(self.graph, params, self._streams(key))
        if key is None:
            module.eval()
        else:
            module.train()
        return module(x, label, cond, **kwargs)

    def _streams(self, key: Key | None) -> Any:
        """Random streams derived from ``key``; each counter starts at 0, each key is its own."""
        base = jax.random.key(0) if key is None else key
        values = {
            path: jnp.uint32(0) if path[-1] == "count" else jax.random.fold_in(base, i)
            for i, path in enumerate(self.streams)
        }
        return nnx.traversals.unflatten_mapping(values)


def from_equinox(module: Any, *, batched: bool = False) -> tuple[Network, Params]:
    """Partition an equinox module into a network and its parameters (its floating-point arrays).

    Equinox modules work on one sample: ``module(x, label, cond)`` with ``x`` of shape (*shape), a
    scalar label and one condition, and ``key=`` where it is random, as with dropout. The network
    maps it over the batch. ``batched``: the module takes whole batches itself.

    Raises ModuleNotFoundError without equinox, TypeError for a module that holds other arrays than
    floats.

    Args:
        module: called as ``module(x, label, cond)``.
        batched: the module takes whole batches itself.

    Returns:
        The network, and its parameters.
    """
    try:
        import equinox as eqx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("from_equinox needs equinox: pip install equinox") from error
    params, static = eqx.partition(module, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(static)
    if arrays := [leaf for leaf in leaves if eqx.is_array(leaf)]:
        raise TypeError(
            f"the module holds {len(arrays)} arrays that are not floating point (the first: "
            f"{arrays[0].dtype}{arrays[0].shape}): neither parameters nor hashable"
        )
    return Equinox(tuple(leaves), structure, batched), params


@dataclass(frozen=True)
class Equinox:
    """An equinox module as a network: its leaves that are no parameters, and its structure."""

    __repr__ = short

    leaves: tuple[Any, ...]
    structure: Any
    batched: bool

    def __call__(
        self,
        params: Params,
        x: Array,
        label: Array,
        cond: Cond = None,
        /,
        *,
        key: Key | None = None,
        **kwargs: Any,
    ) -> Array:
        """Combine and apply the module, sample by sample unless it takes batches."""
        import equinox as eqx

        module = eqx.combine(params, jax.tree.unflatten(self.structure, self.leaves))
        module = eqx.nn.inference_mode(module, value=key is None)
        if self.batched:
            return module(x, label, cond, **_with(module, kwargs, key))
        keys = None if key is None else jax.random.split(key, x.shape[0])

        def one(x: Array, label: Array, cond: Cond, key: Key | None) -> Array:
            return module(x, label, cond, **_with(module, kwargs, key))

        return jax.vmap(one)(x, label, cond, keys)


def _with(module: Any, kwargs: dict[str, Any], key: Key | None) -> dict[str, Any]:
    """Return the keywords of a call, with the key where the module takes one: one without anything
    random need not.
    """
    taken = inspect.signature(type(module).__call__).parameters
    known = "key" in taken or any(p.kind is p.VAR_KEYWORD for p in taken.values())
    return kwargs if key is None or not known else {**kwargs, "key": key}
