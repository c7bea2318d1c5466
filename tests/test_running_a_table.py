"""The executor of experiments/running_a_table.md, as it stands there, against ours."""

import pathlib
import re

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.exact import GaussianMixture

PAGE = (pathlib.Path(__file__).parents[1] / "experiments" / "running_a_table.md").read_text()
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)


@pytest.fixture(scope="module")
def run():
    names = {}
    exec(CODE, names)
    return names["run"]


@pytest.fixture(scope="module")
def mixture():
    means = np.array([[-1.0, 0.5], [1.0, 0.0], [0.2, -1.2]])
    return GaussianMixture(np.array([0.5, 0.3, 0.2]), means, np.full((3, 2), 0.05))


@pytest.fixture
def start():
    return np.random.default_rng(1).normal(size=(4, 2)) * 20.0


def on_arrays(mixture):
    return lambda y, s: np.asarray(mixture.denoise(jnp.asarray(y), s))
