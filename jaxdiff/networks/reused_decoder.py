"""A small U-Net that ends in a larger one's decoder, and the projector between them.

    F = tail(P_h(f_s[h]), P_0(f_s[0]), P_1(f_s[1]), ...)

tail: the last stages of the larger network's way up with its last convolution, which read the map h
of the stage before them and the first maps of the way down. P: a projector for each of these,
1 x 1, 3 x 3 and 1 x 1 convolutions with norms that the label modulates.

The tail's parameters are in the tree, as "teacher", and no gradient reaches them.

Source: after Chen et al., arXiv 2203.14001 (SimKD), whose networks are classifiers.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.networks.conv import Conv
from jaxdiff.networks.embedding import Embedding, wide
from jaxdiff.networks.unet import Norm, UNet
from jaxdiff.networks.unet_stages import Stages, count_stages, place, width
from jaxdiff.typing import Array, Cond, Outputs


class Projector(nn.Module):
    """Map (batch, *axes, any) to ``features`` channels through ``within``, given the label; of
    vectors (batch, any) all three layers are linear maps.

    label_scale: of the label's embedding (:class:`jaxdiff.networks.embedding.Embedding`).
    """

    features: int
    within: int
    label_scale: float = 100.0
    groups: int = 8
    embedding: int = 32

    @nn.compact
    def __call__(self, f: Array, label: Array) -> Array:
        """Project ``f``."""
        kinds: dict[str, Any] = {"dtype": f.dtype, "param_dtype": wide(f.dtype)}
        e = Embedding(
            self.embedding, 0, self.label_scale, param_dtype=wide(f.dtype), name="embedding"
        )(label)
        modulation = nn.Dense(4 * self.within, **kinds, name="modulation")(nn.silu(e))
        axes = tuple(range(1, f.ndim - 1))
        a, b, c, d = jnp.split(jnp.expand_dims(modulation, axes), 4, axis=-1)
        h = nn.Dense(self.within, **kinds, name="first")(f)
        h = nn.silu(self._norm(h, "norm1") * (1 + a) + b)
        if axes:
            h = Conv(self.within, (3,) * len(axes), **kinds, name="middle")(h)
        else:
            h = nn.Dense(self.within, **kinds, name="middle")(h)
        h = nn.silu(self._norm(h, "norm2") * (1 + c) + d)
        return nn.Dense(self.features, **kinds, name="last")(h)

    def _norm(self, h: Array, name: str) -> Array:
        return Norm(self.groups, wide(h.dtype), name=name)(h)


def replaced(small: UNet, large: UNet, reused: int) -> tuple[tuple[int, int], ...]:
    """Return pairs (stage of the small network, stage of the large one) of the maps that the large
    one's last ``reused`` stages read: that of the stage before them, and those of the way down.

    A stage's counterpart is on the same level and way, of the same number or else the last.

    Raises ValueError for networks of different numbers of levels, and for more stages than there
    are on the way up.
    """
    up = len(large.multipliers) * large.blocks
    if len(small.multipliers) != len(large.multipliers):
        raise ValueError(
            f"the student has {len(small.multipliers)} levels, the teacher "
            f"{len(large.multipliers)}: their maps have other sizes"
        )
    if not 0 <= reused <= up:
        raise ValueError(f"0 to {up} stages of the teacher's way up are reused; got {reused}")
    stages = (count_stages(large) - reused - 1, *range(reused))
    return tuple((counterpart(small, large, t), t) for t in stages)


def counterpart(small: UNet, large: UNet, stage: int) -> int:
    """Return the small network's stage for one of the large network's."""
    wanted, last = place(large, stage), small.blocks - 1
    for n in range(count_stages(small)):
        at = place(small, n)
        same = (at.level, at.way) == (wanted.level, wanted.way)
        if same and (at.way == "middle" or at.block == min(wanted.block, last)):
            return n
    raise ValueError(f"the student has no stage for stage {stage} of the teacher")


class ReusedDecoder(nn.Module):
    """The network of the module's text.

    small, large: the student's and the teacher's. reused: stages of the teacher's way up. factor: a
    projector has a factor-th of the teacher's channels within.
    """

    small: UNet
    large: UNet
    reused: int = 1
    factor: int = 2

    @nn.compact
    def __call__(
        self, x: Array, label: Array, cond: Cond = None, *, deterministic: bool = True,
        full: bool = False,
    ) -> Array | Outputs:  # fmt: skip
        """Map ``x`` to an output of its shape; with ``full``, Outputs whose features are the
        projected maps, in the order of :func:`replaced`.
        """
        small, large = (u.clone(parent=None, name=None) for u in (self.small, self.large))
        pairs, stages = replaced(small, large, self.reused), count_stages(large)
        head = Stages(small, 0, max(s for s, _ in pairs) + 1, name="student")
        maps = head(x, label, cond, deterministic=deterministic).maps
        projected = tuple(
            Projector(
                width(large, t), max(1, width(large, t) // self.factor), large.label_scale,
                name=f"projector_{t}",
            )(maps[s], label)
            for s, t in pairs
        )  # fmt: skip
        tail = Stages(large, stages - self.reused, stages, x.shape[-1], parent=None)
        held = self.param("teacher", lambda key: tail.init(key, projected, label, cond)["params"])
        fixed = jax.tree.map(jax.lax.stop_gradient, held)
        out: Any = tail.apply({"params": fixed}, projected, label, cond)
        value = out.value.astype(x.dtype)
        return Outputs(value, None, projected) if full else value
