r"""Learning a bespoke solver by its local errors.

The numbers of :func:`jaxdiff.solvers.bespoke` are its levels, moves, scales and growths. From the
teacher's state y(s_i) every step is taken by itself and compared with the teacher's next state,

    L = sum_i M_i |step(y(s_i)) - y(s_{i+1})|_rms,      M_i = prod_{k > i} L_k,

where L_k bounds how much step k stretches a difference: the sum bounds the error at the end. With
l the Lipschitz constant of the slope eps, here ``lipschitz``/s, since eps = (y - D)/s,

    RK1: L_k = (c_i/c_j) (1 + |dc_i/c_i| + |ds_i| l_i)
    RK2: L_k = (c_i/c_j) (1 + (|dc_m/c_m| + |ds_m| l_m) (1 + (|dc_i/c_i| + |ds_i| l_i)/2)).

Steps do not wait for one another and no gradient passes through more than one of them.

Source: Shaul et al., arXiv 2310.19075, eqs. 23 to 27 and section 2.3.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff.distance import norm
from jaxdiff.method import Batch, Context, Method, Metrics, Player
from jaxdiff.prediction import as_partial
from jaxdiff.sampling.sample import Sampler
from jaxdiff.sampling.table import Label, Table
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.bespoke import bespoke, plain_moves
from jaxdiff.solvers.scalar import Scalar, is_zero
from jaxdiff.tuning.family import Family, concrete
from jaxdiff.tuning.levels import moving
from jaxdiff.tuning.path import Path, path_of
from jaxdiff.typing import Array, Denoiser, Key, Params

Options = dict[str, list[Scalar]]


def of_bespoke(levels: Sequence[float] | np.ndarray, order: int = 2) -> Family:
    """The family of bespoke solvers that starts at the plain method on these levels.

    levels: as the solver takes them, with the steps' middles at order 2; see
    :func:`with_middles`. All inner levels move; 4 numbers per evaluation, less one.
    """
    grid, gaps = moving(levels), len(levels) - 1
    zeros = {k: jnp.zeros(gaps) for k in ("moves", "scales", "growths")}

    def build(numbers: dict[str, Array]) -> Table:
        knots = grid.levels(numbers["levels"])
        own: dict[str, Any] = options_of(numbers, knots, order)
        made = table(bespoke, knots, order=order, **own)
        return dataclasses.replace(made, label=Label("bespoke", {"order": order}))

    return Family({"levels": grid.raw} | zeros, build)


def options_of(numbers: dict[str, Array], levels: Sequence[Scalar], order: int) -> Options:
    """The solver's options: moves and scales as logarithms of factors, growths by the scale."""
    scales = list(jnp.exp(numbers["scales"]))
    moves = zip(plain_moves(levels, order), jnp.exp(numbers["moves"]), strict=True)
    growths = zip([1.0, *scales], numbers["growths"], strict=False)
    return {
        "moves": [move * factor for move, factor in moves],
        "scales": scales,
        "growths": [c * g for c, g in growths],
    }


def with_middles(levels: Sequence[float] | np.ndarray) -> np.ndarray:
    """A grid with a level in the middle of every step, in log level; that of a last step to 0 is a
    third of the level it starts from.
    """
    grid = np.asarray(levels, np.float64)
    lower = np.where(grid[1:] > 0, grid[1:], grid[:-1] / 9)
    woven = np.empty(2 * len(grid) - 1)
    woven[::2], woven[1::2] = grid, np.sqrt(grid[:-1] * lower)
    return woven


def step_errors(
    D: Denoiser,
    numbers: dict[str, Array],
    levels: list[Scalar],
    path: Path,
    cond: Any = None,
    order: int = 2,
    lipschitz: float = 1.0,
) -> Array:
    """L of the module's head, averaged over the batch."""
    options = options_of(numbers, levels, order)
    scales = [1.0, *options["scales"]]
    total, stretch = jnp.zeros(path.end.shape[0], path.end.dtype), 1.0
    for i in reversed(range(0, len(levels) - 1, order)):
        here, j = slice(i, i + order), i + order
        own = {k: options[k][here] for k in ("moves", "growths")}
        own["growths"] = [g / scales[i] for g in own["growths"]]
        own["scales"] = [c / scales[i] for c in scales[i + 1 : j + 1]]
        y = path.at(jnp.asarray(levels[i], path.end.dtype))
        *_, reached = bespoke(lambda y, s: D(y, s, cond), y, levels[i : j + 1], order, **own)
        truth = path.end if is_zero(levels[j]) else path.at(jnp.asarray(levels[j], path.end.dtype))
        size = np.sqrt(np.prod(path.end.shape[1:]))
        total = total + stretch * norm(reached - truth) / size
        stretch = stretch * _stretch(own, levels[here], order, lipschitz)
    return jnp.mean(total)


def _stretch(own: Options, levels: list[Scalar], order: int, lipschitz: float) -> Scalar:
    scales = [1.0, *own["scales"]]
    rates = [
        jnp.abs(g / c) + jnp.abs(move) * lipschitz / s
        for move, g, c, s in zip(own["moves"], own["growths"], scales, levels, strict=False)
    ]
    inner = rates[0] if order == 1 else rates[1] * (1 + rates[0] / 2)
    return (1 + inner) / scales[-1]


def bespoke_tuning(
    denoiser: Denoiser,
    levels: Sequence[float] | np.ndarray,
    order: int = 2,
    *,
    optimiser: optax.GradientTransformation | None = None,
    lipschitz: float = 1.0,
) -> Method:
    """The method that learns a bespoke solver as its paper does, from accurate trajectories.

    Args:
        denoiser: frozen. levels, order: see :func:`of_bespoke`.
        optimiser: Adam with rate 2e-3 by default, the paper's.
        lipschitz: of the slope, in units of 1/level.

    Batches hold trajectories as :func:`jaxdiff.tuning.path.path_of` reads them.
    """
    family, grid = of_bespoke(levels, order), moving(levels)

    def loss(own: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        knots, cond = grid.levels(own["levels"]), batch.get("label")
        path = path_of(batch)
        return step_errors(context.frozen, own, knots, path, cond, order, lipschitz), {}

    def sampler(state: Any) -> Sampler:
        return Sampler(denoiser, concrete(family, state.params["table"]))

    player = Player(loss, optax.adam(2e-3) if optimiser is None else optimiser)
    return Method(
        lambda key: {"table": family.init}, {"table": player}, sampler, as_partial(denoiser)
    )
