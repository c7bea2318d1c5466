"""Run in a process of its own with eight simulated devices: samples are the same everywhere."""

import jax

jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import AxisType, NamedSharding, PartitionSpec  # noqa: E402

from jaxdiff import grids, solvers  # noqa: E402
from jaxdiff.exact import GaussianMixture  # noqa: E402
from jaxdiff.noise import start_noise  # noqa: E402
from jaxdiff.sampling.sample import sample  # noqa: E402
from jaxdiff.sampling.trace import table  # noqa: E402

assert jax.device_count() == 8
random = np.random.default_rng(1)
D = GaussianMixture(
    np.ones(3) / 3, random.normal(size=(3, 2)), random.uniform(0.05, 0.3, size=(3, 2))
).denoiser
key = jax.random.key(0)
x = 80.0 * start_noise(key, 16, (2,), jnp.float64)
index = jnp.arange(16, dtype=jnp.int32)
mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
split = NamedSharding(mesh, PartitionSpec("data"))
cut = lambda a: a.reshape(8, 2, *a.shape[1:])  # noqa: E731


def fix(y, level, keys):
    z = jax.vmap(lambda k: jax.random.normal(k, (), y.dtype))(keys)
    return y.at[:, 0].set(0.3 + level * z)


churned = table(solvers.churn, grids.karras(6), amount=10.0)
run = lambda x, i: sample(D, churned, x, key=key, index=i, correct=fix)  # noqa: E731
single = np.asarray(run(x, index))
by_jit = jax.jit(run, in_shardings=split)(jax.device_put(x, split), jax.device_put(index, split))
assert by_jit.sharding.is_equivalent_to(split, 2), "a sharded batch stays sharded"
by_pmap = jax.pmap(run)(cut(x), cut(index)).reshape(16, 2)
vmapped = jax.vmap(lambda x, i: run(x[None], i[None])[0])(x, index)
for name, other in (("jit", by_jit), ("pmap", by_pmap), ("vmap", vmapped)):
    np.testing.assert_allclose(other, single, rtol=1e-12, atol=1e-12, err_msg=name)

print("same everywhere")
