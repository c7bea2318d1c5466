"""The one command for all benchmarks of a device: what it runs, keeps and says."""

import json

import pytest

from experiments.benchmarks import check, common, device, publishers


def test_every_benchmark_takes_its_options():
    import importlib

    for name, small in device.SMALL.items():
        module = importlib.import_module(f"experiments.benchmarks.{name}")
        module.options_of([*small, "--json", "a", "--markdown", "b"])
    given = device.options_of(["--small", "--dit", "x"])
    last = list(device.commands(given))[-1]
    assert last[0] == "publishers" and last[1][1:3] == ["--dit", "x"]
    assert publishers.options_of(last[1][1:]).small
    assert "publishers" not in dict(device.commands(device.options_of([])))


def test_what_was_done_is_kept(tmp_path, monkeypatch, capsys):
    modules = {"one": ["platform"], "two": ["no_such_module"], "three": ["platform", "--more"]}
    monkeypatch.setattr(device, "commands", lambda options: iter(modules.items()))
    assert device.main(["--out", str(tmp_path)]) == 1
    found = json.loads((tmp_path / "index.json").read_text())["benchmarks"]
    assert [row["ended"] for row in found.values()] == ["done", "exit status 1", "done"]
    assert "no_such_module" in (tmp_path / "two.log").read_text()
    capsys.readouterr()
    modules["two"] = ["platform"]
    assert device.main(["--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "one: done before" and lines[1].startswith("two: done, ")


def test_time_that_is_over_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "commands", lambda options: iter([("one", ["timeit", "-n1"])]))
    (tmp_path / "sleeping.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert device.run("one", ["sleeping"], tmp_path, 0.6)["ended"] == "stopped after 1 s"
    assert device.main(["--out", str(tmp_path), "--minutes", "1e-9"]) == 1
    assert device.read_index(tmp_path)["one"]["ended"] == "no time was left"
    (tmp_path / "index.json").write_text("[]")
    with pytest.raises(ValueError, match="no index of benchmarks"):
        device.read_index(tmp_path)


def test_pages():
    rows = [{"what": "heun", "error": e, "most": 1e-3} for e in (1e-4, 1e-2, float("nan"))]
    assert [line.count("WRONG") for line in check.lines_of(rows)[2:]] == [0, 1, 1]
    row = {"network": "DiT-B/4", "dtype": "float32", "batch": 1, "torch": "2", "device": "cpu"}
    row |= {"torch_s": [0.2], "jax_s": [0.1], "ratio": common.ratio([0.1], [0.2])}
    row |= {"difference": 1e-6, "verdict": "reached"}
    text = "\n".join(publishers.lines_of([row]))
    assert "reached, with 0.50 times it" in text and "0.50 (0.50 to 0.50) | 1.0e-06" in text


@pytest.mark.slow
def test_a_gaussian_is_solved():
    row = check.solved("unipc", "highest")
    assert row["error"] < 2e-4
    assert check.evaluated("bfloat16")["error"] < 0.05
