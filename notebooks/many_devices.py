# %% [markdown]
# # Many devices
#
# One program runs on one device or on many: parameters, batches and samples are *placed*, and jit divides the work. Samples do not
# depend on it: the noise of a sample belongs to its number, not to its batch. Here eight devices are simulated on the CPU, so that all of it
# runs anywhere; on a node of GPUs or TPUs the first cell's variable is left out.

# %%
# In Colab: %pip install -q git+https://github.com/jaxdiff/jaxdiff
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"  # before jax is imported
import pathlib  # noqa: E402
import tempfile  # noqa: E402

import jax  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402

import jaxdiff as jd  # noqa: E402

print(jax.device_count(), "devices")

# %% [markdown]
# ## Samples
#
# Place the start over the devices: everything after follows. Sample 5 is the same sample, wherever it lies.

# %%
truth = jd.exact.GaussianMixture(
    [0.25] * 4, [[-1.0, -1.0], [1.0, -1.0], [-1.0, 1.0], [1.0, 1.0]], [0.02] * 4
)
table = jd.table(jd.solvers.sde_dpmpp, jd.grids.karras(12))  # stochastic: noise in every step
key = jax.random.key(0)
start = jd.start(key, table, 4096, (2,))
here = jd.sample(truth.denoiser, table, start, key=key)

mesh = jax.make_mesh((jax.device_count(),), ("data",))
rows = jax.NamedSharding(mesh, jax.P("data"))
there = jd.sample(truth.denoiser, table, jax.device_put(start, rows), key=key)
print(
    "on",
    len(there.sharding.device_set),
    "devices; largest difference",
    float(abs(there - here).max()),
)

# %% [markdown]
# ## Training: three placements
#
# `parallel="jit"` keeps the parameters on every device and divides the batch, `"fsdp"` divides the parameters too: both make the updates of one
# device, to rounding. `"pmap"` maps over the devices, each of which draws noise of its own: the same training, with other random numbers.

# %%
network, params = jd.networks.from_linen(jd.networks.MLP(width=64, depth=2)), None
params = jd.networks.init(network.module, jax.random.key(1), (2,))


def data(step):
    """A batch of 512: a function of the step, so that a resumed run sees the same."""
    return {"image": np.asarray(truth.sample(jax.random.key(step), 512))}


student = jd.distill.Student(network, params, optimiser=optax.adam(2e-3))
method = jd.distill.score_matching(student)
losses, states = {}, {}
for parallel in ("jit", "fsdp", "pmap"):
    logged = []
    states[parallel] = jd.fit(
        method, data, num_updates=120, parallel=parallel, progress=False, log_every=10,
        log=lambda step, metrics, logged=logged: logged.append(float(metrics["student/loss"])),
    )  # fmt: skip
    losses[parallel] = logged


def apart(a, b):
    """The largest difference between two trees of parameters."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.asarray(x) - np.asarray(y)).max()) for x, y in pairs)


for parallel in ("fsdp", "pmap"):
    found = apart(states["jit"].params, states[parallel].params)
    print(f"after 120 updates {parallel} and jit are {found:.1e} apart")

# %% [markdown]
# ## A checkpoint goes from one placement to another
#
# A run that was begun on one device goes on on eight, with its parameters divided: what it ends with is what the run without a stop has.

# %%
with tempfile.TemporaryDirectory() as folder:
    run = pathlib.Path(folder) / "run"
    one = jax.devices()[:1]
    jd.fit(method, data, num_updates=60, checkpoint=run, devices=one, progress=False)
    moved = jd.fit(method, data, num_updates=120, checkpoint=run, parallel="fsdp", progress=False)
leaf = max(jax.tree.leaves(moved.params), key=lambda x: x.size)
print("a kernel of shape", leaf.shape, "lies in pieces of", leaf.sharding.shard_shape(leaf.shape))
print("apart from the run without a stop:", apart(moved.params, states["jit"].params))

# %% [markdown]
# Several machines are the same, after `jax.distributed.initialize()`: `experiments/cluster` has scripts for Slurm and TPU pods.

# %%
D = student.denoiser(jax.device_get(moved.params["student"]))  # whole again, for another mesh
trained = jd.sample(D, table, jax.device_put(start, rows), key=key)
device = np.empty(len(trained), int)
for n, shard in enumerate(trained.addressable_shards):
    device[shard.index[0]] = n
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
for parallel, style in (("jit", "-"), ("fsdp", "--"), ("pmap", ":")):
    axes[0].plot(
        10 * (1 + np.arange(len(losses[parallel]))), losses[parallel], style, label=parallel
    )
axes[0].set(xlabel="update", ylabel="loss", title="jit and fsdp: the same updates")
axes[0].legend()
axes[1].scatter(*np.asarray(trained).T, c=device, s=2, cmap="tab10")
axes[1].set(title="samples, coloured by device", aspect="equal")
figure.tight_layout()
plt.show()
