"""What belongs to a sample stays with it: numbers that a denoiser holds for each, conditions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.app.generate import generate
from jaxdiff.arrays import on_device, one_by_one, pick
from jaxdiff.classify.losses import logits
from jaxdiff.sampling.pairs import make_pairs, pair_batches, pairs_like
from jaxdiff.training.tune import held_out

LABELS = jnp.arange(4, dtype=jnp.int32) % 2
WEIGHTS = jnp.array([1.0, 1.0, 4.0, 4.0])
TABLE = jd.table(jd.solvers.dpmpp, jd.grids.karras(3))


@pytest.fixture(scope="module")
def mixture():
    return jd.exact.GaussianMixture(
        [[1.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [1.0, 0.5]], [0.05, 0.1]
    )


def holding(mixture):
    """Denoisers that hold a number per sample: a weight, labels in a closure, a label of its own
    by ``extra``.
    """
    stated = lambda y, s, cond=None, extra=0.0: y * jd.expand(extra, y)  # noqa: E731
    return {
        "weights": jd.guidance.classifier_free(mixture.denoiser, WEIGHTS),
        "closure": lambda y, s, cond=None: mixture.denoiser(y, s, LABELS[::-1]),
        "extra": jd.denoisers.conditioned(stated, extra=WEIGHTS / 8),
    }


@pytest.mark.parametrize("kind", ["weights", "closure", "extra"])
def test_numbers_per_sample_go_with_their_rows_or_are_refused(mixture, kind):
    """The window is as wide as the batch, and so are the blocks: nothing shows by its shape."""
    D, y = holding(mixture)[kind], 80.0 * jd.start_noise(jax.random.key(3), 4, (2,))
    expected = jd.sample(D, TABLE, y, LABELS)
    out = jd.picard(D, TABLE, y, LABELS, window=4, tolerance=0.0)
    np.testing.assert_allclose(out.states, expected, atol=1e-5)
    labels, key = np.tile(LABELS, 2), jax.random.key(0)
    with pytest.raises(ValueError, match="make_pairs takes the batch apart"):
        make_pairs(jd.Sampler(D, TABLE), 8, (2,), key, labels=labels, batch=4, progress=False)
    with pytest.raises(ValueError, match="generate takes the batch apart"):
        generate(jd.Sampler(D, TABLE), 8, (2,), labels, batch=4, progress=False)
    pairs = {"start": np.zeros((8, 2), np.float32), "image": np.zeros((8, 2), np.float32)}
    with pytest.raises(ValueError, match="held_out takes the batch apart"):
        held_out(D, pairs | {"label": labels}, batch=4)(TABLE)


def test_other_solvers_carry_them_or_refuse(mixture):
    D, y = holding(mixture)["closure"], 80.0 * jd.start_noise(jax.random.key(3), 4, (2,))
    averaged = jd.table(jd.solvers.epd, [80.0, 5.0], ratios=[[0.2, 0.5]])
    staged = jd.sample_in_stages(D, averaged, y, LABELS)
    np.testing.assert_allclose(staged, jd.sample(D, averaged, y, LABELS), atol=1e-5)
    with pytest.raises(ValueError, match="Give them in cond|given in cond"):
        jd.adaptive(D, y, 80.0, 0.1, LABELS)
    with pytest.raises(ValueError, match="Give them in cond|given in cond"):
        jd.reverse_sde(D, y, 80.0, 0.1, LABELS, key=jax.random.key(0))
    with pytest.raises(ValueError, match="Give them in cond|given in cond"):
        jd.log_likelihood(D, y, 80.0, 0.1, LABELS)


def test_numbers_on_the_device_share_no_memory_with_those_that_were_given():
    room = np.zeros(64 + 16)
    offset = -room.ctypes.data // 8 % 8  # where 64 bytes begin, so that JAX could take it over
    given = room[offset : offset + 64]
    made = on_device(given)
    given[:] = 1
    assert given.ctypes.data % 64 == 0
    assert made.dtype == np.float64 and not np.any(np.asarray(made))
    assert on_device([1, 2]).dtype == np.int64 and on_device(made) is made


def test_numbers_of_another_batch_are_refused(mixture):
    y = jnp.ones((6, 2))
    with pytest.raises(ValueError, match="4 numbers, one per sample, for a batch of shape"):
        jd.guidance.classifier_free(mixture.denoiser, WEIGHTS)(y, 1.0, jnp.zeros(6, jnp.int32))
    network = lambda params, x, label, cond: x  # noqa: E731
    for extra in (WEIGHTS, WEIGHTS[:1], jnp.ones((4, 2))):
        with pytest.raises(ValueError, match="extra is a number, or numbers"):
            jd.denoiser(network, {})(y, 1.0, extra=extra)


def test_numbers_that_would_meet_other_axes_than_the_batch_are_refused():
    """Weights (batch, 1) of square images would be those of their columns."""
    images, zero = jnp.ones((4, 4, 4, 1)), lambda y, s, cond=None: 0.0 * y
    cond = jnp.zeros(4, jnp.int32)
    for shape in ((4, 1), (1, 4, 1), (4, 2, 1, 1)):
        guided = jd.guidance.classifier_free(zero, jnp.ones(shape))
        with pytest.raises(ValueError, match=r"give one, or one per sample \(4,\)"):
            guided(images, 1.0, cond)
    weights = jnp.arange(4.0).reshape(4, 1, 1, 1)
    assert jd.expand(weights, images).shape == weights.shape


def pulled(y, s, cond=None):
    """The denoiser of N(m, 0.04) with m = cond["to"], whole numbers in cond["by"] added."""
    mean = cond["to"].astype(y.dtype) + cond["by"].astype(y.dtype)[:, None]
    return mean + 0.04 / (0.04 + jnp.asarray(s, y.dtype) ** 2) * (y - mean)


def test_stored_conditions_are_any_tree_of_any_dtype():
    """Of a sample that goes to its condition: 0.9 is not cut to 0, and rows keep theirs."""
    conds = {"to": np.arange(10, dtype=np.float32).reshape(5, 2) / 10, "by": np.arange(5)}
    maker, key = (
        jd.Sampler(pulled, jd.table(jd.solvers.heun, jd.grids.karras(6))),
        jax.random.key(0),
    )
    pairs = make_pairs(maker, 5, (2,), key, labels=conds, batch=2, progress=False)
    assert pairs["label"]["to"].dtype == np.float32 and pairs["label"]["by"].dtype == np.int64
    np.testing.assert_array_equal(pairs["label"]["to"], conds["to"])
    apart = pairs["image"] - conds["to"] - conds["by"][:, None]
    assert np.abs(apart).max() < 1.0
    given = lambda step: {"image": np.zeros((5, 2), np.float32), "label": conds}  # noqa: E731
    for batch in (pair_batches(pairs, 3)(0), pairs_like(given, maker, 4, key)(0)):
        mean = batch["label"]["to"] + batch["label"]["by"][:, None]
        assert np.abs(batch["image"] - mean).max() < 1.0
    made = generate(maker, 5, (2,), conds, batch=2, progress=False)
    np.testing.assert_allclose(made, np.clip(maker(key, 5, (2,), conds), -1, 1), atol=1e-5)
    with pytest.raises(ValueError, match=r"labels\['by'\] has shape \(4,\).*of 5 samples"):
        make_pairs(maker, 5, (2,), key, labels=conds | {"by": np.arange(4)}, progress=False)
    with pytest.raises(ValueError, match="at least 1"):
        make_pairs(maker, 0, (2,), key)


def test_one_class_for_all_in_solvers_of_one_sample(mixture):
    y = 5.0 * jd.start_noise(jax.random.key(3), 3, (2,))
    np.testing.assert_array_equal(one_by_one(mixture.denoiser, y, 1, "adaptive"), [1, 1, 1])
    solve = lambda y: jd.adaptive(mixture.denoiser, y, 5.0, 0.5, 1).states  # noqa: E731
    assert jax.eval_shape(solve, y).shape == y.shape
    for run in (
        lambda c: jd.adaptive(mixture.denoiser, y, 5.0, 0.5, c),
        lambda c: jd.sample(mixture.denoiser, TABLE, 80.0 * y, {"class": c}),
        lambda c: jd.direct(mixture.denoiser, jd.solvers.euler, [2.0, 1.0], y, c),
    ):
        with pytest.raises(ValueError, match=r"cond.* has shape \(2,\).* of 3 samples"):
            run(jnp.array([0, 1]))


def test_an_index_beyond_a_row_is_no_other_s_number():
    """JAX counts -1 from the end: the last class, without a word."""
    rows = jnp.arange(8.0).reshape(2, 4)
    picked = jax.jit(pick)
    np.testing.assert_array_equal(picked(rows, jnp.array([3, 0])), [3.0, 4.0])
    for index in (jnp.array([-1, 2]), jnp.array([4, 2]), np.array([255, 2], np.uint8)):
        np.testing.assert_array_equal(picked(rows, index), [np.nan, 6.0])
    for loss in (logits.cross_entropy, lambda z, label: logits.decoupled(z, z, label)):
        assert np.isnan(loss(rows, jnp.array([0, -1]))) and np.isnan(loss(rows, jnp.array([4, 0])))
        assert np.isfinite(loss(rows, jnp.array([0, 1])))
    with pytest.raises(TypeError, match="classes are whole numbers, not float"):
        pick(rows, jnp.array([0.0, 1.0]))
