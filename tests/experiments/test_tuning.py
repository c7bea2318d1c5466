"""The table of tuned samplers, from the command line to the page."""

import json

import pytest

from experiments.tuning import __main__ as experiment
from experiments.tuning import report


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "COUNT", 64)
    experiment.exact_task.cache_clear()
    yield [*"--problem mixture-2d --nfe 2 --updates 2".split(), "--out", str(tmp_path / "rows")]
    experiment.exact_task.cache_clear()


@pytest.mark.slow
def test_from_the_command_line_to_the_table(tmp_path, small, capsys):
    out = tmp_path / "t.json"
    assert experiment.main([*small, "--method", "dmn", "epd", "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "baseline" in printed and "epd cannot have 2 evaluations" in printed
    rows = {row["method"]: row for row in json.loads(out.read_text())["rows"]}
    assert set(rows) == {"baseline", "dmn", "epd"} and rows["dmn"]["calls"] == 2
    assert 0 < rows["baseline"]["error_of"] <= 2 * rows["dmn"]["error_of"]
    page = out.with_suffix(".md").read_text()
    assert "| `epd` | - |" in page and "| `dmn` |" in page and out.with_suffix(".png").exists()
    assert experiment.main([*small, "--method", "dmn", "--json", str(out)]) == 0
    assert "made 20" in capsys.readouterr().out  # kept


def test_what_the_command_line_refuses(small, capsys):
    for more, message in (
        (["--method", "nothing"], "no method 'nothing'"),
        (["--nfe", "0"], "at least 1"),
        (["--json", "t.txt"], "ends in .json"),
    ):
        with pytest.raises(SystemExit):
            experiment.main([*small, *more])
        assert message in capsys.readouterr().err


def row(method, n, error, held_out, **more):
    known = {"problem": "p", "method": method, "evaluations": n, "error_of": error, "error": None}
    known |= {"held_out": held_out, "seconds": 3.0, "calls": n, "machine": "m", "name": "x"}
    return known | {"mmd2": 0.1, "made": "2026-11-26 14:22", "code": "old"} | more


def test_the_page_says_which_code_made_which_rows():
    rows = [row("a", 3, 0.1, 0.1), row("a", 4, 0.1, 0.1), row("b", 3, 0.1, 0.1)]
    metadata = {"command": "c", "jax": "j", "device": "d"}
    assert "- Made by code old, 2026-11-26: all rows." in report.markdown(rows, metadata)
    new = {"code": "new", "made": "2026-11-29 10:40"}
    rows += [row("a", 5, 0.2, 0.2, **new), row("c", 3, 0.2, 0.2, **new)]
    page = report.markdown(rows, metadata)
    assert "- Made by code old, 2026-11-26: all other rows." in page
    assert "- Made by code new, 2026-11-29: `a` on p at 5, `c`." in page


def test_the_page_chooses_by_the_held_out_score():
    rows = [row("baseline", 3, 0.3, 0.3), row("a", 3, 0.06, 0.02), row("b", 3, 0.05, 0.04)]
    rows += [row("c", 3, None, 0.1), row("d", 3, 0.5, 0.5, calls=2)]
    metadata = {"command": "c", "jax": "j", "device": "d"}
    page = report.markdown(rows, metadata)
    assert "3: 5.0 (a)" in page  # b's error is less, but who could have known
    assert "**0.05** (3 s)" in page and "MMD² 1.0e-01" in page and "0.5 (3 s, 2 calls)" in page
    assert len(report.figure(rows).axes) == 1


def test_the_page_shows_what_failed():
    failed = row("baseline", 4, None, None) | {"error": "ValueError: no"}
    rows, lost = [row("baseline", 3, 0.3, 0.3), failed], failed | {"problem": "q"}
    page = report.markdown([*rows, lost], {"command": "c", "jax": "j", "device": "d"})
    assert "| `baseline` | **0.3** (3 s) | - |" in page and "## q" in page
    assert len(report.figure([*rows, lost]).axes) == 2
