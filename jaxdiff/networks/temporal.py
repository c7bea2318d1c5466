"""Temporal Fourier layers: a network that decodes M points of a trajectory at once.

The network of one point runs on M copies of every sample, each with its own label, and after each
of its blocks the copies are mixed along the trajectory: with u_j, j = 1 .. M, the block's outputs
and U_k their discrete Fourier coefficients,

    u_j <- u_j + silu( 1/M sum_{k < modes} c_k Re[ e^(2 pi i jk/M) (A_k + i B_k) U_k ] ),

c_k = 2, but 1 for k = 0 and k = M/2. A and B, of shape (modes, channels, channels), are real
numbers and start at zero: at first the network is the one it is made of, at each label. No complex
number is computed with.

Source: Zheng et al. 2211.13449, section 3.2 ("temporal convolution block"; there a layer starts
at random).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.networks import dit, unet
from jaxdiff.networks.adapters import Linen
from jaxdiff.networks.attention import AttentionFn
from jaxdiff.networks.mlp import Residual
from jaxdiff.typing import Array, Cond, Key, Params

BLOCKS: tuple[type[nn.Module], ...] = (unet.Block, dit.Block, Residual)


def waves(count: int, modes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return cos and sin of 2 pi jk/M, (modes, M). ValueError for more modes than M/2 + 1."""
    if not 1 <= modes <= count // 2 + 1:
        raise ValueError(f"{count} points have 1 to {count // 2 + 1} Fourier modes, not {modes}")
    angle = 2 * math.pi * np.outer(np.arange(modes), np.arange(count)) / count
    return np.cos(angle), np.sin(angle)


def fourier_layer(weights: Params, u: Array) -> Array:
    """Return the layer of the module's text on u (batch, M, ..., channels).

    weights: {"real": A, "imaginary": B}, (modes, channels, channels).
    """
    A, B = weights["real"].astype(u.dtype), weights["imaginary"].astype(u.dtype)
    count, modes = u.shape[1], A.shape[0]
    cos, sin = (jnp.asarray(w, u.dtype) for w in waves(count, modes))
    once = [1.0 if k in (0, count / 2) else 2.0 for k in range(modes)]
    share = jnp.asarray(once, u.dtype).reshape(-1, 1) / count
    real, imaginary = jnp.einsum("km,bm...->bk...", cos, u), -jnp.einsum("km,bm...->bk...", sin, u)
    mixed = _by_mode(A, real) - _by_mode(B, imaginary), _by_mode(A, imaginary) + _by_mode(B, real)
    back = [
        jnp.einsum("km,bk...->bm...", share * w, m) for w, m in zip((cos, -sin), mixed, strict=True)
    ]
    return u + nn.silu(back[0] + back[1])


def _by_mode(weight: Array, u: Array) -> Array:
    return jnp.einsum("kcd,bk...c->bk...d", weight, u)


@dataclass(frozen=True)
class Temporal:
    """A network of trajectories: ``network(params, x, label, cond)`` with x (batch, M, *shape) and
    label (batch, 1 + M): the level of the states given, then those of the points to decode.

    module: a linen network of two labels, called once with batch * M samples.
    blocks: modules after whose calls the points are mixed.
    """

    module: nn.Module
    blocks: tuple[type[nn.Module], ...] = BLOCKS

    def __call__(
        self,
        params: Params,
        x: Array,
        label: Array,
        cond: Cond = None,
        /,
        *,
        key: Key | None = None,
        attention: AttentionFn | None = None,
    ) -> Array:
        """Decode all points; ``params`` are of :func:`temporal`. Returns the shape of ``x``.

        attention: of a network that has it; it sees all points of a sample one after the other,
        as batch * M samples.
        """
        batch, count = x.shape[:2]
        if label.shape != (batch, 1 + count):
            raise ValueError(
                f"for x {x.shape} labels must be ({batch}, {1 + count}), a level and one for each "
                f"point; got {label.shape}"
            )
        pairs = jnp.stack([jnp.repeat(label[:, 0], count), label[:, 1:].reshape(-1)], axis=1)
        cond = jax.tree.map(lambda c: jnp.repeat(c, count, axis=0), cond)

        def mix(name: str, h: Array) -> Array:
            mixed = fourier_layer(params["temporal"][name], h.reshape(batch, count, *h.shape[1:]))
            return mixed.reshape(h.shape)

        flat = x.reshape(batch * count, *x.shape[2:])
        options = {} if attention is None else {"attention": attention}
        out = _apply(self, params["network"], mix, flat, pairs, cond, key=key, **options)
        return out.reshape(x.shape)


def _apply(
    network: Temporal, params: Params, mix: Callable[..., Array], *inputs: Any, **options: Any
) -> Array:
    """Run the module, with ``mix(name, output)`` in place of each block's output."""

    def after(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        out = call(*args, **kwargs)
        if context.method_name != "__call__" or not isinstance(context.module, network.blocks):
            return out
        return mix("/".join(context.module.path), out)

    with nn.intercept_methods(after):
        return cast(Array, Linen(network.module)(params, *inputs, **options))


def temporal(
    network: Any,
    params: Params,
    shape: tuple[int, ...],
    *,
    modes: int = 2,
    blocks: tuple[type[nn.Module], ...] = BLOCKS,
) -> tuple[Temporal, Params]:
    """Make the network of trajectories of a network of two labels, which it starts as.

    Args:
        network: made by :func:`jaxdiff.networks.from_linen`. params: its own.
        shape: of one sample.
        modes: number of Fourier modes, at most M/2 + 1.
        blocks: modules of the network after which to mix; those of MLP, UNet and DiT by default.

    Returns the network and {"network": params, "temporal": the layers'}. Raises TypeError for
    another network, ValueError for one without such blocks.
    """
    if not isinstance(network, Linen):
        raise TypeError(f"temporal layers need a network of from_linen; got {network!r}")
    made, widths = Temporal(network.module, blocks), {}

    def note(name: str, h: Array) -> Array:
        widths[name] = h.shape[-1]
        return h

    x, label = jnp.zeros((1, *shape), jnp.float32), jnp.zeros((1, 2), jnp.float32)
    jax.eval_shape(lambda p: _apply(made, p, note, x, label, None), params)
    if not widths:
        names = ", ".join(f"{b.__module__.split('.')[-1]}.{b.__name__}" for b in blocks)
        raise ValueError(f"{type(network.module).__name__} has no {names} to mix after")
    layers = {
        name: {
            part: jnp.zeros((modes, width, width), jnp.float32) for part in ("real", "imaginary")
        }
        for name, width in widths.items()
    }
    return made, {"network": params, "temporal": layers}
