"""Low-rank adapters: a network that differs from a frozen one by small matrices (Hu et al.,
arXiv 2106.09685).

    W + scale A B,     A (n, rank) normal of variance 1/n, B (rank, m) zero at the start,

for every parameter W of two or more axes, the last of which has m entries and the others n. A fake
score made so costs a hundredth of a second network's memory (Wang et al., arXiv 2305.16213).
:mod:`jaxdiff.adapt.low_rank` makes of the same two matrices what is trained and saved alone.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.typing import Array, Key, Params

Adapters = dict[str, dict[str, Any]]


def factors(w: Any, rank: int, key: Key, dtype: Any) -> dict[str, Array]:
    """Return A (n, rank) and B (rank, m) of a parameter, whose product is zero."""
    m = w.shape[-1]
    n = w.size // m
    a = jax.random.normal(key, (n, rank), dtype) / n**0.5
    return {"A": a, "B": jnp.zeros((rank, m), dtype)}


def product(low: dict[str, Array], scale: float, shape: tuple[int, ...]) -> Array:
    """Return scale A B in a parameter's shape."""
    return (scale * jnp.matmul(low["A"], low["B"], precision="highest")).reshape(shape)


def adapters(params: Params, rank: int, key: Key) -> Adapters:
    """Matrices A and B of every parameter with two or more axes, by its path.

    Raises ValueError for a rank below 1, and for parameters without a matrix among them.
    """
    if rank < 1:
        raise ValueError(f"the rank of adapters is at least 1, not {rank}")
    named: list[tuple[Any, Any]] = jax.tree_util.tree_leaves_with_path(params)
    matrices = [(jax.tree_util.keystr(path), w) for path, w in named if w.ndim >= 2]
    if not matrices:
        raise ValueError("none of the parameters has two axes: there is nothing to adapt")
    keys = jax.random.split(key, len(matrices))
    pairs = zip(matrices, keys, strict=True)
    return {name: factors(w, rank, own, w.dtype) for (name, w), own in pairs}


def adapted(params: Params, own: Adapters, scale: float = 1.0) -> Params:
    """Return the parameters with their adapters' products added."""

    def add(path: Any, w: Any) -> Any:
        low = own.get(jax.tree_util.keystr(path))
        return w if low is None else w + product(low, scale, w.shape)

    return jax.tree_util.tree_map_with_path(add, params)
