"""Low-rank adapters, LoRA and DoRA.

    LoRA    W' = W + (alpha / rank) A B                      (Hu et al., 2106.09685, eq. 3)
    DoRA    W' = m V / |V|,    V = W + (alpha / rank) A B    (Liu et al., 2402.09353, eq. 5)

for every kernel W (..., n, out) that is chosen: A (n, rank) normal of variance 1/n and B (rank,
out) zero at the start, |V| the norms of what goes into each output, m = |W| at the start. n counts
the pixels of a convolution, too.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.adapt.frame import Adapter, prepare
from jaxdiff.adapt.patterns import KERNELS, Pattern, chosen_kernels, fits, paths
from jaxdiff.distill.parts.lora import factors, product
from jaxdiff.typing import Array, Key, Params


@dataclasses.dataclass(frozen=True)
class LowRank:
    """LoRA or DoRA of chosen layers.

    Its small tree has, by the path of each kernel, "A", "B" and, of DoRA, "magnitude" (out,), in
    float32 at least.

    Attributes:
        rank: of each layer's change.
        layers: pattern of the paths of kernels (:func:`jaxdiff.adapt.patterns.paths`), all of them
            by default; Hu et al. adapt an attention's queries and values, and diffusers all four of
            its layers, "*attention*".
        alpha: None for the rank, of which the scale is 1.
        dora: whether each output's norm is a parameter of its own. Its gradient leaves out |V|
            (section 4.3).
        ranks, alphas: other ranks and alphas of some layers, pairs of a pattern and a number, of
            which the first that fits counts.

    Raises:
        ValueError: from ``init``, for a rank below 1, an alpha of 0, layers that there are not, and
            layers without two axes.
    """

    rank: int = 4
    layers: Pattern = KERNELS
    alpha: float | None = None
    dora: bool = False
    ranks: tuple[tuple[Pattern, int], ...] = ()
    alphas: tuple[tuple[Pattern, float], ...] = ()

    def init(self, key: Key, base: Params) -> dict[str, dict[str, Array]]:
        """Return factors whose products are zero, and the norms of the kernels."""
        for alpha in (self.alpha, *(a for _, a in self.alphas)):
            if alpha is not None and not (math.isfinite(alpha) and alpha):
                raise ValueError(f"alpha, of a scale of alpha / rank, is finite and not 0: {alpha}")
        chosen = chosen_kernels(base, self.layers)
        made = {}
        for (name, w), own in zip(chosen.items(), jax.random.split(key, len(chosen)), strict=True):
            dtype = _wide(w)
            made[name] = factors(w, self.rank_of(name), own, dtype)
            if self.dora:
                made[name]["magnitude"] = norms(jnp.asarray(w, dtype))
        return made

    def apply(self, base: Params, small: Params) -> Params:
        """Return the changed parameters, in the base's dtypes."""
        named = dict(zip(paths(base), jax.tree.leaves(base), strict=True))
        if absent := sorted(set(small) - set(named)):
            raise ValueError(
                f"the adapter does not belong to this base, which has no {absent[0]}; "
                f"there are {', '.join(list(named)[:3])}, ..."
            )
        for name, low in small.items():
            w = named[name]
            _check_factors(name, w, low)
            v = jnp.asarray(w, low["B"].dtype) + product(low, self.scale_of(name, low), w.shape)
            if "magnitude" in low:
                size = jax.lax.stop_gradient(norms(v))
                # an output that is 0 has no direction yet: it is left as it is
                ratio = jnp.where(size > 0, low["magnitude"] / jnp.where(size > 0, size, 1), 1)
                v = v * ratio.reshape(*(1,) * (v.ndim - 1), -1)
            named[name] = v.astype(w.dtype)
        return jax.tree.unflatten(jax.tree.structure(base), list(named.values()))

    def rank_of(self, name: str) -> int:
        """Return the rank of the layer of this path. Raises ValueError for one below 1."""
        rank = next((r for pattern, r in self.ranks if fits(name, pattern)), self.rank)
        if rank != int(rank) or rank < 1:
            raise ValueError(f"the rank of an adapter is a whole number from 1 on, not {rank}")
        return int(rank)

    def scale_of(self, name: str, low: dict[str, Array]) -> float:
        """Return alpha / rank of the layer of this path."""
        rank = low["A"].shape[1]
        alpha = next((a for pattern, a in self.alphas if fits(name, pattern)), self.alpha)
        return 1.0 if alpha is None else float(alpha) / rank


def norms(w: Array) -> Array:
    """Return the norm of what goes into each output, (out,), of a kernel (..., out).

    Args:
        w: the kernel.

    Returns:
        Euclidean norms over all axes but the last.
    """
    return jnp.sqrt(jnp.sum(jnp.square(w.reshape(-1, w.shape[-1])), axis=0))


def unmerge(params: Params, adapter: LowRank, small: Params) -> Params:
    """Return a base's parameters, of those with an adapter in them: W = W' - (alpha / rank) A B.

    Args:
        params: what ``adapter.apply(base, small)`` gave.
        adapter: LoRA.
        small: its factors.

    Returns:
        The base's parameters, to rounding.

    Raises:
        ValueError: for DoRA, whose rescaling forgets the base's norms.
    """
    if any("magnitude" in low for low in small.values()):
        raise ValueError("DoRA cannot be taken out again: it forgets norms. Keep the base")
    away = {name: {"A": low["A"], "B": -low["B"]} for name, low in small.items()}
    return adapter.apply(params, away)


def combined(
    base: Params, adapters: list[tuple[Adapter, Params]], weights: list[float] | Array
) -> Params:
    """Return a base with several adapters in it, W + sum_i weight_i (W_i - W).

    Of LoRA that is W + sum_i weight_i (alpha_i / rank_i) A_i B_i.

    Args:
        base: parameters.
        adapters: pairs of an adapter and its small tree, which keep the base's shapes.
        weights: of each.

    Returns:
        Parameters in the base's dtypes.

    Raises:
        ValueError: for another number of weights, and an adapter that changes shapes.
    """
    if len(adapters) != len(weights):
        raise ValueError(f"{len(adapters)} adapters have {len(weights)} weights: give each one")
    total = jax.tree.map(lambda w: jnp.asarray(w, _wide(w)), base)
    for (adapter, small), weight in zip(adapters, weights, strict=True):
        own = adapter.apply(prepare(adapter, base), small)
        _check_same(base, own, type(adapter).__name__)
        total = jax.tree.map(
            lambda t, w, b, c=weight: (
                t + jnp.asarray(c, t.dtype) * (w.astype(t.dtype) - jnp.asarray(b, t.dtype))
            ),
            total, own, base,
        )  # fmt: skip
    return jax.tree.map(lambda t, b: t.astype(b.dtype), total, base)


def _wide(w: Any) -> Any:
    return np.promote_types(np.float32, w.dtype)


def _check_factors(name: str, w: Any, low: dict[str, Any]) -> None:
    if not {"A", "B"} <= set(low) <= {"A", "B", "magnitude"}:
        raise ValueError(f'the adapter of {name} has "A", "B", and of DoRA "magnitude"')
    n, out, rank = np.size(w) // w.shape[-1], w.shape[-1], low["A"].shape[-1]
    found = {key: tuple(value.shape) for key, value in low.items()}
    wanted = {"A": (n, rank), "B": (rank, out), "magnitude": (out,)}
    for key, shape in found.items():
        if shape != wanted[key]:
            raise ValueError(
                f"the adapter does not belong to this base: {key} of {name} has shape {shape}, "
                f"where {wanted[key]} is wanted"
            )


def _check_same(base: Params, own: Params, kind: str) -> None:
    shapes = [dict(zip(paths(p), map(np.shape, jax.tree.leaves(p)), strict=True)) for p in
              (base, own)]  # fmt: skip
    if shapes[0] != shapes[1]:
        other = next(n for n in {**shapes[0], **shapes[1]} if shapes[0].get(n) != shapes[1].get(n))
        raise ValueError(f"{kind} changes the shape of {other}; such adapters are not added up")
