"""Adapters for one subject: singular values, whole layers, new tokens, DreamBooth, Imagic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff.adapt import (
    SpectralShift,
    TextualInversion,
    Together,
    Whole,
    adapted,
    adapter_only,
    combined,
    custom_diffusion,
    dreambooth,
    imagic_denoiser,
    imagic_stages,
    load_token,
    more_tokens,
    save_token,
    with_prior,
)
from jaxdiff.denoisers import denoiser
from jaxdiff.distill import Student, score_matching
from jaxdiff.networks import from_linen
from jaxdiff.networks.text_to_image import small_text_to_image
from jaxdiff.training import fit_stages
from jaxdiff.training.step import init_state, update

RNG = np.random.default_rng(0)


def draw(*shape, dtype=np.float64):
    return jnp.asarray(RNG.standard_normal(shape), dtype)


def base(dtype=np.float64):
    return {
        "encoder": {"tokens": {"embedding": draw(5, 3, dtype=dtype)}},
        "cross": {"k": {"kernel": draw(3, 2, dtype=dtype)}},
        "out": {"kernel": draw(2, 2, dtype=dtype)},
    }


def network(params, x, label, cond=None, *, key=None):
    """A denoiser of vectors that reads the mean of a text's tokens."""
    h = x @ params["out"]["kernel"] * 0.3
    if cond is None:
        return h
    text = (
        cond["tokens"]
        if "tokens" in cond
        else params["encoder"]["tokens"]["embedding"][cond["text"]]
    )
    return h + jnp.tanh(text.mean(1) @ params["cross"]["k"]["kernel"])


def data(step=0):
    image = np.random.default_rng(step).normal(size=(4, 2)).astype(np.float32)
    return {"image": image, "label": {"text": np.full((4, 2), 5, np.int32)}}


def trained(method, steps=3, data=data):
    step = jax.jit(lambda state, batch: update(method, state, batch, ("student",))[0])
    state = init_state(method, jax.random.key(0))
    for number in range(steps):
        state = step(state, data(number))
    return state.params["student"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_singular_values_are_shifted(dtype):
    params, shift = base(dtype), SpectralShift("*kernel")
    D = denoiser(network, params)
    start = adapted(D, shift)
    x = jnp.asarray(data()["image"], dtype)
    np.testing.assert_array_equal(start(x, 1.0), D(x, 1.0))
    own = start.args[0]
    small = {k: v + jnp.asarray([0.5, -100.0], dtype) for k, v in own["adapter"].items()}
    made = jax.jit(shift.apply)(own["base"], small)
    for name in (("out",), ("cross", "k")):
        w = functools.reduce(lambda p, k: p[k], name, params)["kernel"]
        u, s, vt = np.linalg.svd(np.asarray(w, np.float64), full_matrices=False)
        expected = (u * np.maximum(s + [0.5, -100.0], 0)) @ vt
        found = functools.reduce(lambda p, k: p[k], name, made)["kernel"]
        np.testing.assert_allclose(found, expected, atol=20 * np.finfo(dtype).eps)
        assert found.dtype == dtype
    half = combined(params, [(shift, small)], [0.5])["out"]["kernel"]
    middle = (params["out"]["kernel"] + made["out"]["kernel"]) / 2
    np.testing.assert_allclose(half, middle, atol=20 * np.finfo(dtype).eps)
    with pytest.raises(ValueError, match="out/kernel is of the base alone"):
        shift.apply(own["base"], {"cross/k/kernel": small["cross/k/kernel"]})


def test_chosen_parameters_alone_are_trained_whole():
    params = base(np.float32)
    start = adapted(denoiser(network, params), Whole("*cross*"))
    student = Student.of(start, optimiser=adapter_only(optax.sgd(0.1)), label_drop=0.0)
    own = trained(score_matching(student), data=lambda n: {
        **data(n), "label": {"text": np.full((4, 2), 1, np.int32)}})  # fmt: skip
    assert jax.tree.all(jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), own["base"], params))
    assert set(own["adapter"]) == {"cross/k/kernel"}
    assert np.abs(own["adapter"]["cross/k/kernel"]).min() > 1e-5
    made = student.network.parameters(own)
    moved = made["cross"]["k"]["kernel"] - params["cross"]["k"]["kernel"]
    np.testing.assert_allclose(moved, own["adapter"]["cross/k/kernel"], atol=1e-6)
    with pytest.raises(ValueError, match=r"out/kernel has shape \(3,\) there, and \(2, 2\)"):
        Whole().apply(params, {"out/kernel": jnp.zeros(3)})


def test_a_new_token_alone_is_trained(tmp_path):
    params = base(np.float32)
    token = TextualInversion((2,), 2)
    small = token.init(jax.random.key(0), params)
    table = params["encoder"]["tokens"]["embedding"]
    np.testing.assert_array_equal(small["rows"], table[jnp.asarray([2, 2])])

    both = Together((token, Whole("*cross*")))
    students = {}
    for adapter in (token, both):
        start = {"base": params, "adapter": jax.jit(adapter.init)(jax.random.key(0), params)}
        apply = lambda p, *given, adapter=adapter, **more: network(  # noqa: E731
            adapter.apply(jax.tree.map(jax.lax.stop_gradient, p["base"]), p["adapter"]),
            *given, **more,
        )  # fmt: skip
        optimiser = adapter_only(optax.sgd(0.1))
        student = Student(apply, start, optimiser=optimiser, label_drop=0.0)
        own = students[adapter] = trained(score_matching(student))
        made = adapter.apply(own["base"], own["adapter"])["encoder"]["tokens"]["embedding"]
        assert made[:5].tobytes() == table.tobytes()
        moved = np.abs(made[5:] - table[2][None])
        assert moved[0].min() > 1e-5 and (moved[1] == 0).all()  # the text has the first alone
    assert np.abs(students[both]["adapter"]["1"]["cross/k/kernel"]).max() > 1e-5
    save_token(tmp_path / "x.safetensors", "<cat>", students[token]["adapter"])
    name, found, rows = load_token(tmp_path / "x.safetensors")
    assert name == "<cat>" and found.count == 2
    np.testing.assert_array_equal(rows["rows"], students[token]["adapter"]["rows"])


@pytest.mark.slow
def test_the_network_of_a_new_token_knows_its_number():
    module = small_text_to_image(20, 5, (1, 2, 2, 2, 2), channels=(16, 32), text_width=16)
    apply = from_linen(module)
    inputs = np.zeros((1, 8, 8, 3), np.float32), np.zeros(1, np.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    adapter = custom_diffusion((3,), 2)

    def made(params):
        small = adapter.init(jax.random.key(0), params)
        changed = adapter.apply(params, small)
        return small, adapter.grown(apply)(
            changed, *inputs, {"text": np.full((1, 5), 21, np.int32)}
        )

    small, out = jax.eval_shape(made, params)
    assert out.shape == (1, 8, 8, 3) and small["0"]["rows"].shape == (2, 16)
    assert len(small["1"]) == 8 and all("/cross/" in name for name in small["1"])
    with pytest.raises(ValueError, match="from 0 to 21"):
        more_tokens(apply, 2).module.check_cond({"text": np.full((1, 5), 22)})
    with pytest.raises(TypeError, match="new tokens need a network with a text encoder"):
        more_tokens(network, 2)


def test_dreambooth_is_two_losses():
    params = base(np.float32)
    student = Student(network, params, optimiser=optax.sgd(1.0))
    method = dreambooth(student, prior_weight=0.25)
    prior = {"text": np.full((6, 2), 1, np.int32)}
    rows = with_prior(lambda n: {**data(n), "label": {"text": np.full((4, 2), 2, np.int32)}},
                      np.full((6, 2), 3.0, np.float32), prior)  # fmt: skip
    batch = rows(0)
    assert (batch["prior_image"] == 3).all() and batch["prior_label"]["text"].shape == (4, 2)
    method.check(batch)
    state = init_state(method, jax.random.key(0))
    loss = jax.jit(lambda p, key: method.players["student"].loss(p, context(state), batch, key))
    value, metrics = loss(params, jax.random.key(3))
    np.testing.assert_allclose(value, metrics["subject"] + 0.25 * metrics["prior"], rtol=1e-6)
    one = score_matching(student._replace(label_drop=0.0)).players["student"].loss
    second = {"image": batch["prior_image"], "label": batch["prior_label"]}
    keys = jax.random.split(jax.random.key(3))
    pairs = zip((batch, second), keys, strict=True)
    both = [jax.jit(one)(params, context(state), b, k)[0] for b, k in pairs]
    np.testing.assert_allclose([metrics["subject"], metrics["prior"]], both, rtol=1e-6)
    with pytest.raises(ValueError, match="no 'prior_image', which with_prior gives"):
        method.check(data())
    with pytest.raises(ValueError, match="not negative"):
        dreambooth(student, prior_weight=-1.0)
    with pytest.raises(ValueError, match=r"there are 6 own samples, with labels of \[5\] rows"):
        with_prior(data, np.zeros((6, 2)), {"text": np.zeros((5, 2))})


def context(state):
    from jaxdiff.method import Context

    return Context(state.step, state.params, state.ema, None)


@pytest.mark.slow
def test_imagic_fits_the_condition_and_then_the_network():
    params = base(np.float32)
    D = denoiser(network, params)
    target = {"tokens": draw(2, 3, dtype=np.float32)}
    image = {"image": np.tile(np.asarray([[0.7, -0.4]], np.float32), (4, 1))}
    stages = imagic_stages(
        D, target, embedding=optax.adam(0.05), optimiser=optax.adam(1e-2), layers="cross*",
        share=0.5,
    )  # fmt: skip
    _, first = fit_stages(stages[:1], lambda n: image, num_updates=40, progress=False)
    one = first.params["student"]
    keep = lambda a, b: a.tobytes() == b.tobytes()  # noqa: E731
    assert jax.tree.all(jax.tree.map(keep, one["base"], params))
    _, state = fit_stages(stages, lambda n: image, num_updates=80, progress=False)
    two = state.params["student"]
    assert keep(two["adapter"]["tokens"], one["adapter"]["tokens"])
    assert keep(two["base"]["out"]["kernel"], params["out"]["kernel"])
    assert np.abs(two["base"]["cross"]["k"]["kernel"] - params["cross"]["k"]["kernel"]).max() > 0.01
    y = draw(4, 2, dtype=np.float32)
    rows = lambda c: jax.tree.map(lambda a: jnp.broadcast_to(a[None], (4, *a.shape)), c)  # noqa: E731
    fitted = denoiser(network, two["base"])
    for eta, cond in ((0.0, two["adapter"]), (1.0, target)):
        own = imagic_denoiser(D, two, target, eta)
        np.testing.assert_allclose(own(y, 1.0), fitted(y, 1.0, rows(cond)), rtol=1e-5)
    apart = [np.abs(d(y, 1.0, *c) - image["image"]).mean() for d, c in
             ((D, (rows(target),)), (imagic_denoiser(D, two, target, 0.0), ()))]  # fmt: skip
    assert apart[1] < apart[0]
    with pytest.raises(ValueError, match="a condition of its own"):
        imagic_denoiser(D, two, target, 0.5)(y, 1.0, target)
    with pytest.raises(TypeError, match="of floats, not int"):
        imagic_stages(D, {"text": np.zeros(2, np.int32)})
