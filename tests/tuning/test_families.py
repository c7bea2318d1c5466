"""What tuning moves: grids that stay grids, tables in terms of start and outputs, families of
tables.
"""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.every_solver import ALL, name

from jaxdiff import grids, solvers, tuning
from jaxdiff.exact import Gaussian, GaussianMixture
from jaxdiff.noise import start_noise
from jaxdiff.sampling.sample import sample, trajectory
from jaxdiff.sampling.table import pad
from jaxdiff.sampling.trace import table
from jaxdiff.tuning.learned.bespoke import of_bespoke, plain_bespoke, with_intermediate_levels
from jaxdiff.tuning.learned.family import Link, concrete, of_options
from jaxdiff.tuning.learned.levels import ARCTAN, LOG, moving, power, snapped

MIXTURE = GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], [0.02, 0.05])
START = 80.0 * start_noise(jax.random.key(0), 3, (2,), jnp.float64)
GRID = grids.karras(4)


def noise_of(made, count=3):
    return jax.random.normal(jax.random.key(1), (len(made.draws), count, 2), jnp.float64)


def run(made, D=MIXTURE.denoiser, start=START):
    return sample(D, made, start, noise=noise_of(made) if made.stochastic else None)


# Levels


@pytest.mark.parametrize("warp", [LOG, ARCTAN, power(7.0)], ids=["log", "arctan", "power"])
@pytest.mark.parametrize("zero", [True, False])
def test_a_grid_moves_from_itself_to_other_grids(warp, zero, rng):
    known = grids.karras(6, zero=zero)
    grid = moving(known, warp=warp)
    np.testing.assert_allclose(np.array(grid.levels(grid.raw)), known, rtol=1e-9)
    for _ in range(20):
        levels = np.array(grid.levels(jnp.asarray(10.0 * rng.normal(size=grid.raw.shape))))
        assert (np.diff(levels) < 0).all() and levels[0] == 80.0
        assert levels[-1] == known[-1] and (not zero or levels[-2] >= 0.001)


def test_levels_may_meet_no_further_than_rounding():
    """Even numbers that are far apart leave a table whose weights are numbers."""
    grid = moving(grids.karras(5))
    levels = grid.levels(jnp.array([20.0, -20.0, 0.0, 0.0, 3.0]))
    assert np.abs(table(solvers.unipc, np.array(levels)).denoised).max() < 1e4


def test_a_share_of_nothing_can_grow():
    """A last level on the floor starts a little above it, for its logarithm to be finite."""
    grid = moving([80.0, 1.0, 0.002, 0.0], floor=0.002 * (1 - 1e-12))
    assert np.isfinite(grid.raw).all()
    np.testing.assert_allclose(np.array(grid.levels(grid.raw)), [80, 1, 0.002, 0], rtol=0.01)


def test_gradients_of_moving_levels():
    grid = moving(GRID)
    direction = jnp.array([0.3, -1.0, 0.5, 0.8])
    levels = lambda u: jnp.stack(grid.levels(grid.raw + u * direction)[1:-1])  # noqa: E731
    _, slope = jax.jvp(levels, (0.0,), (1.0,))
    np.testing.assert_allclose(slope, (levels(1e-6) - levels(-1e-6)) / 2e-6, rtol=1e-6)


def test_one_step_has_no_level_to_move():
    grid = moving(grids.karras(1))
    assert grid.levels(grid.raw) == [80.0, 0.0]


@pytest.mark.parametrize("floor", [0.0, 0.0021, 1.0, -1.0])
def test_a_floor_is_below_all_levels(floor):
    with pytest.raises(ValueError, match="floor"):
        moving(GRID, floor=floor)


def test_snapping_is_the_nearest_assignment(rng):
    for _ in range(10):
        own = np.sort(np.exp(rng.normal(size=3)))[::-1]
        allowed = np.sort(np.exp(rng.normal(size=6)))[::-1]
        cost = lambda c, own=own: np.sum(np.log(own / np.array(c)) ** 2)  # noqa: E731
        best = min(itertools.combinations(allowed, 3), key=cost)
        found = snapped([*own, 0.0], allowed)
        assert cost(found[:3]) == pytest.approx(cost(best)) and found[3] == 0.0
    np.testing.assert_array_equal(snapped([5.0, 4.9, 0.2], [9.0, 5.0, 3.0, 0.1]), [5.0, 3.0, 0.1])
    with pytest.raises(ValueError, match="3 levels cannot go to 2"):
        snapped([3.0, 2.0, 1.0, 0.0], [2.0, 1.0])


# Flat tables


@pytest.mark.parametrize(("solver", "options"), ALL, ids=name)
def test_a_flat_table_is_the_same_sampler(solver, options):
    for first in (None, solvers.steps.unit_first):
        made = table(solver, GRID, first=first, **options)
        flat = tuning.flatten(made)
        again = tuning.unflatten(flat, made)
        y = np.asarray(MIXTURE.sample(jax.random.key(3), 3))
        D = lambda y, s: np.tanh(y) + 0.1 * s  # noqa: E731
        np.testing.assert_allclose(play(again, D, y), play(made, D, y), rtol=1e-9, atol=1e-11)
        assert again.levels[0] == made.levels[0] and again.levels[-1] == made.levels[-1]
        assert len(again.accepted) == len(again.levels) - 1
        assert np.triu(flat.denoised[:-1]).max() == 0.0  # no state is made of what comes after


def play(made, D, y):
    """A table run in NumPy, as its definition reads."""
    z = np.asarray(noise_of(made))
    drawn = dict(zip(made.draws, z, strict=True))
    states, outputs, noises = [y], [], []
    for n in range(made.states.shape[0]):
        noises += [drawn.get(n * made.slots + q, 0.0 * y) for q in range(made.slots)]
        for row in range(made.states.shape[1]):
            parts = zip(
                (made.states, made.denoised, made.noises), (states, outputs, noises), strict=True
            )
            made_now = 0.0 * y
            for weights, window in parts:
                recent = window[::-1][: weights.shape[2]]
                made_now = made_now + sum(
                    w * v for w, v in zip(weights[n, row], recent, strict=False)
                )
            states.append(made_now)
        if n < len(made.nodes):
            outputs.append(D(states[-1], made.nodes[n]))
    return states[-1]


@pytest.mark.parametrize("solver", [solvers.unipc, solvers.ddim])
def test_a_flat_table_runs_as_a_table(solver):
    made = table(solver, GRID, **({"eta": 1.0} if solver is solvers.ddim else {}))
    flat = tuning.unflatten(tuning.flatten(made), made)
    np.testing.assert_allclose(run(flat), run(made), rtol=1e-10)


def test_a_flat_table_has_its_trajectory():
    for first in (None, solvers.steps.unit_first):
        made = table(solvers.euler, GRID, first=first)
        flat = tuning.unflatten(tuning.flatten(made), made)
        np.testing.assert_array_equal(flat.levels, made.levels)
        found = [trajectory(MIXTURE.denoiser, t, START).states for t in (flat, made)]
        np.testing.assert_allclose(*found, rtol=1e-10)


def test_a_traced_table_is_flattened_with_its_gradient():
    @jax.jit
    def weights(s):
        made = table(solvers.unipc, [80.0, s, 0.1, 0.0])
        flat = tuning.flatten(made)
        return jnp.sum(jnp.cos(flat.denoised)) + jnp.sum(tuning.unflatten(flat, made).denoised ** 2)

    value, slope = weights(jnp.asarray(2.0)), jax.jit(jax.grad(weights))(jnp.asarray(2.0))
    around = [weights(jnp.asarray(2.0 + h)) for h in (1e-5, -1e-5)]
    np.testing.assert_allclose(slope, (around[0] - around[1]) / 2e-5, rtol=1e-6)
    assert np.isfinite(value)


def test_what_has_no_flat_form():
    (padded,) = pad([table(solvers.euler, GRID)])
    with pytest.raises(ValueError, match="padded"):
        tuning.flatten(padded)


# Gradients through samplers


def directional(made, key):
    """The derivative of a loss along random changes of a table's numbers, and by differences."""
    parts = {k: getattr(made, k) for k in ("nodes", "states", "denoised", "noises")}
    leaves = {k: jnp.asarray(v) for k, v in parts.items()}
    keys = dict(zip(leaves, jax.random.split(key, len(leaves)), strict=True))
    change = {k: 1e-2 * v * jax.random.normal(keys[k], v.shape) for k, v in leaves.items()}
    z = None if made.count is not None or not made.stochastic else noise_of(made)
    draws = jax.random.key(2) if made.stochastic and z is None else None

    def loss(u):
        own = {k: leaves[k] + u * change[k] for k in leaves}
        moved = dataclasses.replace(made, **own)
        return jnp.sum(jnp.sin(sample(MIXTURE.denoiser, moved, START, key=draws, noise=z)))

    return loss


@pytest.mark.slow
def test_forward_gradients_of_every_solver_equal_differences():
    """On padded tables, a few programs for all solvers."""
    tables = pad([table(solver, GRID, **options) for solver, options in ALL])
    for made in tables:
        loss = directional(made, jax.random.key(4))
        _, slope = jax.jvp(loss, (0.0,), (1.0,))
        difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
        assert slope == pytest.approx(float(difference), rel=1e-4, abs=1e-6), made


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "options"), ALL[::4], ids=name)
def test_reverse_gradients_equal_differences(solver, options):
    loss = directional(table(solver, GRID, **options), jax.random.key(4))
    difference = (loss(1e-5) - loss(-1e-5)) / 2e-5
    assert jax.grad(loss)(0.0) == pytest.approx(float(difference), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("solver", [solvers.ipndm, solvers.sde_dpmpp])
def test_rematerialised_gradients_are_the_same(solver):
    made = jax.tree.map(jnp.asarray, table(solver, GRID))
    z = noise_of(made) if made.stochastic else None

    def slope(remat):
        loss = lambda t: jnp.sum(sample(MIXTURE.denoiser, t, START, noise=z, remat=remat) ** 2)  # noqa: E731
        return jax.grad(loss)(made)

    for a, b in zip(*(jax.tree.leaves(slope(r)) for r in (False, True)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


# Families

BASE = table(solvers.ipndm, GRID, order=3)
FAMILIES = {
    "grid": (lambda: tuning.of_grid(solvers.unipc, GRID), solvers.unipc, {}),
    "offsets": (lambda: tuning.of_grid(solvers.unipc, GRID, offsets=True), solvers.unipc, {}),
    "weights": (lambda: tuning.of_weights(BASE), solvers.ipndm, {"order": 3}),
    "window": (
        lambda: tuning.of_weights(BASE, window=2, keep_start=True), solvers.ipndm, {"order": 3}
    ),
    "consistent": (
        lambda: tuning.of_weights(BASE, consistent=True), solvers.ipndm, {"order": 3}
    ),
    "both": (
        lambda: tuning.of_weights(tuning.of_grid(solvers.dpmpp, GRID, offsets=True)),
        solvers.dpmpp, {},
    ),
    "noises": (
        lambda: tuning.of_weights(tuning.of_grid(solvers.ddim, GRID, eta=1.0), noises=True),
        solvers.ddim, {"eta": 1.0},
    ),
}  # fmt: skip


def other(family, rng, scale=0.1):
    return {k: v + scale * jnp.asarray(rng.normal(size=v.shape)) for k, v in family.init.items()}


@pytest.mark.parametrize("which", FAMILIES)
def test_a_family_starts_at_its_solver(which):
    make, solver, options = FAMILIES[which]
    family = make()
    found = concrete(family, family.init)
    own = table(solver, GRID, **options)
    a, b = tuning.flatten(found), tuning.flatten(own)
    for name_, x, y in zip(a._fields, a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-7, atol=1e-9, err_msg=name_)
    assert isinstance(found.denoised, np.ndarray) and found.denoised.dtype == np.float64
    assert found.nfe == own.nfe and found.name == own.name


@pytest.mark.parametrize("which", FAMILIES)
def test_any_numbers_make_a_valid_table(which, rng, tmp_path):
    from jaxdiff.sampling.table import load_table

    family = FAMILIES[which][0]()
    for _ in range(3):
        made = concrete(family, other(family, rng, 1.0))
        made.save(tmp_path / "t.json")
        assert load_table(tmp_path / "t.json").nfe == made.nfe
        levels = np.asarray(made.levels)
        assert (np.diff(levels) < 0).all() and np.isfinite(made.denoised).all()


def test_levels_are_the_states_own_whatever_the_label(rng):
    """Of an exactly solved model every state lies on the trajectory at the level it is given."""
    grid = tuning.of_grid(solvers.ipndm, GRID, offsets=True)
    numbers = {"offsets": jnp.array([0.0, -1.0, 2.5, 0.0])}
    for family in (grid, tuning.of_weights(grid)):
        made = concrete(family, family.init | numbers)
        np.testing.assert_allclose(made.levels, GRID, rtol=1e-9)
        np.testing.assert_allclose(made.nodes, GRID[:4] * np.exp(numbers["offsets"]), rtol=1e-9)


def test_units_of_weights(rng):
    """alpha and beta change a state by as much as it is large."""
    family = tuning.of_weights(BASE, sigma_data=0.5)
    numbers = other(family, rng)
    before, after = tuning.flatten(BASE), tuning.flatten(concrete(family, numbers))
    size = np.sqrt(0.25 + before.states**2)[:, None]
    free = np.tril(np.ones((5, 4)), -1)
    np.testing.assert_allclose(
        after.denoised - before.denoised, free * numbers["denoised"] * size, atol=1e-12
    )
    scale = size[:, 0] / np.sqrt(0.25 + 80.0**2)
    np.testing.assert_allclose(after.start - before.start, numbers["start"] * scale, atol=1e-12)


def test_a_window_frees_the_last_outputs_alone(rng):
    family = tuning.of_weights(BASE, window=2, keep_start=True)
    assert set(family.init) == {"denoised"}
    before, after = tuning.flatten(BASE), tuning.flatten(concrete(family, other(family, rng)))
    changed = np.abs(after.denoised - before.denoised) > 1e-6
    np.testing.assert_array_equal(
        changed, np.tril(np.ones((5, 4)), -1) - np.tril(np.ones((5, 4)), -3)
    )
    np.testing.assert_allclose(after.start, before.start, rtol=1e-12, atol=1e-15)


def test_consistent_weights_keep_their_sums(rng):
    """A model of a single point is sampled exactly, whatever the numbers."""
    family = tuning.of_weights(BASE, consistent=True)
    before, after = tuning.flatten(BASE), tuning.flatten(concrete(family, other(family, rng, 1.0)))
    np.testing.assert_allclose(after.denoised.sum(1), before.denoised.sum(1), atol=1e-12)
    assert np.abs(after.denoised - before.denoised).max() > 0.1
    point = np.array([0.3, -0.2])
    made = concrete(family, other(family, rng, 1.0))
    np.testing.assert_allclose(
        run(made, lambda y, s, c=None: 0.0 * y + point[None]), np.tile(point, (3, 1)), atol=1e-10
    )


def test_noises_are_freed_where_they_are_drawn(rng):
    family = FAMILIES["noises"][0]()
    before, after = (tuning.flatten(concrete(family, n)) for n in (family.init, other(family, rng)))
    drawn = np.abs(before.noises) > 1e-9
    np.testing.assert_array_equal(np.abs(after.noises - before.noises) > 1e-9, drawn)
    with pytest.raises(ValueError, match="draws no noise"):
        tuning.of_weights(BASE, noises=True)
    with pytest.raises(ValueError, match="window"):
        tuning.of_weights(BASE, window=0)


def test_offsets_move_the_labels():
    family = tuning.of_grid(solvers.euler, GRID, offsets=True)
    numbers = family.init | {"offsets": jnp.array([0.0, 0.1, -0.2, 0.3])}
    made = concrete(family, numbers)
    np.testing.assert_allclose(made.nodes, GRID[:4] * np.exp([0.0, 0.1, -0.2, 0.3]), rtol=1e-9)
    np.testing.assert_allclose(made.levels, GRID, rtol=1e-9)
    np.testing.assert_allclose(made.denoised, table(solvers.euler, GRID).denoised, rtol=1e-7)


def test_options_as_numbers():
    links = {"ratios": Link(np.zeros(3), lambda raw: list(jax.nn.sigmoid(raw)))}
    levels = grids.karras(3, zero=False)
    family = of_options(solvers.amed, levels, links)
    plain = tuning.flatten(table(solvers.amed, levels))
    np.testing.assert_allclose(
        tuning.flatten(concrete(family, family.init)).denoised, plain.denoised, rtol=1e-9
    )
    made = concrete(family, {"ratios": jnp.array([0.0, 1.0, -1.0])})
    ratio = 1 / (1 + np.exp(-1.0))
    middle = levels[2] ** ratio * levels[1] ** (1 - ratio)
    np.testing.assert_allclose(made.nodes[3], middle, rtol=1e-9)
    assert made.label.options == {}


# Bespoke solvers


def test_bespoke_without_a_change_is_the_plain_method():
    np.testing.assert_allclose(
        run(table(solvers.bespoke, GRID, order=1)), run(table(solvers.euler, GRID)), rtol=1e-12
    )
    levels = grids.log_snr(6, zero=False)
    np.testing.assert_allclose(
        run(table(solvers.bespoke, levels)), run(table(solvers.dpm2, levels[::2])), rtol=1e-10
    )


@pytest.mark.parametrize("order", [1, 2])
def test_bespoke_has_its_order_after_any_smooth_change(order):
    """Scale 1/sqrt(1 + s^2) and time log s, on a Gaussian."""
    model = Gaussian(np.array([0.3, -0.2]), np.array([0.5, 0.1]))
    start = START / 4

    def error(num_steps):
        levels = grids.log_snr(order * num_steps, 0.01, 20.0, zero=False)
        scale = 1 / np.sqrt(1 + levels**2)
        scale /= scale[0]
        h = np.log(levels[0] / levels[-1]) / num_steps
        ds, dc = -levels[:-1] * h, (scale * levels**2 / (1 + levels**2))[:-1] * h
        made = list(
            solvers.bespoke(
                lambda y, s: model.denoiser(y, s), start, [float(s) for s in levels], order,
                list(ds), list(scale[1:]), list(dc),
            )
        )  # fmt: skip
        return float(jnp.abs(made[-1] - model.flow(start, 20.0, 0.01)).max())

    found = np.log2(error(40) / error(80))
    assert order - 0.3 < found < order + 0.3


def test_bespoke_refuses_what_does_not_fit():
    y = np.ones((1, 2))
    with pytest.raises(ValueError, match="orders 1 to 2"):
        list(solvers.bespoke(lambda y, s: y, y, [3.0, 2.0, 1.0], 3))
    with pytest.raises(ValueError, match="scales has 1 entries"):
        list(solvers.bespoke(lambda y, s: y, y, [3.0, 2.0, 1.0], 1, scales=[1.0]))


@pytest.mark.parametrize("whole", [True, False])
def test_plain_bespoke_is_the_midpoint_method_of_the_flow(whole):
    """A last step without a middle is Euler's, which to level 0 costs one evaluation."""
    levels = grids.karras(3, 0.2, zero=not whole)
    made = plain_bespoke(
        with_intermediate_levels(levels, sigma_data=1.0, last=whole), sigma_data=1.0
    )
    assert made.nfe == (6 if whole else 5)
    np.testing.assert_allclose(run(made), run(table(solvers.flow_midpoint, levels)), rtol=1e-9)


def test_plain_bespoke_of_order_1_is_eulers_method():
    np.testing.assert_allclose(
        run(plain_bespoke(GRID, 1)), run(table(solvers.euler, GRID)), rtol=1e-9
    )


def test_bespoke_family_starts_at_the_plain_method(rng):
    levels = with_intermediate_levels(grids.karras(2))
    family = of_bespoke(levels)
    np.testing.assert_allclose(
        run(concrete(family, family.init)), run(plain_bespoke(levels)), rtol=1e-6
    )
    made = concrete(family, other(family, rng))
    assert made.nfe == 4 and (np.diff(made.levels) < 0).all()
