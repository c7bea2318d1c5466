"""The notebooks, run as scripts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))
SHOWN = "import matplotlib.pyplot as p; p.show = lambda: print('shown:', len(p.gcf().axes)); "


def test_every_notebook_is_listed():
    listed = re.findall(
        r"^\| \[(\w+)\]\((\w+\.py)\)", (ROOT / "notebooks/README.md").read_text(), re.M
    )
    assert sorted(f"{name}.py" for name, _ in listed) == [path.name for path in NOTEBOOKS]
    assert all(f"{name}.py" == file for name, file in listed)
    for path in NOTEBOOKS:
        cells = re.split(r"^# %%.*$", path.read_text(), flags=re.M)
        assert cells[0] == "" and cells[1].lstrip().startswith("# # ")  # a title first


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path):
    run = f"{SHOWN}import runpy; runpy.run_path({str(path)!r})"
    environment = {**os.environ, "MPLBACKEND": "agg", "PYTHONPATH": str(ROOT)}
    environment.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", run],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(re.findall(r"shown: (\d+)", done.stdout)[-1]) >= 2
