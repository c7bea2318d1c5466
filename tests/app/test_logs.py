"""Logs of a run: samples of the averaged parameters and their distance, as it trains."""

import json

import numpy as np
import pytest

from jaxdiff.app import main as cli
from jaxdiff.app.logs import Look, first_samples, sheet, watching
from jaxdiff.training.history import read_history

pytestmark = pytest.mark.usefixtures("as_users")

SMALL = ["--network", "mlp", "--network.width", "8", "--network.depth", "1",
         "--network.embedding", "8", "--batch", "50"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Points of two classes, and a run of them that was looked at every 60 updates."""
    made = tmp_path_factory.mktemp("logs")
    labels = np.arange(240) % 2
    points = np.random.default_rng(0).normal(0, 0.1, (240, 2)) + np.where(labels, 1, -1)[:, None]
    np.savez(made / "points.npz", images=points.astype(np.float32), labels=labels)
    assert cli.main(command(made, "--updates", "120")) == 0
    return made


def command(folder, *more):
    return ["train", "images", "--run", str(folder / "run"), "--data.path",
            str(folder / "points.npz"), "--data.arrays", *SMALL, "--sample-every", "60",
            "--log", "tensorboard", "--log-every", "30", "--save-every", "60", *more]  # fmt: skip


@pytest.mark.slow
def test_samples_come_closer_to_the_data(folder):
    pytest.importorskip("tensorboardX")
    rows = read_history(folder / "run" / "quality")
    assert [row["step"] for row in rows] == [60, 120]
    assert set(rows[0]) == {
        "step",
        *(f"quality/{n}" for n in ("nfe_5", "nfe_10", "nfe_20", "data")),
    }
    assert rows[1]["quality/nfe_20"] < rows[0]["quality/nfe_20"]
    assert rows[0]["quality/data"] == rows[1]["quality/data"] < rows[1]["quality/nfe_20"]
    losses = read_history(folder / "run" / "checkpoints")
    assert [row["step"] for row in losses] == [30, 60, 90, 120]
    rate = losses[1]["student/learning_rate"]  # update 60 of a warm-up of 60: the last but one
    np.testing.assert_allclose(rate, 3e-3 * 59 / 60, rtol=1e-5)
    assert list((folder / "run" / "tensorboard").iterdir())


@pytest.mark.slow
def test_a_finished_run_is_not_looked_at_again_and_a_longer_one_is(folder, capsys):
    assert cli.main(command(folder, "--updates", "120")) == 0
    quality = folder / "run" / "quality"
    before = read_history(quality)
    assert [row["step"] for row in before] == [60, 120]
    assert cli.main(command(folder, "--updates", "180")) == 0
    assert [row["step"] for row in read_history(quality)] == [60, 120, 180]
    assert read_history(quality)[:2] == before
    assert "lengthened from 120" in capsys.readouterr().out


def test_a_missing_package_is_an_error_before_anything(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(command(tmp_path, "--updates", "120")) == 2
    assert "--log: TensorBoard needs tensorboardX: pip install" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_student_is_looked_at_in_the_steps_it_has(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (32, 8, 8), np.uint8)
    np.savez(tmp_path / "data.npz", images=images)
    small = ["--network.channels", "8", "--network.multipliers", "1", "--network.embedding", "16"]
    run, student = str(tmp_path / "teacher"), tmp_path / "student"
    data = ["--data.path", str(tmp_path / "data.npz")]
    steps = ["--batch", "8", "--updates"]
    assert cli.main(["train", "images", "--run", run, *data, *small, *steps, "4"]) == 0
    distil = ["distill", "--teacher", run, "--run", str(student), *steps, "6"]
    assert cli.main([*distil, "--sample-every", "3"]) == 0
    rows = read_history(student / "quality")
    assert [row["step"] for row in rows] == [3, 6]
    assert {"quality/nfe_1", "quality/nfe_2"} <= set(rows[0])
    assert "quality/data" not in rows[0]  # 32 images are too few for two sets
    names = {path.name for path in (student / "quality" / "pictures").iterdir()}
    assert names == {"samples-3.png", "samples-6.png"}
    config = json.loads((student / "config.json").read_text())
    assert config["sample_every"] == 3 and config["log"] == []


def test_training_goes_on_where_a_picture_cannot_be_made():
    class Broken:
        def __init__(self):
            self.numbers = {}

        def scalars(self, step, numbers):
            self.numbers |= numbers

        def picture(self, step, name, picture):
            raise OSError("no space left")

    sink, points = Broken(), np.zeros((4, 4, 4, 1))
    look = Look(
        None, lambda method, state: {5: None}, points, None, points, None, lambda x: x, [sink],
        set(), 0,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Look, "_samples", lambda self, sampler: points)
        with pytest.warns(UserWarning, match="update 60 .* no space left"):
            assert look(None, 60, None) is False
    assert set(sink.numbers) == {"quality/nfe_5", "quality/data"}


def test_a_sheet_lays_images_out_by_rows():
    images = np.linspace(-1, 1, 12, dtype=np.float32)[:, None, None, None] * np.ones((1, 32, 8, 1))
    page = sheet(images)
    assert page.shape == (2 * 33 - 1, 10 * 9 - 1, 3) and page.dtype == np.uint8
    assert (page[:32, :8] == 0).all() and (page[33:, 9:17] == 255).all()
    assert (page[32] == 255).all() and (page[:32, 8] == 255).all()  # gaps
    assert (page[:32, 18:26] == round((2 / 11) * 255)).all()
    large = sheet(np.array([[-1.0, 1.0]]).reshape(1, 1, 2, 1), columns=1)  # 16 by 16 a pixel
    assert large.shape == (16, 32, 3)
    assert (large[:, :16] == 0).all() and (large[:, 16:] == 255).all()


def test_the_first_samples_are_those_of_the_first_batches():
    def data(step):
        return {"image": np.full((3, 1), step), "label": {"text": np.full((3, 2), 10 + step)}}

    images, labels = first_samples(data, 7)
    assert images[:, 0].tolist() == [0, 0, 0, 1, 1, 1, 2]
    assert labels["text"][:, 1].tolist() == [10, 10, 10, 11, 11, 11, 12]


def test_watches_have_periods_of_their_own():
    calls = []
    one = lambda step, state: calls.append(("one", step))  # noqa: E731
    two = lambda step, state: calls.append(("two", step))  # noqa: E731
    made = watching((one, 4), (two, 6), (None, None), last=13)
    assert made["watch_every"] == 2
    for step in (2, 4, 6, 12, 13):
        assert made["watch"](step, None) is False
    assert calls == [("one", 4), ("two", 6), ("one", 12), ("two", 12), ("one", 13), ("two", 13)]
    assert watching((None, 3), last=5) == {}
