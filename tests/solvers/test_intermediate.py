"""Solvers with middles: closed forms, the published numbers, and tables of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.every_solver import name
from helpers.golden_numbers import load
from scipy.optimize import minimize

from experiments.samplers import orders
from experiments.samplers.rows import Row
from jaxdiff import grids, solvers
from jaxdiff.exact import GaussianMixture
from jaxdiff.sampling.direct import direct
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.amed import amed, amed_dpm2
from jaxdiff.solvers.amed_plugin import amed_dpmpp, amed_ipndm
from jaxdiff.solvers.epd import epd

VARIANCES = np.array([0.04, 0.25, 1.0, 2.5])
START = np.array([20.0, -14.0, 9.0, 31.0])
LEVELS = [float(s) for s in grids.karras(3, 0.05, 20.0, zero=False)]
RATIOS, CS, TS = [0.3, 0.55, 0.7], [0.99, 1.02, 1.1], [1.05, 0.9, 1.2]
NUMBERS = {"ratios": RATIOS, "direction": CS, "time": TS}
SOLVERS = [
    (amed, {}),
    (amed_dpm2, {}),
    (amed_ipndm, {"order": 1}),
    (amed_ipndm, {"order": 4}),
    (amed_dpmpp, {"order": 1, "prediction": "noise"}),
    (amed_dpmpp, {"order": 3, "prediction": "noise"}),
    (amed_dpmpp, {"order": 3, "lower_final": False, "reference": True}),
    (amed_dpmpp, {"order": 2, "second": "exact"}),
]
EPD = {"ratios": [[0.2, 0.6], [0.3, 0.4], [0.5, 0.9]], "weights": [[0.3, 0.7]] * 3}
EPD |= {"directions": [[1.01, 0.98]] * 3, "times": (0.9, 1.1)}


def gaussian(y, s):
    return VARIANCES / (VARIANCES + s * s) * y


def states(solver, levels=LEVELS, D=gaussian, **options):
    return np.array([*solver(D, START, levels, **options)])


def inserted(levels, ratios):
    """The grid with the middles put in, and none in a step to 0."""
    grid = [levels[0]]
    for s, r, a in zip(levels[:-1], levels[1:], ratios, strict=True):
        grid += [r] if r == 0 else [s ** (1 - a) * r**a, r]
    return grid


def test_a_step_on_a_gaussian_by_hand():
    """The network's label is t m, the slope is divided by m, and the whole step is scaled by c."""
    s, r, a, c, t = 3.0, 0.4, 0.3, 1.02, 0.9
    m = np.exp(0.7 * np.log(s) + 0.3 * np.log(r))
    z = START + (m - s) * START * s / (VARIANCES + s**2)  # eps of a Gaussian
    expected = START + c * (r - s) * z * (1 - VARIANCES / (VARIANCES + (t * m) ** 2)) / m
    (y,) = states(amed, [s, r], ratios=a, direction=c, time=t)
    np.testing.assert_allclose(y, expected, rtol=1e-13)


@pytest.mark.parametrize("zero", [False, True])
def test_with_the_numbers_left_as_they_are_it_is_dpm_solver_2(zero):
    levels = [float(s) for s in grids.karras(3, 0.05, 20.0, zero=zero)]
    for solver in (amed, amed_dpm2):
        np.testing.assert_allclose(states(solver, levels), states(solvers.dpm2, levels), rtol=1e-13)
    other = states(amed_dpm2, levels, ratios=0.3)
    np.testing.assert_allclose(other, states(solvers.dpm2, levels, ratio=0.3), rtol=1e-13)


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize(
    ("plugin", "base", "options"),
    [
        (amed_ipndm, solvers.euler, {"order": 1}),
        *[(amed_ipndm, solvers.ipndm, {"order": k}) for k in (1, 2, 3, 4)],
        *[
            (amed_dpmpp, solvers.dpmpp, {"order": k, "prediction": p, **rest})
            for k, rest in ((1, {}), (2, {"second": "exact"}), (3, {"reference": True}))
            for p in ("data", "noise")
        ],
        (amed_dpmpp, solvers.dpmpp, {"order": 3, "lower_final": False}),
    ],
    ids=name,
)
def test_a_plugin_is_its_solver_on_the_grid_with_intermediate_levels(plugin, base, options, zero):
    levels = [float(s) for s in grids.karras(3, 0.05, 20.0, zero=zero)]
    grid = inserted(levels, RATIOS)
    own = {} if base is solvers.euler else options
    whole = states(base, grid, **own)
    got = states(plugin, levels, ratios=RATIOS, **options)
    every = [i - 1 for i, s in enumerate(grid) if i and s in levels]
    np.testing.assert_allclose(got, whole[every], rtol=1e-12)


def test_direction_scales_what_the_second_half_adds():
    s, r, c = 2.0, 0.3, 1.3
    m = (s * r) ** 0.5
    for solver, kept in ((amed_ipndm, 1.0), (amed_dpmpp, r / m)):
        half, plain = (
            states(solvers.euler, [s, m])[0],
            states(solver, [s, r], order=2)[0],
        )  # the first half step is Euler's in both
        scaled = states(solver, [s, r], order=2, direction=c)[0]
        np.testing.assert_allclose(scaled, kept * half + c * (plain - kept * half), rtol=1e-13)


def test_epd_by_hand():
    levels, y, past = LEVELS, START, []
    expected = {1: [], 4: []}
    slope = lambda y, s, given: (y - gaussian(y, given)) / s  # noqa: E731
    for order, found in expected.items():
        y, past = START, []
        for i, (s, r) in enumerate(zip(levels, levels[1:], strict=False)):
            past = [slope(y, s, s), *past][:order]
            way = np.tensordot(((1,), (1.5, -0.5), (23 / 12, -4 / 3, 5 / 12))[len(past) - 1],
                               past, 1)  # fmt: skip
            total = 0.0
            for a, w, c, t in zip(EPD["ratios"][i], (0.3, 0.7), (1.01, 0.98), (0.9, 1.1),
                                  strict=True):  # fmt: skip
                m = r**a * s ** (1 - a)
                total = total + w * c * slope(y + (m - s) * way, m, t * m)
            y = y + (r - s) * total
            found.append(y)
        np.testing.assert_allclose(states(epd, order=order, **EPD), found, rtol=1e-13)


def test_epd_with_one_intermediate_level_is_amed():
    one = {"ratios": [[a] for a in RATIOS], "directions": [[c] for c in CS]}
    one |= {"times": [[t] for t in TS]}
    np.testing.assert_allclose(states(epd, **one), states(amed, **NUMBERS), rtol=1e-13)
    levels = [*LEVELS, 0.0]
    plain = states(amed, levels)
    np.testing.assert_allclose(states(epd, levels, ratios=(0.5,)), plain, rtol=1e-13)
    np.testing.assert_allclose(states(epd, levels, ratios=(0.5,) * 3), plain, rtol=1e-13)


@pytest.mark.parametrize(
    ("solver", "options"), [*SOLVERS, (epd, EPD), (epd, EPD | {"order": 4})], ids=name
)
def test_a_step_to_zero_is_one_evaluation(solver, options):
    levels = [*LEVELS[:-1], 0.0]
    given = {} if solver is epd else NUMBERS
    made = table(solver, levels, **given, **options)
    calls = []
    seen = lambda y, s: calls.append((y, s)) or gaussian(y, s)  # noqa: E731
    final = states(solver, levels, seen, **given, **options)[-1]
    assert made.nfe == len(calls) == (7 if solver is epd else 5)
    assert calls[-1][1] == LEVELS[-2]
    if solver is not amed_ipndm or options["order"] == 1:
        np.testing.assert_allclose(final, gaussian(*calls[-1]), rtol=1e-12)
    assert np.isfinite(final).all()


ORDERS = [
    Row(amed, {}, 2),
    Row(amed, {"ratios": 0.3}, 1),
    Row(amed, {"direction": 1.05}, 0),
    Row(amed_dpm2, {"ratios": 0.3}, 2),
    Row(amed_ipndm, {"order": 1}, 1),
    Row(amed_ipndm, {"order": 2, "ratios": 0.4}, 1, 1),  # its halves' lengths alternate
    Row(amed_ipndm, {"order": 2, "ratios": 0.5}, 2, 1),
    Row(amed_dpmpp, {"order": 2, "ratios": 0.4}, 2, 1),
    Row(amed_dpmpp, {"order": 3, "ratios": 0.4, "prediction": "noise"}, 3, 2),
    Row(epd, {}, 2),
    Row(epd, {"ratios": (0.25, 0.7), "weights": (4 / 9, 5 / 9)}, 2),
    Row(epd, {"ratios": (0.2, 0.5)}, 1),
    Row(epd, {"order": 3}, 2, 2),
]


@pytest.mark.parametrize("row", ORDERS, ids=lambda row: row.name)
def test_observed_order(row):
    slope, errors = orders.observed(row)
    assert abs(slope - row.order) < 0.2, (slope, errors)


@functools.cache
def published_mixture():
    numbers = load("teacher")
    mixture = GaussianMixture(*(numbers[f"mix/{k}"] for k in ("weights", "mu", "var")))
    return jax.jit(mixture.denoiser)


def published_solver(case):
    data = case.get("predict_x0")
    found = {
        "amed_sampler": (amed, {}),
        "euler_sampler": (amed_ipndm, {"order": 1}),
        "dpm_2_sampler": (amed_dpm2, {}),
        "ipndm_sampler": (amed_ipndm, {"order": case.get("max_order")}),
        "dpm_pp_sampler": (
            amed_dpmpp,
            {
                "order": case.get("max_order"),
                "prediction": "data" if data else "noise",
                "lower_final": case.get("lower_order_final"),
                "reference": True,
            },
        ),
    }
    return found[case["function"]]


@pytest.mark.slow
def test_published_numbers():
    """Every state of all 56 cases, or of the 14 committed ones; every sample has its own ratio,
    direction and time.
    """
    numbers, z = load("solvers_amed"), jnp.asarray(load("teacher")["z"])
    assert len(numbers.cases) in (56, 14)
    for case in numbers.cases:
        solver, options = published_solver(case)
        levels = [float(s) for s in numbers.get(case, "t_steps")]
        given = [numbers.get(case, k)[..., None] for k in ("r", "scale_dir", "scale_time")]
        calls, answers = [], [solvers.steps.unit_first] if case["afs"] else []

        def D(y, s, calls=calls, answers=answers):
            if answers:
                return answers.pop()(y, s)
            calls.append(s)
            return published_mixture()(y, jnp.asarray(s))

        y = z * levels[0]
        made = [y, *solver(D, y, levels, *given, **options)]
        assert len(calls) == case["nfe"], case["id"]
        same = functools.partial(
            np.testing.assert_allclose, rtol=1e-9, atol=1e-9, err_msg=case["id"]
        )
        same([y[:4] for y in made], numbers.get(case, "traj"))
        same(made[-1], numbers.get(case, "final"))


@pytest.fixture(scope="module")
def mixture():
    random = np.random.default_rng(1)
    means, variances = random.normal(size=(3, 2)), random.uniform(0.05, 0.3, size=(3, 2))
    return jax.tree_util.Partial(
        GaussianMixture(np.array([0.5, 0.3, 0.2]), means, variances).denoiser
    )


START_OF_MIXTURE = 20.0 * jnp.asarray(np.random.default_rng(2).normal(size=(4, 2)))


@pytest.mark.parametrize("first", [None, solvers.steps.unit_first])
@pytest.mark.parametrize(
    ("solver", "options"), [*SOLVERS, (epd, EPD), (epd, EPD | {"order": 4})], ids=name
)
def test_table_equals_textbook(mixture, solver, options, first):
    options = options if solver is epd else options | NUMBERS
    answers = [first] if first else []

    def D(y, s):
        return answers.pop()(y, s) if answers else mixture(y, s)

    *_, expected = solver(D, START_OF_MIXTURE, LEVELS, **options)
    made = table(solver, LEVELS, first=first, **options)
    assert made.nfe == (9 if solver is epd else 6) - (first is not None)
    got = sample(mixture, made, START_OF_MIXTURE)
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("solver", "options"), SOLVERS, ids=name)
def test_numbers_of_one_sample_each(mixture, solver, options):
    """A batch with its own numbers per sample is each sample alone with them."""
    random = np.random.default_rng(3)
    lists = [random.uniform(low, high, size=(3, 4)) for low, high in ((0.2, 0.8), (0.9, 1.1))]
    given = dict(zip(NUMBERS, [*lists, lists[1][::-1]], strict=True))
    whole = direct(
        mixture, solver, LEVELS, START_OF_MIXTURE,
        **{k: v[..., None] for k, v in given.items()}, **options,
    )  # fmt: skip
    for i in range(4):
        own = {k: [float(x) for x in v[:, i]] for k, v in given.items()}
        alone = direct(mixture, solver, LEVELS, START_OF_MIXTURE[i : i + 1], **own, **options)
        np.testing.assert_allclose(whole[i : i + 1], alone, rtol=1e-11, atol=1e-11)


def options_of(solver, numbers):
    """The options that an array of them is."""
    if solver is not epd:
        return {k: list(v) for k, v in zip(NUMBERS, numbers, strict=True)}
    return dict(zip(EPD, numbers, strict=True))


@pytest.mark.parametrize(
    ("solver", "options"), [SOLVERS[0], SOLVERS[1], SOLVERS[3], SOLVERS[5], (epd, {})], ids=name
)
def test_tables_are_differentiable_in_their_numbers(solver, options):
    """Traced, every weight has the derivative that the weights made on the host have."""
    given = EPD | {"times": [EPD["times"]] * 3} if solver is epd else NUMBERS
    numbers = np.array([given[k] for k in given])
    random = np.random.default_rng(4)

    def weighed(numbers):
        made = table(solver, LEVELS, **options_of(solver, numbers), **options)
        parts = zip((made.nodes, made.states, made.denoised), weights, strict=True)
        return sum((a * w).sum() for a, w in parts)

    plain = table(solver, LEVELS, **options_of(solver, numbers), **options)
    weights = [random.normal(size=a.shape) for a in (plain.nodes, plain.states, plain.denoised)]
    gradient, h = jax.jit(jax.grad(weighed))(jnp.asarray(numbers)), 1e-6
    for place in np.ndindex(numbers.shape):
        step = np.zeros_like(numbers)
        step[place] = h
        slope = (weighed(numbers + step) - weighed(numbers - step)) / (2 * h)
        np.testing.assert_allclose(gradient[place], slope, rtol=1e-6, atol=1e-7)


def test_ratios_alone_take_the_error_of_a_toy_from_363_to_67_thousandths():
    """Three steps of two evaluations on a mixture: the error is a number of the specification, and
    so is what tuning three ratios leaves of it.
    """
    toy = GaussianMixture(
        np.array([0.3, 0.5, 0.2]),
        np.array([[-1.0], [0.4], [1.3]]),
        np.array([[0.25], [0.15], [0.4]]) ** 2,
    )
    D = jax.tree_util.Partial(toy.denoiser)
    start = 20.0 * jnp.asarray(np.random.default_rng(0).standard_normal((64, 1)))
    fine = table(solvers.dpm_solver, grids.log_snr(500, 0.05, 20.0, zero=False))
    flow = sample(D, fine, start)

    def error(raw):
        made = table(amed, LEVELS, ratios=list(jax.nn.sigmoid(raw)))
        return jnp.sqrt(jnp.mean((sample(D, made, start) - flow) ** 2))

    step = jax.jit(jax.value_and_grad(error))
    before = step(jnp.zeros(3))[0]
    found = minimize(lambda raw: [np.asarray(x) for x in step(raw)], np.zeros(3), jac=True)
    np.testing.assert_allclose(before, 0.363, atol=5e-4)
    np.testing.assert_allclose(found.fun, 0.067, atol=5e-4)


def test_errors():
    for bad in (0.0, 1.0, [0.5, 0.5, -0.1]):
        with pytest.raises(ValueError, match="within"):
            table(amed, LEVELS, ratios=bad)
    with pytest.raises(ValueError, match="direction has 2 entries for a grid of 3 steps"):
        table(amed_dpmpp, LEVELS, direction=[1.0, 1.0])
    for solver, bad in ((amed_ipndm, 5), (amed_ipndm, 0), (amed_dpmpp, 4), (epd, 0), (epd, 5)):
        with pytest.raises(ValueError, match="orders"):
            table(solver, LEVELS, order=bad)
    with pytest.raises(ValueError, match="predicts"):
        table(amed_dpmpp, LEVELS, prediction="flow")
    with pytest.raises(ValueError, match="second"):
        table(amed_dpmpp, LEVELS, second="third")
    with pytest.raises(ValueError, match="within"):
        table(epd, LEVELS, ratios=(0.5, 1.5))
    with pytest.raises(ValueError, match="weights must have as many"):
        table(epd, LEVELS, weights=(1.0,))
    with pytest.raises(ValueError, match="times must be"):
        table(epd, LEVELS, times=[(1.0, 1.0)] * 2)
    with pytest.raises(ValueError, match="ratios must be"):
        table(epd, LEVELS, ratios=())
