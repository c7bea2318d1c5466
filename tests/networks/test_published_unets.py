"""The published U-Nets and autoencoders: derivatives, types, conditions, and what they refuse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.diffusers_cases import distance, jit

from jaxdiff.networks import from_linen, softmax_attention
from jaxdiff.networks.autoencoder_kl import AutoencoderKL
from jaxdiff.networks.autoencoder_tiny import AutoencoderTiny
from jaxdiff.networks.residual import resampled
from jaxdiff.networks.unet2d import UNet2D
from jaxdiff.networks.unet2d_condition import UNet2DCondition
from jaxdiff.pretrained.diffusers import unet_shapes

PLAIN = UNet2D(
    channels=(4, 8), out_channels=2, down=("plain", "attention"), up=("plain", "attention"),
    blocks=1, head_width=4, groups=2, classes="index", num_classes=3,
)  # fmt: skip
TEXT = UNet2DCondition(
    channels=(4, 8), in_channels=2, out_channels=2, down=("cross", "plain"), up=("cross", "plain"),
    blocks=(1, 1), heads=(2, 2), depth_down=((1,), (1,)), depth_up=((1, 1), (1, 1)), groups=2,
    only_cross=(False, False), token_width=6, guidance=8,
)  # fmt: skip


@functools.cache
def drawn(network):
    """Random parameters, none of them zero."""
    rng = np.random.default_rng(0)
    draw = lambda s: np.float32(0.4) * rng.standard_normal(s.shape).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, unet_shapes(network, 2))


def inputs(network, batch=2, side=4):
    rng = np.random.default_rng(1)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    cond = np.arange(batch) if network is PLAIN else {"tokens": draw(batch, 5, 6)}
    return draw(batch, side, side, 2), np.linspace(3, 900, batch).astype(np.float32), cond


def shape_of(network, x, label, cond, **options):
    """What the network returns, without computing it."""
    run = lambda *given: from_linen(network)(drawn(network), *given, **options)  # noqa: E731
    return jax.eval_shape(run, x, label, cond)


def test_what_a_plain_unet_refuses():
    x, label, cond = inputs(PLAIN)
    for given, message in (
        ((x, label, None), "has no row for none"),
        ((x, label, cond[:1]), r"shape \(1,\), but there are 2 samples"),
        ((x[:, :3], label, cond), "divisible by 2"),
        ((x, label[:1], cond), "label"),
    ):
        with pytest.raises(ValueError, match=message):
            shape_of(PLAIN, *given)
    with pytest.raises(ValueError, match="classes are numbered 0 to 2"):
        from_linen(PLAIN)(drawn(PLAIN), x, label, np.array([0, 3]))
    with pytest.raises(TypeError, match="classes must be integers"):
        shape_of(PLAIN, x, label, cond.astype(np.float32))
    with pytest.raises(ValueError, match="without classes"):
        shape_of(PLAIN.clone(classes=""), x, label, cond)
    with pytest.raises(ValueError, match="unknown kind of stage 'other'"):
        shape_of(PLAIN.clone(up=("plain", "other")), x, label, cond)
    with pytest.raises(ValueError, match="3 groups do not divide 4"):
        shape_of(PLAIN.clone(groups=3), x, label, cond)
    with pytest.raises(ValueError, match="a head of 16 channels does not fit into 8"):
        shape_of(PLAIN.clone(head_width=16), x, label, cond)


def test_what_a_unet_with_text_refuses():
    x, label, cond = inputs(TEXT)
    for given, message in (
        (None, r"needs cond\['tokens'\]"),
        ({"tokens": cond["tokens"][..., :5]}, r"must be \(batch, tokens, 6\)"),
        ({"tokens": cond["tokens"][:1]}, "the first of 2 samples"),
        (cond | {"words": label}, "words"),
        (cond | {"mask": np.ones((2, 4))}, "one number per token"),
        (cond | {"guidance": np.ones((2, 1))}, "guidance"),
    ):
        with pytest.raises(ValueError, match=message):
            shape_of(TEXT, x, label, given)
    with pytest.raises(TypeError, match="must be a dictionary with tokens"):
        shape_of(TEXT, x, label, label)
    with pytest.raises(ValueError, match="x has 3 channels; the network takes 2"):
        shape_of(TEXT, np.repeat(x, 2, axis=3)[..., :3], label, cond)
    wide = TEXT.clone(in_channels=3)
    with pytest.raises(ValueError, match=r"needs cond\['beside'\]"):
        shape_of(wide, x, label, cond)
    with pytest.raises(ValueError, match="attention"):
        shape_of(TEXT, x, label, cond, attention=lambda q, k, v, place: q[:, :1])


def test_every_attention_layer_is_called_once_and_named():
    called = []

    def note(q, k, v, place):
        called.append(place)
        return softmax_attention(q, k, v, place)

    x, label, cond = inputs(TEXT)
    mask = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    shape_of(TEXT, x, label, cond | {"mask": mask}, attention=note)
    paths = [place.path for place in called]
    assert len({*paths}) == len(paths) == 2 * (1 + 1 + 2)
    assert paths[:2] == [f"down_0/attention_0/block_0/{kind}" for kind in ("self", "cross")]
    assert {place.stage for place in called} == {"down_0", "middle", "up_0"}
    assert {place.grid for place in called} == {(4, 4), (2, 2)}
    assert all((place.mask is None) == (place.kind == "self") for place in called)


@pytest.mark.slow
@pytest.mark.parametrize("network", [PLAIN, TEXT], ids=["plain", "text"])
def test_outputs_have_the_dtype_of_the_input(network):
    x, label, cond = inputs(network)
    half = network.clone(remat=True)
    made = shape_of(half, x.astype(jnp.bfloat16), label, cond, full=True)
    assert made.value.dtype == jnp.bfloat16 and made.value.shape == x.shape
    assert [f.shape[1] for f in made.features] == [2, 2, 2, 4, 4]
    assert shape_of(network.clone(dtype=jnp.bfloat16), x, label, cond).dtype == x.dtype
    several = jax.vmap(lambda x, label, cond: from_linen(network)(drawn(network), x, label, cond))
    twice = lambda a: np.stack([a, a])  # noqa: E731
    out = jax.eval_shape(several, twice(x), twice(label), jax.tree.map(twice, cond))
    assert out.shape == (2, *x.shape)


@pytest.mark.slow
@pytest.mark.parametrize("network", [PLAIN, TEXT], ids=["plain", "text"])
def test_forward_and_reverse_derivatives_agree(network):
    x, label, cond = inputs(network)
    wide = lambda tree: jax.tree.map(  # noqa: E731
        lambda a: a.astype(np.float64) if a.dtype == np.float32 else a, tree
    )
    params, x, label, cond = wide((drawn(network), x, label, cond))
    run = from_linen(network.clone(remat=True))
    f = lambda p, x, label: run(p, x, label, cond)  # noqa: E731
    rng = np.random.default_rng(2)
    given = params, x, label
    change = jax.tree.map(lambda a: rng.standard_normal(a.shape), given)
    cotangent = rng.standard_normal(x.shape)

    @jit
    def both(*given):
        forward = jax.jvp(f, given, change)[1]
        return forward, jax.vjp(f, *given)[1](cotangent)

    forward, reverse = both(*given)
    pairs = jax.tree.map(lambda a, b: (a * b).sum(), reverse, change)
    total = sum(jax.tree.leaves(pairs))
    np.testing.assert_allclose((forward * cotangent).sum(), total, rtol=1e-9)
    moved = jax.tree.map(lambda a, b: a + 1e-6 * b, given, change)
    step = (jit(f)(*moved) - jit(f)(*given)) / 1e-6
    assert distance(step, np.asarray(forward)) < 1e-4


@pytest.mark.slow
def test_masked_tokens_and_other_samples_do_not_matter():
    x, label, cond = inputs(TEXT)
    mask = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]])
    run = jit(lambda *given: from_linen(TEXT)(drawn(TEXT), *given))
    first = run(x, label, cond | {"mask": mask})
    moved = cond["tokens"].copy()
    moved[0, 2:] = 9.0
    np.testing.assert_allclose(run(x, label, {"tokens": moved, "mask": mask}), first, atol=1e-6)
    short = run(x[:1], label[:1], {"tokens": cond["tokens"][:1, :2]})
    np.testing.assert_allclose(short, first[:1], atol=1e-5)
    odd, label, cond = inputs(TEXT, side=5)
    assert run(odd, label, cond).shape == odd.shape
    guided = run(odd, label, cond | {"guidance": np.array([7.5, 1.0], np.float32)})
    assert distance(guided, np.asarray(run(odd, label, cond))) > 1e-3


@pytest.mark.slow
def test_half_precision_is_near_and_batches_are_apart():
    x, label, cond = inputs(PLAIN)
    run = lambda n: jit(lambda *given: from_linen(n)(drawn(PLAIN), *given))  # noqa: E731
    exact = run(PLAIN)(x, label, cond)
    half = run(PLAIN.clone(dtype=jnp.bfloat16))(x, label, cond)
    assert 0 < distance(half, np.asarray(exact)) < 0.05
    mapped = jit(jax.vmap(lambda *given: from_linen(PLAIN)(drawn(PLAIN), *given)))
    one = jax.tree.map(lambda a: a[:, None], (x, label, cond))
    np.testing.assert_allclose(mapped(*one)[:, 0], exact, atol=1e-5)
    dropped = PLAIN.clone(dropout=0.5)
    keyed = lambda key: from_linen(dropped)(drawn(PLAIN), x, label, cond, key=key)  # noqa: E731
    assert not np.array_equal(keyed(jax.random.key(0)), keyed(jax.random.key(1)))


def test_filters_keep_a_constant_and_are_centred():
    x, made = np.ones((1, 8, 8, 1), np.float32), jit(resampled, static_argnums=1)
    np.testing.assert_allclose(made(x, "fir_halve")[:, 1:-1, 1:-1], 1, rtol=1e-6)
    np.testing.assert_allclose(made(x, "fir_double")[:, 2:-2, 2:-2], 1, rtol=1e-6)
    i = np.broadcast_to(np.arange(8.0)[None, :, None, None], (1, 8, 8, 1))
    for how, step in (("halve", 2), ("fir_halve", 2), ("fir_double", 0.5)):
        found = np.asarray(made(i, how))[0, :, 4 if step < 1 else 2, 0]
        middle = slice(2, -2) if step < 1 else slice(1, -1)
        centres = (np.arange(len(found)) + 0.5) * step - 0.5
        np.testing.assert_allclose(found[middle], centres[middle], atol=1e-6)


def test_what_autoencoders_refuse():
    small = {"channels": (4, 8), "groups": 2, "down": ("plain",) * 2, "up": ("plain",) * 2}
    full = AutoencoderKL(**small, blocks=1)
    x = jax.ShapeDtypeStruct((1, 4, 4, 3), jnp.float32)
    init = lambda network, x, **more: jax.eval_shape(  # noqa: E731
        lambda x: network.init(jax.random.key(0), x, **more), x
    )
    assert "quant" in init(full, x)["params"]
    odd = jax.ShapeDtypeStruct((1, 5, 4, 3), jnp.float32)
    for network in (full, AutoencoderTiny()):
        with pytest.raises(ValueError, match="divisible by"):
            init(network, odd)
        with pytest.raises(ValueError, match="part must be"):
            init(network, x, part="all")
        with pytest.raises(ValueError, match=r"decode takes \(batch, height, width, 4\)"):
            init(network, x, part="decode")
    with pytest.raises(ValueError, match="has no encoder"):
        init(AutoencoderTiny(halves=("decoder",)), x)


@pytest.mark.slow
def test_a_step_beyond_a_learned_table_of_times_is_no_other_step():
    network = PLAIN.clone(time="learned", num_steps=5, classes="", num_classes=0)
    x, _ = inputs(network, 4)[:2]
    steps = jnp.array([0.0, 4.4, 5.0, -1.0], jnp.float32)
    out = jax.jit(from_linen(network))(drawn(network), x, steps)
    assert np.isfinite(out[:2]).all() and np.isnan(out[2:]).all()
