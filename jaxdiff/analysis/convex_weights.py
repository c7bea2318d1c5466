r"""A sampler's states as convex combinations of denoised outputs, or not.

A deterministic table, unrolled, makes each accepted state of the start x_T and the outputs
D_0, ..., D_{N-1} of its evaluations,

    x_n = a_n x_T + sum_j b_nj D_j,     a_n + sum_j b_nj = 1,

and each step, from level s to r, is the step of Euler's method towards a point R of their span:

    x_r = (r/s) x_s + (1 - r/s) R,      R = sum_j w_j D_j,   sum_j w_j = 1.

Euler's method (DDIM) has R = D(x_s), so that every state is a convex combination. Others put
differences into R, a finite difference of the denoising trajectory:

    Heun            R = D_s + (s/2r) (D' - D_s)      convex for r >= s/2, D' at the Euler state
    DPM-Solver-2    R = D_s + (s/m) (D_m - D_s)      never convex, as m < s
    DPM-Solver++2M  R = D_s + (h/2k) (D_s - D_last)  never convex; h, k this and the last step in
                                                     log level
    PNDM            as the Adams-Bashforth methods extrapolate eps, never convex

Sources: Chen et al., On the trajectory regularity of ODE-based diffusion sampling, arXiv
2405.11326, proposition 4.1; for Euler's method already Karras et al., arXiv 2206.00364, eq. 57.
"""

from typing import NamedTuple

import numpy as np
from jax.core import Tracer

from jaxdiff.brief import short
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.table_inverse import unrolled

ROUNDING = 1e-9


class ConvexWeights(NamedTuple):
    """Weights of the accepted states of a table, for A of them and N evaluations.

    levels: (A + 1,). nodes: (N,), levels of the evaluations. start: (A + 1,), a_n. outputs:
    (A + 1, N), b_nj. steps: (A, N), w_j of every step. rest: (A,), the weight of x_T in R, which is
    0 for a solver that is exact where D = 0.
    """

    __repr__ = short

    levels: np.ndarray
    nodes: np.ndarray
    start: np.ndarray
    outputs: np.ndarray
    steps: np.ndarray
    rest: np.ndarray

    @property
    def convex_steps(self) -> np.ndarray:
        """Return which steps go towards a convex combination of outputs, (A,) booleans."""
        return (self.steps >= -ROUNDING).all(axis=1) & (np.abs(self.rest) < ROUNDING)

    @property
    def convex_states(self) -> np.ndarray:
        """Return which states are convex combinations of start and outputs, (A + 1,) booleans."""
        return (self.outputs >= -ROUNDING).all(axis=1) & (self.start >= -ROUNDING)


def convex_weights(table: Table) -> ConvexWeights:
    """Return the weights of outputs in the states and in the steps of a table, whatever its solver.

    Args:
        table: deterministic, its weights known, its levels decreasing.

    Returns:
        :class:`ConvexWeights`, in float64.

    Raises:
        ValueError: for a stochastic or padded table, one of a map between two levels, or levels
            that do not decrease.
        TypeError: for a traced table.

    Source: Chen et al., arXiv 2405.11326, proposition 4.1.

    >>> import jaxdiff as jd
    >>> found = convex_weights(jd.table(jd.solvers.euler, [4.0, 2.0, 0.0]))
    >>> found.outputs.tolist(), found.convex_states.all().item()
    ([[0.0, 0.0], [0.5, 0.0], [0.0, 1.0]], True)
    """
    if any(isinstance(a, Tracer) for a in (table.states, table.denoised, table.levels)):
        raise TypeError("the weights of a traced table are not known: take them outside")
    if table.stochastic or table.count is not None or table.targets is not None:
        raise ValueError(
            f"{table!r} draws noise, is padded or samples a map between two levels: its states are "
            "not combinations of its start and outputs alone"
        )
    levels = np.asarray(table.levels, np.float64)
    if (np.diff(levels) >= 0).any():
        raise ValueError(f"{table!r} does not go down in level at every step")
    rows = unrolled(table)
    made = rows.reshape(-1, rows.shape[2])[list(table.accepted)]
    made = np.concatenate([np.eye(1, rows.shape[2]), made])
    ratio = (levels[1:] / levels[:-1])[:, None]
    towards = (made[1:] - ratio * made[:-1]) / (1 - ratio)
    nodes = np.asarray(table.nodes, np.float64)
    return ConvexWeights(levels, nodes, made[:, 0], made[:, 1:], towards[:, 1:], towards[:, 0])
