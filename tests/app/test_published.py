"""Published weights and a user's own module, wherever a command takes a run."""

import dataclasses
import functools
import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.golden_numbers import SHARED

from jaxdiff.app import config as configs
from jaxdiff.app import main as cli
from jaxdiff.app.load import load_model
from jaxdiff.app.published import from_pictures, is_published, to_pictures
from jaxdiff.app.samplers import make_sampler, range_text
from jaxdiff.denoisers import denoiser
from jaxdiff.networks import from_linen
from jaxdiff.networks.unet2d import UNet2D
from jaxdiff.pretrained import Pretrained, load_pretrained
from jaxdiff.pretrained.diffusers import natural_grid, unet_shapes
from jaxdiff.pretrained.saving import save_diffusers
from jaxdiff.process import Discrete, discrete_label
from jaxdiff.training.checkpoint import fingerprint, save_params

pytestmark = pytest.mark.usefixtures("as_users")

STEPS = 20
PROCESS = Discrete.from_betas(np.linspace(1e-3, 0.5, STEPS))
NETWORK = UNet2D(
    channels=(4,), out_channels=1, down=("plain",), up=("plain",), blocks=1, groups=2,
    middle=False, classes="index", num_classes=2,
)  # fmt: skip
MODULE = """
import jax.numpy as jnp

class Gaussian:
    shape = (2, 2, 1)

    def __call__(self, y, level, cond=None):
        variance = 0.25
        return y * variance / (variance + jnp.reshape(level, (-1, 1, 1, 1)) ** 2)

def make():
    return Gaussian()

def nothing():
    return 3
"""


@functools.cache
def published(seed=0):
    """A small model of images 4 x 4 of two classes."""
    random = np.random.default_rng(seed)
    draw = lambda s: 0.3 * random.standard_normal(s.shape).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, unet_shapes(NETWORK, 1))
    label = discrete_label(STEPS)
    D = denoiser(from_linen(NETWORK), params, prediction="v", process=PROCESS, label=label)
    return Pretrained(
        D, params, NETWORK, (4, 4, 1), "v", PROCESS, natural_grid(PROCESS), 2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The model's folder, and images of two classes."""
    folder = tmp_path_factory.mktemp("published")
    save_diffusers(published(), folder / "weights")
    images = np.random.default_rng(0).integers(0, 255, (24, 4, 4), np.uint8)
    np.savez(folder / "data.npz", images=images, labels=np.arange(24) % 2)
    (folder / "own.py").write_text(MODULE)
    return folder


def ran(capsys, command, *options):
    assert cli.main([command, *map(str, options)]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def refused(capsys, command, *options):
    assert cli.main([command, *map(str, options)]) == 2
    return capsys.readouterr().err


def test_a_file_a_folder_and_a_run_are_distinguished(folder, tmp_path):
    assert is_published(str(folder / "weights")) and is_published(str(folder / "weights" / "unet"))
    assert is_published("module:own.py:make") and not is_published(str(tmp_path))
    (tmp_path / "config.json").write_text('{"kind": "Train"}')
    assert not is_published(str(tmp_path)) and not is_published("no-such-card")


def test_samples_are_those_of_the_model_on_its_own_grid(folder, capsys, tmp_path):
    from jaxdiff import solvers
    from jaxdiff.sampling.sampler import Sampler
    from jaxdiff.sampling.trace import table

    run = ("--run", folder / "weights", "--num-steps", 3, "--count", 4)
    assert "Pretrained(" in ran(capsys, "sample", *run, "--label", 1, "--out", tmp_path)
    with np.load(tmp_path / "samples.npz") as made:
        images, labels = made["images"], made["labels"]
    model = load_pretrained(folder / "weights")
    sampler = Sampler(model.denoiser, table(solvers.dpmpp, model.grid(3)))
    wanted = sampler(jax.random.key(0), 4, model.shape, labels)
    assert labels.tolist() == [1] * 4
    np.testing.assert_allclose(images, np.clip(wanted, -1, 1), atol=1e-5)
    levels = json.loads((tmp_path / "sampler.json").read_text())["levels"]
    np.testing.assert_allclose(levels, model.grid(3), rtol=1e-6)


def test_levels_that_are_not_given_are_the_model_s(folder):
    """Those of its scheduler's steps, the last of which it does not start from."""
    model = load_model(folder / "weights")
    low, high = model.levels
    fine = np.sqrt(1 / np.exp(2 * PROCESS.log_alphas) - 1)
    np.testing.assert_allclose((low, high), (fine[0], fine[-2]), rtol=1e-5)


def test_samples_between_other_values_and_latents_become_pictures(folder):
    model = load_pretrained(folder / "weights")
    half = dataclasses.replace(model, metadata={"bounds": (-0.5, 0.5)})
    values = np.array([-0.5, 0.0, 0.25], np.float32)
    np.testing.assert_array_equal(to_pictures(half, values), [-1, 0, 0.5])
    np.testing.assert_array_equal(from_pictures(half, to_pictures(half, values)), values)
    latents = dataclasses.replace(model, shape=(4, 4, 4))
    assert latents.bounds is None and model.bounds == (-1, 1)
    with pytest.raises(ValueError, match="no autoencoder"):
        to_pictures(latents, values)


def test_what_published_weights_cannot_is_refused_by_name(folder, capsys, tmp_path):
    own, out = ("--run", folder / "weights"), ("--out", tmp_path / "none")
    distil = ("--teacher", folder / "weights", "--run", tmp_path / "none", "--batch", 4)
    data, page = ("--data.path", folder / "data.npz"), ("--out", tmp_path / "page.html")
    for command, options, message in (
        ("sample", (*own, "--prompt", "a fox"), "takes no text"),
        ("sample", (*own, "--checkpoint", "latest"), "--checkpoint is of a run"),
        ("sample", ("--run", "module:none.py:make"), "none.py, of which make should be taken"),
        ("sample", ("--run", f"module:{folder / 'own.py'}:nothing"), "must return a jaxdiff"),
        (
            "evaluate",
            (*own, *page),
            "trained on is not known here: give real images by --data.path",
        ),
        ("distill", distil, "trained on is not known here: give images like those by --data.path"),
        ("distill", (*distil, "--data.path", "digits"), r"have the shape (4, 4, 1), those of"),
        ("distill", (*distil, *data, "--method", "mean_flow"), "needs a network with 2 labels"),
    ):
        given = (*options, *out) if command == "sample" else options
        assert message in refused(capsys, command, *given), message
    assert not Path(tmp_path / "none" / "model.npz").exists()


def test_a_model_of_the_package_whose_data_are_elsewhere_says_which(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "none"
    missing = refused(capsys, "train", "mnist-small", "--run", out)
    assert "mnist.npz: --data.path says where the data are" in missing
    said = "this model's data (the training part of MNIST, 60000 images of 28x28) do not come with "
    for command, options in (
        ("distill", ("--teacher", "mnist", "--run", out)),
        ("evaluate", ("--run", "mnist", "--out", tmp_path / "page.html")),
        ("restore", ("--run", "mnist", "--task", "super", "--out", tmp_path)),
    ):
        assert said in refused(capsys, command, *options), command
    message = refused(capsys, "ema", "--run", "mnist", "--std", 0.05, "--out", out)
    assert "mnist is no run" in message and not out.exists()


def test_a_user_s_function_makes_a_model(folder, capsys, tmp_path):
    run = ("--run", f"module:{folder / 'own.py'}:make", "--num-steps", 30, "--count", 400)
    ran(capsys, "sample", *run, "--out", tmp_path)
    with np.load(tmp_path / "samples.npz") as made:
        assert abs(made["images"].std() - 0.5) < 0.06  # clipped at twice that
    distil = ("--teacher", run[1], "--run", tmp_path / "s", "--data.path", folder / "data.npz")
    assert "shape" in refused(capsys, "distill", *distil)


def test_the_page_of_one_s_own_models_has_a_file_that_is_read(tmp_path):
    page = Path(__file__).parents[2] / "docs/howto/your_model.md"
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    (tmp_path / "my_model.py").write_text(blocks[-1])
    found = load_model(f"module:{tmp_path / 'my_model.py'}:model").source
    assert found is not None and found.shape == (16, 16, 3)
    assert "16x16x3; eps of Discrete; unconditional; 1 parameters in float32" in repr(found)
    plain = dataclasses.replace(
        found, params=[2.0, found.params]
    )  # a number of Python's among them
    assert "2 parameters in " in repr(plain)


def test_inspecting_a_student_says_which_weights_it_comes_from(tmp_path, capsys):
    said = {"kind": "student", "method": "sid", "source": {"path": "w.pt", "fingerprint": "0a"}}
    save_params(tmp_path / "model.npz", {"a": np.zeros(3)}, said)
    stated = ran(capsys, "inspect", tmp_path / "model.npz")
    assert "path: w.pt, fingerprint: 0a" in stated and "model: student" in stated


@pytest.mark.slow
def test_students_of_published_weights_are_saved_with_their_source(folder, capsys, tmp_path):
    student, weights = tmp_path / "student", tmp_path / "weights"
    save_diffusers(published(), weights)
    few = ("--updates", 4, "--batch", 4, "--ema", 0.5, "--data.path", folder / "data.npz")
    ran(capsys, "distill", "--teacher", weights, "--run", student, *few)
    ran(capsys, "sample", "--run", student, "--count", 4, "--out", tmp_path / "one")
    made = load_model(student)
    assert made.metadata["source"]["fingerprint"] == fingerprint(load_model(weights).params)
    assert made.denoiser.func.prediction == "v" and made.source is not None
    (student / "model.npz").unlink()  # then it is that of its newest checkpoint
    again = load_model(student)
    assert jax.tree.all(jax.tree.map(np.array_equal, again.params, made.params))
    assert again.metadata["samplers"] == made.metadata["samplers"]
    ran(capsys, "distill", "--teacher", weights, "--run", student, *few)
    save_diffusers(published(1), weights)
    assert "there are" in refused(capsys, "sample", "--run", student, "--out", tmp_path / "one")
    weights.rename(tmp_path / "moved")
    stated = refused(capsys, "sample", "--run", student, "--out", tmp_path / "one")
    assert "put them back there" in stated


@pytest.mark.slow
def test_tuned_tables_of_published_weights_know_them_again(folder, capsys, tmp_path):
    run = ("--run", folder / "weights")
    tune = ("--nfe", 3, "--pairs", 16, "--updates", 2, "--batch", 4, "--teacher-steps", 6)
    ran(capsys, "tune", *run, *tune, "--out", tmp_path / "tuned")
    table, model = tmp_path / "tuned" / "nfe-3" / "table.json", load_model(folder / "weights")
    said = json.loads(table.read_text())["metadata"]
    assert said["model"] == fingerprint(model.params) and said["source"] == str(run[1])
    settings = json.loads((tmp_path / "tuned" / "tune.json").read_text())
    assert (settings["low"], settings["high"]) == model.levels
    ran(capsys, "sample", *run, "--table", table, "--count", 4, "--out", tmp_path / "sampled")


@pytest.mark.slow
def test_published_weights_are_scored_and_nothing_is_kept_beside_them(folder, capsys, tmp_path):
    page = tmp_path / "page.html"
    ran(
        capsys, "evaluate", "--run", folder / "weights", "--data.path", folder / "data.npz",
        "--num-steps", 2, "--count", 8, "--features", "pixels", "--out", page,
    )  # fmt: skip
    assert page.exists() and not list((folder / "weights").glob("reference*"))


@pytest.mark.slow
def test_published_weights_are_distinguished_from_data_and_corrected(folder, capsys, tmp_path):
    run, head = ("--run", folder / "weights"), tmp_path / "d.npz"
    ran(
        capsys, "discriminate", *run, "--data.path", folder / "data.npz", "--count", 8,
        "--num-steps", 2, "--updates", 2, "--batch", 4, "--width", 4, "--out", head,
    )  # fmt: skip
    few = (*run, "--num-steps", 2, "--count", 4)
    ran(capsys, "sample", *few, "--discriminator", head, "--out", tmp_path / "sampled")


@pytest.mark.slow
def test_published_weights_are_exported_and_drawn_to(folder, capsys, tmp_path):
    from jaxdiff.sampling.export import load_sampler

    run, path = ("--run", folder / "weights"), tmp_path / "sampler.npz"
    ran(capsys, "optimise", *run, "--count", 2, "--updates", 2, "--out", tmp_path / "optimised")
    ran(capsys, "export", *run, "--num-steps", 2, "--platforms", "cpu", "--out", path)
    labels = np.zeros(3, np.int32)
    images = load_sampler(path).run(np.uint32(0), np.arange(3, dtype=np.int32), labels)
    assert images.shape == (3, 4, 4, 1) and np.abs(images).max() <= 1


@pytest.mark.slow
def test_a_text_pipeline_samples_a_prompt(tmp_path):
    folder = SHARED / "pipelines_sd" / "sd15_0"
    if not folder.exists():
        pytest.skip(f"{folder} is not beside this checkout")
    command = ["sample", "--run", str(folder), "--count", "2", "--num-steps", "2"]
    command += ["--guidance", "3", "--out", str(tmp_path)]
    assert cli.main([*command, "--prompt", "a seven"]) == 0
    assert np.load(tmp_path / "samples.npz")["images"].shape == (2, 16, 16, 3)
    assert cli.main(command) == 2  # without a prompt


@pytest.mark.parametrize(
    ("changes", "largest", "said"),
    [
        pytest.param(
            {"clip_sample": True, "clip_sample_range": 0.1}, 0.1,
            "clipped to 0.1, as DDPMScheduler",
            marks=pytest.mark.slow,
        ),
        (
            {"_class_name": "DPMSolverMultistepScheduler", "thresholding": True},
            1.0, "thresholded at their quantile 0.995, as DPMSolverMultistepScheduler does",
        ),
        ({"_class_name": "DDIMScheduler", "clip_sample": True}, None, "are not clipped, as DDIM"),
        ({}, None, ""),
    ],
)  # fmt: skip
def test_outputs_are_kept_where_the_scheduler_keeps_them(folder, tmp_path, changes, largest, said):
    weights = shutil.copytree(folder / "weights", tmp_path / "weights")
    path = weights / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    model = load_model(weights)
    D = make_sampler(model, configs.Sample(str(weights)), 3).denoiser
    y, classes = 50 * np.ones((2, 4, 4, 1), np.float32), np.array([0, 1])
    given, plain = (np.asarray(f(y, np.float32(3.0), classes)) for f in (D, model.denoiser))
    assert said in range_text(model) and bool(said) == bool(range_text(model))
    if largest is None:
        np.testing.assert_array_equal(given, plain)
    else:
        assert np.abs(plain).max() > np.abs(given).max()
        assert np.abs(given).max() <= largest * (1 + 1e-6)
