"""Run by test_sample.py in a process of its own with eight simulated devices: guidance, corrections
and processes give each sample the numbers it has on one device.
"""

import jax

jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import AxisType, NamedSharding, PartitionSpec  # noqa: E402

import jaxdiff as jd  # noqa: E402
from jaxdiff import corrections, operators, posterior, processes  # noqa: E402

assert jax.device_count() == 8
random = np.random.default_rng(1)
D = jd.exact.GaussianMixture(
    np.ones(3) / 3, random.normal(size=(3, 3)), random.uniform(0.05, 0.3, size=(3, 3))
).denoiser
A = operators.matrix(random.normal(size=(2, 3)))
key, levels = jax.random.key(0), jd.grids.karras(5, 0.05, 20.0)
index = jnp.arange(16, dtype=jnp.int32)
x = 20.0 * jd.start_noise(key, index, (3,), jnp.float64)
u = jnp.asarray(random.normal(size=(16, 2)))  # a measurement for each sample
ddim, heun = jd.table(jd.solvers.ddim, levels), jd.table(jd.solvers.heun, levels)


def seen(u):
    return operators.Measurement(A, u, 0.1)


RUNS = {
    "PiGDM and a projection": lambda x, i, u: jd.sample(
        posterior.pigdm(D, seen(u)), ddim, x, key=key, index=i,
        correct=corrections.projection(seen(u)),
    ),
    "MMPS": lambda x, i, u: jd.sample(posterior.mmps(D, seen(u), 2), heun, x),
    "DDRM": lambda x, i, u: jd.direct(
        D, processes.ddrm, levels, processes.ddrm_start(x, 20.0, seen(u)), key=key, index=i,
        measurement=seen(u),
    ),
}  # fmt: skip
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
split = NamedSharding(mesh, PartitionSpec("data"))
for name, run in RUNS.items():
    single = np.asarray(jax.jit(run)(x, index, u))
    assert np.isfinite(single).all() and np.std(single) > 0.1, name
    rows = (jax.device_put(a, split) for a in (x, index, u))
    sharded = jax.jit(run, in_shardings=split)(*rows)
    assert len(sharded.sharding.device_set) == 8, name
    np.testing.assert_allclose(sharded, single, rtol=1e-9, atol=1e-9, err_msg=name)
    some = np.asarray(run(x[3:5], index[3:5], u[3:5]))  # nor does a sample depend on its batch
    np.testing.assert_allclose(some, single[3:5], rtol=1e-9, atol=1e-9, err_msg=name)
print("same everywhere")
