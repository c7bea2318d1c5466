"""A text encoder and a U-Net as one network."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.networks import attention_weights, from_linen, init, small_text_to_image
from jaxdiff.networks.attention import softmax_attention

EMPTY = (1, 2, 2, 2)
MODULE = small_text_to_image(
    9, 4, EMPTY, image_channels=1, channels=(8,), attention=(True,), head_width=8,
    text_width=16, text_depth=1, num_classes=3,
)  # fmt: skip
NETWORK = from_linen(MODULE)


@pytest.fixture(scope="module")
def given():
    """Parameters without zeros, images, labels, and texts with classes."""
    shapes = jax.eval_shape(lambda key: init(MODULE, key, (8, 8, 1)), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: (0.3 * rng.standard_normal(s.shape)).astype(s.dtype), shapes)
    x = jnp.asarray(rng.standard_normal((4, 8, 8, 1)), jnp.float32)
    label = jnp.asarray([-1.0, 0.0, 0.5, 1.0], jnp.float32)
    cond = {
        "text": jnp.asarray([[1, 5, 2, 2], [1, 6, 2, 2], EMPTY, [1, 5, 6, 2]], jnp.int32),
        "classes": jnp.asarray([0, 1, 3, 2], jnp.int32),
    }
    return params, x, label, cond


@pytest.fixture(scope="module")
def run():
    return jax.jit(NETWORK)


def test_it_is_the_unet_of_the_encoders_tokens(given, run):
    params, x, label, cond = given
    encoded = MODULE.encoder.apply({"params": params["encoder"]}, cond["text"]).last
    whole = {"tokens": encoded, "classes": cond["classes"]}
    alone = jax.jit(from_linen(MODULE.unet))(params["unet"], x, label * 100, whole)
    out = run(params, x, label, cond)
    assert out.shape == x.shape and out.dtype == x.dtype
    np.testing.assert_allclose(out, alone, atol=1e-5)
    np.testing.assert_allclose(run(params, x, label, whole), alone, atol=1e-5)


def test_no_condition_is_the_null(given, run):
    params, x, label, cond = given
    null = MODULE.null()
    rows = jax.tree.map(lambda n: jnp.broadcast_to(jnp.asarray(n), (4, *np.shape(n))), null)
    plain, other = run(params, x, label, None), run(params, x, label, cond)
    np.testing.assert_array_equal(run(params, x, label, rows), plain)
    np.testing.assert_allclose(other[2], plain[2], atol=1e-6)  # this row has it, the others not
    assert (np.abs(other - plain).max(axis=(1, 2, 3)) > 1e-3).tolist() == [True, True, False, True]


def test_the_encoder_starts_with_the_words():
    ids = jnp.asarray([[1, 5, 7, 2], [1, 8, 7, 2]])  # one word after two others

    def alike(encoder):
        params = jax.jit(encoder.init)(jax.random.key(0), ids)
        h = np.asarray(encoder.apply(params, ids).last)[:, 2]
        return h[0] @ h[1] / np.linalg.norm(h[0]) / np.linalg.norm(h[1])

    encoder = MODULE.encoder.clone(depth=2)
    assert alike(encoder) > 0.999
    assert alike(encoder.clone(from_words=False)) < 0.95  # where training from nothing was slow


@pytest.mark.slow
def test_it_starts_at_zero():
    params = init(MODULE, jax.random.key(0), (8, 8, 1))
    silent = {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
        if leaf.ndim > 1 and not leaf.any()
    }
    block = "encoder/block_0"
    ends = {f"{block}/attention/out/kernel", f"{block}/feed_forward/out/kernel"}
    assert silent == {"unet/conv_out/kernel", *ends}


def test_attention_is_the_unets(given):
    params, x, label, cond = given
    seen = {}

    def keep(q, k, v, place):
        seen[place.path] = place.kind, jax.eval_shape(attention_weights, q, k).shape
        return softmax_attention(q, k, v, place)

    jax.eval_shape(lambda p: NETWORK(p, x, label, cond, attention=keep), params)
    assert all(path.startswith("unet/") for path in seen)
    assert {kind for kind, _ in seen.values()} == {"self", "cross"}
    assert {shape[3] for kind, shape in seen.values() if kind == "cross"} == {4}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"text": np.zeros((4, 5), np.int32)}, ValueError, r"cond\['text'\] must be token ids"),
        ({"text": np.zeros((3, 4), np.int32)}, ValueError, r"cond\['text'\] must be token ids"),
        ({"text": np.zeros((4, 4), np.float32)}, TypeError, "whole numbers"),
        ({"text": np.full((4, 4), 9)}, ValueError, "0 to 8"),
        ({"tokens": np.zeros((4, 4, 16), np.float32)}, ValueError, "both 'text' and 'tokens'"),
        ({"strange": np.zeros(4)}, ValueError, "'strange'.* takes text, tokens, classes"),
        ({"classes": np.full(4, 4)}, ValueError, "0 to 3"),
    ],
)
def test_conditions_that_do_not_fit(given, change, error, message):
    params, x, label, cond = given
    with pytest.raises(error, match=message):
        jax.eval_shape(lambda p: NETWORK(p, x, label, {**cond, **change}), params)


def test_a_condition_that_is_no_dictionary(given):
    params, x, label, cond = given
    with pytest.raises(TypeError, match="dictionary with 'text'"):
        jax.eval_shape(lambda p: NETWORK(p, x, label, cond["text"]), params)


def test_widths_that_do_not_divide():
    with pytest.raises(ValueError, match="12 channels do not divide by 8"):
        small_text_to_image(9, 4, EMPTY, channels=(12, 16), head_width=4)
    with pytest.raises(ValueError, match="attention needs an entry"):
        small_text_to_image(9, 4, EMPTY, attention=(True,))
