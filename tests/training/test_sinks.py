"""Sinks: what a run writes to them, once for every step, however often it is stopped."""

import json
import sys
import types

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff.distill.parts.stage import Stage
from jaxdiff.method import Method, Player
from jaxdiff.training import fit, fit_stages, sinks
from jaxdiff.training.history import History, read_history
from jaxdiff.training.measures import Measures, rated


class Recorded:
    """A sink of one's own: all that it is told."""

    def __init__(self):
        self.rows, self.resumed, self.closed = [], [], 0

    def scalars(self, step, values):
        self.rows.append((step, dict(values)))

    def picture(self, step, name, pixels):
        raise AssertionError("nobody made a picture")

    def resume(self, step):
        self.resumed.append(step)

    def close(self):
        self.closed += 1


def schedule(n):
    return 0.1 / (1 + n)


def pulled():
    """Two players, each drawn to the mean of a batch from 0, the second in every third step."""

    def loss(params, context, batch, key):
        return jnp.sum((params - batch["image"].mean(axis=0)) ** 2) / 2, {}

    slow = Player(loss, optax.sgd(0.5), every=3)
    return Method(
        lambda key: {"fast": jnp.zeros(2), "slow": jnp.zeros(2)},
        {"fast": Player(loss, rated(optax.sgd(schedule), schedule)), "slow": slow},
        lambda state: None,
    )


def data(step):
    return {"image": np.full((4, 2), 3.0) + [[0.0, 1.0]]}


METHOD = pulled()


@pytest.mark.parametrize(
    "wrong, said",
    [
        (Recorded(), "a list of sinks, not Recorded"),
        ("tensorboard", "a list of sinks, not str"),
        ([object()], "which has no scalars and no picture and no resume and no close"),
        ([print], "a sink is an object with scalars, picture, resume, close"),
        ([Recorded], "not the class Recorded"),
    ],
)
def test_what_is_no_sink_is_refused(wrong, said):
    with pytest.raises(TypeError, match=said):
        fit(METHOD, data, num_updates=1, progress=False, sinks=wrong)
    with pytest.raises(TypeError, match=said):
        fit_stages([Stage("a", lambda before: METHOD)], data, num_updates=1, sinks=wrong)


def run(num_updates, **options):
    return fit(METHOD, data, num_updates=num_updates, progress=False, log_every=2, **options)


def test_rows_say_what_is_true_of_the_run():
    """A gradient is params - (3, 4), its norm 5 at first, and shrinks by 1 - rate."""
    sink, log = Recorded(), []
    run(6, sinks=[sink], log=lambda step, row: log.append(row))
    assert sink.resumed == [0] and sink.closed == 1
    assert [step for step, _ in sink.rows] == [2, 4, 6]
    rates, norm = [float(schedule(n)) for n in range(6)], 5.0
    for n in range(6):
        if n % 2:
            row = sink.rows[n // 2][1]
            np.testing.assert_allclose(row["fast/gradient_norm"], norm, rtol=1e-12)
            np.testing.assert_allclose(row["fast/learning_rate"], rates[n], rtol=1e-12)
            np.testing.assert_allclose(row["fast/loss"], norm**2 / 2, rtol=1e-12)
            assert row["samples_per_second"] > 0 and 0.05 < row["memory_gb"] < 1000
            assert "slow/learning_rate" not in row  # its optimiser does not say
        norm *= 1 - rates[n]
    np.testing.assert_allclose(
        [row["slow/gradient_norm"] for _, row in sink.rows], [5.0, 2.5, 2.5], rtol=1e-12
    )
    assert log[-1] == {"step": 6, **sink.rows[-1][1]}


def test_a_run_without_sinks_writes_what_it_did(tmp_path):
    run(4, checkpoint=tmp_path)
    assert set(read_history(tmp_path)[-1]) == {"step", "seconds", "fast/loss", "slow/loss"}


def test_samples_are_counted_from_the_second_step_on(monkeypatch):
    now = iter([10.0, 12.0, 20.0, 21.0, 30.0])
    monkeypatch.setattr("jaxdiff.training.measures.time.monotonic", lambda: next(now))
    measures = Measures(METHOD, 0)
    for _ in range(3):  # the clock starts at 10, in the second
        measures.saw(data(0))
    assert measures.at(3)["samples_per_second"] == 2 * 4 / 2
    measures.saw(data(0))
    assert measures.at(4)["samples_per_second"] == 4 / 8
    assert measures.seconds_left(6) == 6 * 11 / 3  # three steps since the first
    assert measures.seconds_left(6) == 0.0
    large = Measures(METHOD, 0, batch_size=64)  # of all processes
    large.saw(data(0)), large.saw(data(0))
    assert large.samples == 64


def test_every_step_is_in_the_history_and_tensorboard_once(tmp_path):
    """Killed after step 6, of which no checkpoint is left: it goes on from step 5."""
    pytest.importorskip("tensorboardX")
    where = tmp_path / "tensorboard"
    whole = Recorded()
    run(10, sinks=[whole])

    def killed(step, row):
        if step == 6:
            raise OSError("killed")

    options = {"checkpoint": tmp_path / "run", "save_every": 5}
    with pytest.raises(OSError, match="killed"):
        run(10, sinks=[sinks.tensorboard(where)], log=killed, **options)
    run(10, sinks=[sinks.tensorboard(where)], **options)
    assert [row["step"] for row in read_history(tmp_path / "run")] == [2, 4, 6, 8, 10]
    found = events(where)
    assert [step for step, _ in found["fast/loss"]] == [2, 4, 6, 8, 10]
    expected = [row["fast/loss"] for _, row in whole.rows]
    np.testing.assert_allclose([loss for _, loss in found["fast/loss"]], expected, rtol=1e-6)
    assert len(found["fast/learning_rate"]) == len(found["memory_gb"]) == 5


def events(folder):
    """The scalars of a folder, as TensorBoard shows them: [(step, value), ...] by name. A file
    that starts at a step takes the place of those before from there on.
    """
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found = {}
    for path in sorted(folder.iterdir()):
        raw = path.read_bytes()
        while raw:
            size = int.from_bytes(raw[:8], "little")
            event, raw = Event.FromString(raw[12 : 12 + size]), raw[16 + size :]
            if event.session_log.status == SessionLog.START:
                for name, rows in found.items():
                    found[name] = [row for row in rows if row[0] < event.step]
            for value in event.summary.value:
                kind = value.WhichOneof("value")
                got = value.image if kind == "image" else value.simple_value
                found.setdefault(value.tag, []).append((event.step, got))
    return found


def test_pictures_are_read_back(tmp_path):
    pytest.importorskip("tensorboardX")
    from io import BytesIO

    from PIL import Image

    pixels = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    board, history = sinks.tensorboard(tmp_path / "board"), History(tmp_path)
    for sink in (board, history):
        sink.picture(7, "samples", pixels)
        sink.close()
    ((step, image),) = events(tmp_path / "board")["samples"]
    kept = Image.open(tmp_path / "pictures" / "samples-7.png")
    read = Image.open(BytesIO(image.encoded_image_string))
    assert step == 7
    for one in (kept, read):
        np.testing.assert_array_equal(np.asarray(one), pixels)


@pytest.mark.parametrize("package", ["wandb", "trackio"])
def test_a_tracker_has_one_run_and_every_step_once(package, tmp_path, monkeypatch):
    calls, rows = [], []
    fake = types.SimpleNamespace(
        init=lambda **given: calls.append(given),
        log=lambda values, **given: rows.append({**values, **given}),
        finish=lambda: calls.append("finished"),
        define_metric=lambda *_, **__: None,
        Image=lambda pixels: pixels.shape,
    )
    monkeypatch.setitem(sys.modules, package, fake)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: fake)
    make, folder = getattr(sinks, package), tmp_path / "mine"

    def killed(step, row):
        if step == 6:
            raise OSError("killed")

    options = {"checkpoint": tmp_path / "run", "save_every": 5}
    with pytest.raises(OSError, match="killed"):
        run(10, sinks=[make(folder, config={"batch": 4})], log=killed, **options)
    again = make(folder)
    run(10, sinks=[again], **options)
    assert [row["step"] for row in rows] == [2, 4, 6, 8, 10]
    first, _, second, _ = calls
    assert first["config"] == {"batch": 4} and first["resume"] == "allow"
    assert first["name"] == second["name"] and first.get("id") == second.get("id")
    assert json.loads((folder / f"{package}.json").read_text())["step"] == 10
    again.picture(12, "samples", np.zeros((2, 3, 3), np.uint8))
    assert rows[-1] == {"step": 12, "samples": (2, 3, 3)}
    new = make(folder)  # begun anew: another run
    new.resume(0)
    new.scalars(2, {"loss": 1.0})
    assert (calls[-1]["name"], calls[-1].get("id")) != (first["name"], first.get("id"))
    assert rows[-1] == {"loss": 1.0, "step": 2}
    (folder / f"{package}.json").write_text("[]")
    with pytest.raises(ValueError, match="damaged"):
        make(folder)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for make, package in (
        (sinks.tensorboard, "tensorboardX"), (sinks.wandb, "wandb"), (sinks.trackio, "trackio")
    ):  # fmt: skip
        with pytest.raises(ImportError, match=f"pip install {package}"):
            make(tmp_path)


def test_steps_of_stages_are_counted_through(tmp_path):
    one = METHOD._replace(
        players={"student": METHOD.players["fast"]}, init=lambda key: {"student": jnp.zeros(2)}
    )
    stages = [Stage(name, lambda before: one) for name in ("first", "second")]
    options = {"num_updates": 8, "log_every": 2, "progress": False, "checkpoint": tmp_path}
    sink = Recorded()
    fit_stages(stages, data, sinks=[sink], **options)
    assert [step for step, _ in sink.rows] == [2, 4, 6, 8] and sink.resumed == [0, 4]
    again = Recorded()
    fit_stages(stages, data, sinks=[again], **options)  # all is done: nothing is made again
    assert again.rows == again.resumed == []


def test_a_long_run_says_how_long_it_will_take():
    from jaxdiff.training.reporting import say_time_left

    said = []
    bar = types.SimpleNamespace(disable=False, write=lambda text, file: said.append(text))
    for seconds in (0.0, 59.0, 240.0, 3 * 3600 + 5 * 60):
        say_time_left(bar, seconds)
    assert said == ["about 4 min left", "about 3 h 5 min left"]
