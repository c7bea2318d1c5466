"""Samples that are no images, from a file of numbers to samples: points, signals, volumes."""

import numpy as np
import pytest

from jaxdiff.app import config as configs
from jaxdiff.app import main as cli
from jaxdiff.app.data import read_data
from jaxdiff.app.load import load_model
from jaxdiff.app.train import train

pytestmark = pytest.mark.usefixtures("as_users")

SHAPES = {"points": (3,), "signals": (8, 2), "volumes": (4, 4, 4, 1)}


def numbers(shape, count=24):
    """Beyond [-1, 1], as no images are."""
    return (3 * np.random.default_rng(0).standard_normal((count, *shape))).astype(np.float32)


def network(kind):
    if kind == "points":
        return configs.MLP(width=8, depth=1, embedding=8)
    return configs.UNet(channels=4, multipliers=(1, 2), attention=(4,), embedding=8)


@pytest.mark.parametrize(
    "kind", ["points", *(pytest.param(k, marks=pytest.mark.slow) for k in ("signals", "volumes"))]
)
def test_arrays_are_trained_on_and_sampled(kind, tmp_path, capsys):
    shape = SHAPES[kind]
    np.savez(tmp_path / "data.npz", images=numbers(shape), labels=np.arange(24) % 2)
    data = configs.Data(str(tmp_path / "data.npz"), arrays=True)
    train(
        configs.Train(
            str(tmp_path / "r"), data, network(kind), updates=4, batch=8, warmup=1, sigma_data=3.0
        )
    )
    said = capsys.readouterr().out
    assert f"24 samples of shape {'x'.join(map(str, shape))}" in said and "2 classes" in said
    model = load_model(tmp_path / "r")
    assert model.shape == shape and model.bounds is None and model.classes == 2
    out = tmp_path / "s"
    run = ["--run", str(tmp_path / "r")]
    assert cli.main(["sample", *run, "--count", "5", "--num-steps", "1", "--out", str(out)]) == 0
    assert {p.name for p in out.iterdir()} == {"samples.npz", "sampler.json"}
    assert "there is no picture" in capsys.readouterr().out
    with np.load(out / "samples.npz") as file:
        assert file["samples"].shape == (5, *shape) and np.isfinite(file["samples"]).all()
    assert cli.main(["evaluate", *run]) == 2
    assert "jaxdiff evaluate works on images, and this model makes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"flip": True}, "--data.flip would have no effect: --data.arrays are no images"),
        ({"size": 8}, "--data.size would have no effect"),
        ({"labels": "folders"}, "--data.labels folders is for folders and zips"),
        ({"split": "test"}, "has no test samples"),
    ],
)
def test_options_of_images_are_refused(given, said, tmp_path):
    np.save(tmp_path / "x.npy", numbers((3,)))
    with pytest.raises(ValueError, match=said):
        read_data(configs.Data(str(tmp_path / "x.npy"), arrays=True, **given), False)


def test_arrays_that_are_none_are_named(tmp_path):
    def read(array, name="x.npy"):
        np.save(tmp_path / name, array)
        return read_data(configs.Data(str(tmp_path / name), arrays=True), False)

    for wrong, said in (
        (np.array(["a"]), "samples are integers or floats, not <U1"),
        (np.zeros(3), r"samples must be \(n, ...\), none of them 0; got \(3,\)"),
        (np.array([[0.0], [np.nan]]), "sample 1 has NaN or infinite values"),
    ):
        with pytest.raises(ValueError, match=said):
            read(wrong)
    assert read(np.arange(6).reshape(3, 2)).images.dtype == np.float32
    (tmp_path / "x.txt").write_text("1")
    with pytest.raises(ValueError, match="are read of an .npy or .npz"):
        read_data(configs.Data(str(tmp_path / "x.txt"), arrays=True), False)


def test_samples_that_were_written_are_data(tmp_path):
    """As jaxdiff sample writes those of arrays, with their labels."""
    from jaxdiff.data.samples import load_samples

    samples = np.arange(6.0).reshape(3, 2)
    np.savez(tmp_path / "samples.npz", samples=samples, labels=[0, 1, 0], class_names=["a", "b"])
    data = load_samples(tmp_path / "samples.npz")
    np.testing.assert_array_equal(data.images, samples)
    assert data.labels.tolist() == [0, 1, 0] and data.num_classes == 2
