"""The models that come with the package: as their cards say, and they denoise real images."""

import hashlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from experiments.shipped.__main__ import page
from jaxdiff.app.inspect import facts_of
from jaxdiff.app.load import load_model
from jaxdiff.app.published import is_published, lasting
from jaxdiff.data.digits import load_digits
from jaxdiff.pretrained.cards import CARDS, SHIPPED
from jaxdiff.pretrained.opening import card_of, found

NAMES = sorted(path.stem for path in SHIPPED.glob("*.safetensors"))
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", NAMES)
def test_files_are_those_of_their_cards(name):
    said = json.loads((SHIPPED / f"{name}.json").read_text())
    file, data = CARDS[name].files[0], (SHIPPED / f"{name}.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == said["sha256"] == file.sha256
    assert len(data) == said["bytes"] == file.size
    model = jd.load_pretrained(name)
    assert model.shape == tuple(said["shape"]) and model.classes == said["classes"] == 10
    assert sum(np.size(leaf) for leaf in jax.tree.leaves(model.params)) == said["parameters"]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(model.params))
    for key in ("data", "data_licence", "command", "seed", "version", "updates", "class_names"):
        assert model.metadata[key] == said[key]
    assert f"{said['scores'][0]['frechet_distance']:.2f}" in model.metadata["score"]
    assert model.levels == pytest.approx((0.002, 80.0))


def test_there_are_two_small_ones_and_their_page_is_theirs():
    assert NAMES == ["digits", "mnist"]
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 3e6
    assert (ROOT / "experiments/results/shipped.md").read_text() == page()


def test_the_digits_model_tells_the_class_of_a_noisy_digit():
    model, data = jd.load_pretrained("digits"), load_digits("test")
    images, labels = (x[:24] for x in (jnp.asarray(data.images), jnp.asarray(data.labels)))
    noise = jax.random.normal(jax.random.key(0), images.shape, jnp.float32)
    noisy = images + jnp.float32(0.7) * noise

    @jax.jit
    def error(labels):
        return jnp.mean((model.denoiser(noisy, 0.7, labels) - images) ** 2, axis=(1, 2, 3))

    own, other = error(labels), error((labels + 5) % 10)
    assert own.mean() < 0.3 * 0.7**2 and own.mean() < 0.8 * other.mean()
    assert (own < other).mean() > 0.8


def test_a_name_is_taken_wherever_a_run_is():
    model = load_model("digits")
    assert model.classes == 10 and model.shape == (8, 8, 1) and not model.student
    assert model.metadata["data"]["path"] == "digits" and len(model.metadata["class_names"]) == 10
    assert load_model("mnist").metadata["data"] is None  # where it is, is not known
    with pytest.raises(FileNotFoundError, match="no folder of a run"):
        jd.load_run("digits")


def test_a_folder_of_pictures_hides_no_card_and_a_file_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "samples.png").write_bytes(b"")
    assert is_published("digits") and lasting("digits") == "digits"
    assert card_of("digits") is CARDS["digits"] and found("digits").suffix == ".safetensors"
    (tmp_path / "digits" / "config.json").write_text("{}")
    assert card_of("digits") is None and lasting("digits") == str(tmp_path / "digits")
    (tmp_path / "mnist").write_bytes(b"")
    assert card_of("mnist") is None


def test_inspect_says_what_a_name_is():
    said = facts_of(Path("mnist"))
    assert said["kind"] == "model that comes with the package" and said["shape"] == (28, 28, 1)
    assert "read as their class" in said["score"]
    fetched = facts_of(Path("edm-cifar10-32x32-cond-vp"))
    assert fetched["kind"].startswith("card") and fetched["files"][0].startswith("https://")


def test_a_name_in_other_letters_is_pointed_to():
    with pytest.raises(FileNotFoundError, match="card 'MNIST'; cards with a name like it: mnist"):
        jd.load_pretrained("MNIST")
