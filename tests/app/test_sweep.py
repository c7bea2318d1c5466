"""The sweep of the demo: padded tables score and sample as the tables that they were made of."""

import types

import jax
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff.app.demo import teacher_tables
from jaxdiff.app.evaluator import make_evaluator, measure
from jaxdiff.app.sweep import QUALITY, sweep
from jaxdiff.data.dataset import Dataset

SHAPE = (2, 2, 1)


def images(seed):
    x = np.random.default_rng(seed).uniform(-0.5, 0.5, (40, *SHAPE))
    return Dataset(x.astype(np.float32), np.arange(40, dtype=np.int32) % 2, 2)


def test_padded_tables_sample_and_score_as_their_own():
    def D(y, level, cond=None):
        return y / (1 + 4 * level**2)

    model = types.SimpleNamespace(denoiser=jax.tree_util.Partial(D), shape=SHAPE)
    evaluator, labels = make_evaluator(images(0), images(1), "pixels"), np.arange(12) % 2
    also = {
        "teacher": jd.table(jd.solvers.heun, jd.grids.karras(2)),
        "one": teacher_tables()["Euler, NFE 1"],
    }
    (row,), made = sweep(model, evaluator, labels, (3,), 5, ("euler",), also)

    def own(table):
        return np.clip(jd.Sampler(model.denoiser, table)(jax.random.key(5), 12, SHAPE), -1, 1)

    assert list(made) == ["teacher", "one"]
    for name, table in also.items():
        np.testing.assert_allclose(made[name], own(table), atol=1e-6)
    score = measure(evaluator, own(jd.table(jd.solvers.euler, jd.grids.karras(3))), labels)
    assert row["solver"] == "euler" and row["nfe"] == 3
    assert row[QUALITY] == pytest.approx(score[QUALITY].value, rel=1e-4)
    assert not np.allclose(made["teacher"], made["one"], atol=1e-3)
