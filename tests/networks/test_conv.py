"""Convolutions: every form has the numbers and the derivatives of XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from jaxdiff.networks import conv
from jaxdiff.networks.conv import Conv, by_matrix, convolve, in_parts

CASES = [((5, 6, 7, 3), (3, 3), 1), ((8, 4, 4, 2), (3, 3), 1), ((4, 8, 8, 2), (3, 3), 2),
         ((3, 2, 2, 4), (3, 3), 1),
         ((3, 2, 2, 4), (3, 3), 2), ((2, 1, 5, 3), (3, 3), 1), ((2, 4, 4, 2), (5, 5), 1),
         ((2, 5, 7, 2), (1, 1), 1), ((2, 7, 5, 2), (2, 3), 2)]  # fmt: skip


def draw(shape, size, features=4):
    random = np.random.default_rng(0)
    x, w = random.normal(size=shape), random.normal(size=(*size, shape[-1], features))
    return jnp.asarray(x), jnp.asarray(w)


def by_hand(x, w, stride):
    """The sum of the module's text, at every ``stride``-th place as SAME has them."""
    (b, height, width, _), (k, l, _, d) = x.shape, w.shape
    out = [-(-n // stride) for n in (height, width)]
    before = [max((m - 1) * stride + s - n, 0) // 2 for m, s, n in
              zip(out, (k, l), (height, width), strict=True)]  # fmt: skip
    y = np.zeros((b, *out, d))
    for i, j, p, q in np.ndindex(*out, k, l):
        at = (i * stride + p - before[0], j * stride + q - before[1])
        if 0 <= at[0] < height and 0 <= at[1] < width:
            y[:, i, j] += np.asarray(x)[:, at[0], at[1]] @ np.asarray(w)[p, q]
    return y


@pytest.mark.parametrize("shape, size, stride", CASES)
def test_every_form_is_the_sum(shape, size, stride):
    x, w = draw(shape, size)
    exact = by_hand(x, w, stride)
    for form in (convolve, by_matrix, conv._lax, lambda *a: in_parts(*a, part=2 * x[0].size)):
        np.testing.assert_allclose(form(x, w, stride), exact, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape, size, stride", [CASES[0], CASES[4]])
def test_derivatives(shape, size, stride, monkeypatch):
    monkeypatch.setattr(conv, "PART", 2 * shape[1] * shape[2] * shape[3])
    x, w = draw(shape, size)
    f = jax.jit(lambda x, w: jnp.tanh(convolve(x, w, stride)))
    check_grads(f, (x, w), order=2, modes=["fwd", "rev"], rtol=1e-3, atol=1e-3)
    plain = jax.jit(lambda x, w: jnp.tanh(conv._lax(x, w, stride)))
    change = (jnp.cos(x), jnp.sin(w))
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)  # noqa: E731
    for own in (0, 1, (0, 1)):
        total = lambda g, own=own: jax.jit(jax.grad(lambda *a: jnp.sum(g(*a) ** 2), own))(x, w)  # noqa: E731
        jax.tree.map(close, total(f), total(plain))
    close(jax.jvp(f, (x, w), change)[1], jax.jvp(plain, (x, w), change)[1])
    # a gradient of a derivative, as flow maps have it
    rate = lambda g, w: jnp.sum(jax.jvp(lambda x: g(x, w), (x,), (change[0],))[1] ** 2)  # noqa: E731
    slope = lambda g: jax.jit(jax.grad(lambda w: rate(g, w)))(w)  # noqa: E731
    close(slope(f), slope(plain))
    several = jnp.stack([w, 2 * w])
    close(jax.vmap(lambda w: f(x, w))(several), jnp.stack([plain(x, w), plain(x, 2 * w)]))


def test_parts_are_powers_of_two_and_only_where_there_are_weights_to_learn():
    x, w = draw((13, 4, 4, 2), (3, 3))
    count = lambda f, *args: str(jax.make_jaxpr(f)(*args)).count("conv_general_dilated[")  # noqa: E731
    assert count(lambda x: in_parts(x, w, 1, part=5 * 32), x) == 4  # 4 + 4 + 4 + 1 images
    assert count(lambda x: in_parts(x, w, 1, part=1), x) == 13
    assert count(lambda x: in_parts(x, w, 1, part=5 * 32), x[:12]) == 3
    assert count(lambda x: in_parts(x, w, 1), x) == 1
    assert count(lambda x: convolve(x, w), x) == 1
    assert count(lambda x: jax.jvp(lambda x: convolve(x, w), (x,), (x,)), x) == 2


def test_parameters_are_those_of_flax():
    import flax.linen as nn

    x = draw((2, 6, 6, 3), (3, 3))[0].astype(jnp.float32)
    for stride in (1, 2):
        ours, theirs = Conv(5, stride=stride), nn.Conv(5, (3, 3), strides=stride)
        params = theirs.init(jax.random.key(0), x)
        shapes = jax.tree.map(jnp.shape, ours.init(jax.random.key(0), x))
        assert shapes == jax.tree.map(jnp.shape, params)
        np.testing.assert_allclose(ours.apply(params, x), theirs.apply(params, x), atol=1e-6)
    half = Conv(5, dtype=jnp.bfloat16)
    assert half.apply(half.init(jax.random.key(0), x), x).dtype == jnp.bfloat16
