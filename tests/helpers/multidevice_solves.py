"""Run by test_sample.py in a process of its own with eight simulated devices: solves without a
table give each sample the numbers it has on one device.
"""

import functools

import jax

jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import AxisType, NamedSharding, PartitionSpec  # noqa: E402

import jaxdiff as jd  # noqa: E402
from jaxdiff import grids, solvers  # noqa: E402
from jaxdiff.app.generate import generate  # noqa: E402
from jaxdiff.sampling.pairs import make_pairs  # noqa: E402
from jaxdiff.training.devices import over_batch  # noqa: E402
from jaxdiff.training.tune import held_out  # noqa: E402

assert jax.device_count() == 8
random = np.random.default_rng(1)
D = jd.exact.GaussianMixture(
    np.ones(3) / 3, random.normal(size=(3, 2)), random.uniform(0.05, 0.3, size=(3, 2))
).denoiser
key = jax.random.key(0)
index = jnp.arange(16, dtype=jnp.int32)
x = 80.0 * jd.start_noise(key, index, (2,), jnp.float64)
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
split = NamedSharding(mesh, PartitionSpec("data"))
churned = jd.table(solvers.churn, grids.karras(6), amount=10.0)
low, high = 0.05, 80.0
SOLVES = {
    "reverse SDE": lambda x, i: (
        jd.reverse_sde(D, x, high, low, key=key, index=i, num_steps=30).states
    ),
    "DPM adaptive": lambda x, i: jd.dpm_adaptive(D, x, high, low).states,
    "Gotta Go Fast": lambda x, i: jd.gotta_go_fast(D, x, high, low, key=key, index=i).states,
    "Picard": lambda x, i: jd.picard(D, churned, x, key=key, index=i, window=4).states,
    "likelihood": lambda x, i: jd.log_likelihood(D, x / high, high, low).log_density,
    "Hutchinson": lambda x, i: (
        jd.log_likelihood(
            D, x / high, high, low, probes=2, key=key, index=i, num_steps=20
        ).log_density
    ),
    "inversion": lambda x, i: jd.invert(
        D, solvers.heun, grids.karras(6, low, zero=False), x / high
    ),
}

for number, (name, solve) in enumerate(SOLVES.items()):
    single = np.asarray(solve(x, index))
    if number % 2:  # compiling is what takes time: every other solve by jit, the others by pmap
        run = jax.jit(solve, in_shardings=split)
        other = run(jax.device_put(x, split), jax.device_put(index, split))
    else:
        other = jax.pmap(solve)(x.reshape(8, 2, 2), index.reshape(8, 2)).reshape(single.shape)
    np.testing.assert_allclose(other, single, rtol=1e-9, atol=1e-9, err_msg=name)

solve = lambda x: jd.adaptive(D, x, 80.0, 0.01, rtol=1e-5, atol=1e-5)  # noqa: E731
single = solve(x)
sharded = jax.jit(solve, in_shardings=split)(jax.device_put(x, split))
mapped = jax.pmap(solve)(x.reshape(8, 2, 2))
np.testing.assert_allclose(sharded.states, single.states, rtol=1e-12)
np.testing.assert_allclose(mapped.states.reshape(16, 2), single.states, rtol=1e-12)
np.testing.assert_array_equal(sharded.nfe, single.nfe)
np.testing.assert_array_equal(mapped.nfe.reshape(16), single.nfe)

# what commands do: samples, pairs, scores; 20 rows do not divide over eight devices
devices = jax.devices()
unipc = jd.table(solvers.unipc, grids.karras(5))
drawn = jd.Sampler(D, churned)
pairs_of = functools.partial(
    make_pairs, jd.Sampler(D, unipc), 20, (2,), key, progress=False, path=True
)
pairs = pairs_of()


def made(**placing):
    """Everything that is placed, by name."""
    spread = functools.partial(over_batch, **placing)
    given = {"batch": 9, "progress": False, **placing}
    again = make_pairs(
        jd.Sampler(D, unipc), 20, (2,), key, progress=False, path=True, spread=spread
    )
    score = held_out(D, pairs, batch=16, **placing)
    return {
        "samples": generate(drawn, 20, (2,), **given),
        "score": score(jd.table(solvers.euler, grids.karras(5))),
        **again,
    }


alone = made(devices=devices[:1])
for parallel in ("jit", "fsdp", "pmap"):
    for name, x in made(parallel=parallel).items():
        np.testing.assert_allclose(x, alone[name], rtol=1e-5, atol=2e-5, err_msg=name)
np.testing.assert_allclose(alone["image"], pairs["image"], rtol=1e-5, atol=2e-5)
print("same everywhere")
