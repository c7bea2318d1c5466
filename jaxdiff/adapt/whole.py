"""Chosen parameters trained whole, and several adapters as one.

    W' = W + D,   D zero at the start, for every parameter that fits a pattern,

which is fine-tuning of a part of the network, kept apart from the base: a full DreamBooth has "*",
Custom Diffusion the keys and values of cross-attention (Kumari et al., 2212.04488, section 3.2).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.adapt.frame import Adapter, network_with
from jaxdiff.adapt.patterns import Pattern, matching, paths
from jaxdiff.typing import Array, Key, Network, Params

KEYS_AND_VALUES = ("*cross/k/kernel", "*cross/v/kernel")


@dataclasses.dataclass(frozen=True)
class Whole:
    """Differences of parameters.

    Its small tree has, by the path of each parameter, its difference, in float32 at least.

    Attributes:
        layers: pattern of paths (:func:`jaxdiff.adapt.patterns.paths`).
    """

    layers: Pattern = "*"

    def init(self, key: Key, base: Params) -> dict[str, Array]:
        """Return differences of zero. Raises ValueError for layers that there are not."""
        del key
        free = jax.tree.leaves(matching(base, self.layers))
        named = zip(paths(base), jax.tree.leaves(base), free, strict=True)
        wide = lambda w: np.promote_types(np.float32, w.dtype)  # noqa: E731
        return {name: jnp.zeros(w.shape, wide(w)) for name, w, fit in named if fit}

    def apply(self, base: Params, small: Params) -> Params:
        """Return the changed parameters, in the base's dtypes."""
        named = dict(zip(paths(base), jax.tree.leaves(base), strict=True))
        for name, difference in small.items():
            shape = named[name].shape if name in named else None
            if shape != difference.shape:
                raise ValueError(
                    f"the adapter does not belong to this base: {name} has shape "
                    f"{difference.shape} there, and {shape or 'is absent'} in the base"
                )
            w = named[name]
            named[name] = (w.astype(difference.dtype) + difference).astype(w.dtype)
        return jax.tree.unflatten(jax.tree.structure(base), list(named.values()))


@dataclasses.dataclass(frozen=True)
class Together:
    """Adapters trained as one, each applied to what the one before made.

    Its small tree has theirs by number, "0", "1", ...

    Attributes:
        adapters: in order, none of which needs a prepared base.

    Raises ValueError for one that does, and for none.
    """

    adapters: tuple[Adapter, ...]

    def __post_init__(self) -> None:
        """Check the adapters."""
        if not self.adapters:
            raise ValueError("there are no adapters to put together")
        for adapter in self.adapters:
            if hasattr(adapter, "prepared"):
                raise ValueError(f"{type(adapter).__name__} needs a prepared base: use it alone")

    def init(self, key: Key, base: Params) -> dict[str, Any]:
        """Return the small trees of all, each of which changes nothing."""
        made = {}
        for i, adapter in enumerate(self.adapters):
            made[str(i)] = adapter.init(jax.random.fold_in(key, i), base)
            base = adapter.apply(base, made[str(i)])
        return made

    def apply(self, base: Params, small: Params) -> Params:
        """Return the parameters with all changes."""
        for i, adapter in enumerate(self.adapters):
            base = adapter.apply(base, small[str(i)])
        return base

    def grown(self, network: Network) -> Network:
        """Return the network that takes these parameters."""
        for adapter in self.adapters:
            network = network_with(adapter, network)
        return network
