r"""Learning a bespoke solver by its local errors.

The plain method is Euler's or the midpoint method in the frame of the flow x_t = (1 - t) x0 + t eps
scaled to the data, the paper's own: with d = sigma_data

    t = s/(d + s),    x = y d/(d + s),

states are as large as data at every level. (Where the midpoint method of the frame of y starts, its
steps from high levels are far off, and a number moves the samples by their ratio of levels times
as much as it does here.) The numbers change it: the time by which evaluation i moves and the
scale of state i are multiplied by exp(moves_i) and exp(scales_i), and the scale's logarithm grows
by growths_i over the step; the levels move, too.

From the teacher's state y(s_i) every step is taken by itself and compared with the teacher's next
state,

    L = sum_i M_i |step(x_i) - x_{i+1}|_rms,      M_i = prod_{k > i} L_k,

where L_k bounds how much step k stretches a difference: the sum bounds the error at the end. With
``lipschitz`` l the constant of the velocity dx/dt, c the scale and dt the move of a step,

    RK1: L_k = (c_i/c_j) (1 + |dc_i/c_i| + |dt_i| l)
    RK2: L_k = (c_i/c_j) (1 + (|dc_m/c_m| + |dt_m| l) (1 + (|dc_i/c_i| + |dt_i| l)/2)).

Steps do not wait for one another and no gradient passes through more than one of them.

Source: Shaul et al., arXiv 2310.19075, eqs. 23 to 27 and section 2.3. Deviations: a last step of
one evaluation where their number is odd; levels and the logarithms above are free numbers where the
paper has absolute values.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff.arrays import check_fields, check_same_shape
from jaxdiff.denoisers import as_partial
from jaxdiff.distance import norm
from jaxdiff.method import Batch, Context, Method, Metrics, Player
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Label, Table
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.bespoke import bespoke, plain_moves, steps_of
from jaxdiff.solvers.held import value
from jaxdiff.solvers.scalar import Scalar, is_zero
from jaxdiff.tuning.learned.family import Family, concrete
from jaxdiff.tuning.learned.levels import moving
from jaxdiff.tuning.learned.path import Path, path_of
from jaxdiff.typing import Array, Denoiser, Key, Params

Options = dict[str, list[Scalar]]


def of_bespoke(
    levels: Sequence[float] | np.ndarray, order: int = 2, *, sigma_data: float = 0.5
) -> Family:
    """Return the family of bespoke solvers that starts at :func:`plain_bespoke`.

    Args:
        levels: as the solver takes them, with the steps' midpoints at order 2; see
            :func:`with_intermediate_levels`. All inner levels move; 4 numbers per evaluation, less
            one.
        order: 1 or 2, as for :func:`jaxdiff.solvers.bespoke`.
        sigma_data: standard deviation of the data.

    Returns:
        The family, its numbers at the plain solver's.

    Source: Shaul et al., Bespoke Solvers for Generative Flow Models, arXiv 2310.19075.
    """
    grid, gaps = moving(levels), len(levels) - 1
    zeros = {k: jnp.zeros(gaps) for k in ("moves", "scales", "growths")}

    def build(numbers: dict[str, Array]) -> Table:
        knots = grid.levels(numbers["levels"])
        return _table(knots, order, options_of(numbers, knots, order, sigma_data))

    return Family({"levels": grid.raw} | zeros, build)


def plain_bespoke(
    levels: Sequence[float] | np.ndarray, order: int = 2, *, sigma_data: float = 0.5
) -> Table:
    """Return the method of the flow's frame on these levels, before anything is learned; at order 1
    that is Euler's method in the frame of y, too.
    """
    knots, gaps = [float(s) for s in levels], len(levels) - 1
    plain = _options(knots, order, sigma_data, [1.0] * gaps, [1.0] * (gaps + 1), [0.0] * gaps)
    return _table(knots, order, plain)


def _table(levels: list[Any], order: int, options: Any) -> Table:
    made = table(bespoke, levels, order=order, **options)
    return dataclasses.replace(made, label=Label("bespoke", {"order": order}))


def options_of(
    numbers: dict[str, Array], levels: Sequence[Scalar], order: int, sigma_data: float
) -> Options:
    """Return the solver's options of the family's numbers."""
    factors, scales = list(jnp.exp(numbers["moves"])), [1.0, *jnp.exp(numbers["scales"])]
    return _options(levels, order, sigma_data, factors, scales, list(numbers["growths"]))


def _options(
    levels: Sequence[Scalar],
    order: int,
    d: float,
    factors: Sequence[Scalar],
    scales: Sequence[Scalar],
    growths: Sequence[Scalar],
) -> Options:
    """Moves and scales of the frame of y: ds = dt (d + s)^2/d, and with c the scale of the flow's
    frame times its own, dc/c = growth - ds/(d + s). The first scale is 1.
    """
    times = plain_moves([s / (d + s) for s in levels], order)
    moves = [dt * f * (d + s) ** 2 / d for dt, f, s in zip(times, factors, levels, strict=False)]
    c = [own * (d + levels[0]) / (d + s) for own, s in zip(scales, levels, strict=True)]
    rates = [g - ds / (d + s) for g, ds, s in zip(growths, moves, levels, strict=False)]
    changes = [scale * rate for scale, rate in zip(c, rates, strict=False)]
    return {"moves": moves, "scales": c[1:], "growths": changes}


def with_intermediate_levels(
    levels: Sequence[float] | np.ndarray, *, sigma_data: float = 0.5, last: bool = True
) -> np.ndarray:
    """Return a grid with a level in the middle of every step, in the flow's time; without ``last``
    the last step has none.
    """
    grid = np.asarray(levels, np.float64)
    times = grid / (sigma_data + grid)
    halves = (times[1:] + times[:-1]) / 2
    woven = np.empty(2 * len(grid) - 1)
    woven[::2], woven[1::2] = grid, sigma_data * halves / (1 - halves)
    return woven if last else np.delete(woven, -2)


def step_errors(
    D: Denoiser,
    numbers: dict[str, Array],
    levels: list[Scalar],
    path: Path,
    cond: Any = None,
    order: int = 2,
    lipschitz: float = 1.0,
    sigma_data: float = 0.5,
) -> Array:
    """L of the module's head, averaged over the batch."""
    options, size = options_of(numbers, levels, order, sigma_data), path.end[0].size
    scales = [1.0, *options["scales"]]
    stretches = _stretches(numbers, levels, order, lipschitz, sigma_data)
    total, stretch = jnp.zeros(path.end.shape[0], path.end.dtype), 1.0
    steps = steps_of(len(levels) - 1, order)
    for (i, j), own_stretch in reversed(list(zip(steps, stretches, strict=True))):
        own = {
            "moves": options["moves"][i:j],
            "growths": [g / scales[i] for g in options["growths"][i:j]],
            "scales": [c / scales[i] for c in scales[i + 1 : j + 1]],
        }
        y = path.at(jnp.asarray(levels[i], path.end.dtype))
        *_, reached = bespoke(lambda y, s: D(y, s, cond), y, levels[i : j + 1], order, **own)
        truth = path.end if is_zero(levels[j]) else path.at(jnp.asarray(levels[j], path.end.dtype))
        apart = norm(value(reached) - truth) / math.sqrt(size)
        total = total + stretch * apart * (sigma_data / (sigma_data + levels[j]))
        stretch = stretch * own_stretch
    return jnp.mean(total)


def _stretches(
    numbers: dict[str, Array], levels: list[Scalar], order: int, lipschitz: float, d: float
) -> list[Scalar]:
    """L_k of every step."""
    times = plain_moves([s / (d + s) for s in levels], order)
    scales, factors = [1.0, *jnp.exp(numbers["scales"])], jnp.exp(numbers["moves"])
    rates = [
        jnp.abs(g) + jnp.abs(dt * f) * lipschitz
        for g, dt, f in zip(numbers["growths"], times, factors, strict=True)
    ]
    return [
        scales[i] / scales[j] * (1 + (rates[i + 1] * (1 + rates[i] / 2) if j > i + 1 else rates[i]))
        for i, j in steps_of(len(levels) - 1, order)
    ]


def bespoke_tuning(
    denoiser: Denoiser,
    levels: Sequence[float] | np.ndarray,
    order: int = 2,
    *,
    optimiser: optax.GradientTransformation | None = None,
    lipschitz: float = 1.0,
    sigma_data: float = 0.5,
) -> Method:
    """Return the method that learns a bespoke solver as its paper does, from accurate trajectories.

    Args:
        denoiser: frozen.
        levels, order: see :func:`of_bespoke`.
        optimiser: Adam with rate 2e-3 by default, the paper's.
        lipschitz: of the velocity in the flow's time, 1 as in the paper.
        sigma_data: standard deviation of the data.

    Returns:
        The method, whose one player trains the solver, and the sampler of the trained one.

    Batches hold trajectories as :func:`jaxdiff.tuning.learned.path.path_of` reads them.

    Source: Shaul et al., Bespoke Solvers for Generative Flow Models, arXiv 2310.19075.
    """
    family, grid = of_bespoke(levels, order, sigma_data=sigma_data), moving(levels)

    def loss(own: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        knots, cond = grid.levels(own["levels"]), batch.get("label")
        path = path_of(batch)
        D = context.frozen
        return step_errors(D, own, knots, path, cond, order, lipschitz, sigma_data), {}

    def sampler(state: Any) -> Sampler:
        return Sampler(denoiser, concrete(family, state.params["table"]))

    player = Player(loss, optax.adam(2e-3) if optimiser is None else optimiser)
    return Method(
        lambda key: {"table": family.init}, {"table": player}, sampler, as_partial(denoiser),
        _check_trajectories,
    )  # fmt: skip


def _check_trajectories(batch: Batch) -> None:
    check_fields(batch, "bespoke_tuning", "states", "denoised", "levels", "image")
    check_same_shape(batch, "bespoke_tuning", "states", "denoised")
    shapes = np.shape(batch["states"]), np.shape(batch["levels"]), np.shape(batch["image"])
    if shapes[1] != shapes[0][:2] or shapes[2] != (shapes[0][0], *shapes[0][2:]):
        raise ValueError(
            'bespoke_tuning: batches have "states" (batch, states, *shape), "levels" (batch, '
            f'states) and "image" (batch, *shape); these are {shapes[0]}, {shapes[1]}, {shapes[2]}'
        )
