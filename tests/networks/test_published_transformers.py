"""Published transformers: derivatives, precisions, batches, attention from outside, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.networks import from_linen, softmax_attention
from jaxdiff.networks.dit_embedders import DiTEmbedders
from jaxdiff.networks.flux import FluxTransformer, image_ids, pack_latents, rotate, unpack_latents
from jaxdiff.networks.pixart import PixArt
from jaxdiff.networks.sd3 import SD3Transformer
from jaxdiff.pretrained.assembly import shapes_of

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
TEXT = {"tokens": (3, 5), "pooled": (6,)}
NETWORKS = {
    "dit": (
        DiTEmbedders(2, 4, 2, 2, 4, 1, 3), (4, 4, 2), None
    ),
    "pixart": (
        PixArt(2, 4, 2.0, 2, 3, 4, 1, 5, sizes=True), (4, 6, 2),
        {"tokens": (3, 5), "mask": (3,), "resolution": (2,), "aspect_ratio": (1,)},
    ),
    "sd3": (
        SD3Transformer(2, 2, 4, 3, 2, 4, 2, 5, 6, (0,), True), (4, 6, 2), TEXT
    ),
    "flux": (
        FluxTransformer(8, 0, 2, 6, 1, 1, 5, 6, True, (2, 2, 2)), (4, 6, 2),
        {**TEXT, "guidance": ()},
    ),
}  # fmt: skip


def drawn(name, batch=3, dtype=np.float64):
    """A network, its parameters, and an input."""
    module, shape, parts = NETWORKS[name]
    rng = np.random.default_rng(0)
    draw = lambda *s: rng.standard_normal(s).astype(dtype)  # noqa: E731
    cond = parts and {key: draw(batch, *own) for key, own in parts.items()}
    if name == "pixart":
        cond["mask"] = np.array([[1, 1, 0], [1, 1, 1], [1, 0, 0]])[:batch]
        cond["resolution"] *= 100
    example = parts and {k: jax.ShapeDtypeStruct((1, *s), jnp.float32) for k, s in parts.items()}
    shapes = shapes_of(module, shape, example)
    params = jax.tree.map(lambda s: 0.4 * draw(*s.shape), shapes)
    cond = np.array([0, 3, 1])[:batch] if name == "dit" else cond
    label = np.array([3.5, 700.25, 40.0], dtype)[:batch]
    return from_linen(module), params, draw(batch, *shape), label, cond


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_derivatives_precisions_and_batches(name):
    network, params, x, label, cond = drawn(name)
    v, rate = np.random.default_rng(1).standard_normal(x.shape), 1e-6

    @jit
    def run(params, x, label, cond):
        plain = lambda x, label: network(params, x, label, cond)  # noqa: E731
        both = jax.jvp(plain, (x, label), (v, np.full(3, 0.1)))
        one = lambda x, label, cond: network(  # noqa: E731
            params, x[None], label[None], jax.tree.map(lambda c: c[None], cond)
        )[0]
        rows = jax.vmap(one)(x, label, cond)
        small = network(params, x.astype(jnp.bfloat16), label.astype(jnp.float32), cond)
        return *both, rows, small

    out, change, rows, small = run(params, x, label, cond)
    assert out.shape == x.shape and out.dtype == x.dtype
    moved, *_ = run(params, x + rate * v, label + rate * 0.1, cond)
    np.testing.assert_allclose(
        (moved - out) / rate, change, rtol=0, atol=1e-4 * np.abs(change).max()
    )
    np.testing.assert_allclose(rows, out, rtol=0, atol=1e-10 * np.abs(out).max())
    assert small.dtype == jnp.bfloat16
    far = np.abs(small.astype(np.float64) - out).max()
    assert 1e-6 < far / np.abs(out).max() < 0.2


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_attention_comes_from_outside_and_hidden_maps_come_out(name):
    network, params, x, label, cond = drawn(name, batch=1)
    places = []

    def doubled(q, k, v, place):
        places.append(place)
        return 2 * softmax_attention(q, k, v, place)

    @jit
    def run(params):
        full = network(params, x, label, cond, full=True)
        return full, network(params, x, label, cond, attention=doubled)

    full, changed = run(params)
    assert np.abs(changed - full.value).max() > 1e-3
    assert len({p.path for p in places}) == len(places)
    assert {p.grid for p in places} == {(2, x.shape[2] // 2)}
    assert full.log_variance is None and {m.shape[:3] for m in full.features} == {
        (1, 2, x.shape[2] // 2)
    }
    counts = {"dit": [0], "pixart": [0] * 2, "sd3": [-3, 0, -3], "flux": [3, 3]}
    assert [p.text for p in places] == counts[name]


@pytest.mark.slow
def test_blocks_computed_again_give_the_same_gradient():
    network, params, x, label, cond = drawn("pixart", batch=1)
    again = from_linen(network.module.clone(remat=True))
    total = lambda net: lambda p: net(p, x, label, cond).sum()  # noqa: E731
    made = jit(lambda p: [jax.grad(total(net))(p) for net in (network, again)])(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9), *made)


WRONG = [
    ("dit", lambda a: (a[0][:, :3], *a[1:]), "divisible by 2"),
    ("dit", lambda a: (a[0][..., :1], *a[1:]), "height, width, 2"),
    ("pixart", lambda a: (*a[:2], None), "dictionary of tokens"),
    ("pixart", lambda a: (*a[:2], {**a[2], "mask": np.ones((3, 2))}), "mask has shape"),
    ("pixart", lambda a: (*a[:2], {**a[2], "pooled": a[0]}), "dictionary of tokens"),
    ("sd3", lambda a: (np.zeros((3, 8, 4, 2)), *a[1:]), "known for 3x3 patches"),
    ("sd3", lambda a: (*a[:2], {**a[2], "pooled": np.zeros((3, 7))}), "pooled of shape"),
    ("sd3", lambda a: (a[0], np.zeros(2), a[2]), "label"),
    ("flux", lambda a: (a[0][:, :3], *a[1:]), "even height"),
    ("flux", lambda a: (np.zeros((3, 6, 8)), *a[1:]), "image_ids"),
    ("flux", lambda a: (*a[:2], {**a[2], "text_ids": np.zeros((3, 2, 3))}), "text_ids has shape"),
]


@pytest.mark.parametrize("name, wrong, message", WRONG)
def test_other_shapes_are_refused_before_anything_is_computed(name, wrong, message):
    module, shape, parts = NETWORKS[name]
    cond = parts and {k: np.zeros((3, *s)) for k, s in parts.items()}
    x, label, cond = wrong((np.zeros((3, *shape)), np.zeros(3), cond))
    with pytest.raises(ValueError, match=message):
        module.apply({"params": {}}, x, label, cond)


def test_options_without_a_meaning_are_refused():
    module, shape, parts = NETWORKS["sd3"]
    x, cond = np.zeros((1, *shape)), {k: np.zeros((1, *s)) for k, s in parts.items()}
    for wrong, message in (((2,), "numbered 0 to 1"), ((0, 1), "all blocks are left out")):
        with pytest.raises(ValueError, match=message):
            module.apply({"params": {}}, x, np.zeros(1), cond, skip_blocks=wrong)
    plain = NETWORKS["dit"][0].clone(learned_variance=False)
    with pytest.raises(ValueError, match="no learned variance"):
        plain.apply({"params": {}}, np.zeros((1, 4, 4, 2)), np.zeros(1), None, variance=True)
    uneven = NETWORKS["flux"][0].clone(axes=(2, 2, 3))
    with pytest.raises(ValueError, match="6 together"):
        uneven.apply({"params": {}}, x, np.zeros(1), cond)


def test_rotations_keep_lengths_and_depend_on_the_difference_of_places():
    rng = np.random.default_rng(0)
    q, k = rng.standard_normal((2, 1, 1, 1, 6))
    product = lambda a, b: (rotate(q, a) * rotate(k, b)).sum()  # noqa: E731
    a, b, more = rng.standard_normal((3, 1, 1, 3))
    np.testing.assert_allclose(product(a, b), product(a + more, b + more), rtol=1e-10)
    np.testing.assert_allclose((rotate(q, a) ** 2).sum(), (q**2).sum(), rtol=1e-10)
    quarter = rotate(q, np.array([[[np.pi / 2, 0, 0]]]))[0, 0, 0]
    np.testing.assert_allclose(
        quarter, [-q[..., 1].item(), *q[0, 0, 0, [0, 2, 3, 4, 5]]], atol=1e-12
    )


def test_packed_latents_are_squares_with_their_channels_apart():
    x = np.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    tokens = pack_latents(x)
    assert tokens.shape == (2, 6, 12)
    np.testing.assert_array_equal(tokens[1, 4], x[1, 2:4, 2:4].transpose(2, 0, 1).ravel())
    np.testing.assert_array_equal(unpack_latents(tokens, 4, 6), x)
    np.testing.assert_array_equal(image_ids(2, 3)[0, 4], [0, 1, 1])
