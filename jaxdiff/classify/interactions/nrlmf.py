r"""Neighbourhood regularised logistic matrix factorisation (NRLMF).

Known interactions count c times as much as unknown pairs, and neighbours have like factors:

    max over U (m, r), V (n, r):
        sum_ij c Y_ij u_i.v_j - (1 + (c - 1) Y_ij) log(1 + exp(u_i.v_j))
        - tr U^T (l_d I + a L_d) U / 2 - tr V^T (l_t I + b L_t) V / 2,

with A_ij = S_ij for the K1 nearest neighbours j of i, else 0, L = (D + D') / 2 - (A + A^T) / 2, D
and D' the diagonal matrices of the sums of A's rows and columns. Alternating gradient ascent with
AdaGrad. A drug without a known interaction is scored by the mean of its K2 nearest neighbours that
have one, weighted by similarity; so is a target. Source: Liu, Wu, Miao, Zhao and Li, Neighborhood
regularized logistic matrix factorization for drug-target interaction prediction (PLoS Comput. Biol.
12, 2016, e1004760), equations 4 to 15 and algorithm 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float

from jaxdiff.arrays import check, einsum
from jaxdiff.classify.interactions.kernels import is_new
from jaxdiff.classify.interactions.problem import Problem, zero_or_one
from jaxdiff.typing import Array, Key


class _State(NamedTuple):
    U: Array
    V: Array
    sums: tuple[optax.OptState, optax.OptState]
    objective: Array
    change: Array
    step: Array


def nrlmf(
    problem: Problem,
    key: Key,
    *,
    rank: int = 50,
    importance: float = 5.0,
    ridge: tuple[float, float] = (0.125, 0.125),
    neighbourhood: tuple[float, float] = (0.25, 0.125),
    num_neighbours: tuple[int, int] = (5, 5),
    learning_rate: float = 0.5,
    max_updates: int = 100,
    tolerance: float = 1e-5,
) -> Float[Array, "m n"]:
    """Neighbourhood regularised logistic matrix factorisation.

    Args:
        problem: held-out pairs count as no interaction. known: 0 or 1.
        key: of the factors at the start, normal of variance 1/rank.
        rank: r of the factors.
        importance: c, positive.
        ridge: l_d and l_t.
        neighbourhood: a and b, weights of the Laplacians of drugs and targets.
        num_neighbours: K1 of the Laplacians, K2 of what is new.
        learning_rate: of AdaGrad.
        max_updates: rounds over both factors.
        tolerance: relative change of the objective that ends them.

    Returns:
        (m, n) probabilities.

    Source: Liu et al. (2016), algorithm 1 and equation 15.
    """
    positive = {
        "rank": rank, "importance": importance, "max_updates": max_updates,
        "learning_rate": learning_rate,
    }  # fmt: skip
    for name, number in positive.items():
        check(f"{name} must be positive", lambda x: x > 0, number)
    check("tolerance must not be negative", lambda x: x >= 0, tolerance)
    check("num_neighbours must be at least 1", lambda k: (k >= 1).all(), jnp.array(num_neighbours))
    penalties = jnp.array([*ridge, *neighbourhood])
    check("ridge and neighbourhood must not be negative", lambda x: (x >= 0).all(), penalties)
    problem = zero_or_one(problem, "nrlmf")
    U, V = fitted(
        problem,
        key,
        rank=rank,
        importance=importance,
        ridge=ridge,
        neighbourhood=neighbourhood,
        num_neighbours=num_neighbours[0],
        learning_rate=learning_rate,
        max_updates=max_updates,
        tolerance=tolerance,
    )
    U = of_neighbours(U, problem.drugs, is_new(problem.known), num_neighbours[1])
    V = of_neighbours(V, problem.targets, is_new(problem.known.T), num_neighbours[1])
    return jax.nn.sigmoid(einsum("ir,jr->ij", U, V))


def fitted(
    problem: Problem,
    key: Key,
    *,
    rank: int = 50,
    importance: float = 5.0,
    ridge: tuple[float, float] = (0.125, 0.125),
    neighbourhood: tuple[float, float] = (0.25, 0.125),
    num_neighbours: int = 5,
    learning_rate: float = 0.5,
    max_updates: int = 100,
    tolerance: float = 1e-5,
) -> tuple[Float[Array, "m r"], Float[Array, "n r"]]:
    """Return the factors U (m, r) and V (n, r); arguments as of :func:`nrlmf`."""
    known = problem.known
    penalties = [
        l * jnp.eye(len(S), dtype=S.dtype) + weight * laplacian(S, num_neighbours)
        for S, l, weight in zip(problem[2:], ridge, neighbourhood, strict=True)
    ]

    def objective(U: Array, V: Array) -> Array:
        return log_posterior(known, U, V, penalties[0], penalties[1], importance)

    adagrad = optax.adagrad(learning_rate, initial_accumulator_value=0.0, eps=1e-12)
    start = jax.random.split(key)
    scale = jnp.asarray(rank, known.dtype) ** -0.5
    U = scale * jax.random.normal(start[0], (known.shape[0], rank), known.dtype)
    V = scale * jax.random.normal(start[1], (known.shape[1], rank), known.dtype)

    def update(state: _State) -> _State:
        slope = jax.grad(lambda U: -objective(U, state.V))(state.U)
        change, sums_u = adagrad.update(slope, state.sums[0])
        U = jnp.asarray(optax.apply_updates(state.U, change))
        slope = jax.grad(lambda V: -objective(U, V))(state.V)
        change, sums_v = adagrad.update(slope, state.sums[1])
        V = jnp.asarray(optax.apply_updates(state.V, change))
        now = objective(U, V)
        moved = jnp.abs(now - state.objective) / jnp.abs(state.objective)
        return _State(U, V, (sums_u, sums_v), now, moved, state.step + 1)

    first = _State(U, V, (adagrad.init(U), adagrad.init(V)), objective(U, V),
                   jnp.asarray(jnp.inf, known.dtype), jnp.zeros((), jnp.int32))  # fmt: skip
    going = lambda s: (s.step < max_updates) & (s.change > tolerance)  # noqa: E731
    last = jax.lax.while_loop(going, update, first)
    return last.U, last.V


def log_posterior(
    known: Array, U: Array, V: Array, drugs: Array, targets: Array, importance: float
) -> Array:
    """Return the objective, (): known (m, n), factors (m, r) and (n, r), and the penalties
    l_d I + a L_d (m, m) and l_t I + b L_t (n, n).
    """
    z = einsum("ir,jr->ij", U, V)
    fit = jnp.sum(importance * known * z - (1 + (importance - 1) * known) * jax.nn.softplus(z))
    rough = einsum("ir,ij,jr->", U, drugs, U) + einsum("ir,ij,jr->", V, targets, V)
    return fit - rough / 2


def laplacian(similarity: Array, num_neighbours: int) -> Float[Array, "m m"]:
    """Return the Laplacian of the graph of nearest neighbours, made symmetric, (m, m)."""
    count = len(similarity)
    apart = jnp.where(jnp.eye(count, dtype=bool), -jnp.inf, similarity)
    nearest = jax.lax.top_k(apart, min(num_neighbours, count - 1))[1] if count > 1 else None
    if nearest is None:
        return jnp.zeros_like(similarity)
    chosen = jax.nn.one_hot(nearest, count, dtype=similarity.dtype).sum(axis=1)
    graph = chosen * similarity
    sums = graph.sum(axis=0) + graph.sum(axis=1)
    return (jnp.diag(sums) - graph - graph.T) / 2


def of_neighbours(factors: Array, similarity: Array, new: Array, count: int) -> Array:
    """Return factors, those of new rows being the weighted mean of their nearest known rows'."""
    known = jnp.where(new[None], -jnp.inf, similarity)
    best, nearest = jax.lax.top_k(known, min(count, len(factors)))
    weights = jnp.where(jnp.isfinite(best), jnp.maximum(best, 0), 0)
    total = weights.sum(axis=1, keepdims=True)
    weights = weights / jnp.where(total > 0, total, 1)
    return jnp.where(new[:, None], einsum("ik,ikr->ir", weights, factors[nearest]), factors)
