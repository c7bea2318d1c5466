"""Every recipe trains under jit from its teacher, in all its stages, and its student samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.config import MethodName
from jaxdiff.exact import Gaussian
from jaxdiff.networks import MLP, from_linen, init
from jaxdiff.recipes import RECIPES, Goal
from jaxdiff.training.ema import constant
from jaxdiff.training.stages import fit_stages
from jaxdiff.typing import Outputs

TEACHER = Gaussian(np.array([0.2, -0.4]), np.array([0.09, 0.5]))
STEPS = 24


@pytest.fixture(scope="module", autouse=True)
def single_precision():
    """As users train."""
    with jax.enable_x64(False):
        yield


def network(params, x, label, cond=None, *, key=None, full=False):
    """A few numbers of the labels scale and shift the state."""
    told = label if label.ndim == 2 else label[:, None]
    features = jnp.concatenate([jnp.ones_like(told[:, :1]), jnp.tanh(told)], axis=1)
    out = (features @ params["scale"]) * x + features @ params["shift"]
    if not full:
        return out
    return Outputs(out, told[:, 0] * params["log_variance"], (jnp.tanh(out),))


def make(labels, log_variance):
    numbers = np.random.default_rng(labels).normal(size=(2, labels + 1, 2)) * 0.1
    params = {"scale": jnp.asarray(numbers[0]), "shift": jnp.asarray(numbers[1])}
    return network, {k: v.astype(jnp.float32) for k, v in params.items()} | {
        "log_variance": jnp.zeros((), jnp.float32)
    }


def make_linen(labels, log_variance):
    """A network of blocks, for the method that puts layers between them."""
    module = MLP(width=8, depth=1, embedding=8, log_variance=log_variance)
    return from_linen(module), init(module, jax.random.key(labels), (2,), labels=labels)


def goal(name):
    network = make_linen if name == "trajectory_operator" else make
    return Goal(
        TEACHER.denoiser, network, (2,), STEPS, rate=1e-3, sigma_data=0.55,
        ema={"average": constant(0.9)},
    )  # fmt: skip


def data(step):
    normal = np.random.default_rng(step).normal(size=(32, 2))
    return {"image": (normal * [0.3, 0.7] + [0.2, -0.4]).astype(np.float32)}


def train(name):
    stages = RECIPES[name].stages(goal(name))
    return fit_stages(stages, data, steps=STEPS, key=0, ema="average", progress=False)


def check(name):
    method, state = train(name)
    student = jax.tree.leaves(state.params["student"])
    assert all(np.isfinite(leaf).all() for leaf in student)
    start = jax.tree.leaves(method.init(state.key)["student"])
    moved = [not np.array_equal(a, b) for a, b in zip(start, student, strict=True)]
    assert any(moved), "nothing was trained"
    numbers = []
    for steps in (1, 2, 4):
        try:
            sampler = method.sampler(state, steps=steps, ema="average")
        except ValueError as error:
            assert str(steps) in str(error) and steps > (0 if name in SEVERAL else 1), error
            continue
        assert sampler.table.nfe == steps
        x = sampler(jax.random.key(1), 3, (2,))
        assert x.shape == (3, 2) and np.isfinite(x).all()
        numbers.append(steps)
    assert numbers, "it samples in none of these"


SEVERAL = ("moment_matching", "ddgan", "truncated_diffusion")  # not in one evaluation
QUICK = ("easy_consistency",)


@pytest.mark.parametrize("name", QUICK)
def test_a_recipe(name):
    check(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if name not in QUICK])
def test_every_recipe(name):
    check(name)


def test_the_command_line_knows_every_recipe():
    from typing import get_args

    assert set(get_args(MethodName)) == set(RECIPES)
