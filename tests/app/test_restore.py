"""The command that restores images: exact posteriors, numbers as saved, refusals by name."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxdiff.app import config as configs
from jaxdiff.app import measured_images
from jaxdiff.app import restore as command
from jaxdiff.app.main import COMMANDS, main
from jaxdiff.app.restoration_methods import METHODS
from jaxdiff.app.restoration_refusals import doubt
from jaxdiff.app.restoration_scores import in_words, scores
from jaxdiff.app.restoration_tasks import TASKS, operator_of
from jaxdiff.conditioning.operators import Linear, Measurement
from jaxdiff.metrics import psnr, ssim

pytestmark = pytest.mark.usefixtures("as_users")

SIDE = 4
OWN = """
import jax.numpy as jnp
import numpy as np
from jaxdiff.exact import Gaussian

def make():
    n = 16
    away = np.abs(np.arange(n)[:, None] - np.arange(n))
    model = Gaussian(jnp.full(n, 0.1), jnp.asarray(0.04 * 0.8**away, jnp.float32))
    D = lambda y, level, cond=None: model.denoiser(y.reshape(-1, n), level).reshape(y.shape)
    D.shape = (4, 4, 1)
    return D
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A Gaussian of 4x4 images as a user's module, and three images of it."""
    folder = tmp_path_factory.mktemp("restore")
    (folder / "own.py").write_text(OWN)
    covariance = 0.04 * 0.8 ** np.abs(np.arange(16)[:, None] - np.arange(16))
    drawn = np.random.default_rng(0).multivariate_normal(np.full(16, 0.1), covariance, 3)
    np.savez(folder / "own.npz", images=drawn.reshape(3, SIDE, SIDE, 1).astype(np.float32))
    return folder


def arguments(folder, **options):
    """Return a configuration of the folder's model and images."""
    given = {"images": (f"{folder}/own.npz",), "range": (-1.0, 1.0)} | options
    return configs.Restore(run=f"module:{folder}/own.py:make", out=str(folder / "out"), **given)


def test_moment_matching_restores_to_the_exact_posterior(folder):
    """Of a Gaussian: mean and deviation of the samples of every pixel, within what so many have."""
    count = 256
    config = arguments(
        folder, task="pixels", share=0.5, noise=0.1, samples=count, num_steps=60, batch=3 * count,
        low=0.01, high=20.0,
    )  # fmt: skip
    command.restore(config, progress=False)
    with np.load(folder / "out/restored.npz") as saved:
        u, x = saved["observation"], saved["restored by mmps"]
        assert np.array_equal(saved["truth"], np.load(folder / "own.npz")["images"])
    operator, _ = operator_of(config, (SIDE, SIDE, 1), (-1.0, 1.0))
    known = np.asarray(operator.support).reshape(-1)
    covariance = 0.04 * 0.8 ** np.abs(np.arange(16)[:, None] - np.arange(16))
    gain = covariance[:, known] @ np.linalg.inv(covariance[np.ix_(known, known)] + 0.01 * np.eye(8))
    exact = covariance - gain @ covariance[known]
    mean = 0.1 + (u.reshape(3, 16)[:, known] - 0.1) @ gain.T
    found = x.reshape(3, count, 16)
    error = np.sqrt(np.diag(exact) / count)
    assert (np.abs(found.mean(axis=1) - mean) < 5 * error).all()
    np.testing.assert_allclose(found.var(axis=1).mean(axis=0), np.diag(exact), rtol=0.25)
    assert x.shape == (3, count, SIDE, SIDE, 1) and not np.array_equal(x[0, 0], x[0, 1])
    numbers = json.loads((folder / "out/restored.json").read_text())
    row = numbers["methods"]["mmps"]
    assert (numbers["options"], row["nfe"]) == ({"share": 0.5}, 60)
    np.testing.assert_allclose(row["spread"], np.sqrt(np.trace(exact) / 16), rtol=0.1)
    truth = np.load(folder / "own.npz")["images"]
    apart = ((x - truth[:, None]) ** 2).reshape(3, count, -1).mean(axis=2)
    np.testing.assert_allclose(
        row["by image"]["psnr"], (10 * np.log10(4 / apart)).mean(axis=1), rtol=1e-5
    )
    misfit = np.sqrt(np.mean((u[:, None] - x).reshape(3, count, 16)[..., known] ** 2, axis=(1, 2)))
    np.testing.assert_allclose(row["by image"]["misfit"], misfit, rtol=1e-5)
    assert (folder / "out/restored.png").stat().st_size > 1000


def test_samples_do_not_depend_on_their_batch(folder):
    setting, _, _ = command.prepared(arguments(folder, samples=2, num_steps=5), False)
    found = [
        command.restored_by("pigdm", setting, arguments(folder, samples=2, num_steps=5, batch=b))[0]
        for b in (6, 4)
    ]
    np.testing.assert_allclose(found[0], found[1], atol=2e-6)


def test_a_blur_whose_inverse_is_noise(folder):
    """RED-diff begins with what is seen of it; who fits it exactly says that it is noise."""
    config = arguments(folder, task="blur", samples=1, num_steps=3, method="red_diff")
    setting, _, _ = command.prepared(config, False)
    found, _ = command.restored_by("red_diff", setting, config)
    assert np.abs(found).max() < 0.9  # data have a standard deviation of 0.2
    reasons = {name: doubt(METHODS[name], setting.seen, 0.2) for name in ("mcg", "pigdm")}
    assert "times as large as the data" in reasons["mcg"] and reasons["pigdm"] is None
    quiet = Measurement(setting.seen.operator, setting.seen.observation, 1e-6)
    assert doubt(METHODS["mcg"], quiet, 0.2) is None
    with pytest.warns(UserWarning, match="resample will restore badly: it fits"):
        command.restore(
            arguments(folder, task="blur", samples=1, num_steps=1, method="resample"), False
        )


def test_images_may_be_measurements_and_come_from_anywhere(folder, capsys):
    """Bare arguments, before or after the options; no truth, no scores of it; quiet measurements
    are met exactly.
    """
    small = np.random.default_rng(1).uniform(-0.2, 0.3, (2, 2, 2, 1)).astype(np.float32)
    np.savez(folder / "small.npz", images=small)
    given = [
        "--run", f"module:{folder}/own.py:make", "--task", "super", "--measured", "--noise", "0",
        "--range", "-1", "1", "--num-steps", "4", "--samples", "1", "--out", f"{folder}/super",
        "--method", "ddnm",
    ]  # fmt: skip
    parse, _ = COMMANDS["restore"]
    last = parse("restore", [*given, f"{folder}/small.npz"])
    assert last.images == (f"{folder}/small.npz",)
    assert parse("restore", [f"{folder}/small.npz", *given]) == last
    several = [*given[:-2], "--methods", "ddnm,ddrm"]
    assert parse("restore", [*several, "a.png", "b.png"]).images == ("a.png", "b.png")
    assert main(["restore", *given, f"{folder}/small.npz"]) == 0
    assert "psnr" not in capsys.readouterr().out
    with np.load(folder / "super/restored.npz") as saved:
        x = saved["restored by ddnm"][:, 0]
        assert "truth" not in saved
    means = x.reshape(2, 2, 2, 2, 2, 1).mean(axis=(2, 4))
    np.testing.assert_allclose(means, small, atol=1e-5)


def test_what_was_restored_is_saved_whatever_becomes_of_the_next(folder, monkeypatch):
    def some(name, setting, config):
        if name == "ddrm":
            raise MemoryError("too many images")
        return np.zeros((3, 1, SIDE, SIDE, 1), np.float32), {"nfe": 1}

    config = arguments(folder, samples=1, methods="mmps,ddrm")
    config = dataclasses.replace(config, out=str(folder / "half"))
    monkeypatch.setattr(command, "restored_by", some)
    with pytest.raises(MemoryError):
        command.restore(config, progress=False)
    assert list(json.loads((folder / "half/restored.json").read_text())["methods"]) == ["mmps"]
    with np.load(folder / "half/restored.npz") as saved:
        assert "restored by mmps" in saved


def test_a_line_says_what_was_read_of_ones_own_images(tmp_path, capsys):
    pictures = tmp_path / "own"
    pictures.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.zeros((8, 8, 4), np.uint8)).save(pictures / name)
    (pictures / "c.txt").write_text("")
    config = configs.Restore("r", (str(pictures), str(pictures / "a.png")), size=4)
    assert measured_images._read(config, True).shape == (3, 4, 4, 3)
    folder, file = capsys.readouterr().out.splitlines()
    assert "own: 2 images of 4 x 4" in folder and "skipped: .txt: 1 (c.txt)" in folder
    assert "a.png: 1 image of 4 x 4" in file and "transparent, laid on white: 1" in file


@pytest.mark.slow
def test_particles_of_one_measurement(folder):
    config = arguments(folder, samples=3, num_steps=4, particles=8, methods="fps_smc")
    setting, chosen, _ = command.prepared(config, False)
    found, more = command.restored_by(*chosen, setting, config)
    assert found.shape == (3, 3, SIDE, SIDE, 1) and more["particles"] == 8
    assert all(1 <= n <= 8 for n in more["effective particles"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "blur", "factor": 4}, "--factor would have no effect: --task blur"),
        ({"task": "super", "factor": 3}, r"--task super on images of \(4, 4, 1\)"),
        ({"task": "projections", "share": 0.0}, "--share must be"),
        ({"task": "colour"}, "needs images of three channels"),
        ({"task": "motion", "width": 2.5}, "--width of motion is an odd number"),
        ({"share": 1.0}, "hides all of it"),
        ({"task": "phase", "method": "mmps"}, "mmps does not take .* These do: dps, mpgd"),
        ({"method": "ddnm"}, "ddnm does not take .*--noise 0"),
        ({"noise": 0.0, "method": "mmps"}, "divides by the noise"),
        ({"task": "super", "noise": 0.0, "method": "repaint"}, "of pixels"),
        ({"task": "bicubic", "noise": 0.0, "method": "ilvr"}, "means of blocks"),
        ({"method": "dps", "methods": "all"}, "one of the two"),
        ({"methods": "all,dps"}, "with commas between; not 'all'"),
        ({"method": "psld"}, "psld does not take .*models of latents"),
        ({"methods": "dps,ddpm"}, "not 'ddpm'"),
        ({"particles": 8}, "--particles would have no effect"),
        ({"methods": "tds", "samples": 65}, "as many --particles"),
        ({"label": "3"}, "--label would have no effect"),
        ({"count": 3}, "--count would have no effect"),
        ({"task": "super", "measured": True}, r"measurements are \(2, 2, 1\).*--size 2 crops"),
        ({"images": (), "range": None}, "trained on is not known here: give IMAGES"),
        ({"images": (), "measured": True}, "--range and --measured would have no effect"),
        ({"features": "lpips"}, "--features is module:FILE.py:FUNCTION, not lpips"),
        ({"features": "module:x.py:f", "task": "blur", "measured": True}, "there is no truth"),
        ({"low": 90.0}, "must be below --high"),
    ],
)  # fmt: skip
def test_refusals_by_name_before_anything_runs(folder, options, message, tmp_path):
    given = dataclasses.replace(arguments(folder, **options), out=str(tmp_path / "a" / "b"))
    with pytest.raises(ValueError, match=message):
        command.restore(given, False)
    assert not list(tmp_path.iterdir())


def test_every_task_has_a_method_that_is_refused_nothing(folder):
    """The method that is taken by default goes with its task, with noise and without."""
    for task in TASKS:
        for noise in (0.1, 0.0):
            config = arguments(folder, task=task, noise=noise)
            shape = (8, 8, 1) if task == "sensing" else (8, 8, 3)
            operator, _ = operator_of(config, shape, (-1.0, 1.0))
            seen = Measurement(operator, jnp.zeros(operator.measured), noise)
            (usual,) = command.methods_of(config, seen)
            linear = isinstance(operator, Linear)
            assert usual == ("dps" if not linear else "mmps" if noise else "ddnm")


def test_psnr_and_ssim_of_known_images():
    a, b = np.full((2, 8, 8, 1), 0.5), np.full((2, 8, 8, 1), 0.25)
    np.testing.assert_allclose(psnr(a, b), 10 * np.log10(4 / 0.0625))
    c1 = 0.02**2  # of constants only the means differ
    np.testing.assert_allclose(ssim(a, b), (0.25 + c1) / (0.3125 + c1))
    noise = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
    np.testing.assert_allclose(ssim(noise, noise), 1)
    assert np.isinf(psnr(noise, noise)).all()
    assert (ssim(0.5 + 0.1 * noise, 0.5 - 0.1 * noise) < 0).all()
    with pytest.raises(ValueError, match="one shape"):
        psnr(a, noise)
    with pytest.raises(ValueError, match="height, width"):
        ssim(a[0, 0], a[0, 0])


def test_restorations_are_compared_by_the_features_that_are_given(folder):
    """Twice the first pixel and the sum of all: distances to the truth's, image by image."""
    (folder / "features.py").write_text(
        "import jax.numpy as jnp\n"
        "def f(x):\n"
        "    return jnp.stack([2 * x[:, 0, 0, 0], x.sum((1, 2, 3))], axis=1)\n"
    )
    config = arguments(folder, features=f"module:{folder}/features.py:f")
    setting, _, _ = command.prepared(config, progress=False)
    truth = setting.given.truth
    found = np.repeat(truth[:, None], 2, axis=1)
    found[:, 0, 0, 0] += 0.1  # of the first of two samples: (0.2, 0.1)
    made = scores(found, setting)
    np.testing.assert_allclose(made["by image"]["feature distance"], 0.05**0.5 / 2, rtol=1e-4)
    assert "feature distance" in in_words({"dps": made | {"nfe": 1, "seconds": 1.0}}, setting)


@pytest.mark.slow
def test_all_methods_in_one_command(folder, capsys):
    """Every method runs somewhere, and a mean of guided samples is nearer than the prior's mean."""
    run = {"samples": 4, "num_steps": 12, "low": 0.02, "high": 10.0, "methods": "all"}
    done = set()
    for noise in (0.05, 0.0):
        command.restore(arguments(folder, noise=noise, **run), progress=False)
        numbers = json.loads((folder / "out/restored.json").read_text())
        done |= set(numbers["methods"])
        assert "* best" in capsys.readouterr().out
        assert all(row["psnr"] is not None for row in numbers["methods"].values())
        if noise:
            truth = np.load(folder / "own.npz")["images"]
            assert numbers["methods"]["mmps"]["psnr of mean"] > psnr(truth * 0 + 0.1, truth).mean()
    command.restore(arguments(folder, noise=0.0, task="super", **run | {"methods": "ilvr"}), False)
    with np.load(folder / "out/restored.npz") as saved:  # but for the last step's change
        made = saved["restored by ilvr"].reshape(3, 4, 2, 2, 2, 2, 1).mean(axis=(3, 5))
        np.testing.assert_allclose(made, np.stack([saved["observation"]] * 4, axis=1), atol=0.04)
    elsewhere = {"ilvr", "network", "bicubic", "psld"}  # of other tasks, networks made for one,
    # and models of latents
    assert done | elsewhere == set(METHODS)
