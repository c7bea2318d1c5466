"""Grids found without gradients through the network: closed forms, brute force, golden numbers."""

import itertools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import load

from jaxdiff import grids, solvers
from jaxdiff.analysis.trajectory import chord_deviation
from jaxdiff.exact import Gaussian, GaussianMixture
from jaxdiff.grids.dynamic import best_grids, path_cost, shortest, shortest_paths
from jaxdiff.sampling.trace import table
from jaxdiff.tuning.learned.path import Path, follow
from jaxdiff.tuning.search.align import (
    align,
    align_costs,
    bisect,
    coordinate_descent,
    step_costs,
)
from jaxdiff.tuning.search.elbo import best_elbo, costs_of_errors, elbo_costs
from jaxdiff.tuning.search.gits import gits, insert_analytic, jump_costs
from jaxdiff.tuning.search.optimised_steps import contributions, optimised_steps, weight_bound

SPECTRUM = pathlib.Path(__file__).parents[2] / "experiments/samplers/cifar10_gaussian.npz"
PREDICTOR = {"variant": "vary", "corrector": False}


def brute_force(costs, num_steps, discount):
    last = len(costs) - 1
    paths = [(0, *p, last) for p in itertools.combinations(range(1, last), num_steps - 1)]
    return min(path_cost(costs, p, discount) for p in paths)


# the dynamic program


@pytest.mark.parametrize("discount", [0.8, 1.0, 1.15])
def test_the_dynamic_program_finds_what_brute_force_finds(rng, discount):
    for last in range(1, 13):
        costs = np.triu(rng.normal(size=(last + 1, last + 1)) + 0.5, 1)
        paths = shortest_paths(costs, range(1, last + 1), discount)
        for num_steps, path in enumerate(paths, 1):
            assert len(path) == num_steps + 1 and path[0] == 0 and path[-1] == last
            assert (np.diff(path) > 0).all()
            np.testing.assert_allclose(
                path_cost(costs, path, discount),
                brute_force(costs, num_steps, discount),
                rtol=1e-12,
            )


def test_the_cost_of_a_path_discounts_later_steps():
    costs = np.arange(16.0).reshape(4, 4)
    assert path_cost(costs, [0, 1, 3], 2.0) == 1.0 + 2.0 * 7.0


def test_several_budgets_are_the_single_ones_and_the_lower_triangle_is_not_read(rng):
    costs = rng.uniform(size=(9, 9))
    junk = np.where(np.tri(9, dtype=bool), np.nan, costs)
    for num_steps, path in zip([5, 2, 8], shortest_paths(junk, [5, 2, 8], 1.1), strict=True):
        assert path.tolist() == shortest(costs, num_steps, 1.1).tolist()


def test_an_infinite_cost_forbids_a_step():
    costs = np.ones((4, 4))
    costs[0, 2] = np.inf
    assert shortest(costs, 2).tolist() == [0, 1, 3]
    costs[0, 1] = np.inf
    with pytest.raises(ValueError, match="no path of 2 steps"):
        shortest(costs, 2)
    assert shortest(costs, 1).tolist() == [0, 3]


@pytest.mark.parametrize(
    "costs, num_steps, discount, message",
    [
        (np.ones((3, 4)), 1, 1.0, "square"),
        (np.ones((4, 4)), 0, 1.0, "1 to 3 steps"),
        (np.ones((4, 4)), 4, 1.0, "1 to 3 steps"),
        (np.ones((4, 4)), 2, 0.0, "discount"),
        (np.where(np.eye(4, k=1) == 1, np.nan, 1.0), 2, 1.0, "numbers"),
    ],
)
def test_the_dynamic_program_says_what_is_wrong(costs, num_steps, discount, message):
    with pytest.raises(ValueError, match=message):
        shortest(costs, num_steps, discount)


def test_grids_come_from_the_levels_that_the_costs_are_of():
    levels = np.array([80.0, 5.0, 1.0, 0.1])
    one, two = best_grids(np.triu(np.ones((4, 4)), 1), levels, [3, 1])
    assert one.tolist() == levels.tolist() and two.tolist() == [80.0, 0.1]
    with pytest.raises(ValueError, match="do not go with"):
        best_grids(np.ones((5, 5)), levels, [2])


def test_golden_dynamic_programs():
    numbers = load("gits")
    cases = [c for c in numbers.cases if c["peer"] == "gits dp()"]
    assert len(cases) in (90, 6)  # all, or the committed ones
    for case in cases:
        costs, num_steps = numbers[case["cost"]], case["num_steps"] - 1
        assert shortest(costs, num_steps, case["coeff"]).tolist() == case["dp_list"], case["id"]


# GITS


def golden_mixture():
    numbers = load("teacher")
    mu, var, weights = (numbers[f"mix/{k}"] for k in ("mu", "var", "weights"))
    return GaussianMixture(weights, mu, var).denoiser, numbers["z"]


def golden_path(case, levels):
    D, z = golden_mixture()
    options = {"order": 3} if case["solver_tea"] == "ipndm" else {}
    made = table(getattr(solvers, case["solver_tea"]), levels, **options)
    return follow(D, made, jnp.asarray(levels[0] * z))


@pytest.mark.slow
def test_golden_costs_and_schedules():
    numbers = load("gits")
    cases = [c for c in numbers.cases if c["peer"] == "gits get_dp_list"]
    assert len(cases) in (18, 9)
    for case in cases:
        levels = numbers.get(case, "t_steps")
        costs = jump_costs(golden_path(case, levels), case["metric"])
        golden = np.triu(numbers.get(case, "cost"), 1)
        np.testing.assert_allclose(costs, golden, rtol=1e-9, atol=1e-9)
        path = shortest(costs, case["num_steps"] - 1, case["coeff"])
        assert path.tolist() == case["dp_list"], case["id"]
        np.testing.assert_allclose(levels[path], numbers.get(case, "schedule"), rtol=1e-12)


def test_golden_analytic_step():
    numbers = load("gits")
    (case,) = (c for c in numbers.cases if "afs" in c["peer"])
    levels = grids.karras(case["num_steps_tea"] - 1, zero=False)
    path = golden_path(case, levels)
    grid = best_grids(jump_costs(path, "dev"), levels, [case["num_steps"] - 1], case["coeff"])[0]
    found = insert_analytic(golden_mixture()[0], path, grid, solvers.ipndm, order=3)
    np.testing.assert_allclose(found, levels[case["dp_list"]], rtol=1e-12)


def test_golden_deviation():
    numbers = load("gits")
    states = jnp.asarray(numbers["deviation/traj"])
    found = [chord_deviation(point, states[0], states[-1]) for point in states[1:-1]]
    np.testing.assert_allclose(np.stack(found, 1), numbers["deviation/out"], rtol=1e-9)


def exact_path(model, start, levels):
    states = jnp.stack([model.flow(start, levels[0], t) for t in levels])
    denoised = jnp.stack([model.denoise(y, t) for y, t in zip(states, levels, strict=True)])
    return Path(jnp.asarray(levels), states, denoised, states[-1])


def test_costs_on_an_isotropic_gaussian_are_those_of_its_straight_lines(rng):
    c, levels = 0.5, np.array([10.0, 3.0, 1.0, 0.2])
    start = jnp.asarray(10 * rng.normal(size=(6, 4)))
    path = exact_path(Gaussian(np.zeros(4), np.full(4, c**2)), start, levels)
    s, r = levels[:, None], levels[None]
    jump = (c**2 + s * r) / (c**2 + s**2) - np.sqrt((c**2 + r**2) / (c**2 + s**2))
    size = np.sqrt((c**2 + levels**2) / (c**2 + 100))
    for measure, order in (("l1", 1), ("l2", 2)):
        mean = np.mean(np.linalg.norm(np.asarray(start), order, axis=1))
        exact = np.triu(np.abs(jump) * size[:, None] * mean, 1)
        np.testing.assert_allclose(jump_costs(path, measure), exact, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(jump_costs(path, "dev"), 0.0, atol=1e-6)


@pytest.mark.slow
def test_the_covariance_of_cifar10_gives_the_known_indices():
    numbers = np.load(SPECTRUM)
    model = Gaussian(numbers["mean"].astype(float), numbers["variance"].astype(float))
    levels = jnp.asarray(grids.karras(60, zero=False))
    start = 80.0 * jax.random.normal(jax.random.key(0), (64, 3072))
    states = jax.jit(lambda: jax.lax.map(lambda t: model.flow(start, 80.0, t), levels))()
    denoised = jax.jit(lambda y: jax.lax.map(lambda p: model.denoise(*p), (y, levels)))(states)
    path = Path(levels, states, denoised, states[-1])
    bent, euclidean = jump_costs(path, "dev"), jump_costs(path, "l2")
    assert shortest(bent, 6, 1.0).tolist() == [0, 14, 21, 28, 34, 41, 60]
    assert shortest(bent, 6, 1.10).tolist() == [0, 18, 26, 33, 39, 45, 60]
    assert shortest(euclidean, 6, 1.10).tolist() == [0, 18, 26, 33, 39, 45, 60]
    apart = shortest(euclidean, 6, 1.0) - shortest(bent, 6, 1.0)
    assert np.abs(apart).max() <= 1


@pytest.mark.parametrize("zero", [False, True])
def test_gits_picks_levels_of_the_teacher_and_ends_where_it_ends(zero):
    D, z = golden_mixture()
    levels = grids.karras(12, 0.02, 20.0, zero=zero)
    start = jnp.asarray(20.0 * z)
    grid = gits(D, start, 4, levels=levels, discount=1.0, order=2)
    assert len(grid) == 5 and np.isin(grid, levels).all()
    assert grid[0] == levels[0] and grid[-1] == levels[-1] and (grid[-1] == 0) == zero
    path = follow(D, table(solvers.ipndm, levels, order=2), start)
    costs = jump_costs(path, zero=zero)
    assert costs.shape == (13, 13)
    np.testing.assert_allclose(grid, best_grids(costs, levels, [4])[0])
    if zero:
        costs = jump_costs(path, "l2", zero=True)
        exact = np.linalg.norm(np.asarray(path.denoised - path.end[None]), axis=2).mean(1)
        np.testing.assert_allclose(costs[:-1, -1], exact, rtol=1e-9, atol=1e-12)


def test_gits_by_hand():
    """States (4, 0), (1, 1), (0, 0) at levels 4, 2, 1: the chord is the first axis. From level 4
    with slope (1, 0) Euler's method is at (2, 0) and (1, 0), from level 2 with slope (1, 3) at (0,
    -2).
    """
    levels = jnp.array([4.0, 2.0, 1.0])
    states = jnp.array([[[4.0, 0.0]], [[1.0, 1.0]], [[0.0, 0.0]]])
    slopes = jnp.array([[[1.0, 0.0]], [[1.0, 3.0]], [[0.0, 0.0]]])
    path = Path(levels, states, states - levels[:, None, None] * slopes, states[-1])
    for measure, exact in (
        ("dev", [-1.0, 0.0, 2.0]), ("l2", [2**0.5, 1.0, 2.0]), ("l1", [2.0, 1.0, 2.0])
    ):  # fmt: skip
        costs = jump_costs(path, measure)
        np.testing.assert_allclose(costs[[0, 0, 1], [1, 2, 2]], exact, atol=1e-12)
    bent = jump_costs(path)
    assert path_cost(bent, [0, 1, 2], 1.15) == pytest.approx(-1.0 + 1.15 * 2.0)


def test_gits_beats_the_usual_grid_for_euler_on_what_it_was_made_for():
    D, z = golden_mixture()
    levels, start = grids.karras(40, zero=False), jnp.asarray(80.0 * z)
    path = follow(D, table(solvers.heun, levels), start)
    grid = best_grids(jump_costs(path, "l2"), levels, [6])[0]

    def error(levels):
        *_, end = solvers.euler(lambda y, s: D(y, s), start, list(levels))
        return float(jnp.mean(jnp.linalg.norm(end - path.end, axis=1)))

    assert error(grid) < 0.7 * error(grids.karras(6, zero=False))


def test_gits_says_what_is_wrong():
    D, z = golden_mixture()
    levels = np.array([20.0, 5.0, 1.0])
    path = follow(D, table(solvers.euler, levels), jnp.asarray(20.0 * z))
    with pytest.raises(ValueError, match="measure"):
        jump_costs(path, "bdev")
    with pytest.raises(ValueError, match="no level between"):
        insert_analytic(D, path, levels, solvers.euler)
    with pytest.raises(ValueError, match="starts at level"):
        insert_analytic(D, path, [30.0, 1.0], solvers.euler)


# Align Your Steps and the ELBO, on N(0, c^2)


def gaussian_bound(c, s, r):
    """J of the step from s to r, per dimension."""

    def primitive(t):  # of 1/(t^3 (t^2 + c^2))
        return -1 / (2 * c**2 * t**2) - np.log(t**2 / (t**2 + c**2)) / (2 * c**4)

    kept = (1 / r**2 - 1 / s**2) / (2 * (s**2 + c**2))
    return c**4 * (primitive(s) - primitive(r) - kept)


def gaussian_costs(c, levels):
    return np.triu(gaussian_bound(c, levels[:, None], levels[None]), 1)


def path_divergence(variance, s, r, count=20_000):
    """KL of the true reverse chain of N(0, variance) from the one that keeps D, in fine steps."""
    levels = np.geomspace(s, r, count + 1)
    kept = variance / (variance + s**2)
    t, u = levels[:-1], levels[1:]
    shrink = (variance + u**2) / (variance + t**2)  # of E[x_u | x_t]
    true = (variance + u**2) - shrink**2 * (variance + t**2)
    model = u**2 * (1 - u**2 / t**2)
    a, b = shrink - u**2 / t**2, -(1 - u**2 / t**2) * kept  # the means differ by a x_t + b x_s
    apart = (a**2 + 2 * a * b) * (variance + t**2) + b**2 * (variance + s**2)
    return np.sum(0.5 * (true / model - 1 - np.log(true / model) + apart / model))


def test_the_bound_is_the_divergence_of_the_paths_in_nats():
    for c, s, r in ((0.5, 3.0, 0.4), (1.0, 0.7, 0.1), (2.0, 20.0, 1.0)):
        np.testing.assert_allclose(gaussian_bound(c, s, r), path_divergence(c**2, s, r), rtol=1e-3)


def test_the_integral_is_exact_for_what_is_linear_in_log_level():
    levels = np.array([4.0, 1.5, 1.0, 0.2])
    changes = np.log(levels[:, None] / levels[None])
    costs = step_costs(levels, np.triu(changes))
    for i, j in itertools.combinations(range(4), 2):
        x, w = np.polynomial.legendre.leggauss(60)
        t = (levels[i] + levels[j]) / 2 + (levels[i] - levels[j]) / 2 * x
        exact = np.sum(w * np.log(levels[i] / t) / t**3) * (levels[i] - levels[j]) / 2
        np.testing.assert_allclose(costs[i, j], exact, rtol=1e-10)
    assert (costs[np.tri(4, dtype=bool)] == 0).all()


def test_the_integral_converges_to_the_closed_form_with_second_order():
    c, errors = 0.5, []
    for num_steps in (30, 60):
        levels = grids.log_snr(num_steps, 0.02, 20.0, zero=False)
        e = c**4 * (1 / (levels[None] ** 2 + c**2) - 1 / (levels[:, None] ** 2 + c**2))
        exact = gaussian_costs(c, levels)[0, -1]
        errors.append(abs(step_costs(levels, np.triu(e))[0, -1] / exact - 1))
    assert errors[1] < 1e-3 and 3.5 < errors[0] / errors[1] < 4.5


def test_costs_from_samples_are_the_closed_forms(key):
    c, d = 0.7, 64
    levels = grids.log_snr(12, 0.1, 8.0, zero=False)
    model = Gaussian(np.zeros(d), np.full(d, c**2))
    data = model.sample(key, 2048)
    e = c**4 * (1 / (levels[None] ** 2 + c**2) - 1 / (levels[:, None] ** 2 + c**2))
    exact = d * step_costs(levels, np.triu(e))
    above = np.triu_indices(13, 1)
    found = align_costs(model.denoiser, data, levels, key)
    np.testing.assert_allclose(found[above], exact[above], rtol=0.02)
    errors = d * c**2 * levels**2 / (c**2 + levels**2)
    found = elbo_costs(model.denoiser, data, levels, key)
    exact = 0.5 * (1 / levels[None] ** 2 - 1 / levels[:, None] ** 2) * errors[:, None]
    np.testing.assert_allclose(found[above], exact[above], rtol=0.02)
    assert (found[np.tri(13, dtype=bool)] == 0).all()


def test_the_elbo_of_a_fine_grid_is_the_entropy_and_of_any_other_more_by_the_paths_divergence():
    c, low, high = 0.8, 0.01, 50.0
    first = 0.5 * np.log(1 + c**2 / high**2)  # E KL(q(x_T | x0) || N(0, c^2 + T^2))
    decoder = c**2 * low**2 / (c**2 + low**2)
    last = 0.5 * np.log(2 * np.pi * np.e * decoder)  # E -log N(x0; D(x_low), its variance)
    entropy = 0.5 * np.log(2 * np.pi * np.e * c**2)

    def surplus(num_steps):
        levels = grids.log_snr(num_steps, low, high, zero=False)
        costs = costs_of_errors(levels, c**2 * levels**2 / (c**2 + levels**2))
        whole = range(num_steps + 1)
        divergence = path_cost(gaussian_costs(c, levels), whole)
        return first + path_cost(costs, whole) + last - entropy, divergence

    for num_steps in (1, 3, 10):
        np.testing.assert_allclose(*surplus(num_steps), rtol=1e-8)
    coarse, fine = surplus(500)[0], surplus(1000)[0]
    assert 0 < fine < 0.04 and 1.9 < coarse / fine < 2.1


def test_both_bounds_have_the_same_best_grids_for_an_exact_denoiser():
    c, levels = 0.5, grids.log_snr(60, zero=False)
    errors = costs_of_errors(levels, c**2 * levels**2 / (c**2 + levels**2))
    paths = shortest_paths(errors, [2, 5, 10])
    for one, other in zip(
        paths, shortest_paths(gaussian_costs(c, levels), [2, 5, 10]), strict=True
    ):
        assert one.tolist() == other.tolist()


def test_the_arctangent_is_the_best_for_euler_and_not_for_the_bound():
    c, levels = 0.5, grids.log_snr(300, zero=False)
    costs = gaussian_costs(c, levels)
    best = levels[shortest(costs, 10)]
    arctan = grids.arctan(10, scale=c, zero=False)

    def lost(grid):
        s, r = grid[:-1], grid[1:]
        return 1 - np.prod((c**2 + s * r) / np.sqrt((c**2 + s**2) * (c**2 + r**2)))

    def bound(grid):
        return np.sum(gaussian_bound(c, grid[:-1], grid[1:]))

    others = [best, grids.karras(10, zero=False), grids.log_snr(10, zero=False)]
    assert lost(arctan) < 0.8 * min(map(lost, others))
    assert bound(best) < 0.8 * bound(arctan)


def test_the_papers_search_descends_and_doubles():
    c, levels = 0.5, grids.log_snr(160, zero=False)
    costs, path = gaussian_costs(c, levels), np.linspace(0, 160, 11).astype(int)
    for num_steps in (10, 20, 40):
        assert len(path) == num_steps + 1
        found = coordinate_descent(costs, path)
        assert (np.diff(found.history) <= 0).all() and found.history[-1] < found.history[0]
        np.testing.assert_allclose(found.history[-1], path_cost(costs, found.path))
        best = path_cost(costs, shortest(costs, num_steps))
        assert best * (1 - 1e-12) <= found.history[-1] < 1.05 * best
        assert (np.diff(found.path) > 0).all() and found.path[[0, -1]].tolist() == [0, 160]
        if num_steps < 40:
            path = bisect(levels, found.path)
    for a, m, b in zip(path[:-2:2], path[1::2], path[2::2], strict=True):
        middle = np.sqrt(levels[a] * levels[b])
        assert abs(np.log(levels[m] / middle)) <= 0.5001 * np.log(levels[0] / levels[1])
    with pytest.raises(ValueError, match="finer grid"):
        bisect(levels, [0, 1, 160])


def test_align_and_elbo_find_grids_from_samples(key, rng):
    c = np.exp(rng.uniform(-2, 1, size=8))
    levels = grids.log_snr(24, 0.02, 20.0, zero=False)
    model = Gaussian(np.zeros(8), c**2)
    data = model.sample(key, 512)
    exact = sum(gaussian_costs(one, levels) for one in c)
    worst = grids.log_snr(6, 0.02, 20.0, zero=False)
    for search in (align, best_elbo):
        grid = search(model.denoiser, data, 6, key, levels=levels)
        assert len(grid) == 7 and grid[0] == levels[0] and grid[-1] == levels[-1]
        path = np.searchsorted(-levels, -grid)
        best = path_cost(exact, shortest(exact, 6))
        assert path_cost(exact, path) < 1.01 * best
        assert path_cost(exact, path) < 0.9 * path_cost(exact, np.searchsorted(-levels, -worst))


def test_bounds_end_above_zero(key):
    model = Gaussian(np.zeros(2), np.ones(2))
    for search in (align, best_elbo):
        with pytest.raises(ValueError, match="a step to 0 is infinite"):
            search(model.denoiser, jnp.zeros((4, 2)), 2, key, levels=[3.0, 1.0, 0.0])


# optimised steps


def weights_by_running(solver, levels, **options):
    """Weights of the start and of every output, from outputs that are the axes of a space."""
    axes = iter(np.eye(40))

    def D(y, s):
        return next(axes)

    *_, end = solver(D, np.eye(40)[-1], list(levels), **options)
    return end[-1], end[:-1]


@pytest.mark.parametrize(
    "solver, options",
    [
        (solvers.heun, {}),
        (solvers.dpmpp, {"order": 3}),
        (solvers.unipc, PREDICTOR),
        *(
            pytest.param(solver, {}, marks=pytest.mark.slow)
            for solver in (solvers.euler, solvers.ipndm, solvers.unipc)
        ),
    ],
)
def test_contributions_sum_to_the_weights_in_the_sample(solver, options):
    levels = grids.karras(6, 0.1, 10.0, zero=False)
    made = table(solver, levels, **options)
    start, parts = contributions(made)
    exact_start, exact = weights_by_running(solver, levels, **options)
    np.testing.assert_allclose(start, exact_start, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(jnp.sum(parts, 0), exact[: made.nfe], rtol=1e-10, atol=1e-12)
    assert (np.triu(parts, 1) == 0).all()  # nothing is used before it is there


def adams_parts(levels, order):
    """Weights of the exponential Adams method step by step, by quadrature of r e^l over lambda."""
    times, num_steps = -np.log(levels), len(levels) - 1
    x, w = np.polynomial.legendre.leggauss(40)
    parts = np.zeros((num_steps, num_steps))
    for k in range(num_steps):
        points = (times[k] + times[k + 1]) / 2 + (times[k + 1] - times[k]) / 2 * x
        used = range(k + 1 - min(order, k + 1, num_steps - k), k + 1)
        for i in used:
            basis = np.prod(
                [(points - times[j]) / (times[i] - times[j]) for j in used if j != i], 0
            )
            value = np.sum(w * np.exp(points) * basis) * (times[k + 1] - times[k]) / 2
            parts[k, i] = levels[-1] * value
    return parts


@pytest.mark.slow
def test_parts_and_bound_of_a_predictor_are_the_papers_integrals():
    levels = grids.log_snr(7, 0.01, 20.0, zero=False)
    parts = contributions(table(solvers.unipc, levels, **PREDICTOR))[1]
    exact = adams_parts(levels, 3)
    np.testing.assert_allclose(parts, exact, rtol=1e-8, atol=1e-12)
    s = levels[:-1]
    for power, scale in ((1, s), (2, s**2 / np.sqrt(1 + s**2))):
        whole = np.abs(exact.sum(0)) @ scale
        found = weight_bound(levels, power=power, separate=0, **PREDICTOR)
        np.testing.assert_allclose(found, whole, rtol=1e-8)
        early = sum(np.sqrt(np.sum((row * scale) ** 2)) for row in exact[:3])
        found = weight_bound(levels, power=power, **PREDICTOR)
        np.testing.assert_allclose(found, early + np.abs(exact[3:].sum(0)) @ scale, rtol=1e-8)


@pytest.mark.slow
def test_the_process_enters_with_its_alpha():
    levels = grids.log_snr(4, 0.1, 9.0, zero=False)
    flow = weight_bound(levels, solvers.euler, power=2.0, alpha=lambda s: 1 / (1 + s), separate=0)
    s, r = levels[:-1], levels[1:]
    exact = np.sum(levels[-1] * (1 / r - 1 / s) * s**2 / (1 + s))
    np.testing.assert_allclose(flow, exact, rtol=1e-10)


def test_the_best_grid_for_euler_is_uniform_in_log_level():
    found = optimised_steps(grids.karras(5, zero=False), solvers.euler)
    np.testing.assert_allclose(found.grid, grids.log_snr(5, zero=False), rtol=2e-3)
    ratio = (80 / 0.002) ** 0.2
    np.testing.assert_allclose(found.history[-1], 0.002 * 5 * (ratio - 1), rtol=1e-5)


@pytest.mark.slow
def test_the_bounds_gradient_is_its_finite_difference():
    levels = grids.karras(5, 0.05, 20.0, zero=False)
    bound = jax.jit(lambda inner: weight_bound([20.0, *inner, 0.05], power=2.0))
    gradient = jax.grad(bound)(jnp.asarray(levels[1:-1]))
    for i, step in enumerate(np.diag(1e-5 * levels[1:-1])):
        ends = (float(bound(jnp.asarray(levels[1:-1] + sign * step))) for sign in (1, -1))
        np.testing.assert_allclose(gradient[i], -np.diff(list(ends))[0] / 2 / step[i], rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("power, zero, options", [(1.0, False, {}), (2.0, True, PREDICTOR)])
def test_optimised_steps_descend_and_keep_the_ends(power, zero, options):
    start = grids.log_snr(5, zero=zero)
    found = optimised_steps(start, power=power, **options)
    assert (np.diff(found.history) <= 0).all() and len(found.history) > 3
    fixed = [0, -2, -1] if zero else [0, -1]
    assert found.grid[fixed].tolist() == start[fixed].tolist() and len(found.grid) == 6
    assert (np.diff(found.grid) < 0).all()

    def bound(grid):
        return float(weight_bound(grid[grid > 0], power=power, **options))

    np.testing.assert_allclose(found.history[0], bound(start), rtol=1e-9)
    np.testing.assert_allclose(found.history[-1], bound(found.grid), rtol=1e-9)
    assert bound(found.grid) < 0.8 * min(bound(start), bound(grids.karras(5, zero=zero)))


def test_optimised_steps_say_what_is_wrong():
    with pytest.raises(ValueError, match="leave out the 0"):
        weight_bound([3.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="draws noise"):
        weight_bound([3.0, 1.0, 0.5], solvers.ddim, eta=1.0)
    with pytest.raises(ValueError, match="strictly decrease"):
        optimised_steps([1.0, 3.0, 0.5])
    for wrong in ({"power": np.nan}, {"separate": -1}, {"iterations": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            optimised_steps([3.0, 1.0, 0.5], **wrong)
