"""Adaptive solvers against exact truth, published numbers and independent counts of evaluations."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import load
from jax.tree_util import Partial

from jaxdiff.exact import Gaussian, GaussianMixture
from jaxdiff.noise import start_noise
from jaxdiff.process import VP, Discrete, level
from jaxdiff.sampling.adaptive.dpm_solver import dpm_adaptive
from jaxdiff.sampling.adaptive.gotta_go_fast import Revealed, gotta_go_fast
from jaxdiff.sampling.adaptive.probability_flow import adaptive
from jaxdiff.sampling.adaptive.reverse_sde import reverse_sde

HIGH, LOW = 20.0, 0.05
WEIGHTS = np.array([0.5, 0.3, 0.2])
MIXTURE = GaussianMixture(
    WEIGHTS, np.array([[-1.0, 0.5], [1.0, 0.0], [0.2, -1.2]]), np.full((3, 2), 0.05)
)
GAUSSIAN = Gaussian(np.array([0.3, -0.2]), np.array([0.04, 1.3]))
# the same Gaussian as a mixture of three equal ones: what runs on MIXTURE runs on it uncompiled
LUMPED = GaussianMixture(WEIGHTS, np.tile(GAUSSIAN.mean, (3, 1)), np.tile([0.04, 1.3], (3, 1)))
CALLS = []


def counted(denoiser, y, level, cond=None):
    """A denoiser that counts its calls on whole batches, as they happen."""

    def record(y):
        CALLS.append(len(y))
        return y

    shape = jax.ShapeDtypeStruct(y.shape, y.dtype)
    return denoiser(jax.pure_callback(record, shape, y, vmap_method="broadcast_all"), level, cond)


def counting(model):
    CALLS.clear()
    return Partial(counted, model.denoiser)


@pytest.fixture(scope="module")
def key():
    return jax.random.key(0)


@pytest.fixture(scope="module")
def start(key):
    return HIGH * start_noise(key, 5, (2,), jnp.float64)


# --- the probability-flow ODE by diffrax ---


@pytest.mark.slow
@pytest.mark.parametrize("per_sample", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_dense_output_is_the_flow(start, per_sample):
    """And costs no evaluations. The first step, of length 4, is rejected: that is counted right."""
    levels = [HIGH, 3.0, 0.4, LOW]
    out = adaptive(
        counting(GAUSSIAN), start, HIGH, LOW, rtol=1e-5, atol=1e-5, solver=diffrax.Bosh3(),
        first_step=4.0, per_sample=per_sample, levels=levels, dense=True,
    )  # fmt: skip
    jax.block_until_ready(out)
    assert out.nfe.max() == len(CALLS), (out.nfe, len(CALLS))
    expected = jnp.stack([GAUSSIAN.flow(start, HIGH, s) for s in levels])
    np.testing.assert_allclose(out.saved, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out.path(levels), out.saved, rtol=1e-12)
    np.testing.assert_allclose(out.path(LOW), out.states, rtol=1e-12)
    for outside in (21.0, [1.0, 0.04]):
        with pytest.raises(ValueError, match="from low to high"):
            out.path(outside)


def test_levels_to_save_are_checked(start):
    for levels, message in [([1.0, 2.0], "decreas"), ([30.0, 1.0], "lie between"), (2.0, "list")]:
        with pytest.raises(ValueError, match=message):
            adaptive(GAUSSIAN.denoiser, start, HIGH, LOW, levels=levels)


def gain(high, low):
    """Derivative of the Gaussian's flow from one level to another, per coordinate."""
    variances = np.diag(GAUSSIAN.moments()[1])
    return np.sqrt((variances + low**2) / (variances + high**2))


def shifted(mean, y, level, cond=None):
    shift = (mean - GAUSSIAN.mean).reshape(1, 2)
    return shift + GAUSSIAN.denoiser(y - shift, level)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["reverse", pytest.param("forward", marks=pytest.mark.slow)])
def test_gradients_of_adaptive_solves(start, mode):
    """Reverse mode by default, forward mode with ForwardMode, on a flow known in closed form."""
    options = {"rtol": 1e-4, "atol": 1e-4, "solver": diffrax.Heun(), "throw": False}
    options |= {"adjoint": diffrax.ForwardMode()} if mode == "forward" else {}

    def total(mean, x):
        return adaptive(Partial(shifted, mean), x, 2.0, 0.2, **options).states.sum()

    x, expected = start / 10, gain(2.0, 0.2)
    if mode == "forward":
        directions = jnp.ones(2), 2 * jnp.ones_like(x)
        _, tangent = jax.jvp(total, (GAUSSIAN.mean, x), directions)
        np.testing.assert_allclose(tangent, len(x) * (1 + expected).sum(), rtol=1e-3)
        return
    by_mean, by_start = jax.jit(jax.grad(total, argnums=(0, 1)))(GAUSSIAN.mean, x)
    np.testing.assert_allclose(by_start, np.broadcast_to(expected, x.shape), rtol=3e-3)
    np.testing.assert_allclose(by_mean, len(x) * (1 - expected), rtol=1e-3)


# --- the reverse SDE by diffrax ---


def mode_weights(states):
    return np.asarray(MIXTURE.responsibilities(states, LOW).mean(0))


def assert_marginals(states, slack=0.02):
    """Mean, covariance and mode weights within four standard errors and a little for the steps."""
    count = len(states)
    mean, covariance = MIXTURE.moments(LOW)
    error = 4 * np.sqrt(np.diag(covariance) / count)
    assert (np.abs(states.mean(0) - mean) < error + slack).all(), states.mean(0) - mean
    np.testing.assert_allclose(np.cov(states.T), covariance, atol=4 * 1.2 / np.sqrt(count) + slack)
    away = np.abs(mode_weights(states) - WEIGHTS)
    assert (away < 4 * np.sqrt(WEIGHTS * (1 - WEIGHTS) / count) + slack).all(), away


def sde(model, x, num_steps, key, high=HIGH, low=LOW, **options):
    """Equal steps, their length an argument: one program for all of this section."""
    options = {
        "eta": 1.0,
        "solver": diffrax.ShARK(),
        "resolution": np.log(high / low) / 256,
    } | options
    D = counting(model)
    out = reverse_sde(
        D, x, high, low, key=key, controller=diffrax.ConstantStepSize(),
        first_step=np.log(high / low) / num_steps, **options,
    )  # fmt: skip
    jax.block_until_ready(out)
    assert (out.nfe == len(CALLS)).all(), (out.nfe, len(CALLS))
    return out


@pytest.fixture(scope="module")
def many(key):
    return HIGH * start_noise(key, 1000, (2,), jnp.float64)


@pytest.fixture(scope="module")
def some(many):
    return many[:100]


@pytest.mark.slow
@pytest.mark.parametrize("eta", [1.0, 0.3])
def test_marginals_of_the_reverse_sde(many, key, eta):
    """The weights of the modes too, which a user of diffrax found wrong (diffrax issue 560)."""
    out = sde(MIXTURE, many, 40, key, eta=eta)
    assert (out.nfe == 80).all()
    assert_marginals(out.states)


@pytest.mark.slow
def test_reverse_sde_without_noise_is_the_flow(many, key):
    out = sde(LUMPED, many, 64, key, eta=0.0)
    exact = GAUSSIAN.flow(many, HIGH, LOW)
    np.testing.assert_allclose(out.states, exact, rtol=5e-3, atol=5e-3)


def test_sde_samples_belong_to_their_index(some, key):
    whole, other = (sde(MIXTURE, x, 12, key) for x in (some, some.at[::2].set(0.0)))
    np.testing.assert_allclose(whole.states[1::2], other.states[1::2], rtol=1e-11)
    turned = jnp.arange(100, dtype=jnp.int32)[::-1]
    moved = sde(MIXTURE, some[::-1], 12, key, index=turned)
    np.testing.assert_allclose(moved.states, whole.states[::-1], rtol=1e-11)
    anew = sde(MIXTURE, some, 12, jax.random.key(1))
    assert np.abs(anew.states - whole.states).max() > 0.1


def strong_order(x, key, **options):
    """Slope of the error as steps are refined along one Brownian path."""
    solve = lambda n: sde(LUMPED, x / 10, n, key, high=2.0, low=0.2, **options).states  # noqa: E731
    fine = solve(96)
    errors = [np.sqrt(np.mean((solve(n) - fine) ** 2)) for n in (6, 24)]
    return np.log(errors[0] / errors[1]) / np.log(4)


def test_strong_convergence_of_the_reverse_sde(some, key):
    assert strong_order(some, key) > 1.3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "order", "calls"),
    [("EulerHeun", 1.0, 1), ("Heun", 1.0, 2), ("SRA1", 1.5, 2)],
)
def test_other_solvers_of_the_reverse_sde(some, key, solver, order, calls):
    solver = getattr(diffrax, solver)()
    assert (sde(LUMPED, some, 8, key, solver=solver).nfe == 8 * calls).all()
    assert strong_order(some, key, solver=solver) > order - 0.25


def test_reverse_sde_errors(start, key):
    for options, error, message in [
        ({"eta": -1.0}, ValueError, "eta"),
        ({"num_steps": 0}, ValueError, "num_steps"),
        ({"key": jnp.zeros(2, jnp.uint32)}, TypeError, "typed key"),
    ]:
        with pytest.raises(error, match=message):
            reverse_sde(GAUSSIAN.denoiser, start, HIGH, LOW, **({"key": key} | options))


# --- DPM-Solver with adaptive steps ---

GOLDEN = [
    ("solvers_kdiffusion", "c0171"),
    ("solvers_kdiffusion", "c0172"),
    ("solvers_vp_original", "c0204"),
    ("solvers_vp_original", "c0205"),
    ("solvers_vp_original", "c0410"),
    ("solvers_vp_original", "c0411"),
]


@pytest.mark.parametrize(("family", "name"), GOLDEN)
def test_dpm_adaptive_golden(family, name):
    """Final states, evaluation counts and every step of two published implementations."""
    numbers, shared = load(family), load("teacher")
    (case,) = [c for c in numbers.cases if c["id"] == name]
    z = jnp.asarray(shared["z"])
    D = GaussianMixture(shared["mix/weights"], shared["mix/mu"], shared["mix/var"]).denoiser
    options = {"order": case["order"], "rtol": 0.05, "atol": 0.0078, "reference": True}
    if family == "solvers_kdiffusion":
        out = dpm_adaptive(D, 80.0 * z, 80.0, 0.002, control="pid", frame="ve", **options)
        final, info = out.states, case["info"]
        assert (out.accepted == info["n_accept"]).all() and (out.rejected == info["n_reject"]).all()
    else:
        linear = case["noise_schedule"] == "linear"
        process = VP() if linear else Discrete.from_betas(np.asarray(numbers["betas_discrete"]))
        ends = np.array([1.0, 1e-3])
        (high, low), alpha = np.asarray(level(process, ends)), np.asarray(process.alpha(ends))
        out = dpm_adaptive(D, z / alpha[0], float(high), float(low), **options)
        final = out.states * alpha[1]
    assert (out.nfe == case["nfe"]).all()
    np.testing.assert_allclose(final, numbers.get(case, "final"), rtol=1e-8, atol=1e-8)
    begins = np.asarray(numbers.get(case, "eval_sigmas"))[:: case["order"]]
    attempts = zip(np.asarray(out.levels[0]), np.asarray(out.taken[0]), strict=True)
    here, ours = begins[0], [begins[0]]
    for _, (reached, taken) in zip(begins[1:], attempts, strict=False):
        here = reached if taken else here
        ours.append(here)
    np.testing.assert_allclose(ours, begins, rtol=1e-7)


@pytest.mark.parametrize("order", [pytest.param(2, marks=pytest.mark.slow), 3])
def test_local_order_with_data_prediction(start, order):
    """The error of a single step of length h falls as h^(order + 1)."""

    def one_step(h):
        high, low = 0.7, 0.7 * np.exp(-h)
        out = dpm_adaptive(
            GAUSSIAN.denoiser, start / 20, high, low, order=order, prediction="data",
            first_step=10.0, rtol=1e6, atol=1e6,
        )  # fmt: skip
        assert (out.accepted == 1).all() and (out.nfe == order).all()
        return np.abs(out.states - GAUSSIAN.flow(start / 20, high, low)).max()

    slope = np.log2(one_step(0.1) / one_step(0.05))
    assert abs(slope - (order + 1)) < 0.25, slope


@pytest.mark.parametrize(
    "options",
    [{}, {"order": 2, "control": "pid", "prediction": "data", "frame": "ve"}],
    ids=["paper", "pid"],
)
def test_dpm_adaptive_solves_the_flow_and_counts(start, options):
    """One call of the network per turn: a batch costs exactly its most expensive sample."""
    order = options.get("order", 3)
    for model, rtol, bound in [(LUMPED, 0.05, 0.3), (LUMPED, 0.001, 0.005), (MIXTURE, 0.05, None)]:
        D = counting(model)
        out = dpm_adaptive(D, start, HIGH, LOW, rtol=rtol, atol=rtol / 6, **options)
        jax.block_until_ready(out)
        assert out.nfe.max() == len(CALLS)
        np.testing.assert_array_equal(out.nfe, order * out.accepted + (order - 1) * out.rejected)
        if bound:
            assert np.abs(out.states - GAUSSIAN.flow(start, HIGH, LOW)).max() < bound
    assert len(set(out.nfe.tolist())) > 1


def test_dpm_adaptive_history_and_independence(start):
    out = dpm_adaptive(counting(MIXTURE), start, HIGH, LOW)
    other = dpm_adaptive(counting(MIXTURE), start.at[::2].multiply(0.3), HIGH, LOW)
    np.testing.assert_allclose(other.states[1::2], out.states[1::2], rtol=1e-11)
    np.testing.assert_array_equal(other.nfe[1::2], out.nfe[1::2])
    for i in range(len(start)):
        attempts = int(out.accepted[i] + out.rejected[i])
        levels, taken = np.asarray(out.levels[i]), np.asarray(out.taken[i])
        assert np.isfinite(levels[:attempts]).all() and np.isnan(levels[attempts:]).all()
        assert taken.sum() == int(out.accepted[i]) and (np.diff(levels[taken]) < 0).all()
        assert levels[attempts - 1] == pytest.approx(LOW) and taken[attempts - 1]
        np.testing.assert_array_equal(taken[:attempts], np.asarray(out.errors[i])[:attempts] <= 1)


def test_dpm_adaptive_derivatives(start):
    """Forward mode with the chosen steps held fixed; reverse mode is refused by JAX."""

    def solve(x):
        return dpm_adaptive(GAUSSIAN.denoiser, x, 2.0, 0.2, rtol=1e-3, atol=1e-4).states

    x = start / 10
    _, tangent = jax.jvp(solve, (x,), (jnp.ones_like(x),))
    np.testing.assert_allclose(tangent, np.broadcast_to(gain(2.0, 0.2), x.shape), rtol=1e-3)
    with pytest.raises(ValueError, match="[Rr]everse-mode"):
        jax.grad(lambda x: solve(x).sum())(x)


def test_giving_up(start):
    def broken(y, level, cond=None):
        return jnp.where(level.reshape(-1, 1) < 1.0, jnp.nan, MIXTURE.denoiser(y, level))

    solve = lambda x: dpm_adaptive(broken, x, HIGH, LOW, max_steps=60)  # noqa: E731
    with pytest.raises(RuntimeError, match="5 of 5 samples did not .* level 0.05: .* not finite"):
        solve(start)
    assert jax.eval_shape(solve, start).finished.shape == (5,)  # no error where nothing is known
    out = dpm_adaptive(broken, start, HIGH, LOW, max_steps=60, throw=False)
    assert not out.finished.any() and np.isfinite(out.states).all()
    assert (out.accepted + out.rejected <= 60).all() and (out.nfe > 0).all()
    for options in ({"order": 1}, {"control": "x"}, {"prediction": "v"}, {"frame": "fm"}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} .* not"):
            dpm_adaptive(MIXTURE.denoiser, start, HIGH, LOW, **options)
    for options in ({"rtol": 0.0}, {"first_step": -1.0}):
        with pytest.raises(ValueError, match="positive"):
            dpm_adaptive(MIXTURE.denoiser, start, HIGH, LOW, **options)


# --- Gotta Go Fast ---

TOLERANCES = {"rtol": 0.05, "atol": 0.03}


@pytest.fixture(scope="module")
def crowd(key):
    return HIGH * start_noise(key, 2000, (2,), jnp.float64)


@pytest.fixture(scope="module")
def published(crowd, key):
    return gotta_go_fast(counting(MIXTURE), crowd, HIGH, LOW, key=key, reference=True, **TOLERANCES)


def textbook_gotta_go_fast(D, x, key, rtol, atol, h=0.01):
    """Algorithm 1 of the paper for one sample, in the time of VE(LOW, HIGH), in NumPy."""
    sigma = lambda t: LOW * (HIGH / LOW) ** t  # noqa: E731
    score = lambda x, t: (np.asarray(D(x[None], sigma(t)))[0] - x) / sigma(t) ** 2  # noqa: E731
    g = lambda t: sigma(t) * np.sqrt(2 * np.log(HIGH / LOW))  # noqa: E731
    t, before, attempt = 1.0, x, 0
    while t > 1e-12:
        h = min(h, t)
        z = np.asarray(jax.random.normal(jax.random.fold_in(key, attempt), x.shape, x.dtype))
        euler = x + h * g(t) ** 2 * score(x, t) + np.sqrt(h) * g(t) * z
        again = x + h * g(t - h) ** 2 * score(euler, t - h) + np.sqrt(h) * g(t - h) * z
        heun = (euler + again) / 2
        delta = np.maximum(atol, rtol * np.maximum(np.abs(euler), np.abs(before)))
        error, attempt = np.sqrt(np.mean(((heun - euler) / delta) ** 2)), attempt + 1
        if error <= 1:
            x, t, before = heun, t - h, euler
        h = 0.9 * h * error**-0.9
    return x, attempt


@pytest.mark.slow
def test_gotta_go_fast_is_its_algorithm(crowd, published, key):
    D = jax.jit(MIXTURE.denoiser)
    x, attempts = textbook_gotta_go_fast(
        D, np.asarray(crowd[3]), jax.random.fold_in(key, 3), **TOLERANCES
    )
    np.testing.assert_allclose(published.states[3], x, rtol=1e-7, atol=1e-7)
    assert published.accepted[3] + published.rejected[3] == attempts


@pytest.mark.slow
def test_redrawing_rejected_noise_is_biased(published):
    """The published algorithm spreads too far in few dimensions; one Brownian path does not."""
    assert spread(published.states) > 1.1


def spread(states):
    """Total variance in units of the data's."""
    return np.trace(np.cov(states.T)) / np.trace(MIXTURE.moments(LOW)[1])


@pytest.mark.slow
def test_gotta_go_fast(crowd, key):
    """Right marginals with one path, true counts, samples apart from each other."""
    out = gotta_go_fast(counting(MIXTURE), crowd, HIGH, LOW, key=key, **TOLERANCES)
    jax.block_until_ready(out)
    assert out.nfe.max() == len(CALLS) and out.rejected.sum() > 0
    np.testing.assert_array_equal(out.nfe, 2 * out.accepted + out.rejected)
    assert_marginals(out.states)
    assert abs(spread(out.states) - 1) < 0.05
    turned = jnp.arange(2000, dtype=jnp.int32)[::-1]
    again = gotta_go_fast(
        counting(MIXTURE), crowd[::-1], HIGH, LOW, key=key, index=turned, **TOLERANCES
    )
    np.testing.assert_allclose(again.states, out.states[::-1], rtol=1e-9)
    np.testing.assert_array_equal(again.nfe, out.nfe[::-1])


@pytest.mark.slow
def test_marginals_in_the_frame_of_vp(crowd, key):
    out = gotta_go_fast(MIXTURE.denoiser, crowd, HIGH, LOW, key=key, process=VP(), **TOLERANCES)
    assert_marginals(out.states)


def test_single_precision_stays_single(start, key):
    """Traced only: nothing is promoted on the way."""
    single = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), GAUSSIAN).denoiser
    solves = [
        lambda x: dpm_adaptive(single, x, HIGH, LOW, control="pid", denoise=True),
        lambda x: gotta_go_fast(single, x, HIGH, LOW, key=key, process=VP(), denoise=True),
        lambda x: reverse_sde(
            single, x, HIGH, LOW, key=key, levels=[1.0], dense=True, denoise=True
        ),
        lambda x: adaptive(single, x, HIGH, LOW, levels=[1.0], dense=True),
    ]
    for solve in solves:
        out = jax.eval_shape(solve, start.astype(jnp.float32))
        assert out.states.dtype == jnp.float32 and out.nfe.dtype == jnp.int32


def test_a_revealed_path_is_brownian():
    """Points looked at in any order have the covariances min(s, t), and known points stay."""

    def one(key):
        normals = iter(jax.random.normal(key, (7,), jnp.float64))
        at = lambda path, t: path.look(jnp.array(t), next(normals))  # noqa: E731
        path = Revealed.at(jnp.array(0.0), jnp.array(0.0))
        far = at(path, 1.0)
        path = path.remember(jnp.array(1.0), far)
        near = at(path, 0.6)
        path = path.remember(jnp.array(0.6), near)
        first = at(path, 0.3)
        path = path.move(jnp.array(0.3), first)
        beyond = at(path, 1.5)
        known = jnp.stack([at(path, 0.6) - near, at(path, 1.0) - far])
        path = path.move(jnp.array(0.7), at(path, 0.7))
        return jnp.stack([first, near, path.values[0], far, beyond]), known

    points, known = jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 40_000))
    np.testing.assert_array_equal(known, 0.0)
    times = np.array([0.3, 0.6, 0.7, 1.0, 1.5])
    expected = np.minimum(times[:, None], times)
    np.testing.assert_allclose(np.cov(points.T), expected, atol=0.04)


# --- compiled as users' programs are, for the rest of the module ---


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_error_control_and_dense_output_of_the_reverse_sde(start, key):
    """A last bit of a time that the controller chose moves a Brownian path by about its root: equal
    numbers need programs of both batches that round alike, which those compiled quickly do not.
    """
    options = {"key": key, "rtol": 0.1, "atol": 0.1, "dense": True, "levels": [1.0, 0.1]}
    whole = reverse_sde(MIXTURE.denoiser, start, HIGH, LOW, **options)
    some = jnp.array([3, 1])
    part = reverse_sde(MIXTURE.denoiser, start[some], HIGH, LOW, index=some, **options)
    np.testing.assert_allclose(part.states, whole.states[some], rtol=1e-10)
    np.testing.assert_array_equal(part.nfe, whole.nfe[some])
    np.testing.assert_allclose(whole.path([1.0, 0.1]), whole.saved, rtol=1e-10)
    np.testing.assert_allclose(part.saved, whole.saved[:, some], rtol=1e-10)
    assert len(set(whole.nfe.tolist())) > 1
    fixed = reverse_sde(MIXTURE.denoiser, start, HIGH, LOW, key=key, num_steps=7, denoise=True)
    assert (fixed.num_steps == 7).all() and (fixed.nfe == 15).all()
