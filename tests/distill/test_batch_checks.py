"""Methods refuse wrong batches by name, before anything is compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import distill, grids, solvers, tuning
from jaxdiff.sampling.trace import table
from jaxdiff.training.loop import fit
from jaxdiff.tuning.learned.bespoke import bespoke_tuning
from jaxdiff.tuning.learned.method import Ball

KEY = jax.random.key(0)
HERE = np.ones((4, 2), np.float32)


def D(y, s, cond=None):
    return y / 2


def refused(method, batch, said):
    """By its check, and by the training loop before the losses are looked at."""
    with pytest.raises(ValueError, match=said):
        method.check(batch)
    for player in method.players.values():
        assert player.loss is not None
    broken = method._replace(players={k: p._replace(loss=None) for k, p in method.players.items()})
    with pytest.raises(ValueError, match=said):
        fit(broken, lambda step: batch, num_updates=1, key=0, progress=False)


def test_tuning():
    family = tuning.of_grid(solvers.euler, grids.karras(2))
    make = lambda **options: tuning.tuning(  # noqa: E731
        D, family, tuning.end_point(), optimiser=optax.adam(1e-2), **options
    )
    refused(make(), {"image": HERE}, "tuning needs 'start' in every batch; these have \\['image'")
    refused(make(), {"start": HERE, "image": HERE[:, :1]}, "'image' has shape \\(4, 1\\), 'start'")
    wrong = {"start": HERE, "image": HERE, "label": np.zeros(3, np.int32)}
    refused(make(), wrong, "label'\\] has shape \\(3,\\)")
    ball = make(ball=Ball(8, 4, 0.1, 1.0), shape=(2,))
    good = {"start": HERE, "image": HERE, "index": np.arange(4)}
    ball.check(good)
    refused(ball, {k: good[k] for k in ("start", "image")}, "needs 'index'")
    refused(ball, good | {"index": np.arange(5, 9)}, "numbers, 0 to 7, whose starts move")
    refused(ball, good | {"index": np.zeros(4, np.float32)}, "float32")
    refused(ball, good | {"index": np.array([0, 1, 1, 2])}, "a pair is in this batch twice")


def test_bespoke_tuning():
    method = bespoke_tuning(D, grids.karras(2))
    path = np.ones((4, 3, 2), np.float32)
    good = {"states": path, "denoised": path, "levels": path[..., 0], "image": HERE}
    method.check(good)
    refused(method, {k: v for k, v in good.items() if k != "levels"}, "needs 'levels'")
    refused(method, good | {"denoised": path[:, :2]}, "'denoised' has shape")
    refused(method, good | {"image": path}, '"image" \\(batch, \\*shape\\); these are')


def test_discriminator():
    logits = lambda params, y, s, cond: jnp.sum(y, axis=1) * params  # noqa: E731
    method = distill.discriminator(D, logits, jnp.ones(()))
    method.check({"image": HERE, "sample": HERE})
    refused(method, {"image": HERE}, "discriminator needs 'sample' in every batch")
    refused(method, {"image": HERE, "sample": HERE[:2]}, "has shape \\(2, 2\\)|2 samples")
    refused(
        method, {"image": HERE, "sample": HERE, "label": np.zeros(2)}, "label'\\] has shape \\(2,"
    )


@pytest.mark.parametrize("name", ["score_distillation", "variational_score_distillation"])
def test_score_distillation(name):
    render, scene = lambda params, key: params, jnp.ones((4, 2))
    student = distill.Student(lambda p, x, label, cond, **k: x * p, jnp.ones(()))
    more = () if name == "score_distillation" else (student,)
    method = getattr(distill, name)(D, render, scene, *more, **({"rank": 0} if more else {}))
    method.check({"label": np.zeros(4, np.int32)})
    method.check({})
    said = f'{name} renders \\(4, 2\\): batch "label" has shape \\(3,\\)'
    refused(method, {"label": np.zeros(3, np.int32)}, said)


def test_whole_tables_are_still_tuned():
    """A batch that is right passes its check and is trained on."""
    family = tuning.of_weights(table(solvers.euler, grids.karras(2)))
    method = tuning.tuning(D, family, tuning.end_point(), optimiser=optax.adam(1e-2))
    state = fit(
        method, lambda step: {"start": HERE, "image": HERE}, num_updates=1, key=0, progress=False
    )
    assert int(state.step) == 1
