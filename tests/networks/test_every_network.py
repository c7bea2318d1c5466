"""Networks: one conformance body for every family and adapter, then what is special to each."""

import builtins
import functools
import re

import equinox
import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdiff import networks
from jaxdiff.distill.parts.frame import drawn
from jaxdiff.method import is_init
from jaxdiff.networks import (
    MLP,
    Beside,
    DhariwalUNet,
    DiT,
    EDM2UNet,
    SongUNet,
    UNet,
    dit,
    from_equinox,
    from_linen,
    from_nnx,
    graft,
    init,
)
from jaxdiff.networks.adapters import Linen
from jaxdiff.networks.patches import from_patches, positions, to_patches

# Compilation is what costs here, so do without the optimisations.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
F32, F64 = jnp.float32, jnp.float64
VECTOR, IMAGE = (3,), (8, 8, 2)
UNET = {"channels": 8, "groups": 4, "embedding": 8, "num_classes": 3}
ONE_LEVEL = {**UNET, "multipliers": (1,)}
EDM = {
    "resolution": 8, "in_channels": 2, "channels": 8, "multipliers": (1, 2), "blocks": 1,
    "attention": (4,), "num_classes": 3, "dropout": 0.5,
}  # fmt: skip
SKIPS = {"encoder": "residual", "decoder": "skip", "taps": (1.0, 3.0, 3.0, 1.0), "remat": True}
SLOW = {"song", "adm", "edm2"}
DIT = {"patch": 4, "width": 16, "depth": 2, "heads": 2, "num_classes": 3}


def random_like(params, dtype=None, seed=0):
    """Parameters without zeros, so that no branch is silent; from numpy: nothing compiles."""
    rng = np.random.default_rng(seed)
    draw = lambda p: np.asarray(0.3 * rng.standard_normal(np.shape(p)), dtype or p.dtype)  # noqa: E731
    return jax.tree.map(draw, params)


def linen(module, shape):
    params = jax.eval_shape(lambda key: init(module, key, shape), jax.random.key(0))
    return from_linen(module), random_like(params)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.layers = nnx.List([nnx.Linear(4, 16, rngs=rngs), nnx.Linear(16, 3, rngs=rngs)])
        self.classes = nnx.Embed(4, 16, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x, label, cond=None):
        h = self.layers[0](jnp.concatenate([x, label[:, None].astype(x.dtype)], axis=1))
        cond = jnp.full(x.shape[0], 3) if cond is None else cond
        return self.layers[1](self.dropout(nnx.tanh(h + self.classes(cond).astype(h.dtype))))


class Equinox(equinox.Module):
    layers: list
    classes: jax.Array
    dropout: equinox.nn.Dropout

    def __init__(self, key):
        self.layers = [equinox.nn.Linear(4, 16, key=key), equinox.nn.Linear(16, 3, key=key)]
        self.classes = jax.random.normal(key, (4, 16))
        self.dropout = equinox.nn.Dropout(0.5)

    def __call__(self, x, label, cond=None, *, key=None):
        h = self.layers[0](jnp.concatenate([x, label[None]]))
        h = jnp.tanh(h + self.classes[3 if cond is None else cond])
        return self.layers[1](self.dropout(h, key=key))


def adapted(pair):
    network, params = pair
    return network, random_like(params, F64)


CASES = {
    "mlp": lambda: (VECTOR, *linen(MLP(16, 2, num_classes=3, dropout=0.5), VECTOR)),
    "plain mlp": lambda: (
        VECTOR,
        *linen(MLP(16, 2, residual=False, num_classes=3, dropout=0.5), VECTOR),
    ),
    "flat mlp": lambda: (
        IMAGE,
        *linen(MLP(16, 1, num_classes=3, dropout=0.5, flatten=True), IMAGE),
    ),
    "unet": lambda: (IMAGE, *linen(UNet(**UNET, attention=(4,), heads=2, dropout=0.5), IMAGE)),
    "dit": lambda: (IMAGE, *linen(DiT(**DIT, dropout=0.5, remat=True), IMAGE)),
    "song": lambda: (IMAGE, *linen(SongUNet(**EDM, waves=2, fourier=True, **SKIPS), IMAGE)),
    "adm": lambda: (IMAGE, *linen(DhariwalUNet(**EDM, head_channels=8, remat=True), IMAGE)),
    "edm2": lambda: (IMAGE, *linen(EDM2UNet(**EDM, head_channels=8), IMAGE)),
    "beside": lambda: (VECTOR, *linen(Beside(MLP(16, 2, num_classes=3, dropout=0.5), 2), VECTOR)),
    "nnx": lambda: (VECTOR, *adapted(from_nnx(Nnx(nnx.Rngs(0))))),
    "equinox": lambda: (VECTOR, *adapted(from_equinox(Equinox(jax.random.key(0))))),
}


class Case:
    """A network in float64 with its inputs, and the few programs that the tests share."""

    def __init__(self, name):
        self.name = name
        shape, self.network, self.params = CASES[name]()
        rng = np.random.default_rng(1)
        self.x, self.label = rng.standard_normal((4, *shape)), np.array([0.1, 0.4, 0.7, 1.0])
        self.tangent = rng.standard_normal((4, *shape)), np.array([1.0, -1.0, 0.5, 2.0])
        self.classes = np.array([0, 1, 2, 0])
        self.keys = jax.random.key(7), jax.random.key(8)
        self._without, self._jvp = jit(self.network), jit(self._value_and_derivative)

    def _value_and_derivative(self, params, x, label, cond, key):
        at = lambda x, label: self.network(params, x, label, cond, key=key)  # noqa: E731
        return jax.jvp(at, (x, label), self.tangent)

    def without(self):
        """Output for no condition."""
        return self._without(self.params, self.x, self.label)

    def jvp(self, x, label, cond, key):
        return self._jvp(self.params, x, label, cond, key)

    def __call__(self, h=0.0, cond=None, key=None):
        """Output at inputs moved by ``h`` tangents, and its derivative along them."""
        x, label = self.x + h * self.tangent[0], self.label + h * self.tangent[1]
        return self.jvp(x, label, self.classes if cond is None else cond, key)


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in CASES],
)
def case(request):
    return Case(request.param)


def test_the_output_has_the_shape_and_dtype_of_the_input(case):
    out, _ = case()
    assert out.shape == case.x.shape and out.dtype == F64
    assert np.isfinite(out).all() and np.std(out) > 1e-3


def test_samples_do_not_see_each_other(case):
    out, _ = case()
    swapped, _ = case.jvp(case.x[::-1], case.label[::-1], case.classes[::-1], None)
    np.testing.assert_allclose(swapped[::-1], out, rtol=0, atol=1e-10 * np.max(np.abs(out)))


def test_classes_matter_and_none_is_the_null_class(case):
    (out, _), (null, _) = case(), case(cond=np.full(4, 3))
    none = case.without()
    np.testing.assert_allclose(none, null, rtol=0, atol=1e-12 * np.max(np.abs(null)))
    if isinstance(case.network, Linen):
        assert case.network.null == 3
    for other in (none, case(cond=(case.classes + 1) % 3)[0]):
        assert np.min(np.max(np.abs(out - other).reshape(4, -1), axis=1)) > 1e-4


def test_an_exported_program_may_leave_the_number_of_samples_open(case):
    (n,) = jax.export.symbolic_shape("n")
    x = jax.ShapeDtypeStruct((n, *case.x.shape[1:]), F64)
    label, classes = (jax.ShapeDtypeStruct((n,), dtype) for dtype in (F64, jnp.int32))
    for cond in (None, classes):
        made = jax.eval_shape(lambda *given: case.network(*given), case.params, x, label, cond)
        assert made.shape == x.shape and made.dtype == F64


@pytest.mark.parametrize("dropout", [False, True])
def test_forward_derivatives_agree_with_differences(case, dropout):
    """With dropout, the tangent goes through the mask of the primal."""
    h, key = 1e-6, case.keys[0] if dropout else None
    derivative = case(key=key)[1]
    difference = (case(h, key=key)[0] - case(-h, key=key)[0]) / (2 * h)
    scale = np.max(np.abs(derivative))
    np.testing.assert_allclose(derivative, difference, rtol=0, atol=1e-6 * scale)


def test_a_dropout_key_decides_the_mask(case):
    first, again = (case(key=case.keys[0])[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
    for other in (case()[0], case(key=case.keys[1])[0]):
        assert np.max(np.abs(first - other)) > 1e-3


def test_equal_networks_share_one_compilation(case):
    network, again = case.network, CASES[case.name]()[1]
    assert network == again and hash(network) == hash(again)
    assert network is not again
    traced = []
    trace = jax.jit(lambda network: traced.append(network), static_argnums=0)
    trace(network), trace(again)
    assert len(traced) == 1


# --- dtypes


@pytest.mark.parametrize("module", [MLP(16, 2), UNet(**ONE_LEVEL), DiT(**DIT)])
def test_compute_dtype_is_applied_at_the_boundary(module):
    shape = VECTOR if isinstance(module, MLP) else IMAGE
    network, params = linen(module, shape)
    assert all(p.dtype == F32 for p in jax.tree.leaves(params))
    x = np.asarray(np.random.default_rng(0).standard_normal((4, *shape)), np.float32)
    label = np.linspace(0.1, 1.0, 4, dtype=np.float32)
    half = from_linen(module.clone(dtype=jnp.bfloat16))

    @jit
    def both(params, x, label):
        return network(params, x, label), half(params, x, label)

    full, low = both(params, x, label)
    assert full.dtype == low.dtype == F32
    error = float(jnp.max(jnp.abs(full - low)) / jnp.max(jnp.abs(full)))
    assert 1e-4 < error < 0.05  # bfloat16 has three digits: it was used, and only inside
    gradient = jax.eval_shape(jax.grad(lambda p: jnp.sum(half(p, x, label))), params)
    assert all(g.dtype == F32 for g in jax.tree.leaves(gradient))


@pytest.mark.parametrize(
    "module, work",
    [(UNet(**UNET, attention=(4,), heads=2), "conv_general_dilated"), (DiT(**DIT), "dot_general")],
)
def test_statistics_are_in_float32_for_a_half_precision_network(module, work):
    network, params = linen(module.clone(dtype=jnp.bfloat16), IMAGE)
    x, label = np.ones((2, *IMAGE), np.float32), np.ones(2, np.float32)
    program = str(jax.make_jaxpr(network)(params, x, label))
    assert re.search(rf":bf16\[[\d,]*\] = {work}", program)
    assert re.search(r":f32\[[\d,]*\] = exp ", program)  # the softmax
    assert not re.search(r":bf16\[[\d,]*\] = (exp|rsqrt|reduce_sum|reduce_max)\b", program)


def test_parameters_can_be_float64():
    module = MLP(4, 1, param_dtype=F64)
    params = jax.eval_shape(lambda key: init(module, key, VECTOR), jax.random.key(0))
    assert all(p.dtype == F64 for p in jax.tree.leaves(params))


# --- embeddings


@pytest.mark.parametrize("features", [networks.sinusoidal, networks.fourier])
@pytest.mark.parametrize("low, high", [(-1.6, 1.1), (0.0, 1.0)])
def test_embeddings_resolve_hundredths_of_a_label(features, low, high):
    label = np.arange(low, high, 0.01)
    e, near = (np.asarray(features(jnp.asarray(l), 64, 100.0)) for l in (label, label + 1e-4))
    assert e.shape == (len(label), 64)
    np.testing.assert_allclose(np.sum(e**2, axis=1), 32.0, rtol=1e-12)  # cos^2 + sin^2
    distance = np.linalg.norm(e[:, None, :] - e[None, :, :], axis=-1)
    assert np.min(distance + 10 * np.eye(len(label))) > 1.0  # of at most 8
    assert np.max(np.abs(near - e)) < 0.05  # and it is smooth


def test_sinusoidal_frequencies():
    e = networks.sinusoidal(jnp.array([0.25]), 8, 100.0)
    angles = 0.25 * np.array([100.0, 10.0, 1.0, 0.1])
    np.testing.assert_allclose(e[0], [*np.cos(angles), *np.sin(angles)], rtol=1e-12)


def test_embedding_is_computed_in_float32_for_a_half_precision_label():
    module = networks.Embedding(8)
    label = jnp.array([0.5, 1.0], jnp.bfloat16)
    params = random_like(jax.eval_shape(module.init, jax.random.key(0), label))
    out = jit(module.apply)(params, label)
    assert out.dtype == F32
    np.testing.assert_array_equal(out, jit(module.apply)(params, label.astype(F32)))


def test_labels_in_columns_for_maps_between_two_times():
    network = from_linen(MLP(8, 1, embedding=8))
    draw = lambda key: init(network.module, key, VECTOR, labels=2)  # noqa: E731
    params = random_like(jax.eval_shape(draw, jax.random.key(0)))
    x, t, s = np.ones((2, 3)), np.array([0.2, 0.4]), np.array([0.1, 0.3])
    at = jit(lambda t, s: network(params, x, jnp.stack([t, s], axis=1)))
    assert not np.allclose(at(t, s), at(s, t)) and not np.allclose(at(t, s), at(t, t))


def test_an_index_beyond_the_classes_is_not_a_number_rather_than_a_class():
    network, params = linen(MLP(4, 1, num_classes=3, embedding=4), VECTOR)
    out = jit(network)(params, np.ones((4, 3)), np.ones(4), np.array([3, 4, -1, -2]))
    assert np.isfinite(out[0]).all() and np.isnan(out[1:]).all()
    with pytest.raises(ValueError, match="numbered 0 to 2, and 3 is none"):
        network(params, np.ones((1, 3)), np.ones(1), np.array([-1]))


@pytest.mark.parametrize("labels", [1, 2, 5])
def test_every_part_of_an_embedding_counts_at_the_start(labels):
    """Rows of classes are as large as what the labels give, and no label is lost among others."""
    module = networks.Embedding(64, num_classes=10)
    rng = np.random.default_rng(0)
    given = jnp.asarray(rng.uniform(-1.5, 1.0, (256, labels)), F32)
    params = jit(module.init)(jax.random.key(0), given, None)
    at = jit(module.apply)
    none, rows = jnp.full(256, 10), jnp.asarray(rng.integers(0, 10, 256))
    varied = lambda e: float(jnp.std(e, axis=0).mean())  # noqa: E731 (of an entry, over samples)
    by_class = varied(at(params, jnp.zeros_like(given), rows))
    by_label = varied(at(params, given, none))
    assert 0.7 < by_class < 1.3 and by_class / 8 < by_label < by_class
    for k in range(labels):
        alone = jnp.zeros_like(given).at[:, k].set(given[:, k])
        assert varied(at(params, alone, none)) > by_label / (2 * labels)


# --- U-Net


def test_a_fresh_network_is_the_zero_function_and_can_learn():
    module = UNet(**ONE_LEVEL)
    network, params = from_linen(module), init(module, jax.random.key(0), IMAGE)
    x, label = jnp.ones((2, *IMAGE), F32), jnp.ones(2, F32)

    @jit
    def output_and_gradient(params):
        def loss(params):
            out = network(params, x, label)
            return jnp.mean((out - 1.0) ** 2), out

        gradient, out = jax.grad(loss, has_aux=True)(params)
        return out, gradient

    out, gradient = output_and_gradient(params)
    np.testing.assert_array_equal(out, 0.0)
    assert np.max(np.abs(gradient["Conv_1"]["kernel"])) > 1e-3


@pytest.mark.parametrize("heights, count", [((), 0), ((8,), 2), ((4,), 3), ((4, 8), 5)])
def test_attention_is_at_the_heights_asked_for(heights, count):
    module = UNet(**UNET, attention=heights, heads=2)
    params = jax.eval_shape(lambda key: init(module, key, IMAGE), jax.random.key(0))
    assert sum(name.startswith("Attention") for name in params) == count


def test_attention_changes_the_output():
    module = UNet(**ONE_LEVEL, attention=(8,), heads=2)
    network, params = linen(module, IMAGE)
    out = jit(lambda params: network(params, np.ones((1, *IMAGE)), np.ones(1)))
    without = {**params, "Attention_0": jax.tree.map(np.zeros_like, params["Attention_0"])}
    assert np.max(np.abs(out(params) - out(without))) > 1e-3


@pytest.mark.parametrize(
    "change, x, message",
    [
        ({"attention": (16,)}, (2, 8, 8, 1), "heights"),
        ({"attention": (4,), "heads": 3}, (2, 8, 8, 1), "heads do not divide 16"),
        ({}, (2, 7, 8, 1), "divisible by 2; got 7x8"),
        ({}, (8, 8, 1), "takes x"),
        ({}, (3, 8, 8, 1), "takes x"),
    ],
)
def test_unet_refuses_what_does_not_fit(change, x, message):
    module = UNet(**{**UNET, **change})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.ones(x), jnp.ones(2)))


def test_group_norm_with_channels_that_the_groups_do_not_divide():
    norm = networks.unet.Norm(8, F32)  # gcd(8, 6) = 2 groups of 3 channels
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 6)))
    y, _ = jit(norm.init_with_output)(jax.random.key(0), x)
    groups = np.asarray(x).reshape(2, 16, 2, 3)
    expected = (groups - groups.mean((1, 3), keepdims=True)) / np.sqrt(
        groups.var((1, 3), keepdims=True) + 1e-5
    )
    np.testing.assert_allclose(y, expected.reshape(x.shape), rtol=1e-9)


def test_attention_is_softmax_attention():
    module = networks.unet.Attention(2, 1, F64, F64)
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 4))
    params = random_like(jax.eval_shape(module.init, jax.random.key(0), x)["params"])
    out = jit(module.apply)({"params": params}, x)
    h = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
    norm = params["Norm_0"]
    h = (h * norm["scale"] + norm["bias"]).reshape(6, 4)
    q, k, v = np.split(h @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"], 3, axis=1)
    mixed = []
    for head in (slice(0, 2), slice(2, 4)):
        w = np.exp(q[:, head] @ k[:, head].T / np.sqrt(2))
        mixed.append(w / w.sum(1, keepdims=True) @ v[:, head])
    mixed = np.concatenate(mixed, axis=1) @ params["Dense_1"]["kernel"] + params["Dense_1"]["bias"]
    np.testing.assert_allclose(out, x + mixed.reshape(x.shape), rtol=1e-9)


# --- DiT


def test_the_parameters_of_a_dit():
    """A closed form, with W the width, p the patch, c the channels, r the ratio of the perceptron:
    patches p^2 c W + W; embedding 2 (W^2 + W), or W^2 more for each label beyond the first;
    classes (C + 1) W; a block 6 W^2 + 6 W of modulation, 4 W^2 + 4 W of attention and
    2 r W^2 + (r + 1) W of perceptron; at the end 2 W^2 + 2 W and W p^2 c + p^2 c.
    """

    def closed(W, p, depth, c, r=4, C=None, labels=1):
        block = (10 + 2 * r) * W**2 + (11 + r) * W
        ends = (2 * W + 1) * p**2 * c + W + 2 * W**2 + 2 * W
        classes = 0 if C is None else (C + 1) * W
        return depth * block + ends + (labels + 1) * W**2 + 2 * W + classes

    def counted(module, shape, labels=1):
        draw = lambda key: init(module, key, shape, labels=labels)  # noqa: E731
        return networks.count_parameters(jax.eval_shape(draw, jax.random.key(0)))

    base = DiT(patch=4, width=768, depth=12, heads=12)  # DiT-B/4, of 130 M in the paper's table 1
    assert counted(base, (32, 32, 3)) == closed(768, 4, 12, 3) == 129_977_136
    other = DiT(2, 24, 3, 3, 2, num_classes=5)
    assert counted(other, (6, 4, 2), labels=2) == closed(24, 2, 3, 2, r=2, C=5, labels=2)


def test_positions_are_waves_of_row_and_column():
    """A width of 8 has the frequencies 1 and 1/100; row by row."""
    found = dit.positions(2, 3, 8)
    assert found.shape == (6, 8)
    waves = lambda i: [np.sin(i), np.sin(i / 100), np.cos(i), np.cos(i / 100)]  # noqa: E731
    np.testing.assert_allclose(found[5], [*waves(1), *waves(2)], rtol=1e-12)
    np.testing.assert_allclose(found[2], [0, 0, 1, 1, *waves(2)], rtol=1e-12)
    np.testing.assert_allclose(found[3], [*waves(1), 0, 0, 1, 1], rtol=1e-12)


def test_positions_have_a_spacing_and_either_order_of_their_axes():
    plain, other = positions(2, 3, 8), positions(2, 3, 8, column_first=True)
    np.testing.assert_array_equal(other, np.roll(plain, 4, axis=1))
    wide = positions(3, 5, 8, spacing=(0.5, 0.25))
    np.testing.assert_allclose(wide[2 * 5 + 4], positions(2, 2, 8)[-1], rtol=1e-12)
    with pytest.raises(ValueError, match="divisible by 4"):
        positions(2, 3, 10)


def test_patches_moved_with_their_positions_give_the_output_moved(monkeypatch):
    """A transformer knows of the order of its tokens by their positions alone."""
    network, params = linen(DiT(**{**DIT, "patch": 2}), (4, 6, 2))
    rng = np.random.default_rng(0)
    x, order, plain = rng.standard_normal((2, 4, 6, 2)), rng.permutation(6), dit.positions
    moved = np.array(from_patches(to_patches(x, 2)[:, order], 2, 3, 2))
    made = lambda: jit(lambda x: network(params, x, np.array([0.2, 0.7])))  # noqa: E731
    at = made()
    out, other = at(x), at(moved)
    monkeypatch.setattr(dit, "positions", lambda *shape, **axes: plain(*shape, **axes)[order])
    expected = from_patches(to_patches(out, 2)[:, order], 2, 3, 2)
    np.testing.assert_allclose(made()(moved), expected, rtol=0, atol=1e-10 * np.max(np.abs(out)))
    assert np.max(np.abs(other - expected)) > 1e-3  # with positions where they were


def test_patches_are_squares_of_the_image_row_by_row():
    x = np.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    patches = to_patches(x, 2)
    assert patches.shape == (2, 6, 12)
    np.testing.assert_array_equal(patches[1, 4], x[1, 2:4, 2:4].ravel())
    np.testing.assert_array_equal(from_patches(patches, 2, 3, 2), x)


def test_a_fresh_dit_is_the_zero_function_its_blocks_the_identity_and_it_can_learn():
    module = DiT(4, 8, 1, 2)
    network, params = from_linen(module), init(module, jax.random.key(0), IMAGE)
    x = np.asarray(np.random.default_rng(0).standard_normal((2, *IMAGE)), np.float32)

    @jit
    def outputs_and_gradient(params):
        def loss(params):
            out = network(params, x, jnp.ones(2, F32), full=True)
            return jnp.mean((out.value - 1.0) ** 2), out

        gradient, out = jax.grad(loss, has_aux=True)(params)
        return out, gradient

    out, gradient = outputs_and_gradient(params)
    np.testing.assert_array_equal(out.value, 0.0)
    tokens = to_patches(x, 4) @ np.asarray(params["Dense_0"]["kernel"]) + dit.positions(2, 2, 8)
    (found,) = out.features
    np.testing.assert_allclose(found, tokens.reshape(2, 2, 2, 8), rtol=1e-4, atol=1e-5)
    assert np.max(np.abs(gradient["Dense_2"]["kernel"])) > 1e-3


def test_a_dit_block_is_attention_and_a_perceptron_each_modulated_and_gated():
    module = dit.Block(2, 3, 0.0, F64, F64)
    rng = np.random.default_rng(0)
    h, e = rng.standard_normal((1, 5, 4)), rng.standard_normal((1, 4))
    params = random_like(jax.eval_shape(module.init, jax.random.key(0), h, e, True)["params"])
    out = jit(lambda p: module.apply({"params": p}, h, e, True))(params)
    dense = lambda i, x: x @ params[f"Dense_{i}"]["kernel"] + params[f"Dense_{i}"]["bias"]  # noqa: E731

    def norm(x):
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)

    x = h[0]
    a1, b1, g1, a2, b2, g2 = np.split(dense(0, e[0])[None], 6, axis=1)
    q, k, v = np.split(dense(1, norm(x) * (1 + a1) + b1), 3, axis=1)
    mixed = []
    for head in (slice(0, 2), slice(2, 4)):
        w = np.exp(q[:, head] @ k[:, head].T / np.sqrt(2))
        mixed.append(w / w.sum(1, keepdims=True) @ v[:, head])
    x = x + g1 * dense(2, np.concatenate(mixed, axis=1))
    r = dense(3, norm(x) * (1 + a2) + b2)
    gelu = 0.5 * r * (1 + np.tanh(np.sqrt(2 / np.pi) * (r + 0.044715 * r**3)))
    np.testing.assert_allclose(out[0], x + g2 * dense(4, gelu), rtol=1e-9)


@pytest.mark.slow
def test_remat_changes_neither_parameters_nor_gradient_and_keeps_less():
    module = DiT(**{**DIT, "depth": 1}, dropout=0.5)
    network, params = linen(module, IMAGE)
    again, same = linen(module.clone(remat=True), IMAGE)
    jax.tree.map(np.testing.assert_array_equal, params, same)
    params = random_like(params, F64)
    x, label, key = np.ones((2, *IMAGE)), np.ones(2), jax.random.key(0)
    gradients, kept = [], []
    for one in (network, again):
        loss = lambda p, one=one: jnp.sum(one(p, x, label, key=key) ** 2)  # noqa: E731
        gradients.append(jit(jax.grad(loss))(params))
        residuals = jax.eval_shape(lambda p, loss=loss: jax.vjp(loss, p)[1], params)
        kept.append(networks.count_parameters(residuals))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12), *gradients)
    assert kept[1] < 0.8 * kept[0]


def test_a_dit_is_grafted_onto_one_of_two_labels_and_a_log_variance():
    network, params = linen(DiT(**DIT), IMAGE)
    larger = DiT(**DIT, log_variance=True)
    draw = lambda key: init(larger, key, IMAGE, labels=2)  # noqa: E731
    onto = random_like(jax.eval_shape(draw, jax.random.key(0)), seed=1)
    x, label, second = np.ones((2, *IMAGE)), np.array([0.2, 0.7]), np.array([0.5, 0.1])
    out = jit(network)(params, x, label)
    both = jit(functools.partial(from_linen(larger), full=True))
    grown = both(graft(params, onto), x, np.stack([label, second], axis=1))
    np.testing.assert_allclose(grown.value, out, rtol=0, atol=1e-9 * np.max(np.abs(out)))
    assert grown.log_variance.shape == (2,) and np.ptp(grown.log_variance) > 1e-3


def test_a_head_on_the_maps_of_a_dit_sees_images():
    network, params = linen(DiT(**DIT), IMAGE)
    logits, draw = networks.feature_head(network, params, IMAGE, width=8)
    x = np.asarray(np.random.default_rng(0).standard_normal((3, *IMAGE)), np.float32)
    maps = jit(lambda x: network(params, x, np.ones(3, np.float32), full=True).features)(x)
    head = jax.eval_shape(draw, jax.random.key(0))
    assert sorted(p["kernel"].shape for p in head.values() if "kernel" in p) == [
        *[(3, 3, 16, 8)] * 2,
        *[(8, 1)] * 2,
    ]
    found = jit(logits)(random_like(head), maps)
    assert found.shape == (3, 2 * 4) and np.std(found) > 1e-3


@pytest.mark.parametrize(
    "change, x, message",
    [
        ({}, (2, 8, 6, 1), "divisible by 4; got 8x6"),
        ({"width": 18}, (2, 8, 8, 1), "divisible by 4; got 18"),
        ({"heads": 3}, (2, 8, 8, 1), "3 heads do not divide a width of 16"),
        ({}, (8, 8, 1), "takes x"),
        ({}, (3, 8, 8, 1), "takes x"),
    ],
)
def test_a_dit_refuses_what_does_not_fit(change, x, message):
    module = DiT(**{**DIT, **change})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.ones(x), jnp.ones(2)))


# --- adapters and initialisation


def test_init_is_one_draw_per_key_and_the_same_inside_a_jit():
    module = MLP(16, 1, num_classes=2, embedding=8)
    a, b = (init(module, jax.random.key(seed), VECTOR) for seed in (0, 1))
    again = jit(lambda key: init(module, key, VECTOR))(jax.random.key(0))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6), a, again)
    assert not np.array_equal(a["Dense_0"]["kernel"], b["Dense_0"]["kernel"])
    assert networks.count_parameters(a) == sum(x.size for x in jax.tree.leaves(a)) > 0


@pytest.mark.slow
def test_an_adapted_module_gives_what_the_module_gives():
    x, label = np.ones((4, 3), np.float32), np.linspace(0, 1, 4, dtype=np.float32)
    with jax.numpy_dtype_promotion("standard"):
        module = Nnx(nnx.Rngs(0))
        network, params = from_nnx(module)
        module.eval()
        np.testing.assert_array_equal(network(params, x, label), module(x, label))
        module = Equinox(jax.random.key(0))
        network, params = from_equinox(module)
        one = equinox.nn.inference_mode(module)
        np.testing.assert_allclose(network(params, x, label)[2], one(x[2], label[2]), rtol=1e-6)
        batched = equinox.filter_vmap(one)
        network, params = from_equinox(batched, batched=True)
        np.testing.assert_allclose(network(params, x, label)[2], one(x[2], label[2]), rtol=1e-6)


def test_a_module_that_is_called_is_a_start_and_no_function_that_draws_one():
    _, params = from_equinox(Equinox(jax.random.key(0)))
    assert callable(params) and not is_init(params)
    assert is_init(lambda key: params) and is_init(jax.tree_util.Partial(jnp.multiply, jnp.ones(2)))
    assert not is_init({"w": jnp.ones(2)}) and drawn(params, jax.random.key(0)) is params


class Keyless(equinox.Module):
    weight: jax.Array

    def __call__(self, x, label, cond=None):
        return x * self.weight


def test_a_module_that_takes_no_key_is_given_none():
    network, params = from_equinox(Keyless(jnp.ones(3)))
    x = jnp.ones((2, 3))
    np.testing.assert_array_equal(network(params, x, jnp.ones(2), key=jax.random.key(0)), x)


class BatchNormed(nn.Module):
    @nn.compact
    def __call__(self, x, label, cond=None):
        return nn.BatchNorm(use_running_average=False)(x)


class WithList(nn.Module):
    widths: list

    def __call__(self, x, label, cond=None):
        return x


class Counted(equinox.Module):
    counts: jax.Array

    def __call__(self, x, label, cond=None):
        return x


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: init(BatchNormed(), jax.random.key(0), VECTOR), ValueError, "batch_stats"),
        (lambda: from_nnx(nnx.BatchNorm(3, rngs=nnx.Rngs(0))), ValueError, "state besides"),
        (lambda: from_linen(WithList([1])), TypeError, "use tuples"),
        (lambda: from_equinox(Counted(jnp.arange(3))), TypeError, "not floating point"),
        (
            lambda: from_linen(MLP())({"params": {}}, jnp.ones((2, 3)), jnp.ones(2)),
            ValueError,
            "pass that subtree",
        ),
        (
            lambda: init(MLP(), jax.random.key(0), VECTOR, cond=jnp.array([1])),
            ValueError,
            "without classes",
        ),
        (
            lambda: init(MLP(num_classes=2), jax.random.key(0), VECTOR, cond=jnp.array([1.0])),
            TypeError,
            "integer class indices",
        ),
        (
            lambda: init(MLP(num_classes=2), jax.random.key(0), VECTOR, cond=jnp.array([1, 1])),
            ValueError,
            "one class per sample",
        ),
        (lambda: init(MLP(), jax.random.key(0), IMAGE), ValueError, "takes x"),
    ],
)
def test_adapters_refuse_what_they_cannot_carry(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_missing_equinox_is_named(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == "equinox":
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModuleNotFoundError, match="pip install equinox"):
        from_equinox(object())
