"""A critic of pairs of states, for adversarial denoising (Xiao et al. 2112.07804, section 4).

It is conditioned on two states of one diffusion side by side, each scaled to unit variance, and the
level of the earlier one. This one is a perceptron of the flattened states: for vectors and small
images.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.networks.adapters import from_linen
from jaxdiff.networks.mlp import MLP
from jaxdiff.networks.parameters import init
from jaxdiff.typing import Array, Cond, Key, Params


def pair_critic(
    shape: tuple[int, ...], *, sigma_data: float = 0.5, num_classes: int = 0, **options: Any
) -> tuple[Callable[..., Array], Callable[[Key], Params]]:
    """Return ``logits(params, y_s, (y_t, t, s, cond)) -> (batch,)`` and ``init(key)``, the first
    fields of a :class:`jaxdiff.distill.parts.critic.Critic`.

    Args:
        shape: of one sample.
        sigma_data: standard deviation of the data.
        num_classes: of a critic that sees the class, too; 0 for none.
        options: of :class:`jaxdiff.networks.mlp.MLP`.

    Returns:
        ``logits`` and ``init``.
    """
    module = MLP(num_classes=num_classes, **{"label_scale": 16.0, **options})
    network, size = from_linen(module), 2 * math.prod(shape)

    def unit(y: Array, s: Array) -> Array:
        scale = jax.lax.rsqrt(s**2 + sigma_data**2).astype(y.dtype)
        return y.reshape(len(y), -1) * scale[:, None]

    def logits(params: Params, y_s: Array, pair: tuple[Array, Array, Array, Cond]) -> Array:
        y_t, t, s, cond = pair
        x = jnp.concatenate([unit(y_s, s), unit(y_t, t)], axis=1)
        out = network(params["network"], x, jnp.log(t) / 4, cond if num_classes else None)
        return out @ params["mix"]

    def draw(key: Key) -> Params:
        key_network, key_mix = jax.random.split(key)
        mix = jax.random.normal(key_mix, (size,), jnp.float32) / size**0.5
        return {"network": init(module, key_network, (size,)), "mix": mix}

    return logits, draw
