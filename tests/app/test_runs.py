"""Lists of runs, and runs side by side."""

import json
import os
import socket

import jax
import numpy as np
import pytest

from jaxdiff.app import compare, config_file
from jaxdiff.app import config as configs
from jaxdiff.app import main as cli
from jaxdiff.app.compare import curves_of, differences, flat
from jaxdiff.app.runs import holder_of
from jaxdiff.report.compare import curves_of_runs
from jaxdiff.training.history import History


def written(folder, name, *, rate=1e-3, updates=100, losses=(3.0, 2.0), **kept):
    """A run that looks as one that was stopped after so many logged losses."""
    run = folder / name
    config_file.save(configs.Train(run=str(run), learning_rate=rate, updates=updates), run)
    for n, loss in enumerate(losses, 1):
        History(run / "checkpoints").scalars(10 * n, {"seconds": n, "student/loss": loss})
    for path, value in kept.items():
        (run / f"{path}.json").write_text(json.dumps(value))
    return run


SCORES = {"scores": {f"{nfe}": {"nfe": nfe, "Frechet distance": {"value": value}}
                     for nfe, value in ((5, 4.0), (10, 1.5), (20, 1.75))}}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    written(tmp_path, "a", evaluation=SCORES)
    b = written(tmp_path, "deep/b", rate=2e-3, losses=(3.0, 2.5, 1.25))
    (b / "model.npz").write_bytes(b"0" * 1000)
    holder = {"process": os.getpid(), "machine": socket.gethostname(), "since": "now"}
    written(tmp_path, "c", losses=(), lock=holder)
    written(tmp_path, "d", losses=())
    (tmp_path / "d" / "config.json").write_text('{"kind": "Train", "updats": 3}')
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text('{"architectures": []}')
    return tmp_path


def test_a_list_says_what_runs_are(folder, capsys):
    assert cli.main(["runs", str(folder), "--json"]) == 0
    rows = {row["run"]: row for row in json.loads(capsys.readouterr().out)}
    assert list(rows) == ["a", "c", "d", "deep/b"]
    a, b, c, d = rows["a"], rows["deep/b"], rows["c"], rows["d"]
    assert (a["state"], a["loss"], a["score"], a["nfe"]) == ("stopped", 2.0, 1.5, 10)
    assert (b["state"], b["loss"], b["updates"], b["of"]) == ("finished", 1.25, 100, 100)
    assert (c["state"], c["loss"], c["updates"], c["score"]) == ("training", None, 0, None)
    assert d["state"].startswith("damaged: ") and "'updates'?" in d["state"]
    files = [p for p in (folder / "deep").rglob("*") if p.is_file()]
    assert b["megabytes"] == sum(p.stat().st_size for p in files) / 1e6 > 0.001
    assert cli.main(["runs", str(folder)]) == 0
    first, rule, *lines = capsys.readouterr().out.splitlines()
    assert first.split()[:3] == ["run", "what", "state"] and len(lines) == 4
    assert cli.main(["runs", str(folder / "other")]) == 2
    assert "there is no run in" in capsys.readouterr().err
    assert cli.main(["runs", str(folder / "none")]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_a_process_that_has_ended_holds_nothing(tmp_path):
    assert holder_of(tmp_path) == ""
    for holder, said in (
        ({"process": 2**22 + 1, "machine": socket.gethostname()}, ""),
        ({"process": 1, "machine": "elsewhere"}, "training on elsewhere"),
        ({"process": os.getpid(), "machine": socket.gethostname()}, "training"),
        ([], ""),
    ):
        (tmp_path / "lock.json").write_text(json.dumps(holder))
        assert holder_of(tmp_path) == said


def test_options_that_differ_are_found():
    a, b = {"kind": "Train", "run": "a", "data": {"path": "x"}, "nfe": [1, 2]}, {"run": "b"}
    assert flat(a) == {"kind": "Train", "run": "a", "data.path": "x", "nfe": [1, 2]}
    found = differences({"a": flat(a), "b": b | {"data.path": "x", "nfe": (1, 3)}})
    assert found == {"nfe": {"a": "1 2", "b": "1 3"}}
    assert differences({"a": {"x": 1}, "b": {}}) == {"x": {"a": "1", "b": "-"}}


def test_a_page_compares_runs(folder, tmp_path, capsys):
    History(folder / "a" / "quality").scalars(10, {"quality/nfe_5": 0.5, "quality/data": 0.1})
    out = tmp_path / "page" / "compare.html"
    given = ["compare", str(folder / "a"), str(folder / "deep/b"), "--out", str(out)]
    assert cli.main([*given, "--count", "0"]) == 0
    said = capsys.readouterr().out
    assert "learning_rate: 0.001 | 0.002" in said and "batch" not in said
    numbers = json.loads(out.with_suffix(".json").read_text())
    assert numbers["curves"]["student/loss"][str(folder / "a")] == [[10, 3.0], [20, 2.0]]
    assert list(numbers["curves"]) == ["student/loss", "quality/nfe_5"]
    page = out.read_text()
    for heading in ("Runs", "Options that differ", "Losses", "Distances as they trained", "Scores"):
        assert f">{heading}</h2>" in page
    assert page.count("<img ") == 3 and 'src="data:' in page
    assert cli.main(given) == 0  # samples: of none, as neither has a model that can be read
    assert "There are none." in out.read_text() and "damaged" in out.read_text()


def test_what_is_compared_is_saved_whatever_draws_it(folder, tmp_path, capsys, monkeypatch):
    def broken(curves):
        raise RuntimeError("no font")

    monkeypatch.setattr(compare, "_figures", broken)
    out = tmp_path / "compare.html"
    with pytest.warns(UserWarning, match="no font"):
        code = cli.main(["compare", str(folder / "a"), str(folder / "deep/b"), "--out", str(out)])
    assert code == 0 and "learning_rate: 0.001 | 0.002" in capsys.readouterr().out
    assert json.loads(out.with_suffix(".json").read_text())["options"] and not out.exists()


def test_what_cannot_be_compared_is_refused(folder, capsys):
    a = str(folder / "a")
    for given, said in (
        ([a], "two different runs"),
        ([a, a], "two different runs"),
        ([a, str(folder / "other")], "other"),
        ([a, str(folder / "none")], "not a run"),
    ):
        assert cli.main(["compare", *given]) == 2
        assert said in capsys.readouterr().err


def test_a_run_has_one_colour_in_all_panels():
    figure = curves_of_runs({"x": {"a": [(1, 1.0), (2, 2.0)], "b": [(1, 3.0)]},
                             "y": {"b": [(1, 3.0), (2, float("nan"))]}})  # fmt: skip
    x, y = figure.axes
    assert x.lines[-1].get_color() == y.lines[-1].get_color() != x.lines[0].get_color()
    assert y.lines[-1].get_xdata().tolist() == [1.0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    with pytest.raises(ValueError, match="no finite value"):
        curves_of_runs({"x": {"a": [(1, float("inf"))]}})


@pytest.mark.slow
def test_samples_stand_side_by_side(tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (16, 8, 8), np.uint8)
    np.savez(tmp_path / "data.npz", images=images)
    runs = [str(tmp_path / name) for name in ("a", "b")]
    small = ["--network.channels", "8", "--network.multipliers", "1", "--network.embedding", "16",
             "--batch", "8", "--updates", "2",
             "--data.path", str(tmp_path / "data.npz")]  # fmt: skip
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        with jax.numpy_rank_promotion("allow"):
            for seed, run in enumerate(runs):
                assert cli.main(["train", "images", "--run", run, *small, "--seed", str(seed)]) == 0
            out = tmp_path / "c.html"
            assert cli.main(["compare", *runs, "--out", str(out), "--count", "5"]) == 0
    assert ">Samples</h2>" in out.read_text() and "Samples of each run." in out.read_text()
    assert "seed: 0 | 1" in capsys.readouterr().out
    assert set(curves_of({run: tmp_path / run for run in runs})) == {"student/loss"}
