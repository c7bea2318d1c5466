"""Class conditions are learned as fast as the rest of a network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import grids, solvers
from jaxdiff.denoisers import denoiser
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.score_matching import score_matching
from jaxdiff.networks import MLP, from_linen, init
from jaxdiff.noise import start_noise
from jaxdiff.sampling.direct import direct
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table
from jaxdiff.training.loop import fit

CLASSES = 8
ANGLES = 2 * np.pi * np.arange(CLASSES) / CLASSES
MEANS = 0.7 * np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1)


@pytest.fixture(autouse=True)
def as_users_train():
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


def data(step):
    rng = np.random.default_rng(step)
    labels = rng.integers(0, CLASSES, 64)
    images = MEANS[labels] + 0.1 * rng.normal(size=(64, 2))
    return {"image": images.astype(np.float32), "label": labels.astype(np.int32)}


@pytest.mark.slow
def test_few_updates_teach_a_wide_embedding_its_classes():
    """With rows of norm 1, 120 updates gave the requested class in 12 % of the samples: chance."""
    module = MLP(width=32, depth=2, embedding=256, num_classes=CLASSES)
    network = from_linen(module)
    student = Student(
        network, lambda key: init(module, key, (2,)), classes=CLASSES, optimiser=optax.adam(3e-3)
    )
    method = score_matching(student)
    state = fit(method, data, num_updates=120, progress=False)
    labels = np.arange(200) % CLASSES
    start = 80.0 * start_noise(jax.random.key(1), len(labels), (2,))
    made = table(solvers.dpmpp, grids.karras(8))
    x = np.asarray(
        sample(denoiser(network, state.params["student"]), made, start, jnp.asarray(labels))
    )
    nearest = np.square(x[:, None] - MEANS[None]).sum(-1).argmin(1)
    assert np.mean(nearest == labels) > 0.6


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray])
def test_classes_that_there_are_not_are_refused_before_sampling_where_they_are_known(kind):
    module = MLP(width=4, depth=1, embedding=4, num_classes=CLASSES)
    D = denoiser(from_linen(module), init(module, jax.random.key(0), (2,)))
    start, levels = 80.0 * start_noise(jax.random.key(1), 2, (2,)), grids.karras(2)
    for wrong in (-1, CLASSES + 1):
        labels = kind(np.array([0, wrong], np.int32))
        for refuse in (
            lambda: sample(D, table(solvers.euler, levels), start, labels),  # noqa: B023
            lambda: direct(D, solvers.euler, levels, start, labels),  # noqa: B023
        ):
            with pytest.raises(ValueError, match="numbered 0 to 7, and 8 is none"):
                refuse()
    none = jnp.array([0, CLASSES], jnp.int32)
    found = jax.jit(sample)(D, table(solvers.euler, levels), start, none)
    np.testing.assert_allclose(
        found, sample(D, table(solvers.euler, levels), start, none), atol=1e-5
    )
