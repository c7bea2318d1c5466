"""Conditions put into a trained U-Net: nothing changes at the start, and only they are trained."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff.adapt import (
    BOXES,
    STEERING,
    controlnet_of,
    ip_adapter_of,
    steering_of,
    t2i_adapter_of,
    trainable,
    widened,
    with_boxes,
)
from jaxdiff.denoisers import denoiser
from jaxdiff.distill import Student, score_matching
from jaxdiff.networks import MLP, UNet, UNet2DCondition, from_linen, init, ip_adapter
from jaxdiff.networks.text_to_image import small_text_to_image
from jaxdiff.pretrained import Control, with_controlnet, with_ip_adapter, with_t2i_adapter
from jaxdiff.training.ema import constant
from jaxdiff.training.step import init_state, update

NETWORK = UNet2DCondition(
    channels=(4,), in_channels=2, out_channels=2, down=("cross",), up=("plain",), middle="single",
    blocks=(1,), heads=(2,), depth_down=((1,),), depth_up=((1, 1),), only_cross=(False,), groups=2,
    token_width=3,
)  # fmt: skip
RNG = np.random.default_rng(0)
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def filled(params, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: np.float32(0.4) * rng.standard_normal(a.shape).astype("f4"), params
    )


@pytest.fixture(scope="module")
def D():
    shapes = jax.eval_shape(
        NETWORK.init, jax.random.key(0), *(jnp.zeros(s, jnp.float32) for s in ((1, 2, 2, 2), (1,))),
        {"tokens": jnp.zeros((1, 1, 3), jnp.float32)},
    )["params"]  # fmt: skip
    return denoiser(from_linen(NETWORK), filled(shapes), prediction="edm")


X, TEXT, PICTURE = draw(2, 2, 2, 2), {"tokens": draw(2, 3, 3)}, draw(2, 2, 2, 3)
BOXED = {"boxes": np.abs(draw(2, 1, 4)) % 1, "box_tokens": draw(2, 1, 3)}
run = jit(lambda D, cond: D(X, np.float32(0.7), {**TEXT, **cond}))


def test_at_the_start_every_kind_is_the_unet_bit_for_bit(D):
    plain = np.asarray(run(D, {}))
    steered = with_controlnet(D, controlnet_of(D, widths=(4,)))
    np.testing.assert_array_equal(run(steered, {"control": PICTURE}), plain)
    np.testing.assert_array_equal(run(with_boxes(D), BOXED), plain)
    wide = run(widened(D, 3), {"beside": PICTURE})
    np.testing.assert_allclose(
        wide, plain, atol=1e-6
    )  # another convolution, which rounds otherwise


def test_a_controlnet_is_a_copy_of_the_way_down_behind_zeros(D):
    control = controlnet_of(D, widths=(4,))
    params = D.args[0]
    for part in ("conv_in", "time_embedding", "down_0", "middle"):
        jax.tree.map(np.testing.assert_array_equal, control.params[part], params[part])
    for part in ("control_out", "residual_0", "residual_middle"):
        assert not np.any(control.params[part]["kernel"]), part
    assert control.network.control_shape(2, 2) == (2, 2, 3)
    ip = ip_adapter_of(D, 5, count=1)
    cross = params["down_0"]["attention_0"]["block_0"]["cross"]
    np.testing.assert_array_equal(ip.params["layer_0_k"]["kernel"], cross["k"]["kernel"])
    np.testing.assert_array_equal(ip.params["layer_0_v"]["kernel"], cross["v"]["kernel"])


def test_training_moves_what_steers_alone(D):
    start = with_controlnet(D, controlnet_of(D, widths=(4,)))
    start = with_ip_adapter(start, ip_adapter_of(D, 5, count=1))
    optimiser = trainable(optax.adam(0.1), STEERING)
    student = Student.of(start, optimiser=optimiser, ema={"slow": constant(0.7)})
    method = score_matching(student._replace(label_drop=0.0))
    batch = {"image": X, "label": {**TEXT, "control": PICTURE, "image": draw(2, 5)}}
    state = init_state(method, jax.random.key(0))
    step = jit(lambda state, batch: update(method, state, batch, ("student",)))
    state, _ = step(state, batch)
    for params in (state.params["student"], state.ema["student"]["slow"]):
        beside = {k: v for k, v in params.items() if k.startswith("controls_")}
        own = {k: v for k, v in params.items() if k not in beside}
        jax.tree.map(np.testing.assert_array_equal, own, D.args[0])
        moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), beside, {
            k: start.args[0][k] for k in beside
        })  # fmt: skip
        assert (
            moved["controls_0"]["residual_0"]["kernel"] and moved["controls_1"]["image"]["kernel"]
        )
    kept = sum(np.size(leaf) for leaf in jax.tree.leaves(state.opt_state))
    free = sum(leaf.size for leaf in jax.tree.leaves(beside))
    assert kept <= 2 * free + 2
    trained = student.denoiser(state.params["student"])
    np.testing.assert_array_equal(
        steering_of(trained, 0).params["residual_0"]["kernel"],
        state.params["student"]["controls_0"]["residual_0"]["kernel"],
    )
    assert steering_of(trained).network == ip_adapter_of(D, 5, count=1).network


def test_what_is_refused(D):
    other = denoiser(from_linen(MLP()), {}, prediction="edm")
    for make in (controlnet_of, t2i_adapter_of, with_boxes):
        with pytest.raises(TypeError, match="only a denoiser of a UNet2DCondition"):
            make(other)
    for call, message in (
        (lambda: controlnet_of(D, widths=()), "must be positive"),
        (lambda: controlnet_of(D, channels=0), "must be positive"),
        (lambda: widened(D, 0), "at least one channel"),
        (lambda: steering_of(D), "nothing steers this denoiser"),
        (lambda: trainable(optax.sgd(0.1), STEERING).init(D.args[0]), "no parameter fits"),
        (lambda: trainable(optax.sgd(0.1), BOXES).init(D.args[0]), "no parameter fits"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    apart = NETWORK.clone(
        channels=(4, 4, 4), down=("cross", "plain", "plain"), up=("plain",) * 3, blocks=(1,) * 3,
        heads=(2,) * 3, depth_down=((1,),) * 3, depth_up=((1, 1),) * 3, only_cross=(False,) * 3,
    )  # fmt: skip
    with pytest.raises(ValueError, match="an adapter halves once or not"):
        t2i_adapter_of(denoiser(from_linen(apart), {}, prediction="edm"))


@pytest.fixture(scope="module")
def small():
    """A small class-conditional U-Net with attention at its second level."""
    module = UNet(channels=4, multipliers=(1, 1), attention=(2,), heads=1, groups=2, num_classes=3,
                  embedding=8)  # fmt: skip
    params = filled(init(module, jax.random.key(0), (4, 4, 1)), 1)
    return denoiser(from_linen(module), params, prediction="edm")


@pytest.mark.slow
def test_a_small_unet_has_a_controlnet_too(small):
    steered = with_controlnet(small, controlnet_of(small, channels=2, widths=(3,)))
    x, classes, picture = draw(2, 4, 4, 1), np.array([0, 2]), draw(2, 4, 4, 2)
    call = jit(lambda D, cond: D(x, np.float32(0.7), cond))
    plain = np.asarray(call(small, classes))
    cond = {"classes": classes, "control": picture}
    np.testing.assert_array_equal(call(steered, cond), plain)
    control = steering_of(steered)
    jax.tree.map(np.testing.assert_array_equal, control.params["Block_0"], small.args[0]["Block_0"])
    moved = Control(jax.tree.map(lambda a: a + np.float32(0.1), control.params), control.network)
    made = call(with_controlnet(small, moved), cond)
    assert np.abs(made - plain).max() > 1e-3
    doubled = call(with_controlnet(with_controlnet(small, moved, 0.5), moved, 0.5, key="more"),
                   cond | {"more": picture})  # fmt: skip
    np.testing.assert_allclose(doubled, made, atol=1e-5)


@pytest.mark.slow
def test_what_a_small_unet_refuses(small, D):
    steered = with_controlnet(small, controlnet_of(small, channels=2, widths=(3,)))
    x = draw(2, 4, 4, 1)
    for cond, message in (
        ({"control": draw(2, 4, 2, 2)}, r"must be \(2, 4, 4, 2\)"),
        ({"control": draw(2, 4, 4, 2), "tokens": draw(2, 1)}, "takes classes alone"),
    ):
        with pytest.raises(ValueError, match=message):
            steered(x, 0.7, cond)
    with pytest.raises(ValueError, match="has the size of x"):
        controlnet_of(small)
    with pytest.raises(TypeError, match="a ControlNet cannot steer a UNet"):
        with_controlnet(small, controlnet_of(D, widths=(4,)))
    with pytest.raises(TypeError, match="a UNetControl cannot steer a UNet2DCondition"):
        with_controlnet(D, controlnet_of(small, widths=(3,)))
    for make in (
        with_boxes,
        lambda D: widened(D, 1),
        t2i_adapter_of,
        lambda D: ip_adapter_of(D, 3),
    ):
        with pytest.raises(TypeError, match="needs a UNet2DCondition"):
            make(small)


@pytest.mark.slow
def test_a_network_with_its_own_text_encoder_is_steered_too():
    module = small_text_to_image(
        9, 4, (0, 1), image_channels=1, channels=(16, 32), text_width=16, text_depth=1
    )
    params = filled(init(module, jax.random.key(0), (8, 8, 1)), 1)
    D = denoiser(from_linen(module), params, prediction="edm")
    steered = with_controlnet(D, controlnet_of(D, channels=1, widths=(4,)))
    both = with_t2i_adapter(steered, t2i_adapter_of(D, channels=1, factor=1, blocks=1), key="edges")
    x, ids = draw(2, 8, 8, 1), np.array([[2, 3, 1], [4, 1, 1]], np.int32)
    call = jit(lambda D, cond: D(x, np.float32(0.7), cond))
    plain = np.asarray(call(D, {"text": ids}))
    picture = draw(2, 8, 8, 1)
    np.testing.assert_array_equal(call(steered, {"text": ids, "control": picture}), plain)
    np.testing.assert_array_equal(call(both, {"text": ids, "control": picture}), plain)
    assert np.abs(call(both, {"text": ids, "edges": picture}) - plain).max() > 1e-3
    control = steering_of(steered)
    moved = jax.tree.map(lambda a: a + np.float32(0.1), control.params)
    own = {**steered.args[0]["unet"], "controls_0": moved}
    trained = steered.func, {**steered.args[0], "unet": own}, *steered.args[1:]
    again = with_controlnet(D, steering_of(jax.tree_util.Partial(*trained)))
    cond = {"text": ids, "control": picture}
    np.testing.assert_array_equal(call(jax.tree_util.Partial(*trained), cond), call(again, cond))
    assert np.abs(call(again, cond) - plain).max() > 1e-3
    assert trainable(optax.adam(0.1), STEERING).init(both.args[0])


def test_a_picture_reaches_the_layers_of_a_network_with_its_text_encoder(monkeypatch):
    module = small_text_to_image(
        9, 4, (1, 2, 0, 0), image_channels=1, channels=(8,), head_width=8, text_width=8,
        text_depth=1, attention=(True,),
    )  # fmt: skip
    shapes = jax.eval_shape(lambda key: init(module, key, (4, 4, 1)), jax.random.key(0))
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    D = denoiser(from_linen(module), zeros)
    control = ip_adapter_of(D, 5, count=1)
    steered, seen = with_ip_adapter(D, control), []
    plain = ip_adapter.softmax_attention
    monkeypatch.setattr(
        ip_adapter, "softmax_attention", lambda *qkv: (seen.append(qkv), plain(*qkv))[1]
    )
    x, picture = jnp.zeros((2, 4, 4, 1), jnp.float32), jnp.ones((2, 5), jnp.float32)
    jax.eval_shape(lambda: steered(x, 1.0, {"image": picture}))
    assert len(seen) == len(control.network.widths) > 0
