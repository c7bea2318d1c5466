"""The command that edits images: maps of Gaussians in closed form, refusals by name."""

import numpy as np
import pytest

from jaxdiff.app import config as configs
from jaxdiff.app import edit as command
from jaxdiff.app.main import main
from jaxdiff.app.models import Model

pytestmark = pytest.mark.usefixtures("as_users")

OWN = """
import jax.numpy as jnp
from jaxdiff.exact import Gaussian

def made(mean, variance):
    model = Gaussian(jnp.full(16, mean), jnp.full(16, variance))
    D = lambda y, level, cond=None: model.denoiser(y.reshape(-1, 16), level).reshape(y.shape)
    D.shape = (4, 4, 1)
    return D

first = lambda: made(0.2, 0.04)
second = lambda: made(-0.3, 0.01)
shifted = lambda: made(-0.3, 0.04)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Gaussians of 4x4 images as a user's module, and three images of the first."""
    folder = tmp_path_factory.mktemp("edit")
    (folder / "own.py").write_text(OWN)
    drawn = np.random.default_rng(0).normal(0.2, 0.2, (3, 4, 4, 1)).clip(-0.9, 0.9)
    np.savez(folder / "own.npz", images=drawn.astype(np.float32))
    return folder


def edits(folder, run, **options):
    """Run the command on the folder's images; return them and their edits."""
    own = f"module:{folder}/own.py:"
    if "source" in options:
        options["source"] = own + options["source"]
    given = {"images": (f"{folder}/own.npz",), "range": (-1.0, 1.0), "low": 0.005, "high": 40.0}
    config = configs.Edit(run=own + run, out=f"{folder}/out", **given | options)
    command.edit(config, progress=False)
    with np.load(folder / "out/edited.npz") as saved:
        return saved["original"], saved["edited"]


def test_a_latent_takes_one_gaussian_to_the_other(folder):
    """DDIB is the affine map of quantiles; its error is the grid's."""
    x, found = edits(folder, "second", source="first", method="ddib", num_steps=200)
    np.testing.assert_allclose(found[:, 0], -0.3 + 0.5 * (x - 0.2), atol=0.02)
    assert (folder / "out/edited.png").exists()


def test_flow_edit_moves_images_by_the_difference_of_means(folder):
    """Of Gaussians of one variance, from a noise that forgets them, in any number of edits."""
    x, found = edits(
        folder, "shifted", source="first", method="flow_edit", num_steps=60, strength=1.0, samples=2
    )
    assert found.shape == (3, 2, 4, 4, 1)
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), (x - 0.5).mean(axis=(1, 2)), atol=0.05)


def test_strength_says_how_much_is_edited(folder):
    x, little = edits(folder, "second", num_steps=20, strength=0.1, high=5.0)
    _, much = edits(folder, "second", num_steps=20, strength=1.0, high=5.0)
    assert np.abs(little[:, 0] - x).max() < 0.05
    np.testing.assert_allclose(much.mean(), -0.3, atol=0.1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "first"}, "--source would have no effect: sdedit"),
        ({"method": "ddib"}, "needs a difference"),
        ({"method": "ddib", "source": "first", "strength": 0.3}, "--strength would have no effect"),
        ({"method": "ddib", "source": "first", "samples": 2}, "--samples would have no effect"),
        ({"guidance": 2.0}, "--guidance would have no effect"),
        ({"label": "1"}, "--label would have no effect: this model has no classes"),
        ({"num_steps": 3, "strength": 0.1}, "leaves one of 3 steps"),
        ({"low": 50.0}, "must be below"),
        ({"images": (), "range": None}, "give IMAGES"),
    ],
)
def test_refusals_by_name(folder, options, message):
    with pytest.raises(ValueError, match=message):
        edits(folder, "second", **options)


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_classes_of_images_are_not_those_of_another_source(folder, monkeypatch, names):
    """A source that samples a class, always, is given the images' only if they are the same."""
    D, always = (lambda y, s, c=None: y), type("Always", (), {"null_class": False})()
    metadata = {"kind": "teacher", "data": None, "class_names": ("a", "b"), "sigma_data": 0.5}
    target = Model(D, {}, (4, 4, 1), 2, False, metadata, always)
    source = target._replace(metadata=metadata | {"class_names": names})
    made = {"r": target, "s": source}
    monkeypatch.setattr(command, "_model", lambda run, *a: made[run])
    images = np.zeros((2, 4, 4, 1), np.float32), np.array([0, 1]), "x"
    monkeypatch.setattr(command, "images_of", lambda *a: images)
    given = []
    monkeypatch.setattr(
        command, "edited", lambda *a: given.append(a[-1]) or 0.1 + images[0][:, None]
    )
    config = configs.Edit("r", method="ddib", source="s", out=f"{folder}/classes")
    if names == ("a", "b"):
        command.edit(config, progress=False)
        assert given[0].tolist() == [0, 1]
    else:
        with pytest.raises(ValueError, match="give the images' --source-label"):
            command.edit(config, progress=False)


def test_the_command_takes_bare_images(folder, capsys):
    given = ["edit", f"{folder}/own.npz", "--run", f"module:{folder}/own.py:second", "--range"]
    given += ["-1", "1", "--num-steps", "20", "--high", "5", "--strength", "0.1", "--low", "0.005"]
    assert main([*given, "--out", f"{folder}/bare"]) == 0
    assert "3 edits by sdedit, SSIM" in capsys.readouterr().out
