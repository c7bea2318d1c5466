"""Critics' heads: logits of the features of another network.

Every map of features goes through two layers of its own, convolutions where it is an image and
dense ones where it is a vector,

    logits_k = W2 silu(norm(W1 f_k)),

and gives a logit per position; all are returned side by side (Yin et al. 2405.14867, section 4.2,
have one at the bottleneck; Sauer et al. 2403.12015, section 3, one at every block).
"""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.networks.embedding import class_index, class_row
from jaxdiff.typing import Array, Cond, Key, Network, Params


class FeatureHead(nn.Module):
    """The head of the module's text.

    width: hidden channels. which: numbers of the maps that are looked at; None for all, -1 the last
    one. num_classes: a class adds the projection of the hidden channels on its row, h . row /
    sqrt(width) with rows N(0, 1) at the start, to every logit: as large as the logit itself.
    """

    width: int = 64
    which: tuple[int, ...] | None = None
    num_classes: int = 0

    @nn.compact
    def __call__(self, features: Sequence[Array], cond: Cond = None) -> Array:
        """Map ``features`` (batch, ..., channels) each to logits (batch, positions in all)."""
        chosen = list(features) if self.which is None else [features[i] for i in self.which]
        found = []
        for f in chosen:
            layer = nn.Conv(self.width, (3, 3)) if f.ndim == 4 else nn.Dense(self.width)
            h = layer(f)
            h = nn.silu(nn.LayerNorm()(h))
            logits = nn.Dense(1)(h)[..., 0]
            index = class_index(cond, self.num_classes, f.shape[0])
            if index is not None:
                row = class_row(index, self.num_classes, self.width)
                row = row.reshape(len(index), *(1,) * (h.ndim - 2), self.width)
                logits = logits + jnp.sum(h * row, axis=-1) / self.width**0.5
            found.append(logits.reshape(f.shape[0], -1))
        return jnp.concatenate(found, axis=1)


def feature_head(
    network: Network,
    params: Params,
    shape: tuple[int, ...],
    *,
    width: int = 64,
    which: tuple[int, ...] | None = None,
    num_classes: int = 0,
) -> tuple[Callable[..., Array], Callable[[Key], Params]]:
    """Return a head on the features of a network: ``logits(params, features, cond)`` and
    ``init(key)``, the two fields of a :class:`jaxdiff.distill.parts.critic.Head`.

    Args:
        network: it answers ``full=True`` with its features.
        params: of the network.
        shape: of one sample.
        width: of the head's hidden layer.
        which: indices of the maps of features that it sees; None for all.
        num_classes: of a head that sees the class, too; 0 for none.

    Returns:
        ``logits(params, features, cond)`` and ``init(key)``.
    """
    module = FeatureHead(width, which, num_classes)
    cond = jnp.zeros((1,), jnp.int32) if num_classes else None

    def features(params: Params) -> Any:
        x = jnp.zeros((1, *shape), jnp.float32)
        out: Any = network(params, x, jnp.zeros((1,), jnp.float32), cond, full=True)
        return out.features

    like = jax.eval_shape(features, params)
    if which is not None and not all(-len(like) <= i < len(like) for i in which):
        raise ValueError(f"the network has {len(like)} maps of features, not all of {which}")

    def logits(params: Params, features: Sequence[Array], cond: Cond = None) -> Array:
        return module.apply({"params": params}, features, cond if num_classes else None)  # type: ignore[return-value]

    def init(key: Key) -> Params:
        zeros = [jnp.zeros(f.shape, f.dtype) for f in like]
        return module.init(key, zeros, None)["params"]

    return logits, init
