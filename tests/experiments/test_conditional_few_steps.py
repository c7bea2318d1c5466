"""LCM-LoRA on digits: what is measured, and its command."""

import json
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from experiments.conditional import few_steps


def test_samples_are_scored_by_class_bars_and_distance():
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, -0.5, (60, 8, 8, 1)).astype(np.float32)
    labels = np.arange(60) % 3
    images[np.arange(60), 4, 2 + labels, 0] = 1.0  # the class is where a pixel is bright
    classifier = SimpleNamespace(
        logits=lambda x: x[:, 4, 1:4, 0], features=lambda x: x[:, 4, 1:4, 0]
    )
    score = few_steps.Judge(classifier, classifier.features(images[:, :, 1:-1]))
    made = score(images, labels)
    assert made["accuracy"] == 1 and made["bars"] == 0 and abs(made["distance"]) < 1e-4
    assert score(images, (labels + 1) % 3)["accuracy"] == 0
    with_bars = few_steps.barred(images)
    assert score(with_bars, labels)["bars"] == 1
    assert score(with_bars, labels)["distance"] == made["distance"]  # which does not see them
    with_bars[:, :, 0] = -1.0
    assert score(with_bars, labels)["bars"] == 0
    assert score(np.ones_like(images), labels)["distance"] > 0.5


@pytest.mark.parametrize(("evaluations", "nfe"), [(2, 2), (4, 4), (20, 20)])
def test_as_many_evaluations_without_it(evaluations, nfe):
    made = few_steps.plain(lambda y, s, cond=None: y, evaluations).table
    assert made.nfe == nfe
    assert (made.name == "euler") == (evaluations < few_steps.MANY)


@pytest.mark.slow
def test_the_command_writes_its_rows(tmp_path):
    few = ["--updates", "2", "--special-updates", "2", "--batch", "8", "--count", "10"]
    given = [*few, "--runs", str(tmp_path), "--out", str(tmp_path / "rows.json")]
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        assert few_steps.main(given) == 0
    rows = {row["method"]: row for row in json.loads((tmp_path / "rows.json").read_text())["rows"]}
    assert len(rows) == 14 and rows["special with LoRA, 2"]["nfe"] == 2
    assert rows["base with LoRA, 1"]["bytes"] == (tmp_path / "few-steps.safetensors").stat().st_size


def test_the_page_on_adapters_says_what_was_measured():
    root = Path(__file__).parents[2]
    rows = json.loads((root / "experiments/results/few_steps.json").read_text())["rows"]
    distances = {row["method"]: row["distance"] for row in rows}
    page = (root / "docs/howto/text_and_adapters.md").read_text()
    for n in few_steps.FEW:
        names = [f"{m}, {n}" for m in ("base", "base with LoRA", "special", "special with LoRA")]
        assert " | ".join(["|", str(n), *(f"{distances[k]:.2f}" for k in names)])[2:] in page
