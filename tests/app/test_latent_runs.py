"""Latent runs: an autoencoder is trained or read, kept with the run, and its latents sampled."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import operators as ops
from jaxdiff import posterior
from jaxdiff.app import config as configs
from jaxdiff.app import edit as editing
from jaxdiff.app import restore
from jaxdiff.app.latents import (
    FILE,
    check_latent,
    kept_autoencoder,
    latent_shape,
    latent_source,
    network_of,
    with_latents,
)
from jaxdiff.app.load import load_model
from jaxdiff.app.models import Model
from jaxdiff.app.presets import PRESETS
from jaxdiff.app.published import from_pictures, to_pictures
from jaxdiff.app.restoration_scores import picture_rows, scores
from jaxdiff.app.train import train
from jaxdiff.networks import AutoencoderTiny
from jaxdiff.pretrained import load_autoencoder
from jaxdiff.pretrained.model import Autoencoder
from jaxdiff.pretrained.saving import save_safetensors
from jaxdiff.process import EDM

pytestmark = pytest.mark.usefixtures("as_users")

SMALL = configs.Latent(channels=(8, 8), latent_channels=2, updates=2, batch=4)
VQ = configs.Latent(regulariser="vq", channels=(8, 8), latent_channels=2, codes=5)


def drawn(latent):
    """An autoencoder with random parameters."""
    network, rng = network_of(latent, 1), np.random.default_rng(0)
    x = np.zeros((1, 8, 8, 1), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda p: rng.normal(0, 0.3, p.shape).astype(p.dtype), shapes)
    return Autoencoder(params, network, 2, 2, 1.7, 0.2, latent.regulariser == "kl", {"name": "own"})


@pytest.mark.parametrize("latent", [SMALL, VQ], ids=["kl", "vq"])
def test_a_saved_autoencoder_is_read_back(latent, tmp_path):
    vae = drawn(latent)
    save_safetensors(vae, tmp_path / FILE)
    again = load_autoencoder(tmp_path / FILE)
    assert again.network == vae.network and again.random == vae.random
    assert (again.factor, again.channels, float(again.scale), float(again.shift)) == (
        2,
        2,
        1.7,
        0.2,
    )
    assert again.metadata["name"] == "own"
    jax.tree.map(np.testing.assert_array_equal, again.params, vae.params)
    assert kept_autoencoder("elsewhere", tmp_path).network == vae.network
    with pytest.raises(FileNotFoundError, match="put it back"):
        kept_autoencoder(str(tmp_path / "none"), None)
    given = dataclasses.replace(configs.Latent(), autoencoder=str(tmp_path))
    assert latent_shape(given, (8, 8, 1)) == (4, 4, 2) == latent_shape(latent, (8, 8, 1))


def test_half_an_autoencoder_is_refused_by_name(tmp_path):
    network = AutoencoderTiny((4, 4), (1, 1), (4, 4), (1, 1), 1, 1, 2, halves=("encoder",))
    x = np.zeros((1, 8, 8, 1), np.float32)
    shapes = jax.eval_shape(lambda k: network.init(k, x, part="encode"), jax.random.key(0))
    params = jax.tree.map(lambda p: np.zeros(p.shape, p.dtype), shapes["params"])
    save_safetensors(Autoencoder(params, network, 2, 2), tmp_path / FILE)
    with pytest.raises(ValueError, match="has no decoder"):
        latent_shape(configs.Latent(str(tmp_path)), (8, 8, 1))


@pytest.mark.parametrize(
    ("latent", "shape", "message"),
    [
        (
            configs.Latent("a", codes=3),
            (8, 8, 1),
            "--latent.codes would have no effect.*trained already",
        ),
        (configs.Latent(codes=3), (8, 8, 1), "--latent.codes would .* of the regulariser vq"),
        (
            dataclasses.replace(VQ, kl_weight=1.0),
            (8, 8, 1),
            "--latent.kl-weight would .* of the regulariser kl",
        ),
        (configs.Latent(), (7, 8, 1), "sides divisible by 2"),
        (configs.Latent(), (8, 1), "sides divisible by 2"),
    ],
)
def test_options_that_do_not_go_together_are_refused_by_name(latent, shape, message):
    with pytest.raises(ValueError, match=message):
        check_latent(latent, shape)


@pytest.mark.slow
@pytest.mark.parametrize("latent", [SMALL, dataclasses.replace(VQ, updates=2, batch=4)])
def test_a_latent_run_trains_both_stages_samples_and_goes_on(latent, tmp_path):
    config = dataclasses.replace(
        PRESETS["latent"][1], run=str(tmp_path / "run"), updates=2, batch=4, latent=latent,
        network=configs.MLP(width=8, depth=1, embedding=8), data=configs.Data(limit=40),
    )  # fmt: skip
    model = train(config, progress=False)
    assert model.shape == (4, 4, 2) and model.bounds is None and model.published is None
    vae = model.source.parts["vae"]
    images = np.random.default_rng(1).uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32)
    z = from_pictures(model.source, images)
    np.testing.assert_allclose(z, vae.encode(images), atol=1e-5)
    np.testing.assert_allclose(
        to_pictures(model.source, z), np.clip(vae.decode(z), -1, 1), atol=1e-5
    )
    batch = with_latents(lambda step: {"image": images, "label": [1, 2, 3]}, vae)(0)
    np.testing.assert_array_equal(batch["image"], z)
    (tmp_path / "run").rename(tmp_path / "moved")
    moved = load_model(tmp_path / "moved")
    assert moved.source.parts["vae"].network == vae.network
    more = train(dataclasses.replace(config, run=str(tmp_path / "moved"), updates=3), False)
    jax.tree.map(
        np.testing.assert_array_equal, more.source.parts["vae"].params, vae.params
    )  # not trained again


@pytest.mark.slow
def test_restoration_measures_the_pixels_of_latents(tmp_path, monkeypatch):
    """Methods see the operator through the decoder; what they give is decoded and scored."""
    vae = drawn(SMALL)
    D = jax.tree_util.Partial(lambda y, level, cond=None: y / (1 + level**2))
    source = latent_source(D, {}, None, (4, 4, 2), 0, "edm", EDM(), vae)
    metadata = {"data": None, "class_names": (), "sigma_data": 1.0, "kind": "teacher"}
    model = Model(D, {}, (4, 4, 2), 0, False, metadata, None, source)
    monkeypatch.setattr(restore, "load_model", lambda *given: model)
    images = np.random.default_rng(3).uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)
    np.savez(tmp_path / "own.npz", images=images)
    config = configs.Restore(
        "latents", images=(str(tmp_path / "own.npz"),), range=(-1.0, 1.0), task="super",
        num_steps=2, samples=1, method="dps", noise=0.1,
    )  # fmt: skip
    setting, chosen, _ = restore.prepared(config, progress=False)
    np.testing.assert_array_equal(setting.given.truth, images)
    z = np.random.default_rng(4).normal(size=(3, 4, 4, 2)).astype(np.float32)
    small = np.asarray(vae.decode(z)).reshape(3, 4, 2, 4, 2, 1).mean((2, 4))
    np.testing.assert_allclose(setting.own.apply(z), small, atol=1e-5)
    found, _ = restore.restored_by("dps", setting, config)
    assert chosen == ["dps"] and found.shape == (2, 1, 8, 8, 1) and np.abs(found).max() <= 1
    numbers = scores(found, setting)
    apart = np.mean((found[:, 0] - images) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(numbers["by image"]["psnr"], 10 * np.log10(4 / apart), rtol=1e-5)
    assert picture_rows(setting, {"dps": found})["dps"].shape[2:] == (8, 8, 1)
    own = dataclasses.replace(config, method="resample")
    fitted = scores(restore.restored_by("resample", setting, own)[0], setting)["misfit"]
    assert fitted < 0.5 * numbers["misfit"]
    found, _ = restore.restored_by("psld", setting, config)
    pixels = ops.Measurement(setting.seen.operator, setting.seen.observation, 0.1)
    guided = posterior.psld(D, pixels, vae.encode, vae.decode, setting.levels)
    table = jd.table(jd.solvers.ddim, setting.levels, eta=1.0)
    key = jax.random.key(config.seed)
    latents = jd.sample(guided, table, jd.start(key, table, 2, (4, 4, 2)), key=key)
    np.testing.assert_allclose(found[:, 0], np.clip(vae.decode(latents), -1, 1), atol=1e-4)
    with pytest.raises(ValueError, match="psld does not take this measurement: it is for linear"):
        restore.prepared(dataclasses.replace(config, method="psld", task="jpeg"), progress=False)
    with pytest.raises(ValueError, match="this one is not. These do: dps"):
        restore.prepared(dataclasses.replace(config, method="mmps"), progress=False)


def test_editing_goes_through_the_latents(tmp_path, monkeypatch):
    """Latents of one Gaussian move to another's, by the difference of means; pixels follow."""
    vae = drawn(SMALL)

    def model(mean, own):
        D = jax.tree_util.Partial(lambda y, level, cond=None: mean + (y - mean) / (1 + level**2))
        source = latent_source(D, {}, None, (4, 4, 2), 0, "edm", EDM(), own)
        metadata = {"data": None, "class_names": (), "sigma_data": 1.0, "kind": "teacher"}
        return Model(D, {}, (4, 4, 2), 0, False, metadata, None, source)

    other = dataclasses.replace(vae, scale=vae.scale * 2)
    known = {"to": model(0.5, vae), "from": model(0.0, vae), "other": model(0.0, other)}
    monkeypatch.setattr(editing, "load_model", lambda run, *given: known[run])
    images = np.random.default_rng(3).uniform(-1, 1, (2, 8, 8, 1)).astype(np.float32)
    np.savez(tmp_path / "own.npz", images=images)
    config = configs.Edit(
        "to", source="from", method="flow_edit", images=(str(tmp_path / "own.npz"),), num_steps=60,
        range=(-1.0, 1.0), out=str(tmp_path / "out"), strength=1.0, samples=1,
    )  # fmt: skip
    editing.edit(config, progress=False)
    with np.load(tmp_path / "out" / "edited.npz") as saved:
        np.testing.assert_array_equal(saved["original"], images)
        found = saved["edited"][:, 0]
    moved = np.clip(vae.decode(vae.encode(images) + 0.5), -1, 1)
    assert np.abs(moved - np.clip(vae.decode(vae.encode(images)), -1, 1)).max() > 0.1
    np.testing.assert_allclose(found, moved, atol=0.01)
    bare = known["to"].source
    known["bare"] = known["to"]._replace(source=dataclasses.replace(bare, parts={}))
    with pytest.raises(ValueError, match="makes latents, and has no autoencoder"):
        editing.edit(dataclasses.replace(config, run="bare"), progress=False)
    with pytest.raises(ValueError, match="--source has another autoencoder"):
        editing.edit(dataclasses.replace(config, source="other"), progress=False)
