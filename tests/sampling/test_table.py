"""The table: tracing, running, differentiating, saving, and the promises about noise, batches and
compilation.
"""

import dataclasses
import inspect
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.every_solver import ALL, DETERMINISTIC, name

from jaxdiff import grids, solvers
from jaxdiff.exact import GaussianMixture
from jaxdiff.noise import start_noise
from jaxdiff.sampling.direct import direct
from jaxdiff.sampling.parallel import sample_in_stages
from jaxdiff.sampling.picard import picard
from jaxdiff.sampling.sample import sample, trajectory
from jaxdiff.sampling.table import load_table, pad
from jaxdiff.sampling.trace import table


@pytest.fixture(scope="module")
def mixture():
    random = np.random.default_rng(1)
    return GaussianMixture(
        np.array([0.5, 0.3, 0.2]),
        random.normal(size=(3, 2)),
        random.uniform(0.05, 0.3, size=(3, 2)),
    )


@pytest.fixture(scope="module")
def start():
    return jnp.asarray(np.random.default_rng(2).normal(size=(5, 2)) * 80.0)


def textbook(D, solver, options, levels, y, noises=()):
    noises = iter(noises)
    extra = (
        {"noise": lambda: next(noises)} if "noise" in inspect.signature(solver).parameters else {}
    )
    return [y, *solver(D, y, levels, **extra, **options)]


@pytest.mark.parametrize(("solver", "options"), ALL, ids=name)
@pytest.mark.parametrize("zero", [True, False])
def test_table_equals_textbook(mixture, start, solver, options, zero):
    levels = [float(s) for s in grids.karras(5, zero=zero)]
    made = table(solver, levels, **options)
    noise = np.random.default_rng(3).normal(size=(len(made.draws), *start.shape))
    expected = textbook(mixture.denoiser, solver, options, levels, start, jnp.asarray(noise))
    path = trajectory(mixture.denoiser, made, start, noise=noise if made.stochastic else None)
    np.testing.assert_allclose(path.states, np.stack(expected), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(path.levels, levels)
    assert path.denoised.shape == (made.nfe, 5, 2)


def test_evaluation_counts():
    levels, unended = grids.karras(6), grids.karras(6, zero=False)
    expected = {
        solvers.euler: (6, 6),
        solvers.heun: (11, 12),
        solvers.dpm2: (11, 12),
        solvers.unipc: (6, 6),
        solvers.lms: (6, 6),
    }
    for solver, counts in expected.items():
        assert (table(solver, levels).nfe, table(solver, unended).nfe) == counts
    assert table(solvers.euler, levels, first=solvers.steps.unit_first).nfe == 5


def test_windows_stay_short():
    """UniPC's corrected states, accepted but never evaluated, are states of their own and keep the
    window short.
    """
    levels = grids.log_snr(10)
    for solver, options in DETERMINISTIC:
        made = table(solver, levels, **options)
        longest = {solvers.edict: 5, solvers.pndm: 13}.get(solver, 4)  # two states; a long start
        if options.get("prediction") != "noise":
            assert made.states.shape[2] <= longest and made.denoised.shape[2] <= longest, made
    assert table(solvers.dpmpp, levels, order=3).states.shape[1:] == (1, 1)
    assert table(solvers.unipc, levels, order=3).states.shape[1:] == (2, 2)


def test_analytic_first_step(mixture, start):
    levels = grids.karras(4, zero=False)
    made = table(solvers.ipndm, levels, first=solvers.steps.unit_first)
    answers = [solvers.steps.unit_first]
    D = lambda y, s: answers.pop()(y, s) if answers else mixture.denoiser(y, s)  # noqa: E731
    expected = textbook(D, solvers.ipndm, {}, [float(s) for s in levels], start)[-1]
    np.testing.assert_allclose(sample(mixture.denoiser, made, start), expected, rtol=1e-12)


def test_one_step_without_any_evaluation(mixture, start):
    made = table(solvers.euler, [80.0, 1.0], first=solvers.steps.unit_first)
    assert made.nfe == 0
    expected = start + (1.0 - 80.0) * start / np.sqrt(1 + 80.0**2)
    np.testing.assert_allclose(sample(mixture.denoiser, made, start), expected, rtol=1e-12)


@pytest.mark.parametrize(
    ("solver", "options"),
    [(solvers.unipc, {"order": 3}), (solvers.churn, {"amount": 10.0})],
    ids=name,
)
def test_save_and_load(tmp_path, mixture, start, key, solver, options):
    made = table(solver, grids.karras(5), **options)
    made.save(tmp_path / "sampler.json")
    again = load_table(tmp_path / "sampler.json")
    for field in dataclasses.fields(made):
        mine, theirs = getattr(made, field.name), getattr(again, field.name)
        np.testing.assert_array_equal(mine, theirs) if isinstance(mine, np.ndarray) else None
    assert (again.accepted, again.draws, again.name, again.nfe) == (
        made.accepted,
        made.draws,
        made.name,
        made.nfe,
    )
    np.testing.assert_array_equal(
        sample(mixture.denoiser, made, start, key=key),
        sample(mixture.denoiser, again, start, key=key),
    )


def test_a_table_file_is_enough_to_sample(tmp_path, mixture, start):
    """What the file says, executed by a few lines of NumPy that know nothing of jaxdiff."""
    table(solvers.unipc, grids.karras(5), order=2).save(tmp_path / "t.json")
    t = json.loads((tmp_path / "t.json").read_text())
    states, outputs = [np.asarray(start)], []
    for n in range(t["nfe"] + 1):
        for row in range(t["shapes"]["states"][1]):
            pairs = [*zip(t["states"][n][row], states[::-1], strict=False)]
            pairs += [*zip(t["denoised"][n][row], outputs[::-1], strict=False)]
            states.append(sum(w * v for w, v in pairs))
        if n < t["nfe"]:
            outputs.append(np.asarray(mixture.denoiser(jnp.asarray(states[-1]), t["nodes"][n])))
    expected = sample(mixture.denoiser, load_table(tmp_path / "t.json"), start)
    np.testing.assert_allclose(states[-1], expected, rtol=1e-11)


def test_damaged_table_files(tmp_path):
    path = tmp_path / "t.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match="not a sampler table"):
        load_table(path)
    table(solvers.euler, grids.karras(3)).save(path)
    text = json.loads(path.read_text())
    for change in ({"nodes": [1.0]}, {"accepted": [99, 1, 2]}, {"slots": "x"}, {"states": None}):
        path.write_text(json.dumps(text | change))
        with pytest.raises(ValueError, match=r"t\.json"):
            load_table(path)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ([1.0, 2.0, 0.0], "strictly decrease"),
        ([2.0, 1.0, 1.0], "strictly decrease"),
        ([2.0, np.nan, 0.0], "finite"),
        ([2.0, 1.0, -1.0], "not negative"),
        ([2.0], "at least two"),
        (np.ones((2, 2)), "one-dimensional"),
    ],
)
def test_bad_grids(levels, message):
    with pytest.raises(ValueError, match=message):
        table(solvers.euler, levels)


def test_helpful_errors(mixture, start, key):
    made, noisy = table(solvers.euler, grids.karras(3)), table(solvers.ddim, grids.karras(3))
    with pytest.raises(TypeError, match="no option 'ordr'; it has: order"):
        table(solvers.lms, grids.karras(3), ordr=2)
    with pytest.raises(TypeError, match="not linear"):
        table(lambda D, y, levels: iter([y * y]), grids.karras(1))
    with pytest.raises(ValueError, match="one per step"):
        table(lambda D, y, levels: iter([D(y, 1.0)]), grids.karras(3))
    with pytest.raises(TypeError, match="start must be"):
        sample(mixture.denoiser, made, jnp.zeros((2, 2), jnp.bfloat16))
    with pytest.raises(TypeError, match="table"):
        sample(mixture.denoiser, grids.karras(3), start)
    for run in (sample, trajectory, picard):
        with pytest.raises(ValueError, match="nothing to sample"):
            run(mixture.denoiser, made, start[:0])
    with jax.enable_x64(False), pytest.raises(TypeError, match="start is in float64.*float32"):
        sample(mixture.denoiser, made, np.zeros((2, 2)))
    for run in (lambda s: table(s, [2.0, 1.0]), lambda s: direct(None, s, [2.0, 1.0], start)):
        with pytest.raises(TypeError, match="give jaxdiff.solvers.dpmpp, not 'dpmpp'"):
            run("dpmpp")
    with pytest.raises(TypeError, match="levels are a list.*this is 'karras'"):
        table(solvers.euler, "karras")
    with pytest.raises(TypeError, match="a solver is a function.*this is Table"):
        table(made, [2.0, 1.0])
    with pytest.raises(ValueError, match="euler draws no noise"):
        sample(mixture.denoiser, made, start, noise=np.zeros((3, *start.shape)))
    with pytest.raises(ValueError, match="draws noise"):
        sample(mixture.denoiser, noisy, start)
    with pytest.raises(TypeError, match="typed key"):
        sample(mixture.denoiser, noisy, start, key=jnp.zeros(2, jnp.uint32))
    with pytest.raises(ValueError, match="draws 2 noises"):
        sample(mixture.denoiser, noisy, start, noise=np.zeros((3, *start.shape)))
    with pytest.raises(ValueError, match="index"):
        sample(mixture.denoiser, noisy, start, key=key, index=jnp.arange(3))
    for solver, bad in [(solvers.ipndm, 5), (solvers.dpmpp, 4), (solvers.unipc, 0)]:
        with pytest.raises(ValueError, match="orders"):
            table(solver, grids.karras(3), order=bad)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "options"),
    [
        (solvers.euler, {}),
        (solvers.heun, {}),
        pytest.param(solvers.lms, {"order": 3}, marks=pytest.mark.slow),
        (solvers.dpmpp, {"order": 3}),
        pytest.param(solvers.unipc, {"order": 3}, marks=pytest.mark.slow),
    ],
    ids=name,
)
def test_gradients_with_respect_to_grid_and_weights(mixture, start, solver, options):
    """grad and jvp agree with finite differences, also through a grid that ends in zero."""
    inner = jnp.asarray(np.log(grids.karras(4, 0.002, 8.0)[:-1]))
    start = start / 10  # of level 80: tanh is not flat at its end

    def by_grid(log_levels):
        made = table(solver, [*jnp.exp(log_levels), 0.0], **options)
        return jnp.sum(jnp.tanh(sample(mixture.denoiser, made, start)))

    made = table(solver, [*np.exp(inner), 0.0], **options)

    def by_weights(t):
        return jnp.sum(jnp.tanh(sample(mixture.denoiser, t, start)))

    random = np.random.default_rng(4)
    cases = [(by_grid, inner)] + [(by_weights, jax.tree.map(jnp.asarray, made))] * (
        solver is solvers.unipc
    )
    for function, point in cases:
        direction = jax.tree.map(lambda a: jnp.asarray(random.normal(size=a.shape)) * 0.1, point)
        step = 1e-5
        moved = [jax.tree.map(lambda a, b, h=h: a + h * b, point, direction) for h in (step, -step)]
        difference = (function(moved[0]) - function(moved[1])) / (2 * step)
        gradient = jax.grad(function)(point)
        assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradient))
        product = sum(
            jnp.vdot(a, b)
            for a, b in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True)
        )
        _, tangent = jax.jvp(function, (point,), (direction,))
        np.testing.assert_allclose([product, tangent], [difference] * 2, rtol=2e-6)


@pytest.mark.slow
def test_traced_weights_equal_host_weights():
    levels = grids.karras(5)[:-1]
    for solver, options in DETERMINISTIC:
        host = table(solver, [*levels, 0.0], **options)
        trace = lambda v, s=solver, o=options: table(s, [*v, 0.0], **o)  # noqa: E731
        traced, _ = jax.jvp(trace, (jnp.asarray(levels),), (jnp.ones(5),))
        for mine, theirs in zip(jax.tree.leaves(host), jax.tree.leaves(traced), strict=True):
            window = mine.shape[-1]  # weights that happen to be zero are trimmed on the host only
            np.testing.assert_allclose(mine, theirs[..., :window], rtol=1e-9, atol=1e-9)
            np.testing.assert_allclose(theirs[..., window:], 0.0, atol=1e-9)


def test_noise_belongs_to_the_sample(mixture, key):
    """Sample i is the same in any batch, in any order, with and without padding."""
    made = table(solvers.churn, grids.karras(4), amount=10.0)
    x = 80.0 * start_noise(key, 6, (2,), jnp.float64)
    whole = sample(mixture.denoiser, made, x, key=key)
    some = jnp.array([4, 1])
    np.testing.assert_array_equal(80.0 * start_noise(key, some, (2,), jnp.float64), x[some])
    np.testing.assert_allclose(
        sample(mixture.denoiser, made, x[some], key=key, index=some), whole[some], rtol=1e-12
    )
    padded = pad([made, table(solvers.churn, grids.karras(7), amount=10.0)])[0]
    np.testing.assert_allclose(sample(mixture.denoiser, padded, x, key=key), whole, rtol=1e-12)
    assert np.abs(sample(mixture.denoiser, made, x, key=jax.random.key(1)) - whole).max() > 1e-3


def counted(mixture):
    """The denoiser, and a list that grows whenever a program with it is traced."""
    traced = []

    def denoise(model, y, s, cond=None):
        traced.append(s)
        return model.denoiser(y, s, cond)

    return jax.tree_util.Partial(denoise, mixture), traced


def test_padded_tables_give_the_same_samples_with_few_programs(mixture, start):
    tables = pad([table(s, grids.karras(n), **o) for s, o in DETERMINISTIC for n in (3, 6)])
    denoiser, traced = counted(mixture)
    got = [sample(denoiser, tables[0], start)]
    of_one = len(traced)
    got += [sample(denoiser, t, start) for t in tables[1:]]
    assert 0 < len(traced) <= 2 * of_one
    for t, x in zip(tables[::5], got[::5], strict=True):
        np.testing.assert_allclose(x, sample(mixture.denoiser, t, start), rtol=1e-11, atol=1e-11)


def test_solvers_of_one_shape_share_a_program(mixture, start):
    denoiser, traced = counted(mixture)
    sample(denoiser, table(solvers.heun, grids.karras(4)), start)
    before = len(traced)
    sample(denoiser, table(solvers.heun, grids.log_snr(4), name="another"), start)
    sample(denoiser, table(solvers.dpm2, grids.arctan(4), ratio=0.4), start)
    assert len(traced) == before > 0


def test_another_denoiser_of_the_same_shape_recompiles_nothing(mixture, start):
    made = table(solvers.euler, grids.karras(4))
    traced = []

    @jax.jit
    def run(denoiser, made, start):
        traced.append(made)
        return sample(denoiser, made, start)

    run(mixture.denoiser, made, start)
    other = dataclasses.replace(mixture, means=mixture.means + 1.0)
    run(other.denoiser, made, start)
    assert len(traced) == 1


def test_jit_vmap_scan_remat_and_plain_functions_agree(mixture, start):
    made, D = table(solvers.dpmpp, grids.karras(4), order=2), mixture.denoiser
    expected = sample(D, made, start)
    same = lambda x: np.testing.assert_allclose(x, expected, rtol=1e-12)  # noqa: E731
    same(jax.jit(sample)(D, made, start))
    same(sample(D, made, start, unroll=True))
    same(sample(D, made, start, remat=True))
    same(sample(lambda y, s, cond: D(y, s, cond), made, start))
    same(jax.vmap(lambda x: sample(D, made, x[None])[0])(start))


def test_state_dtype_is_kept(mixture, start):
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), mixture)
    out = sample(single.denoiser, table(solvers.unipc, grids.karras(6)), start.astype(jnp.float32))
    assert out.dtype == jnp.float32
    exact = sample(mixture.denoiser, table(solvers.unipc, grids.karras(6)), start)
    np.testing.assert_allclose(out, exact, atol=2e-4)


def squared_weights(solver, options, levels, end):
    """A number that every weight of a table enters, for each terminal policy."""
    knots = [*levels, 0.0] if end == "zero" else levels
    made = table(solver, knots, denoise=end == "denoise", **options)
    return sum(jnp.sum(jnp.square(w)) for w in jax.tree.leaves(made))


def check_few_steps(solver, options, num_steps, end):
    """Finite weights with finite gradients: no branch hides a NaN."""
    zero = end == "zero"
    levels = grids.log_snr(num_steps, zero=zero)[: num_steps + (not zero)]
    run = lambda levels: squared_weights(solver, options, levels, end)  # noqa: E731
    assert np.isfinite(run(levels))
    slope = jax.grad(run)
    if solver is not solvers.restart:  # which reads the levels' values
        slope = jax.jit(slope)
    gradient = slope(jnp.asarray(levels))
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.mark.parametrize(("solver", "options"), ALL[::8], ids=name)
def test_few_steps_are_finite_with_finite_gradients(solver, options):
    check_few_steps(solver, options, 2, "zero")
    check_few_steps(solver, options, 3, "lowest")


@pytest.mark.slow
@pytest.mark.parametrize(("solver", "options"), ALL, ids=name)
def test_any_few_steps_are_finite_with_finite_gradients(solver, options):
    """2 to 5 steps, each end at two numbers of them or more."""
    ends = {2: ("zero", "denoise"), 3: ("lowest", "zero"), 4: ("zero", "denoise"), 5: ("lowest",)}
    for num_steps, some in ends.items():
        for end in some:
            check_few_steps(solver, options, num_steps, end)


@pytest.mark.slow
def test_values_are_finite_for_every_end(mixture, start):
    """Samples, on the host: every solver, 2 to 5 steps, every terminal policy."""
    D = lambda y, s: np.asarray(mixture.denoiser(y, s))  # noqa: E731
    for solver, options in ALL:
        for num_steps in (2, 3, 4, 5):
            for zero in (True, False):
                levels = [float(s) for s in grids.karras(num_steps, zero=zero)]
                noises = itertools.repeat(np.ones((5, 2)))
                states = textbook(D, solver, options, levels, np.asarray(start), noises)
                assert len(states) == num_steps + 1 and np.isfinite(states).all()
                assert np.isfinite(D(states[-1], max(levels[-1], 0.002))).all()


@pytest.mark.parametrize(
    ("solver", "options"), [(solvers.unipc, {}), (solvers.churn, {"low": 0.1})]
)
def test_direct_execution_equals_the_table(mixture, start, key, solver, options):
    """Without a table a solver draws the same noise and ends in the same samples."""
    levels = grids.karras(4)
    made = table(solver, levels, **options)
    key = key if made.stochastic else None
    index = jnp.array([7, 1, 3, 0, 2])
    expected = sample(mixture.denoiser, made, start, key=key, index=index)
    got = direct(mixture.denoiser, solver, levels, start, key=key, index=index, **options)
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-11)


def test_direct_execution_checks_its_arguments(mixture, start):
    levels = grids.karras(4)
    with pytest.raises(ValueError, match="churn draws noise: give either key= or recorded noise="):
        direct(mixture.denoiser, solvers.churn, levels, start)
    with pytest.raises(TypeError, match="has no option 'oder'"):
        direct(mixture.denoiser, solvers.unipc, levels, start, oder=2)
    with pytest.raises(ValueError, match="strictly decrease"):
        direct(mixture.denoiser, solvers.unipc, levels[::-1], start)
    run = lambda noise: direct(mixture.denoiser, solvers.ddpm, levels, start, noise=noise)  # noqa: E731
    noise = np.random.default_rng(3).normal(size=(3, *start.shape))
    expected = sample(mixture.denoiser, table(solvers.ddpm, levels), start, noise=noise)
    np.testing.assert_allclose(run(noise), expected, rtol=1e-11, atol=1e-11)
    for wrong in (noise[:2], noise[[0, 1, 2, 2]], noise[:, :1], noise[..., :1], noise[0]):
        with pytest.raises(ValueError, match=r"ddpm draws 3 noises of shape \(5, 2\)"):
            run(wrong)
    with pytest.raises(ValueError, match="euler draws no noise"):
        direct(mixture.denoiser, solvers.euler, levels, start, noise=noise)


def test_what_a_denoiser_returns_is_checked(start):
    """Its precision is its own, the arithmetic of the states is theirs; its shape is theirs."""
    levels, single = grids.karras(3), start.astype(jnp.float32)
    low = lambda y, s, cond=None: (y / (1 + s**2)).astype(jnp.bfloat16)  # noqa: E731
    made = table(solvers.dpmpp, levels)
    got = direct(low, solvers.dpmpp, levels, single)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, sample(low, made, single), rtol=1e-5, atol=1e-6)
    for run in (
        lambda D: sample(D, made, start),
        lambda D: direct(D, solvers.dpmpp, levels, start),
        lambda D: picard(D, made, start),
        lambda D: sample_in_stages(D, made, start),
    ):
        with pytest.raises(
            ValueError, match=r"states of shape \(5, 2\) and returned shape \(5, 1\)"
        ):
            run(lambda y, s, cond=None: y[:, :1])
        with pytest.raises(TypeError, match="states in float64 and returned int"):
            run(lambda y, s, cond=None: jnp.zeros(y.shape, jnp.int32))
    with pytest.raises(ValueError, match="returned tuple"):
        sample(lambda y, s, cond=None: (y, y), made, start)


@pytest.mark.parametrize("solver", [solvers.euler, solvers.unipc, solvers.heun])
def test_denoised_at_the_end(mixture, start, solver):
    """D at the lowest level: one evaluation and one accepted state more."""
    levels = grids.log_snr(4, zero=False)
    plain, made = table(solver, levels), table(solver, levels, denoise=True)
    assert made.nfe == plain.nfe + 1 and made.levels[-1] == 0
    path = trajectory(mixture.denoiser, made, start)
    end = sample(mixture.denoiser, plain, start)
    np.testing.assert_allclose(path.states[-2], end, rtol=1e-11)
    np.testing.assert_allclose(path.states[-1], mixture.denoiser(end, levels[-1]), rtol=1e-11)
    with pytest.raises(ValueError, match="denoised output already"):
        table(solver, grids.log_snr(4), denoise=True)
