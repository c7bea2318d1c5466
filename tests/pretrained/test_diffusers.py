"""Diffusers' U-Nets and autoencoders: published names and shapes, and golden outputs."""

import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.diffusers_cases import case, distance, folder, jit
from helpers.golden_numbers import SHARED
from helpers.published_keys import published
from safetensors.numpy import load_file, save_file

from jaxdiff.pretrained import load_autoencoder, load_pretrained, unet2d, unet2d_condition
from jaxdiff.pretrained.autoencoders import autoencoder_kl, autoencoder_tiny, taesd, tiny_layout
from jaxdiff.pretrained.diffusers import unet_shapes
from jaxdiff.pretrained.layout import check_layout
from jaxdiff.pretrained.unet_names import autoencoder_layout

ANCHORS = {  # tensors and parameters
    "unet2d_cifar10": (328, 35_746_307), "unet2d_256": (450, 113_673_219),
    "sd15": (686, 859_520_964), "sd21": (686, 865_910_724), "sdxl": (1680, 2_567_463_684),
    "lcm_sd15": (687, 859_602_884), "vae_sd": (248, 83_653_863), "vae_flux": (244, 83_819_683),
    "taesd": (134, 2_445_063),
}  # fmt: skip
QUICK = ("taesd",)
LEAST = 1e-5  # float32; observed are 1e-6


def network(name, config):
    """Shapes of the parameters, and the layout."""
    if name == "taesd":
        made = autoencoder_tiny(config)
        return _autoencoder_shapes(made), tiny_layout(made)
    if name.startswith("vae"):
        made = autoencoder_kl(config)
        return _autoencoder_shapes(made), autoencoder_layout(len(made.channels))
    reader = unet2d if name.startswith("unet2d") else unet2d_condition
    made = getattr(reader, reader.__name__.split(".")[-1])(config)
    return unet_shapes(made, config["in_channels"]), reader.layout(made)


def _autoencoder_shapes(made):
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    return jax.eval_shape(made.init, jax.random.key(0), x)["params"]


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ANCHORS]
)
def test_every_published_tensor_has_its_place(name):
    tensors, config = published(name)
    shapes, layout = network(name, config)
    check_layout(shapes, tensors, layout)
    counted = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert (len(tensors), counted) == ANCHORS[name]


def stages(levels):
    """Published names of the maps that ``full`` returns, in their order."""
    down, up = ([f"act:{way}_blocks.{i}" for i in range(levels)] for way in ("down", "up"))
    return [*down, "act:mid_block", *up]


def outputs(model, arrays, cond):
    x, label = arrays["x"], arrays["t"].astype(np.float32)
    apply = model.network.apply
    run = jit(lambda p, *inputs: apply({"params": p}, *inputs, full=True))
    return run(model.params, x, label, cond)


def check_outputs(model, arrays, cond=None):
    made = outputs(model, arrays, cond)
    assert distance(made.value, arrays["out"]) < LEAST
    names = stages(len(model.network.channels))
    assert len(made.features) == len(names)
    for name, got in zip(names, made.features, strict=True):
        assert distance(got[:1], arrays[name]) < LEAST, name


def test_the_unet_of_ddpm():
    model = load_pretrained(folder("networks_diffusers/unet2d_0"))
    _, arrays = case("networks_diffusers_io", cls="UNet2DModel")
    check_outputs(model, arrays)
    assert (model.shape, model.classes, model.cond) == ((16, 16, 3), 0, "")
    assert "linear betas" in model.metadata["assumed"]
    grid = model.grid(10)
    assert len(grid) == 11 and grid[-1] == 0 and (np.diff(grid) < 0).all()


@pytest.mark.slow
def test_the_gradient_of_the_unet_of_ddpm():
    model = load_pretrained(folder("networks_diffusers/unet2d_0"))
    _, arrays = case("networks_diffusers_io", cls="UNet2DModel")
    label = arrays["t"].astype(np.float32)

    def total(x):
        return (model.network.apply({"params": model.params}, x, label) * arrays["grad_w"]).sum()

    assert distance(jit(jax.grad(total))(arrays["x"]), arrays["grad_x"]) < LEAST


def given(arrays):
    names = {
        "encoder_hidden_states": "tokens", "text_embeds": "pooled", "time_ids": "time_ids",
    }  # fmt: skip
    return {ours: arrays[theirs] for theirs, ours in names.items() if theirs in arrays}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd15", "sd21", "sdxl"])
def test_the_unets_of_stable_diffusion(kind):
    model = load_pretrained(folder(f"pipelines_sd/{kind}_0/unet"))
    _, arrays = case("pipelines_sd_io", kind=kind, what="unet")
    check_outputs(model, arrays, given(arrays))
    masked = given(arrays) | {"mask": arrays["encoder_attention_mask"]}
    assert distance(outputs(model, arrays, masked).value, arrays["out_masked"]) < LEAST


@pytest.mark.slow
def test_the_unet_of_latent_consistency_models():
    model = load_pretrained(folder("adapters/unet_lcm_0"))
    _, arrays = case("adapters_io", folder="adapters/unet_lcm_0")
    without = outputs(model, arrays, given(arrays))
    assert distance(without.value, arrays["out_none"]) < LEAST
    cond = given(arrays) | {"guidance": 1 + arrays["w_minus_1"]}
    assert distance(outputs(model, arrays, cond).value, arrays["out"]) < 1e-4  # 1000 (w - 1)


@pytest.mark.slow
def test_maps_of_controlnet_and_t2i_adapter_are_added():
    model = load_pretrained(folder("pipelines_sd/sd15_0/unet"))
    run = jit(
        lambda x, label, cond, **more: model.network.apply(
            {"params": model.params}, x, label, cond, **more
        )
    )
    _, arrays = case("adapters_io", what="ControlNetModel")
    label = arrays["t"].astype(np.float32)
    maps = [arrays[f"down_res.{i}"] for i in range(4)] + [arrays["mid_res"]]
    made = run(arrays["x"], label, given(arrays), residuals=maps)
    assert distance(made, arrays["unet_out_scale1.0"]) < LEAST
    _, arrays = case("adapters_io", folder="adapters/t2i_0")
    maps, label = [arrays["feature.0"], arrays["feature.1"]], arrays["t"].astype(np.float32)
    made = run(arrays["x"], label, given(arrays), adapter=maps)
    assert distance(made, arrays["unet_out_scale1.0"]) < LEAST
    with pytest.raises(ValueError, match="residuals are 5 maps"):
        run(arrays["x"], label, given(arrays), residuals=maps)
    with pytest.raises(ValueError, match="1 maps more than the network has stages"):
        run(
            arrays["x"],
            label,
            given(arrays),
            adapter=[*maps, arrays["feature.1"][:, :1]] * 1 + maps[:1],
        )


@pytest.mark.slow
def test_the_tiny_autoencoder():
    model = load_autoencoder(folder("adapters/taesd_0"))
    _, arrays = case("adapters_io", folder="adapters/taesd_0")
    assert distance(jit(model.encode)(arrays["image"]), arrays["latents"]) < LEAST
    assert distance(jit(model.decode)(arrays["latents"]), arrays["decoded"]) < LEAST
    with pytest.raises(ValueError, match="not drawn"):
        model.encode(arrays["image"], jax.random.key(0))
    with pytest.raises(ValueError, match="load_autoencoder"):
        load_pretrained(folder("adapters/taesd_0"))
    with pytest.raises(ValueError, match="divisible by 4"):
        model.encode(arrays["image"][:, :15])


@pytest.mark.slow
def test_autoencoders_and_their_moments():
    model = load_autoencoder(folder("networks_diffusers/autoencoder_kl_0"))
    _, arrays = case("networks_diffusers_io", cls="AutoencoderKL")
    encode = jit(lambda x: model.network.apply({"params": model.params}, x, method="encode"))
    assert distance(encode(arrays["x"]), arrays["moments"]) < LEAST
    made = jit(model.decode)(arrays["mean"] * np.float32(0.18215))
    assert distance(made, arrays["decoded_of_mean"]) < LEAST
    mean, drawn = model.encode(arrays["x"]), model.encode(arrays["x"], jax.random.key(0))
    apart = (drawn - mean) / np.float32(0.18215) / arrays["std"]
    assert 0.9 < float(jnp.std(apart)) < 1.1

    model = load_autoencoder(folder("adapters/kl16_0"))
    _, arrays = case("adapters_io", folder="adapters/kl16_0")
    assert distance(jit(model.encode)(arrays["image"]), arrays["model_latents"]) < LEAST
    assert distance(jit(model.decode)(arrays["model_latents"]), arrays["decoded"]) < LEAST
    for kind in ("sd15", "sd21", "sdxl"):
        model = load_autoencoder(folder(f"pipelines_sd/{kind}_0/vae"))
        cases = {"kind": kind, "what": "vae; decoded = decode(z/scaling_factor)"}
        _, arrays = case("pipelines_sd_io", **cases)
        assert distance(jit(model.decode)(arrays["z"]), arrays["decoded"]) < LEAST


@pytest.mark.slow
def test_a_real_tiny_autoencoder_returns_a_picture():
    weights = SHARED.parent / "data" / "weights"
    if not weights.exists():
        pytest.skip("the real weights are not beside this checkout")
    halves = [weights / f"taef2_{half}.pth" for half in ("encoder", "decoder")]
    model = taesd(*halves)
    assert (model.factor, model.channels) == (8, 32)
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {np.dtype(np.float16)}
    i, j = np.mgrid[0:128, 0:128] / np.float32(128)
    waves = [np.sin(6 * i + 3 * j), np.cos(9 * j), np.sin(12 * i * j)]
    image = np.stack(waves, axis=-1)[None].astype(np.float32) * np.float32(0.8)
    latents = jit(model.encode)(image)
    back = np.clip(jit(model.decode)(latents), -1, 1)
    assert latents.shape == (1, 16, 16, 32)
    assert 10 * math.log10(4 / float(np.mean((back - image) ** 2))) > 24
    half = load_autoencoder(halves[0])
    np.testing.assert_array_equal(jit(half.encode)(image), latents)
    with pytest.raises(ValueError, match="no decoder"):
        half.decode(latents)
    with pytest.raises(ValueError, match="is not TAESD's encoder"):
        taesd(*halves[::-1])


@pytest.fixture
def copied(tmp_path):
    """A copy of a golden folder, and what changes its tensors and its configuration."""
    source = folder("networks_diffusers/unet2d_0")
    shutil.copytree(source, tmp_path / "unet", copy_function=shutil.copyfile)
    (tmp_path / "unet").chmod(0o755)
    path = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"

    def change(tensors=lambda t: t, **config):
        save_file(tensors(load_file(path)), path)
        where = tmp_path / "unet" / "config.json"
        where.write_text(json.dumps(json.loads(where.read_text()) | config))
        return tmp_path / "unet"

    return change


def test_tensors_that_do_not_fit_are_named(copied):
    bias = "up_blocks.0.resnets.1.conv1.bias"
    more = lambda t: t | {"head.weight": np.zeros(3, np.float32)}  # noqa: E731
    with pytest.raises(ValueError, match=r"without a place .* head\.weight"):
        load_pretrained(copied(more))
    fewer = lambda t: {k: v for k, v in t.items() if k not in (bias, "head.weight")}  # noqa: E731
    with pytest.raises(ValueError, match="without a tensor .* up_1/block_1/conv_in/bias"):
        load_pretrained(copied(fewer))
    other = lambda t: t | {bias: np.zeros(5, np.float32)}  # noqa: E731
    with pytest.raises(ValueError, match=rf"{bias} has shape \[5\]"):
        load_pretrained(copied(other))


def test_fields_that_are_not_supported_are_named(copied):
    for config, message in (
        ({"down_block_types": ["DownBlock2D", "KDownBlock2D"]}, "KDownBlock2D"),
        ({"act_fn": "tanh"}, "act_fn must be"),
        ({"sample_size": None}, "sample_size"),
        ({"wavelets": 3}, "no field 'wavelets'"),
        ({"layers_per_block": 1.5}, "layers_per_block must be a positive whole"),
        ({"block_out_channels": [8, 16, 32]}, "as long as block_out_channels"),
    ):
        before = json.loads((copied() / "config.json").read_text())
        with pytest.raises(ValueError, match=message):
            load_pretrained(copied(**config))
        (copied() / "config.json").write_text(json.dumps(before))


@pytest.mark.slow
def test_old_names_and_kernels_of_attention_layers_are_read(copied):
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def older(tensors):
        def named(name):
            for ours, theirs in new.items():
                name = name.replace(f".{ours}.", f".{theirs}.")
            return name

        def as_convolution(name, value):
            old = any(f".{n}.weight" in name for n in new.values())
            return value[:, :, None, None] if old else value

        return {named(n): as_convolution(named(n), v) for n, v in tensors.items()}

    expected = load_pretrained(folder("networks_diffusers/unet2d_0")).params
    made = load_pretrained(copied(older)).params
    jax.tree.map(np.testing.assert_array_equal, made, expected)
