"""Models saved: read back equal, and what has no place in a folder of diffusers is refused."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.diffusers_cases import jit

from jaxdiff.denoisers import denoiser, description
from jaxdiff.grids import karras
from jaxdiff.networks import UNet, from_linen
from jaxdiff.networks.parameters import init
from jaxdiff.networks.unet2d import UNet2D
from jaxdiff.pretrained import Pretrained, load_pretrained
from jaxdiff.pretrained.diffusers import natural_grid, unet_shapes
from jaxdiff.pretrained.saving import save_diffusers, save_safetensors, unet2d_config, write_tensors
from jaxdiff.pretrained.tensors import open_tensors
from jaxdiff.pretrained.unet2d import unet2d
from jaxdiff.process import EDM, VP, Discrete, RectifiedFlow, cosine_betas, discrete_label

NETWORK = UNet2D(
    channels=(4, 8), out_channels=2, down=("attention", "plain"), up=("plain", "attention"),
    blocks=1, head_width=4, groups=2, classes="index", num_classes=3, halve="block",
)  # fmt: skip


@functools.cache
def drawn(network=NETWORK):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.standard_normal(s.shape), unet_shapes(network, 2))


def model(prediction="v", network=NETWORK, dtype=np.float32, process=None, label=None):
    params = jax.tree.map(lambda p: p.astype(dtype), drawn())
    process = process or Discrete.from_betas(cosine_betas(100))
    label = label or discrete_label(100)
    D = denoiser(from_linen(network), params, prediction=prediction, process=process, label=label)
    return Pretrained(
        D, params, network, (8, 4, 2), prediction, process, lambda n: np.linspace(1, 0, n + 1), 3
    )


def test_a_folder_of_diffusers_is_read_back(tmp_path):
    made = model(dtype=jnp.bfloat16)
    save_diffusers(made, tmp_path / "folder")
    again = load_pretrained(tmp_path / "folder" / "unet")
    assert again.network == made.network and again.shape == made.shape and again.classes == 3
    assert {leaf.dtype for leaf in jax.tree.leaves(again.params)} == {jnp.dtype(jnp.bfloat16)}
    jax.tree.map(np.testing.assert_array_equal, again.params, made.params)
    said = json.loads((tmp_path / "folder" / "scheduler" / "scheduler_config.json").read_text())
    np.testing.assert_allclose(said["trained_betas"], cosine_betas(100), rtol=1e-9)
    assert said["prediction_type"] == "v_prediction"


NETWORKS = (
    NETWORK, UNet2D(), UNet2D(channels=(32, 64), down=("skip", "skip_attention"),
    up=("skip_attention", "skip"), time="fourier", blocks=1, padding=0),
    UNet2D(modulation="scale_shift", middle=False, time="learned", num_steps=7, centred=True,
           time_width=20, classes="waves", down=("resampling",) * 4, up=("resampling",) * 4,
           flip=False, freq_shift=1, dropout=0.25, activation="mish", double="block"),
    UNet2D(classes="vector", middle_scale=2.0, middle_groups=8, middle_attention=False, eps=1e-6),
)  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS)
def test_configurations_of_networks_are_read_back(network):
    config = json.loads(json.dumps(unet2d_config(network, (32, 32, 3))))
    assert unet2d(config) == network


def test_what_has_no_place_there_is_refused_before_anything_is_written(tmp_path):
    flow = RectifiedFlow()
    for made, message in (
        (model("flow"), "prediction 'flow' has no name"),
        (model("v", process=flow), "a RectifiedFlow process is no table"),
        (model("v", label=lambda t: t), "not conditioned on the step"),
        (model("v", NETWORK.clone(middle_groups=-1)), "middle_groups = -1"),
        (dataclasses.replace(model("v"), network=UNet()), "a UNet has no layout"),
    ):
        with pytest.raises(ValueError, match=message):
            save_diffusers(made, tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_a_file_has_the_parameters_and_a_card(tmp_path):
    made = model()
    save_safetensors(made, tmp_path / "model.safetensors")
    tensors = open_tensors(tmp_path / "model.safetensors")
    name = "up_1/block_0/conv_in/kernel"
    np.testing.assert_array_equal(
        tensors[name], made.params["up_1"]["block_0"]["conv_in"]["kernel"]
    )
    assert len(tensors) == len(jax.tree.leaves(made.params))
    assert tensors.metadata["prediction"] == "v" and tensors.metadata["network"] == "UNet2D"
    assert json.loads(tensors.metadata["fields"])["channels"] == [4, 8]


def test_a_file_is_read_back_with_its_process_and_label(tmp_path):
    made, path = model("eps"), tmp_path / "model.safetensors"
    save_safetensors(made, path)
    again = load_pretrained(path, dtype=jnp.float64)
    assert again.network == made.network and again.shape == made.shape and again.classes == 3
    np.testing.assert_allclose(again.process.log_alphas, made.process.log_alphas, rtol=1e-12)
    np.testing.assert_array_equal(again.grid(10), natural_grid(made.process)(10))
    assert description(again.denoiser)["label"] is discrete_label(100)
    assert {leaf.dtype for leaf in jax.tree.leaves(again.params)} == {jnp.dtype(jnp.float64)}
    jax.tree.map(np.testing.assert_array_equal, again.params, made.params)


def test_numbers_of_process_denoiser_and_grid_are_read_back(tmp_path):
    path, grid = tmp_path / "model.safetensors", functools.partial(karras, low=0.01, high=20.0)
    network, process = UNet(channels=8, multipliers=(1,), dtype=jnp.float32), VP(0.2, 15.0)
    params = init(network, jax.random.key(0), (4, 4, 1))
    D = denoiser(from_linen(network), params, prediction="v", process=process, sigma_min=0.25)
    known = {"name": "small", "updates": 3, "names": ["a", "b"]}
    save_safetensors(
        Pretrained(D, params, network, (4, 4, 1), "v", process, grid, metadata=known), path
    )
    again = load_pretrained(path)
    assert again.network == network and again.metadata == known
    assert (again.process.beta_min, again.process.beta_max) == (0.2, 15.0)
    assert D.args[-1] == again.denoiser.args[-1] and D.func == again.denoiser.func
    np.testing.assert_array_equal(again.grid(3), grid(3))
    edm = denoiser(from_linen(network), params, sigma_data=0.7)
    made = Pretrained(edm, params, network, (4, 4, 1), "edm", EDM(), karras)
    save_safetensors(made, path)
    assert load_pretrained(path).denoiser.args[2] == 0.7


def test_what_is_not_in_a_file_is_said_when_it_is_read(tmp_path):
    path, made = tmp_path / "model.safetensors", model("eps")
    own = model("eps", label=lambda t: t)
    D = denoiser(from_linen(NETWORK), made.params, prediction="flow", process=RectifiedFlow())
    flow = dataclasses.replace(made, process=RectifiedFlow(), denoiser=D)
    fourth = dataclasses.replace(made, network=made.network.clone(name="x"))
    save_safetensors(fourth, path)  # a module's name is none of its fields
    assert load_pretrained(path).network == made.network
    for wrong, message in ((own, "conditioned on a function"), (flow, "its grid was a function")):
        save_safetensors(wrong, path)
        with pytest.raises(ValueError, match=message):
            load_pretrained(path)
    tensors = open_tensors(path)
    for change, message in (
        ({"network": "os"}, "which is none of jaxdiff.networks"),
        ({"process": "level"}, "which is none of jaxdiff.process"),
        ({"fields": '{"size": 3}'}, "has no field 'size'"),
        ({"process_numbers": "{}"}, "does not say 'log_alphas'"),
    ):
        save_safetensors(made, path)
        tensors = open_tensors(path)
        write_tensors(path, dict(tensors), {**tensors.metadata, **change})
        with pytest.raises(ValueError, match=message):
            load_pretrained(path)


@pytest.mark.slow
def test_a_saved_model_denoises_alike(tmp_path):
    made = model("eps")
    save_diffusers(made, tmp_path)
    again = load_pretrained(tmp_path / "unet")
    inputs = jnp.ones((2, 8, 4, 2)), jnp.asarray([3.0, 90.0]), jnp.asarray([0, 2])
    first, second = (jit(from_linen(m.network))(m.params, *inputs) for m in (made, again))
    np.testing.assert_array_equal(first, second)
