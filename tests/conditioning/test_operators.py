"""Operators: every one is linear as it says, its transpose and decomposition belong to it, and what
it measures is what its name says.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from scipy.linalg import hadamard as hadamard_matrix

from jaxdiff.conditioning import operators as ops

RNG = np.random.default_rng(5)
IMAGE = (8, 8, 2)
MASK = RNG.random(IMAGE) < 0.4
KERNEL = RNG.normal(size=(3, 2))  # neither symmetric nor odd
MATRIX = RNG.normal(size=(3, 8))
TALL = RNG.normal(size=(10, 8)) @ np.diag([1.0] * 6 + [0.0] * 2)  # of rank 6
MAKERS = {
    "mask": lambda: ops.mask(MASK),
    "box": lambda: ops.box((8, 8), (2, 3), (5, 6)),
    "matrix": lambda: ops.matrix(MATRIX),
    "tall": lambda: ops.matrix(TALL, (2, 4)),
    "random_matrix": lambda: ops.random_matrix((2, 4), 3),
    "hadamard": lambda: ops.hadamard((4, 2, 2), 5),
    "average": lambda: ops.average(IMAGE, 4),
    "bicubic": lambda: ops.bicubic((8, 8), 2),
    "decimate": lambda: ops.decimate((8,), 2),
    "grey": lambda: ops.grey((4, 4, 3)),
    "gaussian_blur": lambda: ops.gaussian_blur(IMAGE, 1.0),
    "convolution": lambda: ops.convolution((6, 5), KERNEL),
    "motion": lambda: ops.convolution(IMAGE, ops.motion_kernel(5, 30.0)),
    "scaled": lambda: ops.scale(ops.average((8,), 2), -3.0),
}


def dense(operator):
    """The matrix, by samples that are 1 in one place."""
    n = math.prod(operator.shape)
    return np.asarray(operator.forward(jnp.eye(n).reshape(n, *operator.shape))).reshape(n, -1).T


@jax.jit
def facts(operator, x, u):
    """Everything an operator has, of three samples and measurements."""
    svd = operator.svd
    n = svd.singular.shape[0]
    eye = jnp.eye(n)
    return {
        "A": operator.forward(eye.reshape(n, *operator.shape)).reshape(n, -1).T,
        "apply": operator.apply(x), "transpose": operator.transpose(u),
        "inverse": operator.pseudo_inverse(u), "V": svd.sample(eye).reshape(n, -1).T,
        "U": svd.measurement(eye).reshape(n, -1).T, "coordinates": svd.coordinates(x),
        "observed": svd.observed(u), "singular": svd.singular,
    }  # fmt: skip


QUICK = ("mask", "tall", "convolution")
ALL = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in MAKERS]


@pytest.mark.parametrize("name", ALL)
def test_apply_transpose_and_decomposition_are_those_of_one_matrix(name):
    operator = MAKERS[name]()
    x = RNG.normal(size=(3, *operator.shape))
    u = RNG.normal(size=(3, *operator.measured))
    found = jax.tree.map(np.asarray, facts(operator, jnp.asarray(x), jnp.asarray(u)))
    A = found["A"]
    flat_x, flat_u = x.reshape(3, -1), u.reshape(3, -1)
    close = lambda a, b: np.testing.assert_allclose(np.reshape(a, b.shape), b, atol=2e-7)  # noqa: E731
    close(found["apply"], flat_x @ A.T)
    close(found["transpose"], flat_u @ A)
    U, S, V = found["U"], found["singular"], found["V"]
    close(V.T @ V, np.eye(len(S)))
    seen = np.flatnonzero(S)
    close(U[:, seen].T @ U[:, seen], np.eye(len(seen)))
    close((U * S) @ V.T, A)
    close(found["inverse"], flat_u @ np.linalg.pinv(A, rcond=1e-5).T)
    close(found["coordinates"], flat_x @ V)
    close(found["observed"], flat_u @ np.where(S > 0, U, 0))
    assert len(seen) == np.linalg.matrix_rank(A)


def test_operators_measure_what_their_names_say():
    x = RNG.normal(size=(2, *IMAGE))
    blocks = x.reshape(2, 2, 4, 2, 4, 2).mean((2, 4))
    np.testing.assert_allclose(MAKERS["average"]().apply(x), blocks, rtol=1e-12)
    np.testing.assert_array_equal(ops.mask(MASK).apply(x), x * MASK)
    blurred = ndimage.gaussian_filter(x, (0, 1.0, 1.0, 0), mode="reflect")
    np.testing.assert_allclose(MAKERS["gaussian_blur"]().apply(x), blurred, rtol=1e-10)
    plane = RNG.normal(size=(1, 6, 5))
    expected = ndimage.convolve(plane[0], KERNEL, mode="wrap")
    # SciPy's middle of an even axis is one further, which for size 2 is index 1 as here
    np.testing.assert_allclose(MAKERS["convolution"]().apply(plane)[0], expected, atol=1e-12)
    colour = RNG.normal(size=(1, 4, 4, 3))
    luma = 0.299 * colour[..., :1] + 0.587 * colour[..., 1:2] + 0.114 * colour[..., 2:]
    np.testing.assert_allclose(MAKERS["grey"]().apply(colour), luma, rtol=1e-12)
    np.testing.assert_array_equal(MAKERS["decimate"]().apply(np.arange(8.0)[None])[0], [0, 2, 4, 6])


def test_bicubic_keeps_constants_and_straight_lines_inside():
    operator = ops.bicubic((16,), 2)
    np.testing.assert_allclose(operator.apply(jnp.ones((1, 16))), 1, rtol=1e-6)
    inside = np.asarray(operator.apply(jnp.arange(16.0)[None]))[0, 2:-2]
    np.testing.assert_allclose(inside, np.arange(4, 12, 2) + 0.5, rtol=1e-6)


def test_hadamard_is_the_matrix_of_that_name():
    from jaxdiff.conditioning.operators.matrices import walsh_hadamard

    x = RNG.normal(size=(2, 8))
    np.testing.assert_allclose(walsh_hadamard(jnp.asarray(x)), x @ hadamard_matrix(8) / 8**0.5)
    A = dense(ops.hadamard((16,), 5, seed=3))
    np.testing.assert_allclose(A[0], 0.25)  # the mean is always seen
    assert np.unique(np.abs(A)) == pytest.approx(0.25)


@pytest.mark.slow
def test_products_and_stacks():
    inner, outer = ops.mask(MASK), ops.average(IMAGE, 2)
    both = ops.compose(outer, inner)
    np.testing.assert_allclose(dense(both), dense(outer) @ dense(inner), atol=1e-14)
    beside = ops.stack([inner, outer])
    np.testing.assert_allclose(dense(beside), np.vstack([dense(inner), dense(outer)]), atol=1e-14)
    assert beside.measured == (128 + 32,)
    assert beside.support is not None
    with pytest.raises(ValueError, match="decomposed"):
        _ = both.svd
    small = ops.decomposed(ops.compose(ops.matrix(MATRIX), ops.matrix(TALL[:8])))
    found = jax.tree.map(np.asarray, facts(small, jnp.ones((3, 8)), jnp.ones((3, 3))))
    product = MATRIX @ TALL[:8]
    np.testing.assert_allclose((found["U"] * found["singular"]) @ found["V"].T, product, atol=1e-12)
    assert isinstance(ops.compose(ops.nonlinear(jnp.tanh, (3,)), ops.matrix(MATRIX)), ops.Nonlinear)


def test_operators_are_pytrees_of_any_batch_and_dtype():
    masks = jnp.asarray(RNG.random((3, 8)) < 0.5).at[:, 0].set(True)
    x = jnp.asarray(RNG.normal(size=(3, 5, 2, 8)))
    each = jax.vmap(lambda m, x: ops.mask(m).apply(x))(masks, x)
    np.testing.assert_array_equal(each, np.asarray(x) * np.asarray(masks)[:, None, None])
    low = jnp.ones((2, 8), jnp.float32)
    for name in ("matrix", "decimate", "scaled"):
        operator = MAKERS[name]()
        u = operator.apply(low)
        assert u.dtype == operator.transpose(u).dtype == jnp.float32
        assert operator.pseudo_inverse(u).dtype == jnp.float32
    weights = jax.grad(lambda A: jnp.sum(ops.matrix(A).apply(x[0, 0]) ** 2))(jnp.asarray(MATRIX))
    assert np.isfinite(weights).all()


@pytest.mark.slow
def test_phase_retrieval_and_jpeg():
    signal = jnp.asarray(RNG.normal(size=(2, 8)))
    magnitude = ops.phase_retrieval((8,))
    expected = np.abs(np.fft.fft(np.pad(signal, ((0, 0), (4, 4))), norm="ortho"))
    np.testing.assert_allclose(magnitude.apply(signal), expected, atol=1e-12)
    assert np.isfinite(jax.grad(lambda x: magnitude.apply(x).sum())(jnp.zeros((1, 8)))).all()
    picture = jnp.asarray(np.tanh(ndimage.gaussian_filter(RNG.normal(size=(2, 16, 8, 1)), 1.0) * 4))
    fine, coarse = (ops.jpeg((16, 8, 1), q).apply(picture) for q in (100, 10))
    error = lambda u: float(np.abs(u - picture).max())  # noqa: E731
    assert error(fine) < 0.02 < error(coarse)
    np.testing.assert_allclose(ops.jpeg((16, 8, 1), 10).apply(coarse), coarse, atol=1e-12)  # twice
    part = picture[:, :13, :7]  # its last row and column fill the blocks
    full = jnp.pad(part, ((0, 0), (0, 3), (0, 1), (0, 0)), mode="edge")
    cut = ops.jpeg((16, 8, 1), 10).apply(full)[:, :13, :7]
    np.testing.assert_allclose(ops.jpeg((13, 7, 1), 10).apply(part), cut, atol=1e-12)
    slope = jax.grad(lambda x: ops.jpeg((16, 8, 1), 10).apply(x).sum())(picture)
    np.testing.assert_allclose(slope, 1, atol=1e-12)  # rounding's gradient is the identity's


def test_measuring_adds_each_samples_own_noise_where_something_is_seen(key):
    operator = ops.mask(np.arange(8) < 6)
    x0 = jnp.asarray(RNG.normal(size=(400, 8)))
    seen = ops.measure(operator, x0, 0.5, key)
    apart = np.asarray(seen.observation - operator.apply(x0))
    assert not apart[:, 6:].any()
    assert apart[:, :6].std() == pytest.approx(0.5, rel=0.05)
    later = ops.measure(operator, x0[7:9], 0.5, key, index=jnp.array([7, 8]))
    np.testing.assert_array_equal(later.observation, seen.observation[7:9])
    expected = -0.5 * ((apart / 0.5) ** 2).sum(1)
    np.testing.assert_allclose(seen.log_likelihood(x0), expected)


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ops.mask([0.0, 0.5]), ValueError, "zeros and ones"),
        (lambda: ops.mask([0, 0]), ValueError, "know something"),
        (lambda: ops.box((8, 8), (2, 3), (2, 6)), ValueError, "not within"),
        (lambda: ops.matrix(np.ones((2, 3)), (4,)), ValueError, "of n numbers"),
        (lambda: ops.matrix([[np.nan]]), ValueError, "finite"),
        (lambda: ops.hadamard((3, 2), 2), ValueError, "power of 2"),
        (lambda: ops.hadamard((8,), 9), ValueError, "between 1 and 8"),
        (lambda: ops.average((9, 8), 2), ValueError, "divides"),
        (lambda: ops.separable((8,), {1: np.eye(8)}), ValueError, "no axis 1"),
        (lambda: ops.grey((4, 4, 2)), ValueError, "weight for each channel"),
        (lambda: seen(None, np.ones(3)), TypeError, "made by jaxdiff.operators"),
        (lambda: ops.gaussian_blur((8,), 0.0), ValueError, "positive"),
        (lambda: ops.convolution((2, 2), np.ones((3, 3))), ValueError, "not longer"),
        (lambda: ops.gaussian_kernel(4, 1.0), ValueError, "odd"),
        (lambda: ops.linear(jnp.tanh, (3,)), ValueError, "not linear"),
        (lambda: ops.linear(lambda x: x.sum(0), (3,)), ValueError, "keeps its rows"),
        (lambda: ops.jpeg((8,)), ValueError, r"\(height, width\), not \(8,\)"),
        (lambda: ops.scale(ops.matrix(MATRIX), 0.0), ValueError, "not 0"),
        (lambda: ops.compose(ops.matrix(MATRIX), ops.matrix(MATRIX)), ValueError, "inner"),
        (lambda: ops.stack([]), ValueError, "one sample"),
        (lambda: ops.matrix(MATRIX).apply(np.ones((2, 7))), ValueError, "has shape"),
        (lambda: ops.matrix(MATRIX).apply(np.ones((2, 8), int)), TypeError, "floating"),
        (lambda: seen(ops.matrix(MATRIX), np.ones(4)), ValueError, "observations have shape"),
        (lambda: seen(ops.matrix(MATRIX), np.ones(3), -0.1), ValueError, "not negative"),
        (lambda: seen(ops.matrix(MATRIX), np.ones(3), np.ones(2)), ValueError, "noise is a number"),
        (lambda: seen(ops.matrix(MATRIX), np.array([1.0, np.inf, 0.0])), ValueError, "finite"),
        (lambda: seen(ops.mask([1, 0]), np.ones(2)), ValueError, "sees nothing"),
    ],
)  # fmt: skip
def test_what_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def seen(operator, observation, noise=0.1):
    return ops.Measurement(operator, observation, noise)
