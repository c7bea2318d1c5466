r"""Attention shared by the members of a group: what of the source's layers its edit uses.

    plug and play   the edit's Q and K are the source's, V its own     (Tumanyan et al. 2211.12572)
    MasaCtrl        K and V are the source's, Q its own                (Cao et al. 2304.08465, eq. 3)
    StyleID         K and V of the style, Q = g Q_content + (1 - g) Q_own, logits times 1.5
                                                                       (Chung et al. 2312.09008, eq. 5, 6)

Plug and play also injects features of residual blocks, which are not attention: that part is not
here. All are of self-attention, usually of a part of the levels
(:func:`jaxdiff.blending.within`) and of the way up of a U-Net.
"""  # noqa: E501

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import check
from jaxdiff.conditioning.attention.groups import members_of
from jaxdiff.conditioning.attention.places import SELF, Elsewhere, Where, check_where
from jaxdiff.conditioning.blending.pairs import ratio
from jaxdiff.networks.attention import Place, softmax_attention
from jaxdiff.typing import Array


class _First(NamedTuple):
    """Give every member the first one's of some of q, k and v."""

    names: tuple[str, ...]

    def __call__(self, numbers: tuple, q: Array, k: Array, v: Array, place: Place) -> Array:
        def source(name: str, x: Array) -> Array:
            if name not in self.names:
                return x
            pair = members_of(x, 2, "shared attention")
            return jnp.broadcast_to(pair[:, :1], pair.shape).reshape(x.shape)

        return softmax_attention(source("q", q), source("k", k), source("v", v), place)


def plug_and_play(where: Where = SELF) -> Partial:
    """Return the attention in which an edit has the source's maps (arXiv 2211.12572, section 4),
    for groups of two.
    """
    check_where(where)
    return Partial(Elsewhere(where, _First(("q", "k"))), ())


def masactrl(where: Where = SELF) -> Partial:
    """Return the mutual self-attention, of an edit's queries to the source's contents (arXiv
    2304.08465, section 4.1), for groups of two.
    """
    check_where(where)
    return Partial(Elsewhere(where, _First(("k", "v"))), ())


def style_injection(
    where: Where = SELF, gamma: float | Array = 0.75, temperature: float | Array = 1.5
) -> Partial:
    """Return the attention of StyleID (arXiv 2312.09008), for groups of three: content, style and
    the picture that is to have both.

    Its start is usually :func:`adain` of the two latents.

    Args:
        where: which self-attention layers; the paper has the last six of a U-Net.
        gamma: in [0, 1], of the content's queries.
        temperature: factor of the logits, positive.

    Raises ValueError for numbers outside of these ranges.
    """
    check_where(where)
    check("gamma must be in [0, 1]", lambda g: 0 <= g <= 1, gamma)
    check("temperature must be positive", lambda t: t > 0, temperature)
    return Partial(Elsewhere(where, _styled), (gamma, temperature))


def _styled(numbers: tuple[Any, ...], q: Array, k: Array, v: Array, place: Place) -> Array:
    gamma, temperature = (jnp.asarray(n, q.dtype) for n in numbers)
    queries, keys, values = (members_of(x, 3, "style_injection") for x in (q, k, v))
    query = temperature * (gamma * queries[:, 0] + (1 - gamma) * queries[:, 2])
    join = lambda x, last: jnp.stack([x[:, 0], x[:, 1], last], axis=1).reshape(-1, *x.shape[2:])  # noqa: E731
    return softmax_attention(
        join(queries, query), join(keys, keys[:, 1]), join(values, values[:, 1]), place
    )


def adain(content: Array, style: Array) -> Array:
    """Return latents (batch, *places, channels) of the content with mean and standard deviation of
    the style's, channel by channel (arXiv 1703.06868, eq. 8); a constant channel gets the mean.

    Raises ValueError for latents of different shapes, or without places.
    """
    if content.shape != style.shape or content.ndim < 3:
        shapes = f"{content.shape} and {style.shape}"
        raise ValueError(f"latents are (batch, *places, channels), of one shape, not {shapes}")
    axes = tuple(range(1, content.ndim - 1))
    mean = lambda x: x.mean(axis=axes, keepdims=True)  # noqa: E731
    std = lambda x: x.std(axis=axes, keepdims=True)  # noqa: E731
    return ratio(content - mean(content), std(content)) * std(style) + mean(style)
