"""Control by edges: overlap counted by hand, and all of it in small."""

import json

import numpy as np
import pytest

from experiments.conditional import control


def test_overlap_is_dices_coefficient():
    first = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 0]])
    second = np.array([[0, 1, 1, 1], [0, 0, 0, 0], [1, 0, 1, 0]])
    np.testing.assert_allclose(control.overlap(first, second), [2 / 5, 0, 1])


def test_another_picture_is_of_the_same_class_and_another():
    labels = np.array([1, 0, 1, 0, 1])
    others = control.another_of_the_class(labels)
    np.testing.assert_array_equal(labels[others], labels)
    assert (others != np.arange(5)).all() and sorted(others) == [*range(5)]


@pytest.mark.slow
def test_one_way_of_control_in_small(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (200, 28, 28)).astype(np.uint8)
    labels = np.arange(200) % 10
    np.savez(tmp_path / "mnist.npz", train_images=images, train_labels=labels,
             test_images=images, test_labels=labels)  # fmt: skip
    given = [
        "--folder", str(tmp_path), "--runs", str(tmp_path / "runs"), "--base-updates", "1",
        "--updates", "1", "--test", "20", "--steps", "1", "--channels", "8", "--batch", "4",
        "--methods", "ControlNet", "--out", str(tmp_path / "rows.json"),
    ]  # fmt: skip
    assert control.main(given) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [r["method"] for r in rows] == ["base", "another picture of the class", "ControlNet"]
    assert all(0 <= r["overlap"] <= 1 and 0 <= r["accuracy"] <= 1 for r in rows)
    assert rows[2]["trained"] > 0 and control.main(given) == 0  # nothing is made again
    assert len(json.loads((tmp_path / "rows.json").read_text())["rows"]) == 3
