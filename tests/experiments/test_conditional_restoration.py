"""Super-resolution measured: options that are refused, and the rows that the page quotes."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

from experiments.conditional import restoration

ROOT = Path(__file__).parents[2]


def test_options_are_refused_by_name(tmp_path, capsys):
    given = ["--folder", str(tmp_path)]
    for more, said in (
        (["--noise", "0.5"], "which the network is trained for"),
        (["--count", "0"], "--count must be positive"),
        ([], "has no mnist.npz"),
    ):
        with pytest.raises(SystemExit):
            restoration.main([*given, *more])
        assert said in capsys.readouterr().err


def test_the_page_quotes_the_rows():
    rows = json.loads((ROOT / "experiments/results/restoration.json").read_text())["rows"]
    assert [row["method"] for row in rows] == list(restoration.METHODS)
    page = (ROOT / "docs/howto/restoration.md").read_text()
    for row in rows:
        said = f"| {row['method']} | {row['psnr']:.1f} dB | {row['psnr of mean']:.1f} dB |"
        assert said in page
        assert np.isfinite(row["ssim"])


def test_both_networks_have_one_size_and_training():
    options = argparse.Namespace(folder=ROOT, runs=ROOT, channels=8, updates=3)
    shown, plain = (restoration.run_of(name, options) for name in ("super", "plain"))
    assert shown.measure is not None and plain.measure is None
    assert (shown.network, shown.updates) == (plain.network, plain.updates)
