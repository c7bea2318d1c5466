"""LD3, S4S and BNS: schedules, projections, updates and losses, by numbers computed by hand."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import grids, solvers, tuning
from jaxdiff.distance import squared
from jaxdiff.exact import GaussianMixture
from jaxdiff.noise import start_noise
from jaxdiff.recipes.tuning import relaxed, weights
from jaxdiff.recipes.tuning import task as tasks
from jaxdiff.sampling.pairs import pair_batches
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table
from jaxdiff.training.loop import fit
from jaxdiff.tuning.baselines import Baseline
from jaxdiff.tuning.learned.family import concrete
from jaxdiff.tuning.learned.method import Ball, descended, within

MIXTURE = GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], [0.02, 0.05])
D = MIXTURE.denoiser
NFE, COUNT = 4, 32
GRID = grids.karras(NFE, 0.05)
START = table(solvers.ipndm, GRID, order=2)
QUIET: dict[str, Any] = {"progress": False}


@functools.cache
def pairs(number=0):
    start = 80.0 * start_noise(jax.random.key(number), COUNT, (2,), jnp.float64)
    end = sample(D, table(solvers.unipc, grids.log_snr(60)), start)
    return {"start": np.asarray(start), "image": np.asarray(end)}


def task(**options):
    """With one baseline, so that there is nothing to rank."""
    choice = (solvers.ipndm, {"order": 2})
    known = [Baseline(*choice, GRID, "Karras")]
    made = tasks.Task(
        D, NFE, pairs(0), pairs(1), np.zeros((0, 2)), solver=choice, baselines=known, batch=COUNT
    )
    return made._replace(**options)


def distances(made, start):
    return np.asarray(squared(sample(D, made, jnp.asarray(start)), pairs()["image"]))


# The numbers


def test_offsets_rest_and_then_descend():
    """Seven updates, as LD3's rounds: two for the levels alone."""
    made = relaxed.in_phases(task(num_updates=7))
    params = {"levels": jnp.zeros(2), "offsets": jnp.zeros(2)}
    small = {"levels": jnp.array([0.3, -0.4]), "offsets": jnp.array([0.06, -0.08])}
    large = {"levels": jnp.array([30.0, -40.0]), "offsets": jnp.array([3.0, -4.0])}
    state, found = made.init(params), []
    with jax.numpy_dtype_promotion("standard"):  # optax's own arithmetic
        for slope in (small, small, small, large):
            update, state = made.update(slope, state, params)
            found.append(update)
    for update in found[:2]:
        np.testing.assert_array_equal(update["offsets"], 0.0)
    np.testing.assert_allclose(found[2]["offsets"], [-0.0015, 0.002])  # 0.1/4
    np.testing.assert_allclose(found[3]["offsets"], [-0.015, 0.02])  # of a norm of 1, not 5
    # RMSprop: 1/sqrt(0.01), then 1/sqrt(0.0199) and 0.9 of the first; 0.005 by a cosine of 7.
    np.testing.assert_allclose(found[0]["levels"], [-0.05, 0.05], rtol=1e-6)
    second = 0.005 * 0.9504844339512095 * (9.0 + 7.088812050083359)
    np.testing.assert_allclose(found[1]["levels"], [-second, second], rtol=1e-6)


def test_offsets_are_held_within_half_the_least_gap():
    grid, gap = [80.0, 8.0, 4.0, 1.0, 0.0], np.log(2.0)
    made = tuning.of_grid(solvers.euler, grid, offsets=True, reach=0.5)
    network_levels = lambda offsets: made.build(made.init | {"offsets": offsets}).nodes  # noqa: E731
    requested = jnp.array([5.0, 0.1, -5.0, 5.0])
    scale = [1.0, np.exp(0.1), np.exp(-gap / 2), np.exp(gap / 2)]
    np.testing.assert_allclose(network_levels(requested), np.array(grid[:4]) * scale, rtol=1e-9)
    np.testing.assert_array_equal(np.diag(jax.jacobian(network_levels)(requested))[[0, 2, 3]], 0.0)
    # A grid that ends above 0 and a solver that is evaluated there: none at the last level either.
    ends = tuning.of_grid(solvers.heun, [80.0, 8.0, 1.0], offsets=True, reach=0.5)
    nodes = np.asarray(ends.build(ends.init).nodes)
    moved = np.asarray(ends.build(ends.init | {"offsets": jnp.full(4, 2.0)}).nodes)
    np.testing.assert_allclose(nodes, [80.0, 8.0, 8.0, 1.0], rtol=1e-6)
    np.testing.assert_allclose(moved / nodes, [1.0, 8**0.5, 8**0.5, 1.0], rtol=1e-6)
    for wrong in ({"offsets": True, "reach": 0.6}, {"reach": 0.5}):
        with pytest.raises(ValueError, match="reach is of offsets, in"):
            tuning.of_grid(solvers.euler, grid, **wrong)


@pytest.mark.slow
def test_one_update_of_ld3():
    """Offsets rest in the first phase; without one they go down their slope at 0.1/4."""
    requested = task(num_updates=7)
    rest = relaxed.ld3(requested, radius=0.0)
    state = fit(rest.method, rest.data, num_updates=2, **QUIET).params["table"]
    np.testing.assert_array_equal(state["offsets"], 0.0)
    assert np.any(state["levels"] != tuning.of_grid(solvers.ipndm, GRID, order=2).init["levels"])
    plan = relaxed.ld3(requested, radius=0.0, alone=0.0)
    moved = fit(plan.method, plan.data, num_updates=1, **QUIET).params["table"]["offsets"]
    made = tuning.of_grid(solvers.ipndm, GRID, offsets=True, order=2)
    first, rows = np.mean(distances(START, pairs()["start"])), plan.data(0)["index"]

    def loss(offsets):
        own = concrete(made, made.init | {"offsets": offsets})
        return np.mean(distances(own, pairs()["start"])[rows]) / first

    slope = [(loss(e) - loss(-e)) / 2e-4 for e in 1e-4 * np.eye(NFE)]
    expected = -0.025 * np.array(slope) / max(1.0, np.linalg.norm(slope[1:]))
    np.testing.assert_allclose(moved[1:], expected[1:], rtol=1e-5)
    assert moved[0] == 0 and np.abs(expected[0]) > 1e-6


# The starts


def test_a_start_goes_only_where_its_loss_falls():
    """Of the loss |z - (1, 0)|^2, from 0, where its slope is (-2, 0)."""
    losses = lambda z: jnp.sum((z - jnp.array([[1.0, 0.0]])) ** 2, axis=1)  # noqa: E731
    step = lambda rate, radius: descended(losses, jnp.zeros((1, 2)), Ball(1, 1, radius, rate))  # noqa: E731
    change, before = step(0.25, 10.0)
    np.testing.assert_allclose(change, [[0.5, 0.0]])
    np.testing.assert_allclose(before, [1.0])
    np.testing.assert_array_equal(step(2.0, 10.0)[0], 0.0)  # at (4, 0) it would be 9
    np.testing.assert_allclose(step(2.0, 0.1)[0], [[0.1, 0.0]])
    edge = lambda z: jnp.sqrt(jnp.sum(z**2, axis=1))  # noqa: E731
    assert np.isnan(descended(edge, jnp.zeros((1, 2)), Ball(1, 1, 1.0, 0.1))[0]).all()
    outside = lambda z: jnp.where(z[:, 0] > 0, jnp.nan, losses(z))  # noqa: E731
    np.testing.assert_array_equal(
        descended(outside, jnp.zeros((1, 2)), Ball(1, 1, 1.0, 0.1))[0], 0.0
    )


def test_projection_keeps_the_norm_and_the_direction():
    rows = jnp.array([[6.0, 8.0], [0.2, 0.0]])
    np.testing.assert_allclose(within(rows, 2.0), [[1.2, 1.6], [0.2, 0.0]])


def test_the_ball_is_of_ld3():
    assert relaxed.relaxed(task()) == Ball(COUNT, COUNT, 0.001 * 2 / 16, 3.0)
    assert relaxed.relaxed(task(), radius=0.0) is None


def moving(ball):
    family = tuning.of_weights(tuning.of_grid(solvers.ipndm, GRID, order=2))
    return tuning.tuning(
        D, family, tuning.end_point(), optimiser=optax.sgd(0.0), ball=ball, shape=(2,)
    )


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"gradient_accumulation": 2}])
def test_starts_move_within_their_ball(options):
    """One update of half the pairs, by hand; in units of the highest level."""
    ball = Ball(COUNT, 16, 0.5, 8.0)
    data = pair_batches(tasks.numbered(pairs()), 16, distinct=True)
    moved = np.asarray(fit(moving(ball), data, num_updates=1, **QUIET, **options).params["starts"])
    drawn, start = np.isin(np.arange(COUNT), data(0)["index"]), pairs()["start"]
    total = lambda z: jnp.sum(squared(sample(D, START, start + 80 * z), pairs()["image"]))  # noqa: E731
    step = -ball.rate * np.asarray(jax.grad(total)(jnp.zeros((COUNT, 2))))
    step *= np.minimum(1.0, ball.radius / np.linalg.norm(step, axis=1, keepdims=True))
    falls = distances(START, start + 80 * step) < distances(START, start)
    goes = drawn & falls
    assert 0 < goes.sum() < 16 == drawn.sum()
    np.testing.assert_allclose(moved[goes], step[goes], rtol=1e-6)
    np.testing.assert_array_equal(moved[~goes], 0.0)


@pytest.mark.slow
def test_a_relaxed_teacher_is_easier():
    """The same table does better on starts that may move."""
    rows, losses = tasks.numbered(pairs()), []
    note = lambda n, row: losses.append(row["table/loss"])  # noqa: E731
    made = moving(Ball(COUNT, COUNT, 0.01, 5.0))
    fit(made, lambda step: rows, num_updates=40, log=note, log_every=20, **QUIET)
    assert losses[-1] <= losses[0] < np.mean(distances(START, pairs()["start"]))


def test_batches_of_distinct_pairs():
    rows = tasks.numbered(pairs())
    data = pair_batches(rows, COUNT - 1, distinct=True)
    assert len(set(data(3)["index"])) == COUNT - 1
    np.testing.assert_array_equal(data(3)["index"], data(3)["index"])
    assert set(data(3)["index"]) != set(data(4)["index"])
    with pytest.raises(ValueError, match="33 distinct pairs cannot be drawn of 32"):
        pair_batches(rows, COUNT + 1, distinct=True)


# The losses


def first_loss(plan):
    seen = []
    log = lambda n, row: seen.append(float(row.get("table/loss", row.get("levels/loss"))))  # noqa: E731
    fit(plan.method, plan.data, num_updates=1, log=log, log_every=1, **QUIET)
    return seen[0], distances(START, pairs()["start"])[plan.data(0)["index"]]


def test_losses_begin_in_units_of_the_start():
    distance = relaxed.relative(task(), START)
    made = sample(D, START, jnp.asarray(pairs()["start"]))
    found = np.asarray(distance(made, pairs()["image"]))
    assert np.mean(found) == pytest.approx(1.0, rel=1e-9)
    first = distances(START, pairs()["start"])
    np.testing.assert_allclose(found, first / np.mean(first))


@pytest.mark.slow
@pytest.mark.parametrize("which", ["ld3", "s4s", "s4s_alt"])
def test_the_relaxed_losses_are_relative(which):
    found, own = first_loss(getattr(relaxed, which)(task(num_updates=20)))
    expected = np.mean(own) / np.mean(distances(START, pairs()["start"]))
    assert found == pytest.approx(expected, rel=1e-6)


def test_the_loss_of_bns_is_a_mean_of_logarithms():
    a, b = jnp.zeros((2, 2)), jnp.array([[1.0, 1.0], [np.e, np.e]])
    np.testing.assert_allclose(weights.logarithm(squared)(a, b), [0.0, 2.0], atol=1e-12)
    slope = jax.grad(lambda a: jnp.sum(weights.logarithm(squared)(a, 0 * a)))(a)
    np.testing.assert_array_equal(slope, 0.0)


@pytest.mark.slow
def test_bns_descends_by_it():
    found, own = first_loss(weights.bns(task()))
    assert found == pytest.approx(np.mean(np.log(own)), rel=1e-6)
    found, own = first_loss(weights.bns(task(), log=False))
    assert found == pytest.approx(np.mean(own), rel=1e-6)
