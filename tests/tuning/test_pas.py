"""PAS: bases and corrected steps in closed form, gradients, the search on samples kept apart."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import grids, solvers
from jaxdiff.exact import Gaussian, GaussianMixture
from jaxdiff.noise import start_noise
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.pndm import ADAMS_BASHFORTH
from jaxdiff.tuning.learned.pas import Corrections, load_corrections, pas, uncorrected
from jaxdiff.tuning.learned.pas_basis import basis
from jaxdiff.tuning.learned.pas_search import pas_errors, pas_search
from jaxdiff.tuning.learned.path import follow

# a trajectory in a plane leaves directions to rounding, by which programs differ
pytestmark = pytest.mark.usefixtures("optimised")

HIGH = 40.0
FINE = np.append(np.geomspace(HIGH, 0.002, 200), 0.0)


@pytest.fixture(scope="module")
def gaussian():
    return Gaussian(np.linspace(-0.5, 0.5, 8), np.geomspace(2.0, 0.01, 8))


@pytest.fixture(scope="module")
def mixture():
    means = np.random.default_rng(0).normal(size=(4, 8)) * np.linspace(1, 0.1, 8)
    return GaussianMixture(np.full(4, 0.25), means, np.full((4, 8), 0.02))


def starts(seed, batch, d=8):
    return HIGH * start_noise(jax.random.key(seed), batch, (d,), jnp.float64)


def dot(a, b):
    return np.einsum("...n,...n->...", np.asarray(a), np.asarray(b))


# Two variances: a trajectory stays in the plane of the start's two parts, so that the basis of the
# very first time point spans all that is to come

VARIANCES = np.array([1.0] * 3 + [0.04] * 4)


@pytest.fixture(scope="module")
def planar():
    """The Gaussian of two variances, and starts whose parts have the same lengths in all."""
    x = np.random.default_rng(3).normal(size=(5, 7))
    for part, size in ((slice(0, 3), 70.0), (slice(3, 7), 55.0)):
        x[:, part] *= size / np.linalg.norm(x[:, part], axis=1, keepdims=True)
    return Gaussian(np.zeros(7), VARIANCES), jnp.asarray(x)


def slope(model, y, s):
    return (y - model.denoise(y, s)) / s


@pytest.mark.slow
def test_the_basis_spans_the_exact_direction_from_the_first_step_on(planar):
    model, x = planar
    for s, r in ((HIGH, 3.0), (3.0, 0.5), (0.5, 0.0)):
        y = model.flow(x, HIGH, s)
        past = [slope(model, x, HIGH)] if s < HIGH else []
        made = basis(x, jnp.stack([*past, slope(model, y, s)]), y)
        secant = (model.flow(x, HIGH, r) - y) / (r - s)
        shares = dot(made, secant[:, None])
        np.testing.assert_allclose(np.einsum("bk,bkn->bn", shares, made), secant, atol=1e-12)
        assert np.abs(dot(made[:, 0], secant)).min() > 0.1  # not by chance: nothing else spans it
        assert np.abs(secant - shares[:, :1] * made[:, 0]).max() > 1e-4
        gram = np.einsum("bin,bjn->bij", made, made)
        np.testing.assert_allclose(gram, np.stack([np.diag([1, 1, 0, 0])] * 5), atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 3])
@pytest.mark.parametrize("relative", [False, True])
def test_coordinates_in_closed_form_make_the_solver_exact(planar, order, relative):
    """Every step of all samples needs the same coordinates, which lead along the exact flow."""
    model, x = planar
    levels = [HIGH, 5.0, 1.0, 0.3, 0.0]
    directions, slopes, coordinates = [], [], []
    for i, (s, r) in enumerate(zip(levels, levels[1:], strict=False)):
        y, weights = model.flow(x, HIGH, s), ADAMS_BASHFORTH[min(i + 1, order) - 1]
        slopes.insert(0, slope(model, y, s))
        wanted = (model.flow(x, HIGH, r) - y) / (r - s)
        d = sum(w * past for w, past in zip(weights, slopes, strict=False))
        own = dot(basis(x, jnp.stack([*directions, d]), y), wanted[:, None])
        own = own / np.linalg.norm(d, axis=1, keepdims=True) if relative else own
        np.testing.assert_allclose(own, np.broadcast_to(own[:1], own.shape), atol=1e-9)
        directions.append(wanted)
        coordinates.append(own[0])
    made = Corrections(
        np.array(levels), np.stack(coordinates), np.ones(4, bool), order=order, relative=relative
    )
    truth = model.flow(x, HIGH, 0.0)
    np.testing.assert_allclose(pas(model.denoiser, made, x), truth, atol=1e-9)
    plain = uncorrected(levels, order)
    assert np.abs(pas(model.denoiser, plain, x) - truth).max() > 0.05


@pytest.mark.slow
def test_search_finds_the_exact_coordinates(planar):
    model, x = planar
    levels = np.array([HIGH, 2.0, 0.5, 0.0])
    targets = jnp.stack([model.flow(x, HIGH, s) for s in levels])
    made = pas_search(model.denoiser, levels, x, targets, relative=True, learning_rate=1e-3)
    errors = pas_errors(model.denoiser, made, x, targets)
    assert errors.plain[-1] > 0.1
    assert errors.corrected[-1] < 2e-3
    np.testing.assert_allclose(errors.corrected[made.used], made.losses[made.used, 1], rtol=1e-9)


# The basis as defined, by NumPy


def defined_basis(start, directions, y, from_start):
    rows = np.stack([start, *directions] if from_start else directions)
    axes = [directions[-1] / np.linalg.norm(directions[-1])]
    for v in np.linalg.svd(rows, full_matrices=False)[2][:3]:
        v = v - np.array(axes).T @ (np.array(axes) @ v)
        toward = start if len(directions) == 1 else y - start
        length = np.linalg.norm(v)
        axes.append(v / length * np.sign(v @ toward) if length > 1e-9 else 0 * v)
    return np.stack(axes + [0 * start] * (4 - len(axes)))


def defined_sample(D, made, x):
    """PAS of one sample, as it is defined."""
    y, directions, slopes = x, [], []
    for i, (s, r) in enumerate(zip(made.levels, made.levels[1:], strict=False)):
        slopes.append((y - np.asarray(D(y[None], s))[0]) / s)
        weights = ADAMS_BASHFORTH[min(i + 1, made.order) - 1]
        d = sum(w * slope for w, slope in zip(weights, reversed(slopes), strict=False))
        axes = defined_basis(x, [*directions, d], y, made.from_start)
        scale = np.linalg.norm(d) if made.relative else 1.0
        directions.append(scale * made.coordinates[i] @ axes if made.used[i] else d)
        y = y + (r - s) * directions[-1]
    return y


@pytest.mark.slow
@pytest.mark.parametrize("from_start", [True, False])
def test_the_basis_is_as_defined(rng, from_start):
    x, y, ds = rng.normal(size=(3, 8)), rng.normal(size=(3, 8)), rng.normal(size=(5, 3, 8))
    made = basis(x.reshape(3, 2, 4), ds.reshape(5, 3, 2, 4), y.reshape(3, 2, 4), from_start)
    expected = [defined_basis(x[i], ds[:, i], y[i], from_start) for i in range(3)]
    np.testing.assert_allclose(made.reshape(3, 4, 8), expected, atol=1e-12)


@pytest.mark.slow
def test_signs_at_the_first_time_point_follow_the_start(rng):
    x, d = rng.normal(size=(4, 8)), rng.normal(size=(1, 4, 8))
    made = np.asarray(basis(x, d, x))
    assert (dot(made[:, 1], x) > 0).all()
    assert (made[:, 2:] == 0).all()
    alone = np.asarray(basis(x, d, x, from_start=False))
    np.testing.assert_allclose(alone[:, 0], d[0] / np.linalg.norm(d[0], axis=1, keepdims=True))
    assert (alone[:, 1:] == 0).all()


@pytest.mark.slow
def test_single_precision_keeps_what_a_gram_matrix_loses(gaussian):
    """u_4 of the fourth time point from level 80, right to a hundredth of its length in float32;
    by the Gram matrix it is up to 30 degrees off.
    """
    x = 80.0 * start_noise(jax.random.key(0), 16, (8,), jnp.float64)
    y, ds = x, []
    for s, r in zip(*(grids.karras(10)[k : k + 4] for k in (0, 1)), strict=True):
        before, y, ds = y, y + (r - s) * slope(gaussian, y, s), [*ds, slope(gaussian, y, s)]
    given = (x, jnp.stack(ds), before)
    exact = basis(*given)[:, 3]
    single = basis(*(a.astype(jnp.float32) for a in given))[:, 3]
    assert np.abs(dot(single, exact)).min() > 0.99
    assert np.abs(dot(by_gram_matrix(*map(np.float32, given[:2])), exact)).min() < 0.9


def by_gram_matrix(x, ds):
    """u_4 of every sample, (batch, n), from the eigenvectors of the rows' products."""
    rows = np.stack([x, *ds], 1)
    _, turns = np.linalg.eigh(np.einsum("bin,bjn->bij", rows, rows))
    axes = [rows[:, -1] / np.linalg.norm(rows[:, -1], axis=1, keepdims=True)]
    for v in np.moveaxis(np.einsum("bij,bin->bjn", turns, rows), 1, 0)[::-1][:3]:
        v = v / np.linalg.norm(v, axis=1, keepdims=True)
        for a in axes * 2:
            v = v - dot(v, a)[:, None] * a
        axes.append(v / np.linalg.norm(v, axis=1, keepdims=True))
    return axes[-1]


# The solver


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2, 4])
@pytest.mark.parametrize("num_steps", [1, 6])
def test_unused_corrections_are_the_plain_solver(mixture, order, num_steps):
    levels, x = grids.karras(num_steps, high=HIGH), starts(0, 4)
    made = dataclasses.replace(uncorrected(levels, order), coordinates=np.full((num_steps, 4), 7.0))
    solver, options = (solvers.euler, {}) if order == 1 else (solvers.ipndm, {"order": order})
    expected = sample(mixture.denoiser, table(solver, levels, **options), x)
    np.testing.assert_allclose(pas(mixture.denoiser, made, x), expected, rtol=1e-13, atol=1e-13)


def wild(num_steps, seed=0, **choices):
    """Corrections of no merit, every other one used."""
    levels = grids.karras(num_steps, 0.05, HIGH)
    coordinates = np.random.default_rng(seed).normal(size=(num_steps, 4)) + np.array([2.5, 0, 0, 0])
    return Corrections(levels, coordinates, np.arange(num_steps) % 2 == 0, **choices)


@pytest.mark.slow
@pytest.mark.parametrize(
    "choices", [{"order": 3}, {"relative": True, "from_start": False}], ids=str
)
def test_samples_are_as_defined(mixture, choices):
    made, x = wild(6, **choices), starts(4, 3)
    expected = [defined_sample(mixture.denoise, made, own) for own in np.asarray(x)]
    np.testing.assert_allclose(pas(mixture.denoiser, made, x), expected, rtol=1e-7, atol=1e-7)


@pytest.mark.slow
def test_no_sample_depends_on_another(mixture):
    x, made = starts(1, 6), wild(5, order=2)
    whole = pas(mixture.denoiser, made, x)
    np.testing.assert_allclose(pas(mixture.denoiser, made, x[2:5]), whole[2:5], rtol=1e-9)
    np.testing.assert_allclose(pas(mixture.denoiser, made, x[::-1]), whole[::-1], rtol=1e-9)


@pytest.mark.slow
def test_it_is_jittable_and_keeps_shape_and_dtype(mixture):
    image = lambda y, s, cond: mixture.denoise(y.reshape(-1, 8), s).reshape(y.shape)  # noqa: E731
    x, made = starts(1, 3), wild(3)
    expected = pas(mixture.denoiser, made, x)
    run = jax.jit(lambda c, x: pas(image, c, x, unroll=True))
    np.testing.assert_allclose(run(made, x.reshape(3, 2, 4)).reshape(3, 8), expected, rtol=1e-9)
    assert pas(mixture.denoiser, made, x.astype(jnp.float32)).dtype == jnp.float32


def flat_mixture(d):
    means = np.random.default_rng(1).normal(size=(3, d))
    return GaussianMixture(np.array([0.5, 0.3, 0.2]), means, np.full((3, d), 0.1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("d", "num_steps", "relative"), [(6, 5, True), (2, 4, False), (1, 3, True), (6, 1, False)]
)
def test_gradients_are_those_of_finite_differences(d, num_steps, relative):
    """Also where the history has no four directions: one step, or data of one or two dimensions."""
    model, x, made = flat_mixture(d), starts(2, 2, d), wild(num_steps, order=2, relative=relative)

    def value(coordinates, x):
        ends = pas(model.denoiser, dataclasses.replace(made, coordinates=coordinates), x)
        return jnp.sum(jnp.sin(ends))

    at = (jnp.asarray(made.coordinates), x)
    gradients = jax.jit(jax.grad(value, (0, 1)))(*at)
    rng, run, h = np.random.default_rng(5), jax.jit(value), 1e-5
    assert all(np.isfinite(g).all() for g in gradients)
    for which in (0, 1):
        way = [np.zeros(a.shape) for a in at]
        way[which] = rng.normal(size=at[which].shape)
        ahead, behind = (jax.tree.map(lambda a, w, k=k: a + k * w, at, (*way,)) for k in (h, -h))
        expected = (run(*ahead) - run(*behind)) / (2 * h)
        found = np.sum(gradients[which] * way[which])
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize(("d", "point", "missing"), [(2, 3, 2), (1, 3, 1), (6, 0, 2), (6, 1, 3)])
def test_coordinates_of_missing_directions_have_no_effect(d, point, missing):
    model, x, made = flat_mixture(d), starts(3, 3, d), wild(4)
    every = dataclasses.replace(made, used=np.ones(4, bool))
    other = every.coordinates.copy()
    other[point, missing:] += 10.0
    run = lambda c: pas(model.denoiser, dataclasses.replace(every, coordinates=c), x)  # noqa: E731
    np.testing.assert_array_equal(run(other), run(every.coordinates))
    other[point, missing - 1] += 1.0
    assert np.abs(run(other) - run(every.coordinates)).max() > 1e-3


def test_a_start_of_zeros_stays_finite(mixture):
    assert np.isfinite(pas(mixture.denoiser, wild(4), jnp.zeros((2, 8)))).all()


@pytest.mark.slow
def test_numbers_that_are_not_finite_are_seen_in_their_sample_alone(mixture):
    """At corrected time points, where a basis could hide them."""
    made, x = dataclasses.replace(wild(2), used=np.ones(2, bool)), starts(1, 3)

    def broken(y, s, cond):
        return mixture.denoise(y, s).at[1].multiply(jnp.nan)

    found, expected = pas(broken, made, x), pas(mixture.denoiser, made, x)
    assert np.isnan(found[1]).all()
    np.testing.assert_allclose(found[::2], expected[::2], rtol=1e-9)


# The search


@pytest.mark.slow
@pytest.mark.parametrize("num_steps", [5, 10])
@pytest.mark.parametrize(("relative", "factor"), [(False, 1.2), (True, 2.0)])
@pytest.mark.parametrize("data", ["gaussian", "mixture"])
def test_corrections_help_on_samples_kept_apart(request, data, num_steps, relative, factor):
    model, levels = request.getfixturevalue(data), grids.karras(num_steps, high=HIGH)
    D, (x, apart) = model.denoiser, (starts(0, 128), starts(1, 128))
    fine = table(solvers.unipc, FINE)
    made = pas_search(D, levels, x, follow(D, fine, x), relative=relative)
    teacher = follow(D, fine, apart)
    errors = pas_errors(D, made, apart, teacher)
    print(f"{data}, {num_steps} steps: {errors.plain[-1] / errors.corrected[-1]:.2f} times nearer")
    assert errors.plain[-1] > factor * errors.corrected[-1]
    euler = sample(D, table(solvers.euler, levels), apart)
    assert errors.plain[-1] == pytest.approx(np.abs(euler - teacher.end).mean(), rel=1e-9)
    corrected = pas(D, made, apart)
    assert errors.corrected[-1] == pytest.approx(np.abs(corrected - teacher.end).mean(), rel=1e-9)


@pytest.mark.slow
def test_a_correction_is_kept_if_it_gains_more_than_the_tolerance(gaussian):
    D, levels, x = gaussian.denoiser, grids.karras(5, high=HIGH), starts(0, 64)
    targets = jnp.stack([gaussian.flow(x, HIGH, s) for s in levels])
    made = pas_search(D, levels, x, targets, relative=True)
    gains = made.losses[:, 0] - made.losses[:, 1]
    np.testing.assert_array_equal(made.used, gains > 1e-4)
    assert made.used.any()
    assert not made.used.all()
    first = int(np.argmax(made.used))
    strict = pas_search(D, levels, x, targets, relative=True, tolerance=gains[first] * 1.001)
    np.testing.assert_array_equal(strict.losses[: first + 1], made.losses[: first + 1])
    assert not strict.used[first]
    plain = sample(D, table(solvers.euler, levels[:2]), x)
    assert made.losses[0, 0] == pytest.approx(np.abs(plain - targets[1]).mean(), rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 3])
def test_losses_are_those_of_the_corrected_solver(gaussian, order):
    D, levels, x = gaussian.denoiser, grids.karras(6, high=HIGH), starts(0, 32)
    targets = jnp.stack([gaussian.flow(x, HIGH, s) for s in levels])
    made = pas_search(D, levels, x, targets, order=order, relative=True)
    errors = pas_errors(D, made, x, targets)
    kept = np.where(made.used, made.losses[:, 1], made.losses[:, 0])
    np.testing.assert_allclose(errors.corrected, kept, rtol=1e-9)
    assert made.used[:-1].any()
    assert (errors.corrected != errors.plain).any()


@pytest.mark.slow
def test_the_search_begins_with_the_mean_length_and_ends_by_its_options(gaussian):
    D, levels, x = gaussian.denoiser, np.array([HIGH, 1.0, 0.0]), starts(0, 64)
    targets = jnp.stack([gaussian.flow(x, HIGH, s) for s in levels])
    none = pas_search(D, levels, x, targets, num_updates=0)
    length = np.linalg.norm(slope(gaussian, x, HIGH), axis=1).mean()
    np.testing.assert_allclose(none.coordinates[0], [length, 0, 0, 0], rtol=1e-12)
    losses = [pas_search(D, levels, x, targets, num_updates=n).losses[0, 1] for n in (0, 3, 50)]
    assert losses[0] > losses[1] > losses[2]
    hasty = pas_search(D, levels, x, targets, learning_rate=10.0, patience=1).losses[0, 1]
    assert hasty <= losses[0]


@pytest.mark.slow
def test_targets_may_be_a_path_or_its_states(gaussian):
    D, levels, x = gaussian.denoiser, grids.karras(4, high=HIGH), starts(0, 16)
    exact = jnp.stack([gaussian.flow(x, HIGH, s) for s in levels])
    path = follow(D, table(solvers.unipc, FINE), x)
    a, b = (pas_errors(D, uncorrected(levels), x, t) for t in (exact, path))
    np.testing.assert_allclose(a.plain, b.plain, rtol=1e-3)
    assert (a.plain == a.corrected).all()


@pytest.mark.slow
def test_losses_that_are_not_finite_are_named(gaussian):
    levels, x = np.array([HIGH, 2.0, 0.5, 0.1]), starts(0, 4)
    targets = jnp.stack([gaussian.flow(x, HIGH, s) for s in levels])

    def broken(y, s, cond):
        return gaussian.denoise(y, s) / jnp.where(s < 1.0, 0.0, 1.0)

    with pytest.raises(FloatingPointError, match=r"time point 2 \(level 0.5 to 0.1\)"):
        pas_search(broken, levels, x, targets)
    with pytest.raises(FloatingPointError, match=r"time point 1 \(level 2 to 0.5\)"):
        pas_search(gaussian.denoiser, levels, x, targets.at[2, 0, 0].set(jnp.nan))


@pytest.mark.slow
def test_arguments_that_do_not_fit_are_refused(gaussian):
    D, levels, x = gaussian.denoiser, [HIGH, 1.0, 0.0], starts(0, 2)
    with pytest.raises(ValueError, match=r"states at all levels, \(3, 2, 8\)"):
        pas_search(D, levels, x, jnp.zeros((2, 2, 8)))
    short = follow(D, table(solvers.euler, [HIGH, 1.0, 0.5]), x)
    with pytest.raises(ValueError, match="from level 40 to 0.5, not to 0"):
        pas_search(D, levels, x, short)
    for wrong in ({"learning_rate": jnp.nan}, {"num_updates": -1}, {"patience": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            pas_search(D, levels, x, jnp.zeros((3, 2, 8)), **wrong)
    with pytest.raises(ValueError, match="order should be 1"):
        pas_search(D, levels, x, jnp.zeros((3, 2, 8)), order=5)
    with pytest.raises(ValueError, match="strictly decrease"):
        uncorrected([1.0, 2.0])
    with pytest.raises(TypeError, match="start must be a batch"):
        pas(D, uncorrected(levels), jnp.zeros((2, 8), jnp.int32))
    made = uncorrected(levels)
    with pytest.raises(ValueError, match=r"coordinates should be \(2, 4\)"):
        pas(D, dataclasses.replace(made, coordinates=np.zeros((3, 4))), x)
    with pytest.raises(ValueError, match="coordinates should be finite"):
        pas(D, dataclasses.replace(made, coordinates=np.full((2, 4), np.nan)), x)


# Files


def test_saving_and_loading(tmp_path):
    made = wild(3, order=2, relative=True, from_start=False)
    made = dataclasses.replace(made, losses=np.arange(6.0).reshape(3, 2))
    for c in (made, dataclasses.replace(made, losses=None)):
        c.save(tmp_path / "pas.json")
        again = load_corrections(tmp_path / "pas.json")
        assert jax.tree.structure(again) == jax.tree.structure(c)
        for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(c), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "'format' should be 'jaxdiff-pas-2'"),
        ({"levels": [1.0, 2.0, 3.0, 4.0]}, "strictly decrease"),
        ({"coordinates": [[1.0, 2.0]]}, r"coordinates should be \(3, 4\)"),
        ({"coordinates": [[1.0, 0.0, 0.0, float("inf")]] * 3}, "coordinates should be finite"),
        ({"used": [1, 0, 1]}, "used should be 3 booleans"),
        ({"used": [True]}, "used should be 3 booleans"),
        ({"losses": [[1.0]] * 3}, r"losses should be \(3, 2\)"),
        ({"order": 7}, "order should be 1"),
        ({"order": 1.5}, "order should be 1"),
        ({"from_start": "yes"}, "from_start should be true or false"),
        ({"relative": 1}, "relative should be true or false"),
        ({"levels": None}, "damaged"),
    ],
)
def test_damaged_files_are_refused(tmp_path, change, message):
    path = tmp_path / "pas.json"
    wild(3).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message) as caught:
        load_corrections(path)
    assert "pas.json" in str(caught.value)


def test_files_that_lack_something_or_are_no_json_are_refused(tmp_path):
    path = tmp_path / "pas.json"
    wild(3).save(path)
    text = json.loads(path.read_text())
    del text["used"]
    path.write_text(json.dumps(text))
    with pytest.raises(ValueError, match="damaged corrections: 'used'"):
        load_corrections(path)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_corrections(path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        dataclasses.replace(wild(3), coordinates=np.full((3, 4), np.nan)).save(path)
