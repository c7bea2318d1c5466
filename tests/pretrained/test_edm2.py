"""EDM2's networks and snapshots: published names and shapes, and golden numbers."""

import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.diffusers_cases import channels_last, distance, jit
from helpers.edm_cases import edm2_case, intermediates, place
from helpers.golden_numbers import SHARED
from helpers.published_keys import published

import jaxdiff as jd
from jaxdiff.distill.score_matching import score_matching_loss
from jaxdiff.networks.magnitude import unit_filters
from jaxdiff.pretrained import edm2, load_autoencoder, load_pretrained
from jaxdiff.pretrained.edm_shapes import shapes_of
from jaxdiff.pretrained.layout import check_layout
from jaxdiff.pretrained.opening import open_source
from jaxdiff.pretrained.pickles import Record, read_pickle
from jaxdiff.pretrained.posthoc import reconstruct, weighted_sum
from jaxdiff.pretrained.tensors import tensors_of

ANCHORS = {
    "edm2_img512_xs": (128, 124_713_253), "edm2_img512_s": (192, 280_212_837),
    "edm2_img512_m": (256, 497_807_781), "edm2_img64_s": (192, 280_209_381),
}  # fmt: skip
F32 = jnp.float32
LEAST = 1e-5  # float32; observed are 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ANCHORS)
def test_every_published_tensor_has_its_place(name):
    tensors = published(name)[0]
    module = edm2.network_of(tensors, {})
    shapes = shapes_of(module)
    check_layout(shapes, tensors, edm2.layout_of(module))
    constants = sum(
        s[0] for n, s in tensors.items() if n.endswith((".freqs", ".phases"))
    )  # not among the parameters that are counted
    counted = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert len(tensors) == 203
    assert (module.channels, counted - constants) == ANCHORS[name]


def opened(name, **options):
    said, arrays = edm2_case(name=name)
    arrays = {name: channels_last(array) for name, array in arrays.items()}
    return said, arrays, load_pretrained(SHARED / said["file"], **options)


def index_of(arrays):
    return arrays["labels"].argmax(axis=1) if "labels" in arrays else None


def test_a_snapshot_is_read():
    said, arrays, model = opened("edm2_uncond_0")
    assert {leaf.dtype for leaf in jax.tree.leaves(model.params)} == {jnp.dtype(jnp.float16)}
    assert model.metadata["num_images"] == 2_048_000 and model.metadata["ema_width"] == 0.1
    assert model.network.head_channels == said["init_kwargs"]["channels_per_head"]
    assert model.classes == 0 and model.parts == {} and "EDM2" in repr(model)
    out = jit(lambda x: model.denoiser(x, arrays["sigma"], full=True))(arrays["x"])
    assert distance(out.value, arrays["D"]) < LEAST
    assert distance(out.log_variance, arrays["logvar"].ravel()) < LEAST


@pytest.mark.slow
@pytest.mark.parametrize("name", ["edm2_cond_0", "edm2_uncond_0"])
def test_golden_outputs(name):
    said, arrays, model = opened(name, dtype=jnp.float32)
    _, weights = edm2_case(name=name)
    x, sigma, index = jnp.asarray(arrays["x"]), arrays["sigma"], index_of(arrays)
    level = np.exp(arrays["rnd_normal"].ravel() - 0.4)

    def denoise(params):
        return jax.tree_util.Partial(model.denoiser.func, params, *model.denoiser.args[1:])

    def weighed(x, params):
        return jnp.sum(denoise(params)(x, sigma, index) * arrays["grad_w"])

    @jax.jit
    def everything(x):
        full = model.denoiser(x, sigma, index, full=True)
        noisy = model.denoiser(
            arrays["images"] + level.reshape(-1, 1, 1, 1) * arrays["rnd_noise"], level, index,
            full=True,
        )  # fmt: skip
        gradients = jax.grad(weighed, (0, 1))(x, model.params)
        return full, noisy, model.denoiser(x, sigma), gradients, intermediates(
            model, x, sigma, index
        )  # fmt: skip

    full, noisy, none, (by_x, by_params), inner = everything(x)
    assert distance(full.value, arrays["D"]) < LEAST
    assert distance(full.log_variance, arrays["logvar"].ravel()) < LEAST
    if "D_labels_none" in arrays:
        assert distance(none, arrays["D_labels_none"]) < LEAST
    for name in said["act_order"]:
        here = inner[place(name.removeprefix("act:"), 16)]
        assert distance(here, arrays[name]) < LEAST, name
    assert distance(by_x, arrays["grad_x"]) < LEAST
    block = "unet.enc.16x16_block0.conv_res0.weight"
    kernel = by_params["down_0_block_0"]["conv_in"]["kernel"]
    assert distance(np.transpose(kernel, (3, 2, 0, 1)), weights[f"grad:{block}"]) < LEAST
    # the loss, number by number: w |D - x0|^2 / exp(u) + u
    weight = (level**2 + 0.25) / (0.5 * level) ** 2
    u = np.asarray(noisy.log_variance).reshape(-1, 1, 1, 1)
    loss = weight.reshape(-1, 1, 1, 1) * (noisy.value - arrays["images"]) ** 2 / np.exp(u) + u
    assert distance(loss, arrays["loss_map"]) < 5 * LEAST
    # its mean of a sample is that of score matching
    D = lambda y, s: noisy.value  # noqa: E731
    given = [arrays["images"], level, arrays["rnd_noise"], weight]
    own = score_matching_loss(D, *map(jnp.asarray, given))
    assert distance(own / np.exp(u.ravel()) + u.ravel(), loss.mean(axis=(1, 2, 3))) < LEAST
    normal = unit_filters(model.params)["down_0_block_0"]["conv_in"]["kernel"]
    assert distance(np.transpose(normal, (3, 2, 0, 1)), weights[f"train:{block}"]) < LEAST
    again = jax.jit(denoise(unit_filters(model.params)))(x, sigma, index)
    assert 0 < distance(again, np.asarray(full.value)) < 1e-3


# --- sampling with guidance by another network


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_golden_sampler(number):
    said, arrays = edm2_case(id=f"c000{2 + number}")
    assert said["what"] == "edm_sampler"
    nets = {}
    for role in ("net", "gnet"):
        found, _ = edm2_case(name=said[role])
        nets[role] = load_pretrained(SHARED / found["file"], dtype=jnp.float32)
    D = jd.guidance.autoguidance(
        nets["net"].denoiser, nets["gnet"].denoiser, said["guidance"],
        conditional=nets["gnet"].classes > 0,
    )  # fmt: skip
    grid = nets["net"].grid(said["num_steps"])
    index = arrays["labels"].argmax(axis=1)
    start = jnp.asarray(channels_last(arrays["z"]), F32) * float(grid[0])
    if said["S_churn"]:
        options = {"amount": said["S_churn"], "low": said["S_min"], "high": said["S_max"],
                   "inflate": said["S_noise"]}  # fmt: skip
        draws = iter(np.moveaxis(arrays["noise"], 2, -1))  # drawn where levels are raised
        raised = (grid[:-1] >= said["S_min"]) & (grid[:-1] <= said["S_max"])
        noises = iter([jnp.asarray(next(draws) if up else 0 * start, F32) for up in raised])
        call = jax.jit(lambda y, s: D(y, s, index))
        steps = jd.solvers.churn(call, start, grid.tolist(), lambda: next(noises), **options)
        *_, made = steps
    else:
        table = jd.table(jd.solvers.heun, grid)
        made = jd.sample(D, table, start, cond=index)
    assert distance(made, channels_last(arrays["final"])) < 2e-5


# --- latents


VAE = "StabilityVAEEncoder with the VAE golden/networks_diffusers/autoencoder_kl_0"


def test_golden_latents():
    _, arrays = edm2_case(what=VAE)
    encoder = Record("StabilityVAEEncoder", {"scale": arrays["scale"], "bias": arrays["bias"]})
    scale = edm2.latents_of(encoder)
    mean, std = np.split(channels_last(arrays["raw_latents_mean_std"]), 2, axis=-1)
    z = jnp.asarray(mean + std * channels_last(arrays["eps"]))
    latents = channels_last(arrays["final_latents"])
    assert distance(scale.scaled(z), latents) < LEAST
    assert distance(scale.unscaled(jnp.asarray(latents)), np.asarray(z)) < LEAST
    with pytest.raises(ValueError, match="MyEncoder"):
        edm2.latents_of(Record("MyEncoder", {}))


@pytest.mark.slow
def test_latents_are_of_an_autoencoder_of_diffusers():
    _, arrays = edm2_case(what=VAE)
    vae = load_autoencoder(SHARED / "networks_diffusers" / "autoencoder_kl_0")
    scale = edm2.LatentScale(arrays["scale"], arrays["bias"])
    latents = jnp.asarray(channels_last(arrays["final_latents"]))
    pixels = np.asarray(jax.jit(lambda x: scale.decode(x, vae))(latents)) * 255
    expected = channels_last(arrays["decoded"]).astype(int)
    assert np.abs(pixels.astype(np.uint8).astype(int) - expected).max() <= 1
    images = jnp.asarray(channels_last(arrays["pixels"]).astype(np.float32) / 255)
    mean = channels_last(arrays["raw_latents_mean_std"])[..., :4]
    made = jax.jit(lambda x: scale.encode(x, vae))(images)
    assert distance(made, np.asarray(scale.scaled(jnp.asarray(mean)))) < LEAST


# --- averages that were not stored


def test_averages_are_made_of_snapshots(tmp_path):
    """Copies of one file give that file, whatever the width; and sums are the sums."""
    said, _ = edm2_case(name="edm2_uncond_0")
    for name in ("a-0001024-0.050.pkl", "a-0001024-0.100.pkl", "a-0002048-0.050.pkl"):
        shutil.copy(SHARED / said["file"], tmp_path / name)
    model = reconstruct(tmp_path.iterdir(), std=0.08)
    stored = load_pretrained(SHARED / said["file"], dtype=jnp.float32)
    for made, kept in zip(
        jax.tree.leaves(model.params), jax.tree.leaves(stored.params), strict=True
    ):
        np.testing.assert_allclose(made, kept, rtol=1e-5, atol=1e-6)
    assert model.metadata["ema_width"] == 0.08 and model.metadata["num_images"] == 2_048_000
    early = reconstruct(tmp_path.iterdir(), std=0.08, num_images=1_024_000)
    assert len(early.metadata["snapshots"]) == 2
    for options, message in (
        ({"std": 0.3}, "width lies in"), ({"std": 0.1, "num_images": 5}, "no snapshot is of 5"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            reconstruct(tmp_path.iterdir(), **options)
    with pytest.raises(ValueError, match="at least two"):
        reconstruct([tmp_path / "a-0001024-0.050.pkl"], std=0.08)
    (tmp_path / "a-0001024-0.050.pkl").rename(tmp_path / "latest.pkl")
    with pytest.raises(ValueError, match="latest.pkl does not end in"):
        reconstruct(tmp_path.iterdir(), std=0.08)


def test_weighted_sums_of_tensors(rng):
    values = [{"a": rng.standard_normal((2, 3)), "b.freqs": rng.standard_normal(2)} for _ in "123"]
    files = [tensors_of(v, None, f"file {i}") for i, v in enumerate(values)]
    made = weighted_sum(files, [2.0, -3.0, 2.0])
    np.testing.assert_allclose(
        made["a"], 2 * values[0]["a"] - 3 * values[1]["a"] + 2 * values[2]["a"], rtol=1e-5
    )
    np.testing.assert_allclose(made["b.freqs"], values[2]["b.freqs"], rtol=1e-6)
    for other, message in (({"a": np.zeros(3)}, "b.freqs is not in both"),
                           ({"a": np.zeros(3), "b.freqs": np.zeros(2)}, "a is ")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            weighted_sum([tensors_of(other, None, "other"), files[0]], [1.0, 1.0])


# --- what is refused


@pytest.mark.parametrize(
    "config, message",
    [
        ({"heads": 3}, "no option heads"),
        ({"channels_per_head": 5}, "heads do not divide|cannot reshape"),
    ],
)
def test_options_that_do_not_fit_are_refused(config, message):
    said, _ = edm2_case(name="edm2_cond_0")
    with pytest.raises(ValueError, match=message):
        load_pretrained(SHARED / said["file"], config=config)


def test_another_class_is_refused():
    said, _ = edm2_case(name="edm2_uncond_0")
    made = read_pickle(SHARED / said["file"])
    made["ema"] = Record("MyPrecond", made["ema"].state)
    source = open_source(SHARED / said["file"])._replace(object=made)
    with pytest.raises(ValueError, match="a network MyPrecond"):
        edm2.read_edm2(source)
