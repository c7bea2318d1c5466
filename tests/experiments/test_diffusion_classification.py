"""The study of classification by a diffusion model: guesses in parts, and its page."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.classification import diffusion as study


def points(y, level, cond):
    """The denoiser of ten classes of one point each: 0, 0.5, 1, ... in both pixels."""
    return jnp.broadcast_to(0.5 * cond.astype(y.dtype)[:, None], y.shape)


def test_images_are_classified_in_parts_of_one_size(monkeypatch):
    monkeypatch.setattr(study, "AT_ONCE", 3)
    labels = np.array([4, 0, 9, 2, 7, 7, 1])
    images = 0.5 * labels[:, None] * np.ones((1, 2))
    found = study.guesses(jax.tree_util.Partial(points), images, 0.05, 0.5, ((2, 10),))
    np.testing.assert_array_equal(found, labels)


def test_the_page_has_a_table_for_each_data_set():
    row = {"plan": "4 draws", "low": 0.2, "high": 2.0, "nfe": 40, "count": 7, "half": 0.05}
    numbers = {
        "logistic": {name: {"accuracy": 0.9, "taught": 30} for name in ("digits", "mnist")},
        "rows": [{**row, "data": "digits", "accuracy": 0.75}, {**row, "data": "mnist",
                 "accuracy": 0.5}],
    }  # fmt: skip
    digits, mnist = study.page(numbers).split("## mnist")
    assert "--data digits mnist" in digits and "0.2 to 2 | 4 draws | 40 | 0.750 ± 0.050" in digits
    assert "7 images. Logistic regression trained on 30" in mnist and "0.500 ±" in mnist


def test_options_that_do_not_fit_are_refused(capsys):
    for given in (["--count", "0"], ["--teacher", "runs/x", "--data", "digits", "mnist"]):
        with pytest.raises(SystemExit):
            study.main(given)
    with pytest.raises(SystemExit):  # before the digits are classified
        study.main(["--data", "digits", "mnist", "--folder", "nowhere"])
    said = capsys.readouterr().err
    assert "mnist.npz" in said
    assert "--count must be at least 1" in said and "--teacher is of one data set" in said
