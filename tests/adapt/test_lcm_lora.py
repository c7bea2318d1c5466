"""LCM-LoRA: a consistency student that is a LoRA of its teacher samples for other models of the
same base in one evaluation.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import grids, solvers
from jaxdiff.adapt import (
    LowRank,
    Whole,
    adapted,
    adapter_only,
    load_lora,
    merged,
    moved,
    save_lora,
)
from jaxdiff.denoisers import denoiser
from jaxdiff.distill import Student, easy_consistency, score_matching
from jaxdiff.metrics import exact_wasserstein
from jaxdiff.networks import MLP, from_linen, init
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.training.loop import fit

pytestmark = pytest.mark.usefixtures("optimised")


def points(offset, step=0, count=128):
    """Two small clouds, whose mean is no sample."""
    rng = np.random.default_rng([step, 5])
    side = rng.integers(0, 2, (count, 1)) * 2 - 1
    cloud = np.concatenate([side * 0.6, side * 0.2 + offset], 1)
    return (cloud + 0.08 * rng.standard_normal((count, 2))).astype(np.float32)


def data(offset):
    return lambda step: {"image": points(offset, step)}


def apart(sampler, offset):
    """The distance of samples to data, and that of data to other data."""
    made = sampler(jax.random.key(0), np.arange(512, dtype=np.int32), (2,))
    real = [points(offset, n, 512) for n in (10_000, 10_001)]
    return exact_wasserstein(made, real[0]), exact_wasserstein(real[1], real[0])


@pytest.mark.slow
def test_a_lora_of_the_base_makes_a_special_model_quick(tmp_path):
    network = from_linen(MLP(width=48, depth=2, embedding=32))
    first = jax.jit(lambda key: init(network.module, key, (2,)))(jax.random.key(0))
    student = Student(network, first, optimiser=optax.adam(3e-3), high=20.0)
    run = functools.partial(fit, progress=False)
    base = run(score_matching(student), data(0.0), num_updates=1200).params["student"]
    D = denoiser(network, base)
    whole = Student.of(adapted(D, Whole()), optimiser=adapter_only(optax.adam(1e-3)), high=20.0)
    state = run(score_matching(whole), data(0.35), num_updates=400)
    special = merged(whole.denoiser(state.params["student"]))

    lora = LowRank(8)
    few = Student.of(adapted(D, lora), optimiser=adapter_only(optax.adam(2e-3)), high=20.0)
    method = easy_consistency(few, teacher=D, stage_updates=200)
    state = run(method, data(0.0), num_updates=1600)
    own = state.params["student"]
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), own["base"], base))
    sampler = method.sampler(state, num_steps=1)
    quick = sampler._replace(denoiser=merged(moved(sampler.denoiser, special.args[0])))
    plain = Sampler(special, table(solvers.euler, grids.karras(1, high=20.0)))
    assert quick.table.nfe == plain.table.nfe == 1
    (with_it, noise), (without, _) = apart(quick, 0.35), apart(plain, 0.35)
    still, _ = apart(sampler, 0.35)  # the base's own student is of other data
    told = with_it, without, still, noise
    assert with_it - noise < 0.35 * (without - noise) and with_it < 0.9 * still, told

    save_lora(tmp_path / "lcm.safetensors", base, lora, own["adapter"])
    again, small = load_lora(tmp_path / "lcm.safetensors", special.args[0])
    near = functools.partial(np.testing.assert_allclose, atol=1e-6)
    jax.tree.map(near, again.apply(special.args[0], small), quick.denoiser.args[0])


def test_only_adapted_denoisers_move():
    params = {"w": jnp.ones((2, 2))}
    D = denoiser(lambda p, x, label, cond=None: x @ p["w"], params)
    with pytest.raises(TypeError, match="of an Adapted network"):
        moved(D, params)
    with pytest.raises(ValueError, match=r"other shapes: w is \(2, 3\), where \(2, 2\) is wanted"):
        moved(adapted(D, Whole()), {"w": jnp.ones((2, 3))})
