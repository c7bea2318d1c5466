import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import load
from scipy import stats

from jaxdiff.exact import Empirical, Gaussian, GaussianMixture


def spd(rng, *shape):
    """Random covariances (..., d, d) with eigenvalues between about 0.1 and 2."""
    a = rng.normal(size=(*shape, shape[-1])) * 0.5
    return a @ np.swapaxes(a, -1, -2) + 0.1 * np.eye(shape[-1])


def make_models():
    rng = np.random.default_rng(1)
    means, weights = rng.normal(size=(3, 2)), np.array([0.2, 0.5, 0.3])
    classes = np.array([[0.0, 0.6, 0.4], [0.5, 0.25, 0.25]])
    return {
        "gaussian_diagonal": Gaussian(means[0], np.array([0.3, 1.2])),
        "gaussian_full": Gaussian(means[0], spd(rng, 2)),
        "mixture_diagonal": GaussianMixture(classes, means, rng.uniform(0.1, 1, (3, 2))),
        "mixture_full": GaussianMixture(weights, means, spd(rng, 3, 2)),
        "empirical": Empirical(rng.normal(size=(37, 2)), chunk=8),
    }


MODELS = make_models()
each = pytest.mark.parametrize("name", MODELS)
LEVELS = np.array([0.05, 0.3, 0.9, 2.0, 7.0, 80.0])


@functools.partial(jax.jit, static_argnums=0)
def call(method, *args):
    """One compiled program instead of one per operation."""
    return method(*args)


@jax.jit
def evaluate(model, y, levels):
    """Everything a model says."""
    names = ("score", "log_density", "jacobian", "divergence", "denoiser")
    return {name: getattr(model, name)(y, levels) for name in names}


@jax.jit
def differentiate(model, y, levels):
    """The same by automatic differentiation, a state at a time."""
    denoise = lambda y, s: model.denoiser(y[None], s)[0]  # noqa: E731
    density = lambda y, s: model.log_density(y[None], s)[0]  # noqa: E731
    return {
        "score": jax.vmap(jax.grad(density))(y, levels),
        "jacobian": jax.vmap(jax.jacfwd(denoise))(y, levels),
        "denoiser": jax.vmap(denoise)(y, levels),
    }


COUNT = 40_000


@functools.cache
def samples(name):
    draw = jax.jit(lambda model, key: model.sample(key, COUNT))
    return np.asarray(draw(MODELS[name], jax.random.key(3)))


@functools.cache
def facts(name):
    model, x0 = MODELS[name], samples(name)[: len(LEVELS)]
    y = x0 + LEVELS[:, None] * np.random.default_rng(5).normal(size=x0.shape)
    return x0, y, evaluate(model, y, LEVELS), differentiate(model, y, LEVELS)


@each
def test_score_is_the_gradient_of_the_log_density(name):
    _, y, f, ad = facts(name)
    np.testing.assert_allclose(f["score"], ad["score"], rtol=1e-9, atol=1e-12)
    tweedie = (f["denoiser"] - y) / LEVELS[:, None] ** 2
    np.testing.assert_allclose(f["score"], tweedie, rtol=1e-9, atol=1e-11)


@each
def test_jacobian_and_divergence(name):
    _, _, f, ad = facts(name)
    jacobian = np.asarray(f["jacobian"])
    np.testing.assert_allclose(jacobian, ad["jacobian"], rtol=1e-7, atol=1e-11)
    np.testing.assert_allclose(f["divergence"], np.trace(jacobian, axis1=1, axis2=2), rtol=1e-11)
    np.testing.assert_allclose(jacobian, np.swapaxes(jacobian, 1, 2), atol=1e-14)
    assert (np.linalg.eigvalsh(jacobian) > -1e-12).all()


@each
def test_batch_is_the_sum_of_its_samples(name):
    _, _, f, ad = facts(name)
    np.testing.assert_allclose(f["denoiser"], ad["denoiser"], rtol=1e-13)


@each
def test_density_integrates_to_one(name):
    """The trapezoidal rule converges exponentially for these smooth densities."""
    axis = np.linspace(-14, 14, 281)
    y = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    density = np.exp(call(type(MODELS[name]).log_density, MODELS[name], y, 0.5))
    np.testing.assert_allclose(density.sum() * 0.1**2, 1, rtol=1e-10)


@each
def test_limits_of_the_level(name):
    x0, y, _, _ = facts(name)
    model, noise, same = MODELS[name], (y - x0) / LEVELS[:, None], np.ones(len(LEVELS))
    small = evaluate(model, x0 + 1e-3 * noise, 1e-3 * same)
    zero, huge = evaluate(model, x0, 0 * same), evaluate(model, x0, 1e4 * same)
    np.testing.assert_allclose(small["denoiser"], x0, atol=6e-3)
    np.testing.assert_allclose(zero["denoiser"], x0, rtol=1e-13, atol=1e-15)
    mean = np.tile(model.moments()[0], (len(x0), 1))
    np.testing.assert_allclose(huge["denoiser"], mean, atol=1e-6)
    assert all(np.isfinite(v).all() for said in (small, huge) for v in said.values())
    assert all(np.isfinite(zero[key]).all() for key in ("jacobian", "divergence"))
    assert np.isfinite(differentiate(model, x0, 0 * same)["jacobian"]).all()


@each
def test_float32_stays_float32_and_close(name):
    _, y, f, _ = facts(name)
    said = evaluate(MODELS[name], jnp.asarray(y, jnp.float32), jnp.asarray(LEVELS, jnp.float32))
    for key, value in said.items():
        assert value.dtype == jnp.float32, key
        np.testing.assert_allclose(value, f[key], rtol=2e-3, atol=2e-4, err_msg=key)


@each
def test_moments_are_those_of_samples(name):
    x0 = samples(name)
    mean, covariance = map(np.asarray, MODELS[name].moments())
    error = 5 * np.sqrt(np.diag(covariance) / COUNT)  # five standard errors
    assert x0.shape == (COUNT, 2) and (np.abs(x0.mean(0) - mean) < error).all()
    np.testing.assert_allclose(np.cov(x0.T), covariance, atol=0.04)
    noisy = MODELS[name].moments(2.0)[1]
    np.testing.assert_allclose(noisy, covariance + 4 * np.eye(2), rtol=1e-13)


@each
def test_a_model_is_a_pytree_that_is_not_checked_again(name):
    model, y = MODELS[name], np.ones((2, 2))
    gradient = jax.jit(jax.grad(lambda m: m.denoiser(y, 0.5).sum()))(model)
    assert type(gradient) is type(model)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    negative = jax.tree.map(np.negative, model)  # no valid model, but a valid tree
    assert type(negative) is type(model)


def test_models_can_be_stacked():
    y, models = np.ones((2, 2)), [Gaussian([m, 0.0], [1.0, 2.0]) for m in (0.0, 3.0)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *models)
    both = jax.vmap(lambda m: m.denoiser(y, 0.5))(stacked)
    np.testing.assert_allclose(both, [m.denoiser(y, 0.5) for m in models])


def test_the_denoiser_is_an_argument_and_not_a_constant():
    traces = []

    @jax.jit
    def call(denoiser, y):
        traces.append(1)
        return denoiser(y, 0.5)

    y, models = jnp.ones((1, 2)), [Gaussian([m, 0.0], [1.0, 1.0]) for m in (0.0, 3.0)]
    first, second = (call(model.denoiser, y) for model in models)
    assert len(traces) == 1 and not np.allclose(first, second)


def test_gradients_with_respect_to_a_model():
    y, s, h = np.array([[0.3, -1.0]]), 0.6, 1e-6

    def density(mean):
        return GaussianMixture([0.4, 0.6], jnp.stack([mean, -mean]), [0.2, 0.3]).log_density(y, s)[
            0
        ]

    mean, step, value = np.array([0.5, 0.1]), np.array([h, 0.0]), jax.jit(density)
    slope = (value(mean + step) - value(mean - step)) / (2 * h)
    np.testing.assert_allclose(jax.jit(jax.grad(density))(mean)[0], slope, rtol=1e-8)


@pytest.mark.parametrize("case", [0, 1])
def test_published_teacher(case):
    golden = load("teacher")
    case = golden.cases[case]
    prefix = case["mixture"]
    weights, means, variances = (golden[f"{prefix}/{k}"] for k in ("class_weights", "mu", "var"))
    denoise = jax.jit(GaussianMixture(weights, means, variances).denoiser)
    full = jax.jit(GaussianMixture(weights, means, variances[:, :, None] * np.eye(8)).denoiser)
    x, level, labels = (golden.get(case, k) for k in ("x", "sigma", "labels"))
    free, conditional = denoise(x, level), denoise(x, level, labels)
    for said, key in (
        (free, "D_uncond"),
        (conditional, "D_cond"),
        (free + 2.5 * (conditional - free), "D_cfg2p5"),
        (full(x, level), "D_uncond"),
        (full(x, level, labels), "D_cond"),
    ):
        np.testing.assert_allclose(said, golden.get(case, key), rtol=1e-12, atol=1e-12)
    alone = GaussianMixture(golden[f"{prefix}/weights"], means, variances).denoiser
    alone = jax.jit(alone)(x, level)
    np.testing.assert_allclose(alone, golden.get(case, "D_uncond"), rtol=1e-12, atol=1e-12)


def test_two_points_give_a_tanh():
    y, s = np.linspace(-3, 3, 9)[:, None], 0.7
    points = Empirical([[-1.0], [1.0]])
    said = call(Empirical.denoise, points, y, s)
    np.testing.assert_allclose(said, np.tanh(y / s**2), rtol=1e-12)


@pytest.mark.parametrize("name", ["gaussian_diagonal", "gaussian_full"])
def test_gaussian_agrees_with_its_density_and_its_flow(name, rng):
    model = MODELS[name]
    mean, covariance = model.moments(0.7)
    y = rng.normal(size=(5, 2))
    expected = stats.multivariate_normal(mean, covariance).logpdf(y)
    np.testing.assert_allclose(call(Gaussian.log_density, model, y, 0.7), expected, rtol=1e-12)

    start, end, steps = 5.0, 0.1, 400

    @jax.jit
    def integrate(y):
        """Classical Runge-Kutta in log level, where dy/d log s = y - D."""
        h = np.log(end / start) / steps

        def f(y, u):
            return y - model.denoiser(y, jnp.exp(u))

        def step(y, i):
            u = np.log(start) + i * h
            a = f(y, u)
            b = f(y + h / 2 * a, u + h / 2)
            c = f(y + h / 2 * b, u + h / 2)
            d = f(y + h * c, u + h)
            return y + h / 6 * (a + 2 * b + 2 * c + d), None

        return jax.lax.scan(step, y, jnp.arange(steps, dtype=y.dtype))[0]

    levels, zero = np.linspace(0, 4, 5), np.zeros(5)
    moved = call(Gaussian.flow, model, y, zero + start, zero + end)
    np.testing.assert_allclose(moved, integrate(y), rtol=1e-8)
    there = call(Gaussian.flow, model, y, zero, levels)
    np.testing.assert_allclose(call(Gaussian.flow, model, there, levels, zero), y, rtol=1e-12)


def test_gaussian_is_a_mixture_of_one():
    _, y, expected, _ = facts("gaussian_full")
    mean, covariance = MODELS["gaussian_full"].moments()
    said = evaluate(GaussianMixture([1.0], mean[None], covariance[None]), y, LEVELS)
    for key, value in said.items():
        np.testing.assert_allclose(value, expected[key], rtol=1e-10, atol=1e-14, err_msg=key)


def test_classes_restrict_the_mixture(rng):
    model = MODELS["mixture_diagonal"]
    y, labels = rng.normal(size=(4, 2)), np.array([0, 1, 1, 0])
    r = np.asarray(call(GaussianMixture.responsibilities, model, y, 0.5, labels))
    np.testing.assert_allclose(r.sum(1), 1, rtol=1e-14)
    assert (r[labels == 0, 0] == 0).all()  # class 0 gives component 0 no weight
    alone = [GaussianMixture(w, model.means, model.variances) for w in np.asarray(model.weights)]
    alone = [call(GaussianMixture.denoise, one, y, 0.5) for one in alone]
    said = call(GaussianMixture.denoise, model, y, 0.5, labels)
    np.testing.assert_allclose(said, np.where(labels[:, None] == 0, *alone), rtol=1e-13)
    np.testing.assert_allclose(
        call(GaussianMixture.denoise, model, y, 0.5, 1), alone[1], rtol=1e-13
    )
    samples = jax.jit(lambda m, key: m.sample(key, 20_000, cond=0))(model, jax.random.key(0))
    np.testing.assert_allclose(samples.mean(0), model.moments(cond=0)[0], atol=0.05)
    null = call(GaussianMixture.denoise, model, y, 0.5, np.full(4, 2))  # as cond None
    np.testing.assert_allclose(null, call(GaussianMixture.denoise, model, y, 0.5), rtol=1e-13)
    unknown = np.array([0, -1, 3, -3])  # traced, they cannot be refused
    wrong = np.isnan(call(GaussianMixture.denoise, model, y, 0.5, unknown)).all(axis=1)
    assert wrong.tolist() == [False, True, True, True]
    drawn = jax.jit(lambda m, key, c: m.sample(key, 4, c))(model, jax.random.key(0), unknown)
    assert np.isnan(drawn).all(axis=1).tolist() == [False, True, True, True]


def test_posterior_of_one_component_is_gaussian_conditioning(rng):
    """Conditioning of the joint Gaussian of (x0, o), block by block."""
    mean, covariance, matrix = rng.normal(size=3), spd(rng, 3), rng.normal(size=(2, 3))
    observation, noise = rng.normal(size=2), np.array([0.05, 0.2])
    prior = GaussianMixture([1.0], [mean], [covariance])
    posterior = lambda *args: prior.posterior(*args).moments()  # noqa: E731
    said = jax.jit(posterior)(matrix, observation, noise)
    gain = covariance @ matrix.T @ np.linalg.inv(matrix @ covariance @ matrix.T + np.diag(noise))
    expected = mean + gain @ (observation - matrix @ mean), covariance - gain @ matrix @ covariance
    np.testing.assert_allclose(said[0], expected[0], rtol=1e-10)
    np.testing.assert_allclose(said[1], expected[1], rtol=1e-9)


@pytest.mark.parametrize("cond", [None, 0, 1])
def test_posterior_of_a_mixture_by_quadrature(cond):
    classes = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
    prior = GaussianMixture(classes, [[-1.0], [0.5], [2.0]], [0.1, 0.5, 0.2])
    matrix, observation, noise = np.array([[1.3], [-0.4]]), np.array([0.9, 0.1]), 0.6
    condition = jax.jit(lambda m: m.posterior(matrix, observation, noise, cond))
    said = condition(prior)
    x = np.linspace(-8, 8, 4001)[:, None]
    likelihood = np.exp(-0.5 * ((x @ matrix.T - observation) ** 2).sum(1) / noise)
    density = np.exp(call(GaussianMixture.log_density, prior, x, 0.0, cond)) * likelihood
    density /= density.sum() * 0.004
    said = np.exp(call(GaussianMixture.log_density, said, x, 0.0))
    np.testing.assert_allclose(said, density, rtol=1e-9, atol=1e-12)


def test_empirical_in_chunks_is_the_dense_sum():
    _, y, chunked, _ = facts("empirical")
    data, s = np.asarray(MODELS["empirical"].data), LEVELS
    logits = -((y[:, None] - data) ** 2).sum(-1) / (2 * s[:, None] ** 2)
    weights = np.exp(logits - logits.max(1, keepdims=True))
    weights /= weights.sum(1, keepdims=True)
    mean = weights @ data
    variance = (weights * ((data - mean[:, None]) ** 2).sum(-1)).sum(1)
    kernel = stats.multivariate_normal(np.zeros(2), 1.0).pdf
    pairs = zip(y, s, strict=True)
    density = [np.log(np.mean(kernel((a - data) / b)) / b**2) for a, b in pairs]
    whole = Empirical(data, chunk=1000)
    for said in (chunked, evaluate(whole, y, s)):
        np.testing.assert_allclose(said["denoiser"], mean, rtol=1e-10)
        np.testing.assert_allclose(said["divergence"], variance / s**2, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(said["log_density"], density, rtol=1e-10)
    for model in (MODELS["empirical"], whole):
        neighbours = call(Empirical.neighbours, model, y, s)
        np.testing.assert_allclose(neighbours, 1 / (weights**2).sum(1), rtol=1e-10)
    np.testing.assert_allclose(whole.moments()[1], np.cov(data.T, bias=True), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_empirical_denoiser_becomes_the_nearest_point(rng, dtype):
    model, y = MODELS["empirical"], rng.normal(size=(len(LEVELS), 2))
    data = np.asarray(model.data)
    nearest = data[((y[:, None] - data) ** 2).sum(-1).argmin(1)]
    for s in (1e-3, 0.0):
        said = evaluate(model, y.astype(dtype), np.full(len(y), s, dtype))
        np.testing.assert_allclose(said["denoiser"], nearest, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(said["divergence"], 0, atol=1e-5)


ONE, TWO = [[0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]]
WRONG = [
    (lambda: Gaussian([[0.0]], [1.0]), "mean must have shape"),
    (lambda: Gaussian([0.0, 0.0], [1.0]), "covariances must have shape"),
    (lambda: Gaussian([0.0, np.nan], [1.0, 1.0]), "mean must be finite"),
    (lambda: Gaussian([0.0, 0.0], [[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
    (lambda: Gaussian([0.0, 0.0], [[1.0, 1.0], [1.0, 1.0 - 1e-9]]), "identity"),
    (lambda: GaussianMixture([1.0], [0.0], [1.0]), "means must have shape"),
    (lambda: GaussianMixture([1.0], TWO, [1.0, 1.0]), "weights must have shape"),
    (lambda: GaussianMixture([1.2, -0.2], TWO, [1.0, 1.0]), "negative"),
    (lambda: GaussianMixture([0.4, 0.4], TWO, [1.0, 1.0]), "sum to 1"),
    (lambda: GaussianMixture([0.5, 0.5], TWO, [1.0, 0.0]), "positive"),
    (lambda: GaussianMixture([0.5, 0.5], TWO, [1.0, 1.0, 1.0]), "got"),
    (lambda: Empirical([0.0, 1.0]), "data must have shape"),
    (lambda: Empirical([[np.inf]]), "data must be finite"),
    (lambda: Empirical(ONE, chunk=0), "chunk"),
    (lambda: MODELS["gaussian_full"].denoiser(jnp.ones(2), 1.0), "states must have shape"),
    (lambda: MODELS["gaussian_full"].denoiser(jnp.ones((1, 2)), 1.0, 0), "no classes"),
    (lambda: MODELS["mixture_full"].denoiser(jnp.ones((1, 2)), 1.0, 0), "no classes"),
    (lambda: MODELS["mixture_diagonal"].denoiser(jnp.ones((1, 2)), 1.0, 3), "0 to 1"),
    (lambda: MODELS["mixture_diagonal"].denoiser(jnp.ones((1, 2)), 1.0, -1), "0 to 1"),
    (lambda: MODELS["mixture_diagonal"].denoiser(jnp.ones((1, 2)), 1.0, [0, 1]), "2 classes for 1"),
    (lambda: MODELS["mixture_full"].posterior(np.eye(3), np.ones(3), 1.0), "matrix must"),
    (lambda: MODELS["mixture_full"].posterior(np.eye(2), np.ones(2), 0.0), "noise_variance"),
]


@pytest.mark.parametrize("make, words", WRONG)
def test_wrong_numbers_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_classes_of_64_bits_are_compared_before_they_are_cut():
    """2^32 would be class 0 in 32 bits."""
    with jax.enable_x64(False), pytest.raises(ValueError, match="0 to 1"):
        MODELS["mixture_diagonal"].denoiser(jnp.ones((1, 2)), 1.0, np.array([2**32]))


def test_states_are_floating_arrays():
    """Of whole numbers a level below 1 would be 0."""
    for name in ("gaussian_full", "mixture_full"):
        with pytest.raises(TypeError, match="states must be a floating array; got int32"):
            MODELS[name].denoiser(jnp.ones((1, 2), jnp.int32), 0.5)


def test_labels_must_be_integers():
    with pytest.raises(TypeError, match="class numbers"):
        MODELS["mixture_diagonal"].denoiser(jnp.ones((1, 2)), 1.0, jnp.ones(1))


@pytest.mark.parametrize("level", [0.0, 1e-4])
def test_a_finite_data_set_at_the_lowest_levels_compiled_is_its_nearest_point(rng, level):
    """Weights are 1 and 0, however the compiler rounds exponents of 1e30."""
    data = rng.uniform(-1, 1, (300, 64)).astype(np.float32)
    model, y = Empirical(data), jnp.asarray(data[:9] + np.float32(1e-3))
    found = jax.jit(lambda y: (model.denoise(y, level), model.neighbours(y, level)))(y)
    np.testing.assert_allclose(found[0], data[:9], atol=1e-6)
    np.testing.assert_array_equal(found[1], np.ones(9))


@pytest.mark.parametrize("chunk", [2, 5])
def test_outputs_of_a_finite_data_set_have_a_derivative_in_the_level(rng, chunk):
    """Whether the last chunk repeats points or not; at low levels it is 0, not 0 times infinity."""
    data, y = rng.normal(size=(5, 3)), jnp.asarray(rng.normal(size=(2, 3)))

    def dense(s):
        away = jnp.sum((y[:, None] - data[None]) ** 2, axis=2)
        return jax.nn.softmax(-away / (2 * s**2), axis=1) @ data

    own = Empirical(data, chunk).denoise
    slope = jax.jit(lambda s: [jax.jvp(f, (s,), (1.0,))[1] for f in (lambda s: own(y, s), dense)])
    np.testing.assert_allclose(*slope(0.7), rtol=1e-10)
    np.testing.assert_allclose(slope(1e-3)[0], 0, atol=1e-10)
