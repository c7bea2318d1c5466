"""Inverse problems on images: the page, which methods are measured, and rows that are kept."""

import json

import numpy as np
import pytest

from experiments.inverse import __main__ as inverse
from experiments.inverse.report import table
from jaxdiff.app.restoration_methods import METHODS


def row(method, task, psnr, **more):
    numbers = {"psnr of mean": 20.0, "ssim": 0.9, "misfit": 0.05, "spread": 0.1, "nfe": 20}
    return {"method": method, "task": task, "psnr": psnr} | numbers | more


def test_a_table_has_the_best_in_bold_and_dashes_where_nothing_applies():
    rows = [row("dps", "super", 18.0), row("dps", "jpeg", 15.0), row("mmps", "super", 19.0),
            row("tmpd", "super", None)]  # fmt: skip
    lines = table(rows)
    assert lines[0] == "| method | evaluations | super | jpeg |"
    made = {line.split(" | ")[0].strip("| "): line for line in lines[2:]}
    assert list(made) == [name for name in METHODS if name in ("dps", "mmps", "tmpd")]
    assert made["mmps"] == "| mmps | 20 | **19.0** / 20.0 / 0.050 | - |"
    assert "| 18.0 / 20.0 / 0.050 | **15.0** / 20.0 / 0.050 |" in made["dps"]
    assert "not finite" in made["tmpd"]


def test_options_are_refused_by_name(tmp_path, capsys):
    with pytest.raises(SystemExit):
        inverse.main(["--folder", str(tmp_path), "--arrays", str(tmp_path)])
    assert "has no mnist.npz" in capsys.readouterr().err


@pytest.mark.slow
def test_rows_are_made_once(tmp_path, monkeypatch):
    monkeypatch.setattr(inverse, "SETTINGS", {"count": 2, "samples": 2, "steps": 2, "particles": 4})
    measured = inverse.able
    monkeypatch.setattr(
        inverse, "able", lambda setting: [n for n in measured(setting) if n in ("ddrm", "ddnm")]
    )
    names = {name: str(tmp_path / name) for name in ("json", "markdown", "picture")}
    call = ["--model", "digits", "--task", "super", "--arrays", str(tmp_path)]
    call += [part for name, path in names.items() for part in (f"--{name}", path)]
    inverse.main(call)
    first = json.loads((tmp_path / "json").read_text())
    assert [(r["method"], r["noise"]) for r in first["rows"]] == [("ddrm", 0.05), ("ddnm", 0.0)]
    assert all(np.isfinite(r["psnr"]) for r in first["rows"])
    assert "| ddnm | 2 |" in (tmp_path / "markdown").read_text()
    monkeypatch.setattr(inverse, "restored_by", None)  # not called again
    inverse.main(call)
    assert json.loads((tmp_path / "json").read_text()) == first
