"""A correction of accepted states: the same in a table and in its solver, for every solver, and in
the solves that choose their steps.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.every_solver import ALL, name

import jaxdiff as jd
from jaxdiff import grids, solvers
from jaxdiff.exact import Gaussian, GaussianMixture
from jaxdiff.noise import CORRECTION
from jaxdiff.sampling.export import export_sampler, load_sampler
from jaxdiff.solvers.model_statistics import gaussian_statistics

LEVELS = grids.karras(5, 0.05, 20.0)
KEY = jax.random.key(3)
START = jnp.asarray(np.random.default_rng(1).normal(size=(3, 2)) * 20.0)
MEANS = np.array([[-1.0, 0.5], [1.0, 0.0], [0.2, -1.2]])
D = GaussianMixture(np.array([0.5, 0.3, 0.2]), MEANS, np.full((3, 2), 0.05)).denoiser


def project(known, y, level, key):
    """The first number of every sample set to a known one, with noise of the level."""
    z = jax.vmap(lambda k: jax.random.normal(k, (), y.dtype))(key)
    return y.at[:, 0].set(known + level * z)


PROJECT = jax.tree_util.Partial(project, jnp.array(0.7))


def identity(y, level, key):
    return y


def half(y, level, key):
    return 0.5 * y


def run(solver, options, correct, levels=LEVELS, start=START, **more):
    made = jd.table(solver, levels, **options)
    return jd.sample(D, made, start, key=KEY, correct=correct, **more)


@pytest.mark.parametrize(("solver", "options"), ALL, ids=name)
def test_a_table_and_its_solver_give_the_same_numbers(solver, options):
    table = run(solver, options, PROJECT)
    direct = jd.direct(D, solver, LEVELS, START, key=KEY, correct=PROJECT, **options)
    np.testing.assert_allclose(table, direct, rtol=1e-9, atol=1e-10)
    np.testing.assert_array_equal(table[:, 0], 0.7)
    plain = run(solver, options, None)
    assert np.abs(table[:, 1] - plain[:, 1]).max() > 1e-3  # earlier corrections reach the rest


@pytest.mark.parametrize(("solver", "options"), ALL[::4], ids=name)
def test_a_correction_that_changes_nothing(solver, options):
    plain = run(solver, options, None)
    np.testing.assert_array_equal(run(solver, options, identity), plain)


NOT_LINEAR = [
    (solvers.genie, {}),
    (solvers.adjusted_ddim, {}),
    (solvers.ddim, {"eta": 0.0, "clip": 1.0}),
    (solvers.predictor_corrector, {"measured": True}),
]


@pytest.mark.parametrize(("solver", "options"), NOT_LINEAR, ids=name)
def test_solvers_without_a_table(solver, options):
    run = lambda c, grid: jd.direct(D, solver, grid, START, key=KEY, correct=c, **options)  # noqa: E731
    np.testing.assert_array_equal(run(identity, LEVELS), run(None, LEVELS))
    # halved after each step: as two solves of which each begins where the other was halved
    one, two = LEVELS[:2], LEVELS[1:3]
    if solver is not solvers.predictor_corrector:  # whose noise is numbered from the start
        apart = jd.direct(D, solver, two, half(run(None, one), 0, None), key=KEY, **options)
        np.testing.assert_allclose(run(half, LEVELS[:3]), half(apart, 0, None), rtol=1e-12)
    np.testing.assert_array_equal(run(PROJECT, LEVELS)[:, 0], 0.7)


@pytest.mark.parametrize("solver", [solvers.extended_analytic_dpm, solvers.ddpm_learned], ids=name)
def test_a_variance_for_every_element(solver):
    def run(correct):
        pair = lambda y, s, c=None: (D(y, s), 0.5 + 0.0 * y)  # noqa: E731
        return jd.direct(pair, solver, LEVELS, START, key=KEY, correct=correct)

    np.testing.assert_array_equal(run(identity), run(None))
    np.testing.assert_array_equal(run(PROJECT)[:, 0], 0.7)


def test_statistics_of_a_model():
    statistics = gaussian_statistics(np.zeros(2), np.full(2, 0.3), np.geomspace(80.0, 0.04, 65))

    def solve(correct):
        options = {"key": KEY, "correct": correct, "statistics": statistics}
        return jd.direct(D, solvers.dpm_v3, LEVELS[:-1], START, **options)

    np.testing.assert_array_equal(solve(identity), solve(None))
    np.testing.assert_array_equal(jnp.isnan(solve(half)), False)
    assert jnp.abs(solve(half) - solve(None)).max() > 0.1


def test_euler_by_hand():
    """On N(0, 1), D = y/(1 + s^2): each step multiplies by (1 + s r)/(1 + s^2), then y -> y/2."""
    table = jd.table(solvers.euler, [3.0, 1.0, 0.0])
    start = jnp.array([[2.0], [-1.0]])
    first = start * (4.0 / 10.0) / 2
    second = first * (1.0 / 2.0) / 2
    D = Gaussian(np.zeros(1), np.ones(1)).denoiser
    whole = jd.trajectory(D, table, start, correct=half)
    np.testing.assert_allclose(whole.states, [start, first, second], rtol=1e-14)
    np.testing.assert_allclose(whole.denoised, [start / 10.0, first / 2.0], rtol=1e-14)
    direct = jd.direct(D, solvers.euler, [3.0, 1.0, 0.0], start, correct=half)
    np.testing.assert_allclose(direct, second, rtol=1e-14)


def test_what_a_correction_is_given():
    """Levels and keys of the accepted states, numbered from 1; no key, none."""

    def compare(y, level, key):
        jax.debug.callback(lambda s, k: seen.append((float(s), k)), level, jax.random.key_data(key))
        return y

    seen, index = [], jnp.array([7, 2, 9])
    for sampled in (
        lambda: jd.sample(
            D, jd.table(solvers.heun, LEVELS), START, key=KEY, index=index, correct=compare
        ),
        lambda: jd.direct(D, solvers.heun, LEVELS, START, key=KEY, index=index, correct=compare),
    ):
        seen.clear()
        sampled().block_until_ready()
        jax.effects_barrier()
        np.testing.assert_allclose([s for s, _ in seen], LEVELS[1:], rtol=1e-15)
        fold = jax.random.fold_in
        for n, (_, keys) in enumerate(seen, 1):
            own = [jax.random.key_data(fold(fold(fold(KEY, i), CORRECTION), n)) for i in index]
            np.testing.assert_array_equal(keys, own)

    def keyless(y, level, key):
        assert key is None
        return y

    jd.sample(D, jd.table(solvers.euler, LEVELS), START, correct=keyless)


def test_no_evaluation_more():
    calls = []

    def counted(y, s, cond=None):
        jax.debug.callback(lambda s: calls.append(float(s)), s)
        return D(y, s)

    table = jd.table(solvers.unipc, LEVELS)
    for correct in (None, identity, PROJECT):
        calls.clear()
        jd.sample(counted, table, START, key=KEY, correct=correct).block_until_ready()
        jax.effects_barrier()
        assert len(calls) == table.nfe


def test_a_state_evaluated_before_it_is_accepted():
    """Its evaluation stays, in a table as in the solver; then a pair of equal states."""

    def late(D, y, levels):
        for s, r in zip(levels, levels[1:], strict=False):
            y = y + (r - s) * (y - D(y, s)) / s
            ahead = y + 0.1 * D(y, r)
            yield y
            y = 0.5 * (y + ahead)

    grid = LEVELS[:-1]
    table = jd.sample(D, jd.table(late, grid), START, correct=half)
    np.testing.assert_allclose(table, jd.direct(D, late, grid, START, correct=half), rtol=1e-12)

    def twice(D, y, levels):
        for s, r in zip(levels[::2], levels[2::2], strict=False):
            y = y + (r - s) * (y - D(y, s)) / s
            yield y
            yield y

    grid = LEVELS[:5]
    table = jd.sample(D, jd.table(twice, grid), START, correct=half)
    np.testing.assert_allclose(table, jd.direct(D, twice, grid, START, correct=half), rtol=1e-12)


@pytest.mark.parametrize(
    "solver", [solvers.unipc, pytest.param(solvers.churn, marks=pytest.mark.slow)]
)
def test_a_sample_is_the_same_in_any_batch_and_program(solver):
    options = {"amount": 10.0} if solver is solvers.churn else {}
    table = jd.table(solver, LEVELS, **options)
    index = jnp.arange(3, dtype=jnp.int32)
    one = lambda y, i, **more: jd.sample(D, table, y, key=KEY, index=i, correct=PROJECT, **more)  # noqa: E731
    whole = one(START, index)
    np.testing.assert_allclose(one(START[1:2], index[1:2]), whole[1:2], rtol=1e-12)
    each = jax.vmap(lambda y, i: one(y[None], i[None])[0])(START, index)
    np.testing.assert_allclose(each, whole, rtol=1e-12)
    np.testing.assert_allclose(jax.jit(one)(START, index), whole, rtol=1e-12)
    np.testing.assert_allclose(one(START, index, unroll=True, remat=True), whole, rtol=1e-12)
    staged = jd.sample_in_stages(D, table, START, key=KEY, correct=PROJECT)
    np.testing.assert_allclose(staged, whole, rtol=1e-12)
    sampler = jd.Sampler(D, table)(KEY, 3, (2,), correct=PROJECT)
    start = 20.0 * jd.start_noise(KEY, 3, (2,))
    np.testing.assert_array_equal(sampler, jd.sample(D, table, start, key=KEY, correct=PROJECT))


def test_an_exported_sampler_corrects(tmp_path):
    sampler, path = jd.Sampler(D, jd.table(solvers.euler, LEVELS)), tmp_path / "sampler.npz"
    known = jax.tree_util.Partial(project, jnp.array(0.7, jnp.float32))
    export_sampler(path, sampler, (2,), platforms=("cpu",), correct=known)
    got = load_sampler(path).run(3, 4)
    np.testing.assert_array_equal(got[:, 0], np.float32(0.7))
    expected = sampler(KEY, 4, (2,), correct=known)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_stages_of_several_evaluations():
    table = jd.table(solvers.epd, LEVELS)
    staged = jd.sample_in_stages(D, table, START, key=KEY, correct=PROJECT)
    assert len(jd.stages(table)) < table.nfe
    expected = jd.sample(D, table, START, key=KEY, correct=PROJECT)
    np.testing.assert_allclose(staged, expected, rtol=1e-12)


@pytest.mark.parametrize("remat", [False, True])
def test_gradients_flow_through_corrections(remat):
    def pull(weight, y, level, key):
        return y - weight * (y - 0.3) / (1.0 + level)

    table = jd.table(solvers.heun, LEVELS)

    def loss(weight, start):
        correct = jax.tree_util.Partial(pull, weight)
        return jnp.sum(jd.sample(D, table, start, correct=correct, remat=remat) ** 2)

    weight, h = jnp.array(0.2), 1e-6
    by_weight, by_start = jax.grad(loss, (0, 1))(weight, START)
    central = (loss(weight + h, START) - loss(weight - h, START)) / (2 * h)
    np.testing.assert_allclose(by_weight, central, rtol=1e-6)
    along = jnp.ones_like(START)
    central = (loss(weight, START + h * along) - loss(weight, START - h * along)) / (2 * h)
    np.testing.assert_allclose(jnp.sum(by_start * along), central, rtol=1e-5)


def test_levels_may_be_traced():
    grid = jnp.asarray(LEVELS[:-1])
    made = lambda s: jd.sample(D, jd.table(solvers.euler, s), START, key=KEY, correct=PROJECT)  # noqa: E731
    direct = lambda s: jd.direct(D, solvers.euler, s, START, key=KEY, correct=PROJECT)  # noqa: E731
    expected = run(solvers.euler, {}, PROJECT, LEVELS[:-1])
    np.testing.assert_allclose(jax.jit(made)(grid), expected, rtol=1e-10)
    np.testing.assert_allclose(jax.jit(direct)(grid), expected, rtol=1e-10)


def test_parameters_compile_nothing_anew():
    table, traces = jd.table(solvers.euler, LEVELS), []

    def shift(by, y, level, key):
        traces.append(by)
        return y + by

    for by in (0.1, 0.2, 0.3):
        jd.sample(D, table, START, correct=jax.tree_util.Partial(shift, jnp.array(by)))
        traces.append(None)
    assert traces[-2:] == [None, None]


TABLE = jd.table(solvers.euler, LEVELS)
WRONG = {
    "is a function correct": (TypeError, lambda: run(solvers.euler, {}, 3)),
    r"returned shape \(3, 1\)": (
        ValueError,
        lambda: run(solvers.euler, {}, lambda y, s, k: y[:, :1]),
    ),
    "returned tuple": (ValueError, lambda: run(solvers.euler, {}, lambda y, s, k: (y, k))),
    "returned float32": (
        TypeError,
        lambda: run(solvers.euler, {}, lambda y, s, k: y.astype("float32")),
    ),
    "a padded table": (
        ValueError,
        lambda: jd.sample(D, jd.pad([TABLE])[0], START, correct=identity),
    ),
    "typed key": (
        TypeError,
        lambda: jd.sample(D, TABLE, START, key=jnp.zeros(2, jnp.uint32), correct=identity),
    ),
    "dpm_adaptive draws no noise": (
        ValueError,
        lambda: jd.dpm_adaptive(D, START, 20.0, 0.1, key=KEY),
    ),
    "adaptive draws no noise": (ValueError, lambda: jd.adaptive(D, START, 20.0, 0.1, key=KEY)),
    "no dense=": (
        ValueError,
        lambda: jd.adaptive(D, START, 20.0, 0.1, dense=True, correct=identity),
    ),
    "cannot replace": (
        ValueError,
        lambda: jd.direct(D, lambda D, y, s: iter([D(y, s[0]).array]), LEVELS, START, correct=half),
    ),
    "yielded 1 states": (
        ValueError,
        lambda: jd.direct(D, lambda D, y, s: iter([D(y, s[0])]), LEVELS, START, correct=half),
    ),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_does_not_fit_is_said(said):
    error, wrong = WRONG[said]
    with pytest.raises(error, match=said):
        wrong()


ADAPTIVE = {
    "dpm_adaptive": lambda c, y=START, i=None, **more: jd.dpm_adaptive(
        D, y, 20.0, 0.05, correct=c, index=i, **more
    ),
    "gotta_go_fast": lambda c, y=START, i=None, **more: jd.gotta_go_fast(
        D, y, 20.0, 0.05, correct=c, index=i, rtol=0.05, **{"key": KEY, **more}
    ),
}


@pytest.mark.parametrize(
    "solver", ["dpm_adaptive", pytest.param("gotta_go_fast", marks=pytest.mark.slow)]
)
def test_solvers_with_steps_of_their_own(solver):
    solve = ADAPTIVE[solver]
    plain, same = solve(None), solve(identity)
    for a, b in zip(plain, same, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13)  # two programs: their last bits may differ
    index = jnp.arange(3, dtype=jnp.int32)
    whole = solve(PROJECT, i=index, key=KEY)
    fold = jax.random.fold_in
    for i, n in enumerate(np.asarray(whole.accepted)):
        z = jax.random.normal(fold(fold(fold(KEY, i), CORRECTION), int(n)), (), START.dtype)
        np.testing.assert_allclose(whole.states[i, 0], 0.7 + 0.05 * z, rtol=1e-9)
    alone = solve(PROJECT, START[1:2], index[1:2], key=KEY)
    np.testing.assert_allclose(alone.states, whole.states[1:2], rtol=1e-6)
    assert np.abs(whole.states[:, 1] - plain.states[:, 1]).max() > 1e-3
    denoised = solve(PROJECT, i=index, key=KEY, denoise=True)
    np.testing.assert_array_equal(denoised.states[:, 0], 0.7)


def test_a_process_with_a_frame_of_its_own():
    solve = lambda c: jd.gotta_go_fast(  # noqa: E731
        D, START, 20.0, 0.05, correct=c, key=KEY, process=jd.process.VP(), rtol=0.05
    )
    np.testing.assert_array_equal(solve(identity).states, solve(None).states)
    fixed = solve(lambda y, level, key: y.at[:, 0].set(level)).states
    np.testing.assert_allclose(fixed[:, 0], 0.05, rtol=1e-9)


ASKED = [20.0, 2.0, 0.3]  # the first is where the start is


def test_a_flow_is_corrected_level_by_level():
    """On N(0, 1) the flow multiplies by sqrt((1 + r^2)/(1 + s^2)); here each result is halved."""
    D = Gaussian(np.zeros(2), np.ones(2)).denoiser
    tight = {"rtol": 1e-8, "atol": 1e-8}
    out = jd.adaptive(D, START, 20.0, 0.05, levels=ASKED, correct=half, **tight)
    exact, ends = [START], [*ASKED, 0.05]
    for s, r in zip(ends, ends[1:], strict=False):
        exact.append(0.5 * exact[-1] * np.sqrt((1 + r * r) / (1 + s * s)))
    np.testing.assert_allclose(out.saved, exact[:-1], rtol=1e-6)
    np.testing.assert_allclose(out.states, exact[-1], rtol=1e-6)
    assert out.finished.all() and (out.nfe > out.num_steps).all()
    loss = lambda y: jnp.sum(  # noqa: E731
        jd.adaptive(D, y, 20.0, 0.05, levels=ASKED, correct=half, **tight).states
    )
    factor = np.sqrt((1 + 0.05**2) / (1 + 20.0**2)) / 8
    np.testing.assert_allclose(jax.grad(loss)(START), np.full((3, 2), factor), rtol=1e-5)


@pytest.mark.slow
def test_without_levels_a_flow_is_corrected_at_its_end():
    plain = jd.adaptive(D, START, 20.0, 0.05)
    same = jd.adaptive(D, START, 20.0, 0.05, correct=identity)
    for a, b in zip(plain[:4], same[:4], strict=True):
        np.testing.assert_array_equal(a, b)
    halved = jd.adaptive(D, START, 20.0, 0.05, correct=half, denoise=True)
    expected = half(D(half(plain.states, 0, None), 0.05), 0, None)
    np.testing.assert_allclose(halved.states, expected, rtol=1e-12)
    short = jd.adaptive(D, START, 20.0, 0.05, correct=half, max_steps=2, throw=False)
    assert not short.finished.any()


@pytest.mark.slow
def test_a_reverse_sde_is_corrected_level_by_level():
    """Without noise it is the flow; its keys are those of the states at its levels."""
    D = Gaussian(np.zeros(2), np.ones(2)).denoiser
    out = jd.reverse_sde(
        D, START, 20.0, 0.05, key=KEY, eta=0.0, num_steps=60, levels=ASKED[1:], correct=half
    )
    factor = np.sqrt((1 + 0.05**2) / (1 + 20.0**2)) / 8
    np.testing.assert_allclose(out.states, START * factor, rtol=1e-3)
    assert (out.num_steps == 180).all()
    keyed = jd.reverse_sde(
        D, START, 20.0, 0.05, key=KEY, num_steps=5, levels=ASKED, correct=PROJECT
    )
    fold = jax.random.fold_in
    for n, (states, level) in enumerate([(keyed.saved[1], 2.0), (keyed.saved[2], 0.3)], 1):
        z = [
            jax.random.normal(fold(fold(fold(KEY, i), CORRECTION), n), (), float) for i in range(3)
        ]
        np.testing.assert_allclose(states[:, 0], 0.7 + level * np.array(z), rtol=1e-12)
    np.testing.assert_array_equal(keyed.saved[0], START)
