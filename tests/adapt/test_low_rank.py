"""LoRA and DoRA against their formulas."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.adapt import LowRank, adapted, check_adapter, combined, unmerge
from jaxdiff.denoisers import denoiser

RNG = np.random.default_rng(0)


def base(dtype=np.float64):
    draw = lambda *shape: jnp.asarray(RNG.standard_normal(shape), dtype)  # noqa: E731
    return {
        "first": {"kernel": draw(2, 6), "bias": draw(6)},
        "conv": {"kernel": draw(3, 3, 2, 4)},
        "last": {"kernel": draw(6, 2)},
    }


def network(params, x, label, cond=None, *, key=None):
    h = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"][None] * label[:, None])
    return h @ params["last"]["kernel"]


def filled(small, seed=1):
    """A small tree whose zeros have become numbers."""
    rng = np.random.default_rng(seed)

    def more(a):
        return jnp.asarray(np.asarray(a) + 0.3 * rng.standard_normal(a.shape).astype(a.dtype))

    return jax.tree.map(more, small)


@pytest.mark.parametrize(("dtype", "dora"), [(np.float32, False), (np.float64, True)])
def test_the_start_is_the_base_and_the_formula_holds(dtype, dora):
    params = base(dtype)
    lora = LowRank(
        3, alpha=6.0, dora=dora, ranks=(("last*", 2),), alphas=((re.compile("conv/.*"), 1.5),)
    )
    D = denoiser(network, params)
    x = jnp.asarray(RNG.standard_normal((4, 2)), dtype)
    start = adapted(D, lora)
    near = functools.partial(np.testing.assert_allclose, rtol=20 * np.finfo(dtype).eps)
    (near if dora else np.testing.assert_array_equal)(start(x, 1.0), D(x, 1.0))
    small = filled(start.args[0]["adapter"])
    assert {name: low["A"].shape for name, low in small.items()} == {
        "conv/kernel": (18, 3), "first/kernel": (2, 3), "last/kernel": (6, 2),
    }  # fmt: skip
    made = jax.jit(lora.apply)(params, small)
    assert made["first"]["bias"].tobytes() == params["first"]["bias"].tobytes()
    for name, scale in {"first": 2.0, "conv": 0.5, "last": 3.0}.items():
        low = {k: np.asarray(v, np.float64) for k, v in small[f"{name}/kernel"].items()}
        w = np.asarray(params[name]["kernel"], np.float64)
        v = w.reshape(-1, w.shape[-1]) + scale * low["A"] @ low["B"]
        if dora:
            v = low["magnitude"] * v / np.linalg.norm(v, axis=0)
        out = made[name]["kernel"]
        assert out.dtype == dtype
        np.testing.assert_allclose(out, v.reshape(w.shape), atol=50 * np.finfo(dtype).eps)


@pytest.mark.parametrize("given", [{"alpha": 0.0}, {"alpha": np.nan}, {"alphas": (("*", 0.0),)}])
def test_a_scale_that_trains_nothing_is_refused(given):
    with pytest.raises(ValueError, match="is finite and not 0"):
        LowRank(2, **given).init(jax.random.key(0), base())


def test_merging_is_undone_and_weights_add_up():
    params, one, two = base(), LowRank(2, alpha=1.0), LowRank(1, layers="conv*", dora=True)
    a, b = (filled(jax.jit(one.init)(jax.random.key(0), params), i) for i in (1, 2))
    made = one.apply(params, a)
    assert np.abs(made["first"]["kernel"] - params["first"]["kernel"]).max() > 0.1
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, atol=1e-14), unmerge(made, one, a), params
    )
    c = filled(jax.jit(two.init)(jax.random.key(0), params))
    trees = lambda w: combined(params, [(one, a), (one, b), (two, c)], w)  # noqa: E731
    together = jax.jit(trees)(jnp.asarray([0.5, -2.0, 1.0]))
    delta = lambda x: np.matmul(*map(np.asarray, x["conv/kernel"].values())) / 2  # noqa: E731
    expected = (0.5 * delta(a) - 2 * delta(b)).reshape(3, 3, 2, 4)
    expected += np.asarray(jax.jit(two.apply)(params, c)["conv"]["kernel"])
    np.testing.assert_allclose(together["conv"]["kernel"], expected, atol=1e-13)
    with pytest.raises(ValueError, match="DoRA cannot be taken out"):
        unmerge(params, two, c)
    with pytest.raises(ValueError, match="2 adapters have 1 weights"):
        combined(params, [(one, a), (one, b)], [1.0])


def test_gradients_and_a_batch_of_adapters():
    """dW's gradient reaches both factors; several adapters of one base are one vmapped call."""
    params, lora = base(), LowRank(1, layers="*kernel", dora=True)
    small = filled(jax.jit(lora.init)(jax.random.key(0), params))
    x, label = jnp.ones((3, 2)), jnp.ones(3)
    run = jax.jit(lambda s: network(lora.apply(params, s), x, label))
    grad = jax.jit(jax.grad(lambda s: jnp.sum(run(s) ** 2)))(small)
    for name in ("first/kernel", "last/kernel"):
        assert all(np.abs(g).max() > 1e-4 for g in grad[name].values())
    many = jax.tree.map(lambda s: jnp.asarray(np.stack([s, 2 * np.asarray(s)])), small)
    out = jax.jit(jax.vmap(run))(many)
    np.testing.assert_allclose(out[0], run(small), rtol=1e-12)
    assert np.abs(out[1] - out[0]).max() > 1e-3


def test_narrow_bases_have_wide_factors():
    params = jax.tree.map(lambda w: w.astype(jnp.bfloat16), base())
    lora = LowRank(1)
    small = lora.init(jax.random.key(0), params)
    assert {a.dtype for a in jax.tree.leaves(small)} == {jnp.dtype("float32")}
    same = lora.apply(params, small)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), same, params))


def test_what_does_not_fit_is_named():
    params, key = base(), jax.random.key(0)
    for rank in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"from 1 on, not {rank}"):
            LowRank(rank).init(key, params)
    with pytest.raises(ValueError, match=r"no parameter fits '\*attn\*'; there are conv/kernel"):
        LowRank(1, layers="*attn*").init(key, params)
    with pytest.raises(ValueError, match="fewer than two axes"):
        LowRank(1, layers="*bias").init(key, params)
    small = LowRank(1).init(key, params)
    with pytest.raises(ValueError, match="has no conv/kernel"):
        LowRank(1).apply({"first": params["first"]}, small)
    other = {**params, "last": {"kernel": jnp.zeros((6, 3))}}
    with pytest.raises(ValueError, match=r"B of last/kernel has shape \(1, 2\), where \(1, 3\)"):
        LowRank(1).apply(other, small)
    with pytest.raises(ValueError, match=r"conv/kernel/A has shape \(18, 1\), where \(18, 2\)"):
        check_adapter(LowRank(2), params, small)


def test_dora_of_outputs_that_are_zero():
    # the last convolution of a fresh network, and the zero convolutions of a ControlNet
    params = base()
    params["last"]["kernel"] = params["last"]["kernel"].at[:, 0].set(0.0)
    D, x = denoiser(network, params), jnp.asarray(RNG.standard_normal((4, 2)))
    start = adapted(D, LowRank(1, dora=True))
    np.testing.assert_allclose(start(x, 1.0), D(x, 1.0), rtol=1e-13)
    slopes = jax.grad(lambda D: jnp.sum(D(x, 1.0) ** 2))(start).args[0]["adapter"]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slopes))
    assert np.abs(slopes["last/kernel"]["B"][:, 0]).min() > 0  # it can leave 0
