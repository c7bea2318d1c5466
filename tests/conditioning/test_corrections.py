"""Corrections and paths that go up in noise: published numbers, exact posteriors, invariants."""

import functools
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import load

import jaxdiff as jd
from jaxdiff import corrections, grids, solvers
from jaxdiff.conditioning import operators
from jaxdiff.conditioning.corrections.replacement import replaced
from jaxdiff.conditioning.operators.linear import dense_basis
from jaxdiff.conditioning.processes import ddrm, ddrm_start, snips
from jaxdiff.exact import Gaussian, GaussianMixture
from jaxdiff.solvers.held import value

RNG = np.random.default_rng(0)
KEY = jax.random.key(1)
LEVELS = grids.karras(6, 0.05, 10.0)
MIX = GaussianMixture([0.4, 0.6], RNG.standard_normal((2, 4)), np.full((2, 4), 0.1))
START = jnp.asarray(10.0 * RNG.standard_normal((3, 4)))
KEYS = jax.random.split(KEY, 3)
KNOWN, MASK = jnp.asarray(RNG.standard_normal((3, 4))), np.array([1.0, 0.0, 1.0, 0.0])


def measured(operator, observation, noise):
    return operators.Measurement(operator, jnp.asarray(observation), jnp.asarray(noise))


@functools.cache
def golden():
    family = load("conditioning", full=True)
    parts = ("weights", "mu", "cov")
    mixtures = {m: [family[f"mixture/{m}/{k}"] for k in parts] for m in ("mix", "aniso")}
    return family, {m: jax.jit(GaussianMixture(*v).denoiser) for m, v in mixtures.items()}


def cases(text):
    family, denoisers = golden()
    found = [c for c in family.cases if c["what"].startswith(text)]
    assert found
    return [(c, functools.partial(family.get, c), denoisers[c["mixture"]]) for c in found]


def levels_at(times):
    """Alpha and level at the steps of the table of linear betas; 1 and 0 at step -1."""
    products = np.concatenate([golden()[0]["alphas_cumprod_linear"], [1.0]])[np.asarray(times)]
    return np.sqrt(products), np.sqrt((1 - products) / products)


def test_published_repaint():
    for case, get, D in cases("diffusers RePaint"):
        gap, steps, undone = 1000 // case["num_inference_steps"], iter(get("noise_step")), 0
        times, last = get("timesteps"), get("timesteps")[0] + 1
        x = jnp.asarray(get("x_T"))
        for t, expected in zip(times, get("traj"), strict=True):
            if t < last:
                (a, b), (s, r) = levels_at([t, max(t - gap, -1)])
                z = next(steps)
                drawn: Any = iter([z]).__next__
                (y,) = solvers.ddim(D, x / a, [s, r], drawn, case["eta"])
                x = b * replaced(value(y), r, z, get("original"), get("mask")[None])
            else:
                kept = np.prod(1 - golden()[0]["betas_linear"][last : last + gap])
                noise = get("noise_undo_effective")[undone]
                x = np.sqrt(kept) * x + np.sqrt(1 - kept) * noise
                undone += 1
            np.testing.assert_allclose(x, expected, rtol=1e-8, atol=1e-9)
            last = t


SCHEDULES = {  # of time, alpha and sigma
    "ve": (lambda t: 1.0, lambda t: 0.01 * 2000**t),
    "vp": (lambda t: 0.01 ** (t * t), lambda t: np.sqrt(1 - 0.01 ** (2 * t * t) + 1e-6)),
}


def test_published_repaint_with_a_repeat_of_every_step():
    for case, get, D in cases("azula RePaint"):
        alpha, sigma = SCHEDULES[case["schedule"]]
        x, noise, mask = jnp.asarray(get("x_T")), iter(get("noise")), 1.0 * get("mask")[None]
        for (t, u), expected in zip(pairwise(get("timesteps")), get("traj"), strict=True):
            a, b, s, r = alpha(t), alpha(u), sigma(t) / alpha(t), sigma(u) / alpha(u)
            for _ in range(case["iterations"]):
                drawn: Any = iter([next(noise)]).__next__
                (y,) = solvers.ddim(D, x / a, [s, r], drawn, case["eta"])
                y = replaced(value(y), r, next(noise), get("y"), mask)
                x = a * (y + np.sqrt(s**2 - r**2) * next(noise))
            x = b * y
            np.testing.assert_allclose(x, expected, rtol=1e-7, atol=1e-8)


def test_published_null_space_and_its_paths():
    for case, get, D in cases("DDNM ddnm"):
        numbers = (case[k] for k in ("T_sampling", "travel_length", "travel_repeat"))
        path = corrections.resampling_path(*numbers)
        published = list(case["T_sampling"] - 1 - get("times"))  # up by one step at a time
        around = zip([-1, *published[:-1]], published, [*published[1:], 99], strict=True)
        merged = [b for a, b, c in around if not a > b > c]
        assert path == merged
        A = operators.matrix(get("A"), (8,))
        known = corrections.ddnm(D, measured(A, get("y"), 0.0))
        gap, x, evaluated = 1000 // case["T_sampling"], jnp.asarray(get("x_T")), 0
        for (i, j), z in zip(pairwise(get("times")), get("noise"), strict=False):
            (a, b), (s, r) = levels_at([max(gap * k, -1) for k in (i, j)])
            if j < i:
                np.testing.assert_allclose(x, get("eval_x")[evaluated], rtol=1e-8, atol=1e-9)
                denoised, out = D(x / a, s), known(x / a, s)
                eps = (x / a - denoised) / s
                kept = np.sqrt(1 - case["eta"] ** 2)
                x, evaluated = b * (out + r * (case["eta"] * z + kept * eps)), evaluated + 1
            else:  # published code goes up from the denoised output
                x = b * (denoised + r * z)
        np.testing.assert_allclose(x, get("final"), rtol=1e-8, atol=1e-9)


def in_their_basis(drawn, eps, eta, quiet):
    """Return the noise with which eq. 17 has what published code makes for super-resolution: it
    takes noise and eps for coordinates of the means of 2x2 pixels and their complement, (I - 2 v
    v^T) with v as (3, 1, 1, 1), and turns eps as if it were fresh. ``quiet``: by coordinate.
    """
    v = np.tile([3.0, 1.0, 1.0, 1.0], 2) / np.sqrt(12)

    def turned(x):
        shares = (v * x).reshape(-1, 2, 4).sum(-1)
        return x - 2 * v * np.repeat(shares, 4, axis=1)

    apart = np.sqrt(1 - eta**2) / eta * quiet * (eps - turned(eps))
    return turned(drawn + apart)


@pytest.mark.slow
def test_published_null_space_with_noise():
    for case, get, D in cases("DDNM+"):
        A = operators.decomposed(operators.matrix(get("A"), (8,)))
        noisy, eta = case["sigma_y"], case["eta"]
        quiet = np.ones(8) if not noisy else np.tile([0.0, 1.0, 1.0, 1.0], 2)
        seen = measured(A, get("y"), noisy)
        gap, x = 1000 // case["T_sampling"], jnp.asarray(get("x_T"))
        for (i, j), z in zip(pairwise(get("times")), get("noise"), strict=False):
            (a, b), (s, r) = levels_at([max(gap * k, -1) for k in (i, j)])
            if j < i:
                denoised = D(x / a, s)
                if case["operator"] == "superres":
                    z = in_their_basis(z, np.asarray(x / a - denoised) / s, eta, quiet)
                noise: Any = iter([jnp.asarray(z)]).__next__
                (y,) = corrections.ddnm_plus(D, x / a, [s, r], noise, seen, eta)
                x = b * y
            else:
                x = b * (denoised + r * z)
        np.testing.assert_allclose(x, get("final"), rtol=1e-7, atol=1e-8, err_msg=case["id"])


def test_published_ddrm():
    for case, get, D in cases("DDRM"):
        V, count = get("V"), len(get("singulars"))
        m = jnp.asarray(get("U") * get("singulars") @ V[:, :count].T)
        basis = dense_basis(get("U"), get("singulars"), V.T, (8,), (count,))
        A = operators.linear(lambda x, m=m: x @ m.T.astype(x.dtype), (8,), basis)
        seen = measured(A, get("y"), case["sigma_0"])
        times = [*get("seq")[::-1], -1]
        alphas, levels = levels_at(times)
        coordinates = jnp.asarray(get("x_T")) / alphas[0]
        own, x = ddrm_start(basis.sample(coordinates), levels[0], seen), get("xs")[0] / alphas[0]
        np.testing.assert_allclose(own, x, rtol=2e-3)  # theirs is sqrt(1 + 1/s^2) times as large
        x = jnp.asarray(x)
        singular = np.concatenate([get("singulars"), np.zeros(8 - count)])
        np.testing.assert_allclose(get("xs")[0] / alphas[0], x, rtol=1e-8, atol=1e-9)
        for k, (s, r) in enumerate(pairwise(levels)):
            z = np.array(get("noise")[k, 0])
            after = (singular > 0) & (singular * r < case["sigma_0"])
            z[:, after] = get("noise")[k, 1][:, : after.sum()]
            before = (singular > 0) & ~after
            z[:, before] = get("noise")[k, 2][:, :count][:, before[:count]]
            noise: Any = iter([jnp.asarray(z)]).__next__
            etas = case["etaA"], case["etaB"], case["etaC"]
            (x,) = ddrm(D, x, [s, r], noise, seen, *etas)
            if r == 0 == case["sigma_0"]:  # there the paper has what is measured, they the model
                continue
            expected, where = get("xs")[k + 1] / alphas[k + 1], f"{case['id']} step {k}"
            np.testing.assert_allclose(value(x), expected, rtol=1e-7, atol=1e-8, err_msg=where)


@pytest.mark.slow
def test_a_path_that_goes_down_alone_is_the_solver():
    options: Any
    for solver, options in ((solvers.heun, {}), (solvers.ddpm, {"variance": "large"})):
        made = corrections.travel_table(solver, LEVELS, range(7), **options)
        run = functools.partial(jd.sample, MIX.denoiser, start=START, key=KEY)
        expected = jd.sample(MIX.denoiser, jd.table(solver, LEVELS, **options), START, key=KEY)
        np.testing.assert_allclose(run(table=made), expected, rtol=1e-12)
    assert corrections.travel_table(solvers.heun, LEVELS, range(7)).stochastic is False


def test_a_path_by_hand_and_its_table():
    """Down two, up two, down again: every end of a step down is corrected, and nothing else."""
    path, D = [0, 1, 2, 0, 1, 2, 3, 4, 5, 6], MIX.denoiser
    made = corrections.travel_table(solvers.euler, LEVELS, path)
    assert made.nfe == 8 and made.stochastic and len(made.draws) == 1
    np.testing.assert_allclose(made.levels, LEVELS[[0, 1, 2, 1, 2, 3, 4, 5, 6]])
    noise, fixed = (jnp.asarray(RNG.standard_normal(n)) for n in ((1, 3, 4), (3, 4)))
    correct, y, states = corrections.replacement(KNOWN, MASK, noise=fixed), START, [START]
    for a, b in pairwise(path):
        s, r = LEVELS[a], LEVELS[b]
        if b < a:
            y = y + np.sqrt(r**2 - s**2) * noise[0]
        else:
            y = y + (r - s) * (y - D(y, s)) / s
            y = MASK[None] * (KNOWN + r * fixed) + (1 - MASK[None]) * y
            states.append(y)
    whole = jd.trajectory(D, made, START, noise=noise, correct=correct)
    np.testing.assert_allclose(whole.states, states, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(whole.states[-1][:, MASK == 1], KNOWN[:, MASK == 1], rtol=1e-12)


@pytest.mark.slow
def test_a_travel_table_is_saved_and_its_levels_may_be_traced(tmp_path):
    path = corrections.resampling_path(6, 2, 2)
    made = corrections.travel_table(solvers.ddpm, LEVELS, path)
    made.save(tmp_path / "table.json")
    again = jd.load_table(tmp_path / "table.json")
    np.testing.assert_array_equal(again.levels, made.levels)
    run = lambda s: jd.sample(  # noqa: E731
        MIX.denoiser, corrections.travel_table(solvers.ddpm, [*s, 0.0], path), START, key=KEY
    )
    traced = jax.jit(run)(jnp.asarray(LEVELS[:-1]))
    np.testing.assert_allclose(traced, jd.sample(MIX.denoiser, again, START, key=KEY), rtol=1e-9)


@pytest.mark.slow
def test_the_error_of_replacement_falls_with_resampling():
    """N(0, C) of two numbers, the first one known to be 1: the second is N(0.8, 0.36)."""
    D = Gaussian(np.zeros(2), np.array([[1.0, 0.8], [0.8, 1.0]])).denoiser
    correct = corrections.replacement(np.array([1.0, 0.0]), np.array([1.0, 0.0]))
    levels, count = grids.karras(12, 0.02, 20.0), 2000
    start = 20.0 * jnp.asarray(np.random.default_rng(5).standard_normal((count, 2)))
    errors = []
    for repeats in (1, 3, 9):
        path = corrections.resampling_path(12, 1, repeats)
        made = corrections.travel_table(solvers.ddpm, levels, path)
        x = jd.sample(D, made, start, key=KEY, correct=correct)
        np.testing.assert_allclose(x[:, 0], 1.0, rtol=1e-12)
        errors.append(abs(float(x[:, 1].mean()) - 0.8))
    assert errors[0] > 1.5 * errors[1] > 2.25 * errors[2], errors


@pytest.mark.slow
def test_a_random_correction_is_the_same_in_any_batch():
    reference = jnp.asarray(RNG.standard_normal(4))
    A = operators.matrix(RNG.standard_normal((2, 4)), (4,))
    seen = measured(A, np.array([0.3, -0.2]), 0.0)
    levels = jnp.asarray([0.5, 1.0, 2.0])
    for correct in (
        corrections.replacement(reference, MASK),
        corrections.projection(seen),
        corrections.ilvr(reference, 2, axes=(1,)),
    ):
        whole = correct(START, levels, KEYS)
        one = correct(START[1:2], levels[1], KEYS[1:2])
        np.testing.assert_allclose(one, whole[1:2], rtol=1e-10)


def test_projections_hold_what_is_measured():
    A = operators.matrix(RNG.standard_normal((2, 4)), (4,))
    u = np.array([0.3, -0.2])
    seen = measured(A, u, 0.0)
    keys, level = jax.random.split(KEY, 3), 0.7
    y = corrections.projection(seen)(START, level, keys)
    n = jax.vmap(lambda k: jax.random.normal(k, (4,)))(keys)
    np.testing.assert_allclose(A.apply(y), u[None] + level * A.apply(n), rtol=1e-10)
    half = corrections.projection(seen, 0.5)(START, level, keys)
    np.testing.assert_allclose(half, (START + y) / 2, rtol=1e-12)
    clean = corrections.projection(seen)(START, 0.0, keys)
    np.testing.assert_allclose(A.apply(clean), u[None].repeat(3, 0), rtol=1e-9)
    inside = corrections.ddnm(MIX.denoiser, seen)(START, jnp.asarray([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(A.apply(inside), u[None] + 0 * y[:, :2], rtol=1e-9)
    outside = lambda x: x - A.pseudo_inverse(A.apply(x))  # noqa: E731
    plain = MIX.denoiser(START, jnp.asarray([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(outside(inside), outside(plain), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kind", ["average", pytest.param("bicubic", marks=pytest.mark.slow)])
def test_low_frequencies_are_those_of_the_reference(kind):
    reference, keys = jnp.asarray(RNG.standard_normal((8, 4, 1))), jax.random.split(KEY, 2)
    y = jnp.asarray(RNG.standard_normal((2, 8, 4, 1)))
    correct = corrections.ilvr(reference, 2, filter=kind, stop=0.1)
    made, low = correct(y, 0.5, keys), correct.func.keywords["low"]
    n = jax.vmap(lambda k: jax.random.normal(k, (8, 4, 1)))(keys)
    np.testing.assert_allclose(made - low(reference[None] + 0.5 * n), y - low(y), atol=1e-12)
    if kind == "average":
        np.testing.assert_allclose(low(made), low(reference[None] + 0.5 * n), atol=1e-12)
    np.testing.assert_array_equal(correct(y, 0.1, keys), y)


@pytest.mark.slow
def test_followed_trajectories():
    table = jd.table(solvers.euler, LEVELS)
    source = jd.trajectory(MIX.denoiser, table, START)
    D = MIX.denoiser
    run = lambda m, y: jd.trajectory(D, table, y, correct=corrections.follow(source, m)).states  # noqa: E731
    np.testing.assert_allclose(run(np.ones(4), START + 1)[1:], source.states[1:], rtol=1e-12)
    np.testing.assert_allclose(run(np.zeros((3, 1)), START), source.states, rtol=1e-12)
    kept = MASK == 1
    part = run(MASK, START + 1.0)[1:]
    np.testing.assert_allclose(part[..., kept], source.states[1:][..., kept], rtol=1e-12)
    assert np.abs(part[..., ~kept] - source.states[1:][..., ~kept]).max() > 0.1


def exact_posterior(noise):
    """A Gaussian, one number measured with noise, and its exact posterior's mean and deviation."""
    mean, C, A = np.array([0.5, -0.5]), np.array([[1.0, 0.6], [0.6, 0.8]]), np.array([[2.0, 0.0]])
    gain = C @ A.T / (A @ C @ A.T + noise**2)
    u = np.array([4.0])
    seen = measured(operators.matrix(A, (2,)), u, noise)
    return Gaussian(mean, C).denoiser, seen, mean + gain @ (u - A @ mean), C - gain @ A @ C


@pytest.mark.slow
def test_snips_samples_a_gaussian_posterior():
    D, seen, mean, covariance = exact_posterior(0.4)
    start = 5.0 * jnp.asarray(np.random.default_rng(2).standard_normal((2000, 2)))
    levels, options = np.geomspace(5.0, 0.1, 16), {"num_inner": 20, "step": 0.3}
    x = jd.direct(D, snips, levels, start, key=KEY, measurement=seen, **options)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.08)
    np.testing.assert_allclose(np.cov(np.asarray(x).T), covariance, atol=0.08)


@pytest.mark.slow
def test_restorations_by_decomposition_are_within_the_noise_and_beat_the_prior():
    D, seen, mean, _ = exact_posterior(0.2)
    start = 20.0 * jnp.asarray(np.random.default_rng(3).standard_normal((1000, 2)))
    levels = grids.karras(20, 0.02, 20.0)
    for solver, first in ((ddrm, ddrm_start(start, 20.0, seen)), (corrections.ddnm_plus, start)):
        x = jd.direct(D, solver, levels, first, key=KEY, measurement=seen)
        misfit = np.sqrt(np.mean((2 * x[:, 0] - 4.0) ** 2))
        assert misfit < 0.45, (solver, misfit)
        assert abs(float(x[:, 1].mean()) - mean[1]) < 0.7 * abs(-0.5 - mean[1])


NOISELESS = exact_posterior(0.0)[1]
TWO = START[:, :2]
solve = functools.partial(jd.direct, exact_posterior(0.0)[0], levels=LEVELS, start=TWO, key=KEY)
WRONG = {
    "from 0 to 1": lambda: corrections.replacement(KNOWN, 2 * MASK),
    "draws noise: give the solve": lambda: corrections.replacement(KNOWN, MASK)(START, 1.0, None),
    "a mask of shape": lambda: corrections.replacement(KNOWN, np.ones(3))(START, 1.0, KEYS),
    "known of shape": lambda: corrections.replacement(KNOWN[:2], MASK)(START, 1.0, KEYS),
    "reference of shape .1, 4, 1": lambda: corrections.ilvr(KNOWN[:1, :, None], 2)(
        jnp.zeros((1, 4, 4)), 1.0, KEYS[:1]
    ),
    "each has its own": lambda: corrections.replacement(KNOWN, MASK, START[:1])(START, 1.0, None),
    "states .3, 4.: each": lambda: corrections.replacement(KNOWN, MASK, START[:, :1])(
        START, 1.0, None
    ),
    "weight must be": lambda: corrections.projection(NOISELESS, 2.0),
    "see ddnm_plus": lambda: corrections.ddnm(MIX.denoiser, exact_posterior(0.1)[1]),
    "factor of at least 1": lambda: corrections.ilvr(KNOWN, 2, filter="box"),  # type: ignore[arg-type]
    "cannot be made 3": lambda: corrections.ilvr(KNOWN, 3, axes=(1,))(START, 1.0, KEYS),
    "must be at least 1": lambda: corrections.resampling_path(5, 0, 1),
    "take a shorter one": lambda: corrections.resampling_path(5, 5, 2),
    "ends at 6": lambda: corrections.travel_table(solvers.euler, LEVELS, [0, 1, 3, 6]),
    "0 <= eta": lambda: solve(ddrm, measurement=NOISELESS, eta=2.0),
    "num_inner": lambda: solve(snips, measurement=NOISELESS, num_inner=0),
    "one noise for all": lambda: solve(
        ddrm, measurement=measured(operators.matrix(np.eye(2), (2,)), np.ones(2), np.ones(2))
    ),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_does_not_fit_is_said(said):
    with pytest.raises(ValueError, match=said):
        WRONG[said]()


def test_only_linear_measurements():
    curved = measured(operators.nonlinear(lambda x: x**2, (4,)), np.ones(4), 0.0)
    for make in (corrections.projection, functools.partial(corrections.ddnm, MIX.denoiser)):
        with pytest.raises(TypeError, match="takes a linear operator"):
            make(curved)
        with pytest.raises(TypeError, match="takes a Measurement"):
            make(np.ones(4))


@pytest.mark.slow
def test_solvers_of_measurements_take_corrections():
    """One that changes nothing, and one whose last word is heard."""
    D, seen = exact_posterior(0.2)[:2]
    levels, start = LEVELS[2:], 2.0 * TWO
    same, ones = (lambda y, s, k: y), lambda y, s, k: jnp.ones_like(y)
    solvers_and_options = (
        (ddrm, {"measurement": seen}),
        (corrections.ddnm_plus, {"measurement": seen}),
        (snips, {"measurement": seen, "num_inner": 1}),
    )
    for solver, options in solvers_and_options:
        run = functools.partial(jd.direct, D, solver, levels, start, key=KEY, **options)
        np.testing.assert_allclose(run(correct=same), run(), rtol=1e-10)
        np.testing.assert_array_equal(run(correct=ones), 1.0)
