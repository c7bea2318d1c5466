"""Adapters: a frozen network and a small tree of parameters that changes it.

    network(apply(base, small), x, label, cond),        apply(base, init(key, base)) = base,

trained in ``small`` alone. An adapted network is a network: its parameters are ``{"base": base,
"adapter": small}``, and every loss, sampler and tuner takes it as it is. What is frozen keeps its
bits and has no moments in the optimiser, by optax's partition of a tree.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax

from jaxdiff.adapt.described import described
from jaxdiff.adapt.patterns import Pattern, matching, paths
from jaxdiff.arrays import quick
from jaxdiff.denoisers import denoiser
from jaxdiff.typing import Array, Cond, Denoiser, Key, Network, Params


@runtime_checkable
class Adapter(Protocol):
    """A change of parameters by a small tree. An adapter is hashable, and equal to equal ones (a
    frozen dataclass), so that networks of equal adapters share compiled programs.

    Two more functions are optional. ``prepared(base)`` gives what ``init`` and ``apply`` take in
    place of the base's parameters, made once (:func:`prepare`); ``grown(network)`` the network that
    takes the changed parameters, where these are more than the base's (:func:`network_with`).
    """

    def init(self, key: Key, base: Params) -> Params:
        """Return the small tree that changes nothing."""
        ...

    def apply(self, base: Params, small: Params) -> Params:
        """Return the changed parameters, in the base's dtypes."""
        ...


@dataclasses.dataclass(frozen=True)
class Adapted:
    """A network with an adapter: ``network(params, x, label, cond, **options)``, whose ``params``
    are ``{"base": base, "adapter": small}``. The base gets no gradient.

    Attributes:
        network: that takes the changed parameters.
        adapter: what changes them.
    """

    network: Network
    adapter: Adapter

    def __call__(
        self, params: Params, x: Array, label: Array, cond: Cond = None, /, **options: Any
    ) -> Any:
        """Apply the network. Raises ValueError unless params are those of an adapted network."""
        return self.network(self.parameters(params), x, label, cond, **options)

    def parameters(self, params: Params) -> Params:
        """Return the parameters of the network inside, the adapter in them.

        Raises ValueError unless ``params`` are a base and an adapter.
        """
        if not isinstance(params, Mapping) or set(params) != {"base", "adapter"}:
            found = sorted(params) if isinstance(params, Mapping) else type(params).__name__
            raise ValueError(
                'parameters of an adapted network are {"base": ..., "adapter": ...}, as '
                f"jaxdiff.adapt.adapted makes them; got {found}"
            )
        base = jax.tree.map(jax.lax.stop_gradient, params["base"])
        return self.adapter.apply(base, params["adapter"])

    def check_cond(self, cond: Cond) -> None:
        """Raise ValueError for known conditions that the network inside does not have."""
        if look := getattr(self.network, "check_cond", None):
            look(cond)


@dataclasses.dataclass(frozen=True)
class Partly:
    """A network of which only some parameters get a gradient; the others take no time in training.

    Attributes:
        network: ``network(params, x, label, cond, **options)``.
        pattern: of the paths of the parameters that are trained.
    """

    network: Network
    pattern: Pattern

    def __call__(
        self, params: Params, x: Array, label: Array, cond: Cond = None, /, **options: Any
    ) -> Any:
        """Apply the network. Raises ValueError if nothing fits the pattern."""
        free = matching(params, self.pattern)
        held = jax.tree.map(lambda p, b: p if b else jax.lax.stop_gradient(p), params, free)
        return self.network(held, x, label, cond, **options)

    def check_cond(self, cond: Cond) -> None:
        """Raise ValueError for known conditions that the network inside does not have."""
        if look := getattr(self.network, "check_cond", None):
            look(cond)


def adapted(D: Denoiser, adapter: Adapter, key: Key | int = 0) -> jax.tree_util.Partial:
    """Return a denoiser with an adapter, which computes what it did before.

    Args:
        D: as :func:`jaxdiff.denoisers.denoiser` makes it.
        adapter: what changes its parameters.
        key: a key or a seed, of the adapter's start.

    Returns:
        The denoiser of an :class:`Adapted` network, to be trained by any method:
        ``Student.of(adapted(D, adapter), optimiser=adapter_only(optax.adam(1e-3)))``.

    Raises:
        TypeError: for a denoiser made otherwise.
        ValueError: as the adapter does for parameters that it does not fit.
    """
    made = described(D)
    base = prepare(adapter, made.pop("params"))
    key = jax.random.key(key) if isinstance(key, int) else key
    small = jax.jit(adapter.init, compiler_options=quick(key, base))(key, base)
    network = Adapted(network_with(adapter, made.pop("network")), adapter)
    return denoiser(network, {"base": base, "adapter": small}, **made)


def prepare(adapter: Adapter, base: Params) -> Params:
    """Return what an adapter's ``init`` and ``apply`` take: the base's parameters, for most.

    Args:
        adapter: with ``prepared`` or without.
        base: parameters.

    Returns:
        The base as the adapter takes it.
    """
    made = getattr(adapter, "prepared", None)
    return base if made is None else made(base)


def network_with(adapter: Adapter, network: Network) -> Network:
    """Return the network that takes the parameters which an adapter makes: the same, for most.

    Args:
        adapter: with ``grown`` or without.
        network: of the base.

    Returns:
        The network.

    Raises:
        TypeError: as the adapter does for a network that it cannot enlarge.
    """
    made = getattr(adapter, "grown", None)
    return network if made is None else made(network)


def merged(D: Denoiser) -> jax.tree_util.Partial:
    """Return the denoiser of the network inside, an adapter's change in its parameters.

    Args:
        D: of an :class:`Adapted` network.

    Returns:
        The same function to rounding, as fast as the base's, and for everything that knows its
        network.

    Raises:
        TypeError: for a denoiser made otherwise, or without an adapter.
    """
    made = described(D)
    network, params = made.pop("network"), made.pop("params")
    if not isinstance(network, Adapted):
        raise TypeError(f"the denoiser's network is a {type(network).__name__}, not an Adapted one")
    return denoiser(network.network, network.parameters(params), **made)


def moved(D: Denoiser, base: Params) -> jax.tree_util.Partial:
    """Return an adapted denoiser on another base of the same shapes, W' = W_other + dW.

    So a few-step student that is a LoRA of its teacher makes a few-step student of every model that
    was specialised from that teacher (Luo et al., LCM-LoRA, arXiv 2311.05556, section 3.2).

    Args:
        D: of an :class:`Adapted` network, a student say.
        base: parameters of the other model, as the network inside has them.

    Returns:
        The denoiser.

    Raises:
        TypeError: for a denoiser made otherwise, or without an adapter.
        ValueError: naming the parameter, for a base of other shapes.
    """
    own = getattr(D, "func", None)
    apply, params = getattr(own, "apply", None), getattr(D, "args", ({},))[0]
    if not isinstance(apply, Adapted):
        raise TypeError("only the denoiser of an Adapted network can move to another base")
    prepared = prepare(apply.adapter, base)
    shapes = [dict(zip(paths(p), map(jnp.shape, jax.tree.leaves(p)), strict=True)) for p in
              (params["base"], prepared)]  # fmt: skip
    for name in {**shapes[0], **shapes[1]}:
        if shapes[0].get(name) != shapes[1].get(name):
            raise ValueError(
                f"the base has other shapes: {name} is {shapes[1].get(name, 'absent')}, where "
                f"{shapes[0].get(name, 'nothing')} is wanted"
            )
    rest = D.args[1:]  # type: ignore[attr-defined]
    return jax.tree_util.Partial(own, {**params, "base": prepared}, *rest)


def adapter_only(optimiser: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return the optimiser for an adapted network's parameters: of the adapter alone.

    Args:
        optimiser: of the adapter's parameters.

    Returns:
        A transformation by which the base keeps its bits, and that keeps nothing about it.
    """
    return trainable(optimiser, ("adapter", "adapter/*"))


def trainable(
    optimiser: optax.GradientTransformation, pattern: Pattern
) -> optax.GradientTransformation:
    """Return the optimiser for some of the parameters, the others frozen.

    Args:
        optimiser: of those whose path fits.
        pattern: of paths as :func:`paths` gives them.

    Returns:
        A transformation by which the others keep their bits, and that keeps nothing about them;
        its ``init`` raises ValueError where nothing fits. :class:`Partly` saves their gradients.
    """

    def labels(params: Params) -> Any:
        return jax.tree.map(lambda b: "free" if b else "frozen", matching(params, pattern))

    return optax.partition({"free": optimiser, "frozen": _still()}, labels)


def check_adapter(adapter: Adapter, base: Params, small: Params) -> Params:
    """Return a small tree that is of this adapter and base.

    Args:
        adapter: whose ``init`` says what there must be.
        base: parameters.
        small: in question, as read from a file.

    Returns:
        ``small``.

    Raises:
        ValueError: naming a parameter that is absent, of another shape, or not of the base.
    """
    wanted = jax.eval_shape(adapter.init, jax.random.key(0), base)
    there = dict(zip(paths(wanted), jax.tree.leaves(wanted), strict=True))
    given = dict(zip(paths(small), jax.tree.leaves(small), strict=True))
    for name in sorted({*there, *given}):
        own, other = (jnp.shape(d[name]) if name in d else None for d in (there, given))
        if own == other:
            continue
        said = f"has shape {other}" if other is not None else "is absent"
        wanted_here = f"{own} is wanted" if own is not None else "there is no such parameter"
        raise ValueError(
            f"the adapter does not belong to this base: {name} {said}, where {wanted_here}"
        )
    return small


def _still() -> optax.GradientTransformation:
    """Updates of -0: adding 0 would change the sign of a parameter that is -0."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        return jax.tree.map(lambda u: jnp.full_like(u, -0.0), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
