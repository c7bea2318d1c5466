"""Families of tables: numbers that make a sampler, for gradient descent to choose.

A family is where its numbers start and the table that any of them make. :func:`of_grid` moves the
levels of a solver, :func:`of_weights` adds to the weights of any family's tables. Together they
are, by what is left free:

    LD3 (arXiv 2405.15506)              of_grid(solver, levels, offsets=True, reach=0.5)
    S4S (arXiv 2502.17423)              of_weights(table, window=order, keep_start=True)
    S4S-Alt                             of_weights(LD3's, window=order, keep_start=True)
    bespoke non-stationary (2403.01329) of_weights(of_grid(solver, levels))
    generalised solver (2510.17699)     of_weights(of_grid(solver, levels, offsets=True))

Weights are changed in units in which a change of one is as large as the state itself: with
c_n = sqrt(sigma_data^2 + s_n^2) the size of a state at level s_n,

    a_n = a_n(solver) + alpha_n c_n/c_0,     b_nj = b_nj(solver) + beta_nj c_n.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.brief import short
from jaxdiff.sampling.table import Label, Table
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.scalar import Scalar
from jaxdiff.tuning.learned.flatten import Flat, flatten, unflatten
from jaxdiff.tuning.learned.levels import LOG, Warp, moving
from jaxdiff.typing import Array, Solver

Numbers = dict[str, Array]
ROUNDING = 1e-9  # a weight of noise below it is that of a noise the state has not seen


class Family(NamedTuple):
    """``build(init)`` is where tuning starts; ``build`` of other numbers is another sampler.

    network_levels: those that the network is conditioned on in place of its states' own, from the
    numbers and these (N,), for a family in which they differ; ``plain`` is then ``build`` without
    that.
    """

    __repr__ = short

    init: Numbers
    build: Callable[[Numbers], Table]
    plain: Callable[[Numbers], Table] | None = None
    network_levels: Callable[[Numbers, Array], Array] | None = None


def _with_network_levels(
    init: Numbers,
    plain: Callable[[Numbers], Table],
    network_levels: Callable[[Numbers, Array], Array] | None,
) -> Family:
    if network_levels is None:
        return Family(init, plain)

    def build(numbers: Numbers) -> Table:
        made = plain(numbers)
        return dataclasses.replace(made, nodes=network_levels(numbers, jnp.asarray(made.nodes)))

    return Family(init, build, plain, network_levels)


def of_grid(
    solver: Solver,
    levels: Sequence[float] | np.ndarray,
    *,
    offsets: bool = False,
    reach: float | None = None,
    first: Callable[[Any, Scalar], Any] | None = None,
    floor: float | None = None,
    warp: Warp = LOG,
    **options: Any,
) -> Family:
    """Return a solver on a grid whose levels move.

    Args:
        solver, options, first: as for :func:`jaxdiff.table`.
        levels: where the grid starts.
        offsets: let the level that the network is conditioned on differ from the state's own, by a
            factor exp(offset) of its own for each evaluation (LD3's decoupled time steps).
        reach: keep offsets within this share of the least gap of log levels, 0.5 at most so that
            the levels it is conditioned on decrease, too, and none for evaluations at the grid's
            first and last level; as LD3 does. None leaves them free.
        floor, warp: see :func:`jaxdiff.tuning.learned.levels.moving`.

    Returns:
        The family, its numbers at ``levels``.

    Raises:
        ValueError: for a reach without offsets or outside (0, 0.5].
    """
    if reach is not None and not (offsets and 0 < reach <= 0.5):
        raise ValueError(f"reach is of offsets, in (0, 0.5]; got {reach}, offsets {offsets}")
    grid = moving(levels, floor=floor, warp=warp)

    def plain(numbers: Numbers) -> Table:
        return table(solver, grid.levels(numbers["levels"]), first=first, **options)

    init = {"levels": grid.raw}
    if not offsets:
        return Family(init, plain)
    nodes = np.asarray(plain(init).nodes)
    inner = ~np.isclose(nodes[:, None], np.asarray(levels)[[0, -1]], rtol=1e-5, atol=0).any(1)

    def shift(numbers: Numbers, nodes: Array) -> Array:
        own = numbers["offsets"]
        if reach is not None:
            room = reach * _least_gap(grid.levels(numbers["levels"]))
            own = jnp.where(inner, jnp.clip(own, -room, room), 0.0)
        return nodes * jnp.exp(own)

    return _with_network_levels(init | {"offsets": jnp.zeros(len(nodes))}, plain, shift)


def _least_gap(levels: Sequence[Any]) -> Array:
    """Return the least gap of log levels, as a constant; infinite for a single level above 0."""
    own = levels if levels[-1] > 0 else levels[:-1]
    gaps = -jnp.diff(jnp.log(jnp.stack([jnp.asarray(s) for s in own])))
    return jax.lax.stop_gradient(jnp.min(gaps, initial=jnp.inf))


def of_options(
    solver: Solver,
    levels: Sequence[float] | np.ndarray,
    links: Mapping[str, "Link"],
    *,
    move: bool = False,
    first: Callable[[Any, Scalar], Any] | None = None,
    **options: Any,
) -> Family:
    """Return a solver with options that are numbers to choose, on a grid that stays or moves.

    Args:
        solver: whose options are chosen.
        levels: where the grid starts.
        links: by the option's name; any real numbers make valid ones.
        move: whether the grid's levels move, too.
        first: as for :func:`jaxdiff.table`.
        options: of the solver, fixed.

    Returns:
        The family, its numbers at the links' starts.
    """
    grid = moving(levels)
    plain = options | ({} if first is None else {"first": getattr(first, "__name__", str(first))})

    def build(numbers: Numbers) -> Table:
        chosen = {name: link.option(numbers[name]) for name, link in links.items()}
        knots = grid.levels(numbers["levels"]) if move else levels
        made = table(solver, knots, first=first, **chosen, **options)
        return dataclasses.replace(made, label=Label(made.name, plain))

    init = {name: jnp.asarray(link.init) for name, link in links.items()}
    return Family(init | ({"levels": grid.raw} if move else {}), build)


class Link(NamedTuple):
    """From free numbers to an option. init: where they start. option: what they stand for."""

    init: Any
    option: Callable[[Array], Any]


def of_weights(
    base: Family | Table,
    *,
    window: int | None = None,
    keep_start: bool = False,
    consistent: bool = False,
    noises: bool = False,
    sigma_data: float = 0.5,
) -> Family:
    """Return tables whose weights differ from a family's, state by state.

    Args:
        base: a family, or a table.
        window: how many of the last denoised outputs have free weights; all by default.
        keep_start: leave the weights of the start as the solver has them.
        consistent: keep the sums of the denoised outputs' weights as they are, and the weights of
            the start: with those of a solver a denoiser that always says c, the model of a single
            point, is then sampled exactly whatever the numbers are.
        noises: free the weights of a stochastic table's noises, too.
        sigma_data: standard deviation of the data.

    Returns:
        The family, its numbers at the base's weights.

    Raises:
        ValueError: for a window below 1, or ``noises`` of a table that has none.
    """
    family = Family({}, lambda numbers: base) if isinstance(base, Table) else base
    inner = family.plain or family.build
    first = flatten(inner(family.init))
    number = len(first.start)
    if window is not None and window < 1:
        raise ValueError(f"window counts denoised outputs, at least 1; got {window}")
    if noises and not first.noises.shape[1]:
        raise ValueError("this table draws no noise, so it has no weights of noises")
    lags = np.arange(number)[:, None] - 1 - np.arange(number - 1)[None]
    free = (lags >= 0) & (lags < (number if window is None else window))
    drawn = np.abs(np.asarray(first.noises)) > ROUNDING
    init = {"denoised": jnp.zeros(first.denoised.shape)}
    if not (keep_start or consistent):
        init["start"] = jnp.zeros(number)
    if noises:
        init["noises"] = jnp.zeros(first.noises.shape)

    def change(numbers: Numbers, flat: Flat, size: Array) -> Flat:
        beta = jnp.where(free, numbers["denoised"], 0.0)
        if consistent:
            count = jnp.asarray(np.maximum(free.sum(1, keepdims=True), 1), beta.dtype)
            beta = jnp.where(free, beta - beta.sum(1, keepdims=True) / count, 0.0)
        flat = flat._replace(denoised=flat.denoised + beta * size[1:, None])
        if "start" in init:
            flat = flat._replace(start=flat.start + numbers["start"] * size[1:] / size[0])
        if noises:
            gamma = jnp.where(drawn, numbers["noises"], 0.0)
            flat = flat._replace(noises=flat.noises + gamma * size[1:, None])
        return flat

    def plain(numbers: Numbers) -> Table:
        made = inner(numbers)
        flat = flatten(jax.tree.map(jnp.asarray, made))
        levels = jnp.concatenate([jnp.asarray(made.levels)[:1], flat.states])
        return unflatten(change(numbers, flat, jnp.sqrt(sigma_data**2 + levels**2)), made)

    return _with_network_levels(family.init | init, plain, family.network_levels)


def concrete(family: Family, numbers: Numbers) -> Table:
    """Return the table of these numbers, its weights computed and held in float64.

    Args:
        family: of tables.
        numbers: by name, as ``family.init`` has them.

    Returns:
        The table, concrete.
    """
    with jax.enable_x64(True):
        double = {k: jnp.asarray(np.asarray(v, np.float64)) for k, v in numbers.items()}
        return jax.tree.map(lambda x: np.asarray(x, np.float64), jax.jit(family.build)(double))
