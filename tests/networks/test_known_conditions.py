"""Conditions that a network does not have are refused by name where their numbers are known."""

import jax
import numpy as np
import pytest

from jaxdiff import solvers
from jaxdiff.denoisers import denoiser
from jaxdiff.distill import Student
from jaxdiff.networks import MLP, Beside, from_linen, init
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table


@pytest.fixture(scope="module")
def shown():
    module = Beside(MLP(width=4, depth=1, num_classes=3), 1)
    network = from_linen(module)
    return denoiser(network, jax.jit(lambda: init(module, jax.random.key(0), (2,)))())


def test_classes_beside_other_conditions(shown):
    euler = table(solvers.euler, np.array([1.0, 0.0]))
    x, beside = np.ones((2, 2), np.float32), np.zeros((2, 1), np.float32)
    for cond in (np.array([0, 4]), {"classes": np.array([0, 4]), "beside": beside}):
        with pytest.raises(
            ValueError, match=r"classes are numbered 0 to 2, and 3 is none; got \[0 4"
        ):
            sample(shown, euler, x, cond)
    with pytest.raises(TypeError, match="takes class indices .batch,. alone; cond has besides"):
        sample(shown, euler, x, {"besides": beside})
    student = Student.of(shown, null={"beside": 0.0, "classes": 3})
    batch = {"image": x, "label": {"beside": beside, "classes": np.array([0, 3])}}
    student.check(batch)
    batch["label"]["classes"][0] = -1
    with pytest.raises(ValueError, match="classes are numbered 0 to 2"):
        student.check(batch)
