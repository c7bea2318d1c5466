"""Inception's network: resizes and pools in closed form, then the golden numbers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import load
from helpers.published_inception import SHAPES, tensor

from jaxdiff.networks.inception import (
    Inception,
    Mixed,
    Norm,
    interpolation,
    mean_pool,
    prepared,
)

GREY = 0.25


@pytest.mark.parametrize("convention", ["tensorflow", "pytorch"])
def test_a_resize_is_exact_on_linear_images_and_keeps_sums(convention):
    before, after = 32, 299
    weights = interpolation(before, after, convention)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-12)
    shift = 0.0 if convention == "tensorflow" else 0.5
    at = (np.arange(after) + shift) * before / after - shift
    np.testing.assert_allclose(
        weights @ np.arange(before), np.clip(at, 0, before - 1), rtol=1e-5, atol=1e-5
    )


def test_a_resize_to_the_same_size_changes_nothing(rng):
    for convention in ("tensorflow", "pytorch"):
        assert np.array_equal(interpolation(7, 7, convention), np.eye(7))
    with pytest.raises(ValueError, match="'tensorflow' or 'pytorch', not 'bicubic'"):
        interpolation(7, 7, "bicubic")


def test_images_are_rounded_to_levels_and_centred_as_either_library_does():
    images = jnp.asarray([-1.2, -1, 0.001, 1 / 127.5, 1])[:, None, None, None] * jnp.ones(
        (1, 2, 2, 1)
    )
    levels = np.array([0, 0, 128, 128, 255])
    for convention, centred in (
        ("tensorflow", (levels - 128) / 128),
        ("pytorch", levels / 127.5 - 1),
    ):
        made = jax.jit(prepared, static_argnums=(1, 2))(images, convention, 3)
        assert made.shape == (5, 3, 3, 3) and made.dtype == jnp.float64
        np.testing.assert_allclose(made, np.broadcast_to(centred[:, None, None, None], made.shape))
    assert jax.eval_shape(prepared, images.astype(jnp.float32)).dtype == jnp.float32


def test_unusable_images_are_refused():
    with pytest.raises(TypeError, match="floats in"):
        prepared(jnp.zeros((1, 4, 4, 3), jnp.uint8))
    with pytest.raises(ValueError, match="1 or 3"):
        prepared(jnp.zeros((1, 4, 4, 2)))
    for shape in ((1, 74, 80, 3), (80, 80, 3), (1, 80, 80, 1)):
        with pytest.raises(ValueError, match="of 75 pixels at least"):
            jax.eval_shape(Inception().init, jax.random.key(0), jnp.zeros(shape))


def test_the_mean_pool_counts_pixels_of_the_image_alone(rng):
    x = rng.standard_normal((1, 3, 4, 2))
    made = mean_pool(jnp.asarray(x))
    np.testing.assert_allclose(made[0, 0, 0], x[0, :2, :2].mean((0, 1)))
    np.testing.assert_allclose(made[0, 1, 3], x[0, :, 2:].mean((0, 1)))
    np.testing.assert_allclose(mean_pool(jnp.asarray(x[:, :1, :1])), x[:, :1, :1])


def test_norm_is_the_affine_map_of_its_statistics(rng):
    x = rng.standard_normal((2, 3, 3, 2))
    scale, bias, mean, var = rng.uniform(0.5, 2, (4, 2))
    variables = {
        "params": {"scale": scale, "bias": bias},
        "batch_stats": {"mean": mean, "var": var},
    }
    made = Norm().apply(variables, jnp.asarray(x))
    np.testing.assert_allclose(made, (x - mean) / np.sqrt(var + 1e-3) * scale + bias, rtol=1e-6)


def test_branches_stand_side_by_side_in_their_order():
    branches = (
        [("a", 2, (1, 1))],
        [("b", 3, (1, 1)), (("c", 4, (1, 3)), ("d", 5, (3, 1)))],
    )
    block = Mixed(branches, "max", 6)
    x = jnp.ones((1, 5, 5, 7), jnp.float32)
    variables = jax.eval_shape(block.init, jax.random.key(0), x)
    assert set(variables["params"]) == {"a", "b", "c", "d", "pool"}
    assert variables["params"]["c"]["conv"]["kernel"].shape == (1, 3, 3, 4)
    zeroed = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), variables)
    zeroed["params"]["d"]["norm"]["bias"] += 1
    made = jax.jit(block.apply)(zeroed, x)
    np.testing.assert_array_equal(made[0, 0, 0], [0] * 6 + [1] * 5 + [0] * 6)
    halving = Mixed(([("a", 2, (3, 3), 2)],), "halved")
    assert jax.eval_shape(halving.init_with_output, jax.random.key(0), x)[0].shape == (1, 2, 2, 9)


def test_resizes_are_the_peers():
    golden = load("inception_fid")
    for case in golden.cases:
        images = jnp.asarray(golden.get(case, "image_uint8").transpose(0, 2, 3, 1) / 127.5 - 1)
        index = golden.get(case, "resize_index")
        for convention, name, to_peer in (
            ("tensorflow", "tf1_resized_sub", lambda v: v * 128 + 128),
            ("pytorch", "torch_resized_sub", lambda v: (v + 1) / 2),
        ):
            whole = jax.jit(prepared, static_argnums=1)(images, convention)
            made = to_peer(np.asarray(whole))[:, index][:, :, index]
            expected = golden.get(case, name)
            np.testing.assert_allclose(
                made.transpose(0, 3, 1, 2), expected, atol=1e-6 * abs(expected).max()
            )


@functools.cache
def golden_network():
    from jaxdiff.pretrained.inception import inception_of
    from jaxdiff.pretrained.tensors import tensors_of

    return inception_of(tensors_of({name: tensor(name, shape) for name, shape in SHAPES.items()}))


PEERS = {"pool_1": "MaxPool_1", "pool_2": "MaxPool_2"} | {
    f"conv_{name[:2]}": f"Conv2d_{name}"
    for name in ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
}


@pytest.mark.slow
def test_activations_are_the_peers():
    golden = load("inception_fid")
    module, variables = golden_network()
    apply = jax.jit(module.apply)
    for case in golden.cases:
        images = golden.get(case, "image_uint8").transpose(0, 2, 3, 1).astype(np.float32)
        images = jnp.asarray(images / np.float32(127.5) - np.float32(1))
        made = apply(variables, prepared(images))
        means = {name: np.asarray(m).mean((1, 2)) for name, m in made.maps.items()}
        pairs = [
            (made.features, "f64:2048"), (made.unbiased, "f64:logits_unbiased"),
            (made.logits, "f64:logits"), (means["pool_1"], "f64:64"),
            (means["pool_2"], "f64:192"), (means["mixed_6e"], "f64:768"),
        ]  # fmt: skip
        pairs += [(m, f"act_mean:{PEERS.get(n, n.capitalize())}") for n, m in means.items()]
        other = apply(variables, prepared(images, "pytorch"))
        pairs.append((other.features, "pytorch_fid_2048"))
        pairs.append((np.asarray(other.maps["mixed_6e"]).mean((1, 2)), "pytorch_fid_768"))
        for values, name in pairs:
            if name not in case["arrays"]:
                continue  # the committed subset has some of the blocks
            expected = golden.get(case, name)
            worst = abs(np.asarray(values) - expected).max() / abs(expected).max()
            assert worst < 2e-5, f"{name}: {worst}"


@pytest.mark.slow
def test_types_and_batches():
    module, variables = golden_network()
    x = jax.random.normal(jax.random.key(0), (2, 75, 75, 3), jnp.float32)

    def features(variables, x, dtype=None):
        return module.clone(dtype=dtype).apply(variables, x).features

    both = jax.jit(features)(variables, x)
    one = lambda v, x: features(v, x[None])[0]  # noqa: E731
    each = jax.jit(jax.vmap(one, (None, 0)))(variables, x)
    np.testing.assert_allclose(each, both, rtol=1e-4, atol=1e-5)
    half = jax.jit(features, static_argnums=2)(variables, x.astype(jnp.bfloat16), jnp.bfloat16)
    assert half.dtype == jnp.float32 and abs(half - both).max() < 0.1 * abs(both).max()


@pytest.mark.slow
def test_tangents_and_gradients_of_every_kind_of_layer_agree(rng):
    """The network is made of these layers alone."""
    branches = ([("a", 2, (1, 1))], [("b", 3, (1, 3)), ("c", 4, (3, 3))])
    layers = [
        Mixed(branches, "mean", 2),
        Mixed(branches, "max", 2),
        Mixed(([("a", 2, (3, 3), 2)],), "halved"),
    ]
    x, direction = (jnp.asarray(rng.standard_normal((2, 5, 5, 3))) for _ in range(2))
    kinds = [layer.clone(param_dtype=jnp.float64) for layer in layers]
    shapes = [jax.eval_shape(kind.init, jax.random.key(0), x) for kind in kinds]
    draw = lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), leaf.dtype)  # noqa: E731
    variables = jax.tree.map(draw, shapes)

    def total(x, variables):
        return sum(
            jnp.sum(jnp.sin(kind.apply(own, x))) for kind, own in zip(kinds, variables, strict=True)
        )

    @jax.jit
    def both(x, direction, variables):
        of = functools.partial(total, variables=variables)
        return jax.jvp(of, (x,), (direction,))[1], jax.grad(of)(x), of(x + 1e-6 * direction)

    slope, gradient, moved = both(x, direction, variables)
    np.testing.assert_allclose(slope, jnp.sum(gradient * direction), rtol=1e-9)
    plain = both(x, direction * 0, variables)[2]
    np.testing.assert_allclose((moved - plain) / 1e-6, slope, rtol=1e-3, atol=1e-3)
