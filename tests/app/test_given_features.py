"""Evaluation by Inception or a user's function, against images or statistics."""

import dataclasses
import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import metrics
from jaxdiff.app import config as configs
from jaxdiff.app import config_file, image_features, references
from jaxdiff.app import evaluate as command
from jaxdiff.app.models import Model
from jaxdiff.pretrained import inception

pytestmark = pytest.mark.usefixtures("as_users")

FUNCTION = """
import numpy as np

def flat(images):
    assert images.min() >= -1 and images.max() <= 1 and str(images.dtype) == "float32"
    return np.asarray(images).reshape(len(images), -1)

def wrong(images):
    return np.zeros((len(images), 2, 2))
"""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Small:
    """As Inception, with the pixels as features and their halves as logits."""

    scale: jax.Array
    digest: str = dataclasses.field(default="d", metadata={"static": True})
    convention: str = dataclasses.field(default="tensorflow", metadata={"static": True})
    name = "Inception"

    class module:
        num_classes = 4

    def features_and_logits(self, images):
        flat = self.scale * images.reshape(len(images), -1)
        return jnp.concatenate([flat, flat / 2], axis=1)


def images(count, seed):
    return np.random.default_rng(seed).integers(0, 255, (count, 2, 2, 1), np.uint8)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose samples are noise; its folder, beside which are the data and a function."""
    np.savez(tmp_path / "d.npz", train_images=images(60, 0), test_images=images(40, 1))
    (tmp_path / "my_file.py").write_text(FUNCTION)
    data = config_file.to_dict(configs.Data(str(tmp_path / "d.npz")))
    data.pop("kind")
    model = Model(None, None, (2, 2, 1), 0, False, {"data": data, "class_names": ()})
    sampler = type("", (), {"table": type("", (), {"name": "made up", "nfe": 3})})
    samples = images(20, 5) / np.float32(127.5) - np.float32(1)
    monkeypatch.setattr(command, "load_model", lambda *given: model)
    monkeypatch.setattr(command, "make_sampler", lambda *given: sampler)
    monkeypatch.setattr(command, "generate", lambda *given, **options: samples)
    monkeypatch.setattr(inception, "load_inception", lambda *a, **k: Small(jnp.float32(1)))
    monkeypatch.setattr(command, "_page", lambda *given, **real: given[4])  # it is tested elsewhere
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def scores(run, **fields):
    fields = {"features": f"module:{run.parent}/my_file.py:flat", **fields}
    config = configs.Evaluate(str(run), count=20, num_steps=(2,), **fields)
    text = command.evaluate(config, progress=False)
    numbers = json.loads((run / "evaluation.json").read_text())["scores"]["made up, 2 steps"]
    return text, {k: v for k, v in numbers.items() if k != "nfe"}


def flat(seed, count):
    return (images(count, seed) / np.float32(127.5) - np.float32(1)).reshape(count, -1)


def test_a_user_s_function_gives_the_features(run):
    text, found = scores(run)
    assert f"features: {run.parent}/my_file.py:flat" in text
    expected = metrics.frechet_distance(flat(5, 20), flat(1, 40))
    assert found["Frechet distance"]["value"] == pytest.approx(expected)
    assert set(found) == set(command.METRICS) and found["recall"]["real_data"]["std"] is not None


def test_statistics_are_written_and_compared_with(run):
    _, first = scores(run, save_statistics=str(run.parent / "ref.npz"))
    text, again = scores(run, reference=str(run.parent / "ref.npz"))
    assert "reference: ref.npz, statistics of 40 images" in text
    for name in command.METRICS:  # the file has the features, too
        assert again[name]["value"] == pytest.approx(first[name]["value"])
    read = metrics.read_statistics(run.parent / "ref.npz")
    np.savez(run.parent / "edm.npz", mu=read.mean, sigma=read.covariance)
    text, least = scores(run, reference=str(run.parent / "edm.npz"))
    assert "unknown number of images" in text and list(least) == ["Frechet distance"]
    value = first["Frechet distance"]["value"]
    assert least["Frechet distance"]["value"] == pytest.approx(value)
    kept = {"fid": {"mu": read.mean, "sigma": read.covariance}, "num_images": 40}
    (run.parent / "edm2.pkl").write_bytes(pickle.dumps(kept))
    _, least = scores(run, reference=str(run.parent / "edm2.pkl"))
    assert least["Frechet distance"]["value"] == pytest.approx(value)


def test_without_any_real_images_real_data_are_not_scored(run):
    metrics.write_statistics(
        run.parent / "ref.npz", metrics.statistics(flat(1, 40)), features=False
    )
    (run.parent / "d.npz").unlink()
    text, found = scores(run, reference=str(run.parent / "ref.npz"))
    assert "real images: none but the reference" in text and "draws" not in text
    assert found["Frechet distance"]["real_data"] is None
    metrics.write_statistics(run.parent / "ref.npz", metrics.statistics(flat(1, 40)[:, 1:]))
    with pytest.raises(ValueError, match="features of dimension 3, .*my_file.py:flat gives 4"):
        scores(run, reference=str(run.parent / "ref.npz"))


def test_images_elsewhere_are_a_reference(run):
    np.savez(run.parent / "more.npz", images=images(30, 7))
    text, found = scores(run, reference=str(run.parent / "more.npz"))
    assert "30 images of more" in text
    expected = metrics.frechet_distance(flat(5, 20), flat(7, 30))
    assert found["Frechet distance"]["value"] == pytest.approx(expected)


def test_inception_s_features_and_logits_are_kept_with_the_run(run, monkeypatch):
    text, first = scores(run, features="inception")
    assert "features: Inception" in text
    expected = metrics.inception_score(flat(5, 20) / 2).value
    assert first["Inception score"]["value"] == pytest.approx(expected, rel=1e-5)
    assert first["Inception score"]["real_data"]["value"] > 1
    expected = metrics.frechet_distance(flat(5, 20), flat(1, 40))
    assert first["Frechet distance"]["value"] == pytest.approx(expected, rel=1e-5)
    assert (run / "reference-inception.npz").exists()
    calls = []
    plain = image_features.over_batch
    counted = lambda *a, **k: lambda x: (calls.append(len(x)), plain(*a, **k)(x))[1]  # noqa: E731
    monkeypatch.setattr(image_features, "over_batch", counted)
    assert scores(run, features="inception")[1] == first and len(calls) == 1  # the samples alone
    other = lambda *a, **k: Small(jnp.float32(1), "another file")  # noqa: E731
    monkeypatch.setattr(inception, "load_inception", other)
    assert scores(run, features="inception")[1] == first and len(calls) == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": "clip"}, "classifier, pixels, inception or module"),
        ({"features": "pixels", "inception_weights": "x.pth"}, "--inception-weights would have no"),
        ({"features": "module:my_file.py"}, "should be FILE.py:FUNCTION"),
        ({"features": "module:{}/my_file.py:absent"}, "has no function absent"),
        ({"features": "module:{}/my_file.py:wrong"}, r"floats of shape \(256, d\)"),
        ({"features": "pixels", "reference": "{}/ref.npz"}, "say of which, by --features"),
        ({"reference": "{}/ref.npz", "reference_count": 30}, "--reference-count would have no"),
        ({"save_statistics": "{}/a.txt"}, "written to an .npz"),
        ({"reference": "a", "data": configs.OtherData(path="b")}, "--reference and --data.path"),
    ],
)
def test_what_makes_no_sense_is_refused(run, fields, message):
    np.savez(run.parent / "ref.npz", mu=np.zeros(4), sigma=np.eye(4))
    fields = {k: v.format(run.parent) if isinstance(v, str) else v for k, v in fields.items()}
    with pytest.raises(ValueError, match=message):
        scores(run, **fields)


def test_files_that_are_not_there_are_named(run):
    with pytest.raises(FileNotFoundError, match="no file .*absent.py"):
        scores(run, features="module:absent.py:flat")
    with pytest.raises(FileNotFoundError, match="absent.npz"):
        scores(run, reference=str(run.parent / "absent.npz"))
    (run.parent / "bad.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ValueError, match="has no mu and sigma"):
        references.statistics_in(str(run.parent / "bad.pkl"))
