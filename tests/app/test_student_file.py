"""What a student's file says is enough to sample it, and can name nothing but what it may."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import solvers
from jaxdiff.app.models import Model
from jaxdiff.app.samplers import student_sampler
from jaxdiff.app.student_file import _samplers, blend, decode, encode, sampler_metadata
from jaxdiff.denoisers import conditioned, denoiser
from jaxdiff.distill.flow_map.times import saturating
from jaxdiff.distill.parts.guidance_weights import check_guidance_weight, with_range
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.trajectory.trajectory_operator import flow_map
from jaxdiff.networks import MLP, from_linen, init
from jaxdiff.networks.temporal import temporal
from jaxdiff.process import RectifiedFlow
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table

MODULE = MLP(width=8, depth=1, embedding=8)
Y = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)), jnp.float32)


@pytest.fixture(scope="module", autouse=True)
def single_precision():
    with jax.enable_x64(False):
        yield


@pytest.fixture(scope="module")
def params():
    made = {k: init(MODULE, jax.random.key(k), (2,), labels=k) for k in (1, 2)}
    return jax.tree.map(lambda p: p + 0.05, made)


def there_and_back(D, params):
    text = json.loads(json.dumps(encode(D), allow_nan=False))
    return decode(text, MODULE, params)


@pytest.mark.slow
def test_denoisers_survive_the_file(params):
    one, two = (Student(from_linen(MODULE), params[k], sigma_data=0.7) for k in (1, 2))
    network, layered = temporal(from_linen(MODULE), params[2], (2,))
    several = two._replace(network=network, label=saturating)
    flow = denoiser(from_linen(MODULE), params[1], prediction="flow", process=RectifiedFlow())
    cases = [
        (one.denoiser(params[1], 0.002), params[1], {}),
        (flow, params[1], {}),
        (conditioned(two.denoiser(params[2]), extra=jnp.asarray(0.3)), params[2], {}),
        (two._replace(label=saturating).denoiser(params[2]), params[2], {"target": 0.1}),
        (flow_map(several.denoiser(layered), [1.0, 0.5], 0.002), layered, {"target": 0.5}),
    ]
    for D, own, options in cases:
        again = there_and_back(D, own)
        np.testing.assert_array_equal(again(Y, 2.0, **options), D(Y, 2.0, **options))


def test_what_cannot_be_saved_is_refused(params):
    student = Student(from_linen(MODULE), params[1], label=lambda s: s)
    with pytest.raises(TypeError, match="cannot be saved"):
        encode(student.denoiser(params[1]))
    with pytest.raises(ValueError, match="os.system"):
        decode({"wrapper": "os.system", "of": {}, "arguments": []}, MODULE, params[1])


def test_steps_and_weights_that_a_method_has(params):
    student = Student(from_linen(MODULE), params[2])

    def sampler(num_steps=1, ema=None, guidance=2.0):
        if num_steps > 2:
            raise ValueError("no more than 2")
        D = conditioned(student.denoiser(params[2]), extra=jnp.asarray((guidance - 1.0) / 4.0))
        return Sampler(D, table(solvers.euler, [2.0, 1.0, 0.0][-num_steps - 1 :]))

    samplers = sampler_metadata(sampler)
    assert list(samplers) == ["1", "2"]
    low, high = samplers["1"]["guidance"]
    blended = decode(blend(low, high, 3.0), MODULE, params[2])
    np.testing.assert_allclose(blended(Y, 1.0), sampler(guidance=3.0).denoiser(Y, 1.0), rtol=1e-6)
    with pytest.raises(ValueError, match="none of"):
        sampler_metadata(lambda num_steps, ema: sampler(num_steps=9))

    def bounded(state, num_steps=1, ema=None, guidance=2.0):
        check_guidance_weight(guidance, 2.0, 6.0)
        return sampler(num_steps, ema, guidance)

    entry = sampler_metadata(functools.partial(with_range(bounded, 2, 6), None))["1"]
    assert entry["guidance_range"] == [2.0, 6.0]
    blended = decode(blend(*entry["guidance"], 3.0), MODULE, params[2])
    np.testing.assert_allclose(blended(Y, 1.0), sampler(guidance=3.0).denoiser(Y, 1.0), rtol=1e-6)
    metadata = {"method": "m", "samplers": {"1": entry}}
    assert _samplers(metadata) == {"1": entry}
    model = Model(None, params[2], (2,), 0, True, metadata, MODULE)
    for weight in (1.0, 7.0):
        with pytest.raises(ValueError, match=f"--guidance {weight:g}: .* from 2 to 6"):
            student_sampler(model, 1, weight)
    student_sampler(model, 1, 3.0)
