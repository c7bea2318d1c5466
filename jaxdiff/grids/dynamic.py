"""The best grid of a given number of steps out of a fine one, by dynamic programming.

If what a step costs depends on its two ends alone, and c_ij is the cost of the step from level i to
level j > i of a fine grid of M steps, then the best way from i to the last level in k steps costs

    V_k(i) = min_{j > i} c_ij + g V_{k-1}(j),      V_0(M) = 0,

which minimises sum_k g^k c(p_k, p_{k+1}) over all grids 0 = p_0 < p_1 < ... = M. With a discount g
above 1 the later steps, at low levels, weigh more. One table of V serves every number of steps, in
O(M^2) operations a step.

Used by :mod:`jaxdiff.tuning.search.gits`, :mod:`jaxdiff.tuning.search.align` and
:mod:`jaxdiff.tuning.search.elbo`, which differ in the cost. Source: Watson et al., arXiv
2106.03802, section 3 (without a discount); Chen et al., arXiv 2405.11326 (with one).
"""

from collections.abc import Sequence

import numpy as np

from jaxdiff.grids.ends import Grid
from jaxdiff.grids.lists import from_list


def shortest(costs: np.ndarray, num_steps: int, discount: float = 1.0) -> np.ndarray:
    """Return the cheapest path of exactly ``num_steps`` steps through all levels.

    Args:
        costs: (M + 1, M + 1), of the step from level i to level j, read above the diagonal. An
            infinite cost forbids a step; a negative one is fine.
        num_steps: 1 to M.
        discount: g, positive.

    Returns:
        (num_steps + 1,) increasing indices, from 0 to M.

    Raises:
        ValueError: for other shapes or numbers, NaN, or if no path is allowed.
    """
    return shortest_paths(costs, [num_steps], discount)[0]


def shortest_paths(
    costs: np.ndarray, budgets: Sequence[int], discount: float = 1.0
) -> list[np.ndarray]:
    """Return the paths of :func:`shortest` for several numbers of steps, from one table of
    values.
    """
    costs = _checked(costs, budgets, discount)
    values = np.full(len(costs), np.inf)
    values[-1] = 0.0
    choices, reached = [], []
    for _ in range(max(budgets)):
        totals = costs + discount * values[None]
        choices.append(totals.argmin(axis=1))  # remembered: a path is never found by comparing sums
        values = totals.min(axis=1)
        reached.append(np.isfinite(values[0]))
    for num_steps in budgets:
        if not reached[num_steps - 1]:
            raise ValueError(f"no path of {num_steps} steps has a finite cost")
    return [_trace(choices[:num_steps]) for num_steps in budgets]


def path_cost(costs: np.ndarray, path: Sequence[int] | np.ndarray, discount: float = 1.0) -> float:
    """Return what a path costs, sum_k discount^k costs[p_k, p_{k+1}]."""
    path = np.asarray(path)
    return float(np.sum(discount ** np.arange(len(path) - 1) * costs[path[:-1], path[1:]]))


def best_grids(
    costs: np.ndarray,
    levels: Sequence[float] | np.ndarray,
    budgets: Sequence[int],
    discount: float = 1.0,
) -> list[Grid]:
    """Return the best grid out of ``levels`` (M + 1,) for every number of steps in ``budgets``.

    Args:
        costs: (M + 1, M + 1), of the step from level i to level j, read above the diagonal.
        levels: decreasing, (M + 1,).
        budgets: numbers of steps, 1 to M.
        discount: positive, as for :func:`shortest`.

    Returns:
        Grids (num_steps + 1,), one per budget.

    Raises:
        ValueError: for costs of another number of levels, or budgets that have no path.
    """
    known = from_list(levels)
    if len(known) != len(costs):
        raise ValueError(f"costs of {len(costs)} levels do not go with {len(known)} levels")
    return [known[path] for path in shortest_paths(costs, budgets, discount)]


def _trace(choices: list[np.ndarray]) -> np.ndarray:
    path = [0]
    for best in reversed(choices):
        path.append(int(best[path[-1]]))
    return np.array(path)


def _checked(costs: np.ndarray, budgets: Sequence[int], discount: float) -> np.ndarray:
    """Return the costs in float64, infinite where no step leads."""
    costs = np.asarray(costs, np.float64)
    if costs.ndim != 2 or costs.shape[0] != costs.shape[1]:
        raise ValueError(f"costs must be a square matrix; their shape is {costs.shape}")
    last = len(costs) - 1
    wrong = [n for n in budgets if n != int(n) or not 1 <= n <= last]
    if wrong or not len(budgets):
        raise ValueError(f"{last + 1} levels have paths of 1 to {last} steps; got {budgets}")
    if not 0 < discount < np.inf:
        raise ValueError(f"discount must be positive and finite; it is {discount}")
    above = np.triu(np.ones(costs.shape, bool), 1)
    if np.isnan(costs[above]).any() or (costs[above] == -np.inf).any():
        raise ValueError("costs above the diagonal must be numbers, or infinite for no step")
    return np.where(above, costs, np.inf)
