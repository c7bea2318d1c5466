"""EDM's networks and snapshots: published names and shapes, and golden outputs."""

import dataclasses
import json
import math
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.diffusers_cases import distance, folder, jit
from helpers.edm_cases import (
    EDM_CASES,
    condition,
    edm_case,
    edm_family,
    intermediates,
    place,
)
from helpers.published_keys import published
from safetensors.numpy import load_file, save_file

from jaxdiff.networks.edm_blocks import EDMBlock, embedding_inputs, waves
from jaxdiff.networks.resampling import doubled, halved
from jaxdiff.pretrained import edm, load_pretrained
from jaxdiff.pretrained.edm_process import iddpm_levels, preconditioning
from jaxdiff.pretrained.edm_shapes import by_kind, shapes_of
from jaxdiff.pretrained.layout import Layout, check_layout, fill
from jaxdiff.process import level, time

ANCHORS = {  # tensors; parameters, without constants; the filter, which shapes do not determine
    "edm_cifar10_vp_uncond": (425, 55_733_891, (0.5, 0.5)),
    "edm_cifar10_vp_cond": (427, 55_735_299, (0.5, 0.5)),
    "edm_cifar10_ve_uncond": (432, 56_397_827, (0.125, 0.375, 0.375, 0.125)),
    "edm_ffhq64_vp": (553, 61_805_571, (0.5, 0.5)),
    "edm_imagenet64_adm_cond": (553, 295_899_267, None),
}
LEAST = 1e-5  # float32; observed are 6e-6 and less
F32 = jnp.float32


def slow_but(quick, names):
    return [n if n in quick else pytest.param(n, marks=pytest.mark.slow) for n in names]


@pytest.mark.parametrize("name", slow_but(("edm_cifar10_vp_uncond",), ANCHORS))
def test_every_published_tensor_has_its_place(name):
    tensors, (count, parameters, taps) = published(name)[0], ANCHORS[name]
    module = edm.network_of(tensors, taps)
    shapes = shapes_of(module)
    check_layout(shapes, tensors, edm.layout_of(module))
    constants = tensors.get("model.map_noise.freqs", (0,))[0]
    counted = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert (len(tensors), counted - constants) == (count, parameters)


def opened(name, **options):
    """The model of a golden case, of its bare tensors."""
    case, arrays = edm_case(name)
    config = {"class_name": case["precond_class"], **options}
    return case, arrays, load_pretrained(folder(case["state_dict"]), config=config)


def test_a_snapshot_is_read():
    """The pickle, and its options."""
    (path,) = folder("edm_pickles").glob("*.pkl")
    model = load_pretrained(path)
    assert model.network.dropout == 0.1 and model.classes == 10 and model.shape == (16, 16, 3)
    assert model.metadata["data"]["use_labels"] and "SongUNet" in repr(model)
    np.testing.assert_allclose(model.grid(18)[[0, -2, -1]], [80, 0.002, 0], rtol=1e-12)


@pytest.mark.slow
def test_a_snapshot_is_the_bare_tensors():
    _, arrays, bare = opened("edm_ddpmpp_cond")
    (path,) = folder("edm_pickles").glob("*.pkl")
    model = load_pretrained(path)
    for made, kept in zip(jax.tree.leaves(model.params), jax.tree.leaves(bare.params), strict=True):
        np.testing.assert_array_equal(made, kept)
    half = load_pretrained(path, dtype=jnp.bfloat16)
    assert {leaf.dtype for leaf in jax.tree.leaves(half.params)} == {jnp.dtype(jnp.bfloat16)}
    D = jit(lambda x, index: model.denoiser(x, arrays["sigma"], index))
    index = condition(arrays)["class"]
    assert distance(D(arrays["x"], index), arrays["D"]) < LEAST
    assert distance(D(arrays["x"], np.full_like(index, 10)), arrays["D_labels_none"]) < LEAST


def check_inner(case, arrays, inner):
    names = [a for a in arrays if a.startswith("act:")]
    assert len(names) >= 8
    for name in names:
        path = place(name.removeprefix("act:"), case["init_kwargs"]["img_resolution"])
        assert distance(inner[path], arrays[name]) < LEAST, name


def with_rounded_labels(model, sigma):
    """The model, with the authors' own labels: theirs are computed in float32, where 1 + sigma^2
    has few digits of a small sigma; they are multiplied by frequencies of up to 300.
    """
    s = np.asarray(sigma, np.float32)
    low, rise = np.float32(0.1), np.float32(19.9)
    t = (np.sqrt(low**2 + 2 * rise * np.log(1 + s**2)) - low) / rise
    labels = {"VP": np.float32(999) * t, "VE": np.log(np.float32(0.5) * s)}
    kind = type(model.process).__name__
    if kind not in labels:
        return model
    func = dataclasses.replace(model.denoiser.func, label=lambda t: jnp.asarray(labels[kind]))
    D = jax.tree_util.Partial(func, *model.denoiser.args)
    return dataclasses.replace(model, denoiser=D)


@pytest.mark.slow
@pytest.mark.parametrize("name", EDM_CASES)
def test_golden_outputs(name):
    case, arrays, model = opened(name)
    x, sigma, cond = jnp.asarray(arrays["x"]), arrays["sigma"], condition(arrays)
    plain = {k: v for k, v in (cond or {}).items() if k != "augment"} or None

    def weighed(x, params):
        D = jax.tree_util.Partial(model.denoiser.func, params, *model.denoiser.args[1:])
        return jnp.sum(D(x, sigma, cond) * arrays["grad_w"])

    @jax.jit
    def everything(x):
        outputs = [model.denoiser(x, sigma, c) for c in (cond, plain, None)]
        gradients = jax.grad(weighed, (0, 1))(x, model.params)
        return outputs, gradients, intermediates(model, x, sigma, cond)

    exact = jax.jit(lambda x: model.denoiser(x, sigma, cond))(x)
    assert distance(exact, arrays["D"]) < LEAST
    model = with_rounded_labels(model, sigma)
    outputs, (by_x, by_params), inner = everything(x)
    for made, expected in zip(outputs, ("D", "D_no_augment", "D_labels_none"), strict=True):
        if expected in arrays:
            assert distance(made, arrays[expected]) < LEAST, expected
    check_inner(case, arrays, inner)
    assert distance(by_x, arrays["grad_x"]) < LEAST
    kernel = by_params["embedding"]["dense_0"]["kernel"]
    assert distance(kernel.T, arrays["grad:model.map_layer0.weight"]) < LEAST
    # what is constant has no gradient
    fixed = by_params["embedding"].get("frequencies", jnp.zeros(1))
    assert not np.asarray(fixed).any()


# --- preconditionings


@pytest.mark.slow
def test_levels_of_vp_and_iddpm():
    cases, arrays = edm_family()
    vp = preconditioning({"class_name": "VPPrecond"})
    t = arrays["vp/vp_ddpmpp_uncond/t"].astype(np.float64)
    np.testing.assert_allclose(
        level(vp.process, t[1:]), arrays["vp/vp_ddpmpp_uncond/sigma"][1:], rtol=1e-5
    )
    case = cases["iddpm_adm_uncond"]
    model = preconditioning({"class_name": "iDDPMPrecond"})
    assert math.isclose(model.sigma_min, case["sigma_min"], rel_tol=1e-3)
    assert math.isclose(model.sigma_max, case["sigma_max"], rel_tol=1e-3)
    requested = arrays["round_sigma/iddpm_adm_uncond/q"].astype(np.float64)
    given = model.label(time(model.process, requested))
    index = arrays["round_sigma/iddpm_adm_uncond/index"]
    np.testing.assert_array_equal(given, 999 - index)
    near = np.asarray(model.levels)[index]
    np.testing.assert_allclose(near, arrays["round_sigma/iddpm_adm_uncond/out"], rtol=1e-3)


def test_grids_stay_where_networks_were_trained():
    grids = {n: preconditioning({"class_name": n}).grid(18) for n in edm.DEFAULTS}
    ends = {n: (g[0], g[-2], g[-1]) for n, g in grids.items()}
    np.testing.assert_allclose(ends["VEPrecond"], (80, 0.02, 0), rtol=1e-9)
    np.testing.assert_allclose(ends["VPPrecond"], (80, 0.002, 0), rtol=1e-9)
    known = iddpm_levels(1000, 0.001, 0.008)
    assert np.isin(grids["iDDPMPrecond"], known).all()
    with pytest.raises(ValueError, match="900 steps are more"):
        preconditioning({"class_name": "iDDPMPrecond"}).grid(900)


# --- parts


BLOCKS = {
    "block_attn2heads": {"channels": 16, "heads": 2},
    "block_attn_cph": {"channels": 24, "heads": 3},
    "block_up_f1331": {"channels": 12, "resample": "double", "taps": (1, 3, 3, 1),
                       "scale": 0.5**0.5, "eps": 1e-6},
    "block_down_f1331": {"channels": 8, "resample": "halve", "taps": (1, 3, 3, 1)},
    "block_down_f11_proj": {"channels": 8, "resample": "halve", "project": True,
                            "adaptive": False, "scale": 0.5**0.5},
    "block_noadapt": {"channels": 12, "adaptive": False, "scale": 0.6},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BLOCKS)
def test_golden_blocks(name):
    case, arrays = edm_case(name)
    tensors = load_file(folder(case["state_dict"]))
    own = {k: v for k, v in tensors.items() if k.startswith(case["prefix"])}
    module, prefix = EDMBlock(**BLOCKS[name]), re.escape(case["prefix"])
    change = lambda n, v: by_kind(v, module.heads) if ".qkv." in n else v  # noqa: E731
    rules = tuple((prefix + theirs, ours) for theirs, ours in edm.PARTS)
    layout = Layout(rules, unused=(r".*resample_filter",), change=change)
    shapes = jax.eval_shape(module.init, jax.random.key(0), arrays["x"], arrays["emb"])
    made = jax.jit(module.apply)(
        {"params": fill(shapes["params"], own, layout)}, arrays["x"], arrays["emb"]
    )
    assert distance(made, arrays["y"]) < LEAST


@pytest.mark.slow
def test_golden_filters():
    """Convolutions with resampling, whose kernel is applied in NumPy."""
    cases, _ = edm_family()
    tensors = load_file(folder(cases["conv_k3_up"]["state_dict"]))
    taps = (1.0, 3.0, 3.0, 1.0)
    for name, before in {
        "conv_k3_up": lambda x: doubled(x, taps), "conv_k3_down": lambda x: halved(x, taps),
        "conv_k0_down": halved,
    }.items():  # fmt: skip
        case, arrays = edm_case(name)
        y = before(jnp.asarray(arrays["x"]))
        weight = tensors.get(f"{case['prefix']}weight")
        if weight is not None:
            pads = np.pad(y, ((0, 0), (1, 1), (1, 1), (0, 0)))
            parts = [
                pads[:, i : i + y.shape[1], j : j + y.shape[2]] @ weight[:, :, i, j].T
                for i in range(3)
                for j in range(3)
            ]
            y = sum(parts) + tensors[f"{case['prefix']}bias"]
        assert distance(y, arrays["y"]) < LEAST, name
    with pytest.raises(ValueError, match="even number of weights"):
        halved(jnp.zeros((1, 4, 4, 1)), (1.0, 2.0, 1.0))


def test_golden_waves():
    for name, endpoint in (("emb_positional_endpoint", True), ("emb_positional", False)):
        case, arrays = edm_case(name)
        made = waves(jnp.asarray(arrays["x"]), case["num_channels"], endpoint)
        assert distance(made, arrays["y"]) < 3e-5, name  # of angles of hundreds, in float32


# --- what is refused


@pytest.fixture
def bare(tmp_path):
    """A file of the smallest case's tensors, changed by a function."""

    def write(change, name="edm_ddpmpp_uncond_aug"):
        case, _ = edm_case(name)
        tensors = load_file(folder(case["state_dict"]))
        change(tensors)
        save_file(tensors, tmp_path / "net.safetensors")
        return tmp_path / "net.safetensors"

    return write


@pytest.mark.parametrize(
    "change, config, message",
    [
        (lambda t: None, {}, "do not say how the network is preconditioned"),
        (lambda t: None, {"class_name": "MyPrecond"}, "'MyPrecond', which is none of"),
        (lambda t: None, {"class_name": "EDMPrecond", "heads": 3}, "no option heads"),
        (lambda t: None, {"class_name": "EDMPrecond", "sigma_data": "x"}, "sigma_data is 'x'"),
        (lambda t: None, {"class_name": "EDMPrecond", "sigma_min": 90, "sigma_max": 9}, "from 90"),
        (lambda t: None, {"class_name": "iDDPMPrecond", "M": 10**9}, "M is 1000000000"),
        (lambda t: None, {"class_name": "iDDPMPrecond", "C_1": 0}, "C_1 lies in"),
        (lambda t: None, {"class_name": "VPPrecond", "beta_d": -9.0}, "beta"),
        (
            lambda t: t.update({"model.map_layer0.weight": np.zeros(3, np.float32)}),
            None, "map_layer0.weight has shape",
        ),
        (lambda t: t.pop("model.enc.8x8_block0.conv0.weight"), None, "conv0.weight is missing"),
        (lambda t: t.pop("model.dec.16x16_aux_conv.bias"), None, "out_conv.bias is missing"),
        (
            lambda t: t.update({"model.dec.16x16_up.skip.resample_filter": np.zeros((2, 2))}),
            None, "is not a filter",
        ),
        (lambda t: None, {"class_name": "iDDPMPrecond"}, "2 times as many outputs"),
        (lambda t: t.update({"model.more.weight": np.zeros(1, np.float32)}), None, "model.more"),
        (lambda t: t.pop("model.enc.8x8_block0.conv1.bias"), None, "down_1_block_0/conv_out/bias"),
        (
            lambda t: t.update({"model.map_layer1.bias": np.zeros(31, np.float32)}),
            None, "model.map_layer1.bias has shape",
        ),
        (lambda t: t.update({"model.enc.4x5_up.a": np.zeros(1, np.float32)}), None, "4"),
    ],
)  # fmt: skip
def test_files_that_are_not_edm_are_refused(bare, change, config, message):
    config = {"class_name": "EDMPrecond"} if config is None else config
    with pytest.raises(ValueError, match=message) as caught:
        load_pretrained(bare(change), config=config)
    assert "net.safetensors" in str(caught.value)


def test_a_folder_with_a_configuration_is_read(bare, tmp_path):
    path = bare(lambda tensors: None)
    shutil.move(path, tmp_path / "model.safetensors")
    said = {"class_name": "training.networks.VPPrecond", "beta_min": 0.2}
    (tmp_path / "config.json").write_text(json.dumps(said))
    model = load_pretrained(tmp_path)
    assert model.prediction == "eps" and model.process.beta_min == 0.2
    assert math.isclose(model.process.beta_max, 20.1)


@pytest.mark.parametrize(
    "cond, message",
    [
        ({"augment": np.zeros((4, 8))}, r"labels of augmentation are \(4, 9\)"),
        ({"more": 1}, "'class' and 'augment'; got"),
        (np.zeros(4, np.int32), "without classes"),
    ],
)
def test_conditions_that_do_not_fit_are_refused(cond, message):
    with pytest.raises(ValueError, match=message):
        embedding_inputs(np.zeros(4), cond, 0, 9)
    with pytest.raises(ValueError, match="no input of this network"):
        embedding_inputs(np.zeros(4), {"augment": np.zeros((4, 9))}, 0, 0)
