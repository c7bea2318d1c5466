# %% [markdown]
# # A sampler of four evaluations, tuned for your model
#
# The network stays as it is; levels and weights of the sampler are moved by gradient descent until few evaluations end where many do.
# The result is a small table of numbers that needs no JAX to run.

# %%
# In Colab: %pip install -q git+https://github.com/jaxdiff/jaxdiff
import json
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxdiff as jd

rng = np.random.default_rng(0)
truth = jd.exact.GaussianMixture(
    np.full(6, 1 / 6), 0.8 * rng.standard_normal((6, 8)), np.full((6, 8), 0.02)
)
D = truth.denoiser

# %% [markdown]
# Accurate end points, half of them to learn from and half held out; and the best textbook solver of four evaluations to start from.

# %%
grid = jd.grids.karras(4, 0.02, 40.0)
baselines = {
    "euler": jd.table(jd.solvers.euler, grid),
    "dpmpp": jd.table(jd.solvers.dpmpp, grid, order=2),
    "unipc": jd.table(jd.solvers.unipc, grid, order=2),
    "ipndm": jd.table(jd.solvers.ipndm, grid, order=3),
}
start = jd.start(jax.random.key(0), baselines["euler"], 2048, (8,))
accurate = jd.sample(D, jd.table(jd.solvers.unipc, jd.grids.karras(80, 0.02, 40.0), order=3), start)
ours, held = ({"start": start[i::2], "image": accurate[i::2]} for i in range(2))


def apart(table):
    return float(jnp.sqrt(jnp.mean((jd.sample(D, table, held["start"]) - held["image"]) ** 2)))


scores = {name: apart(table) for name, table in baselines.items()}
best = min(scores, key=scores.get)
print({name: round(score, 4) for name, score in scores.items()}, "best:", best)

# %%
options = {"euler": {}, "dpmpp": {"order": 2}, "unipc": {"order": 2}, "ipndm": {"order": 3}}[best]
levels = jd.tuning.of_grid(getattr(jd.solvers, best), grid, **options)
method = jd.tuning.tuning(
    D, jd.tuning.of_weights(levels), jd.tuning.end_point(), optimiser=optax.adam(0.02)
)
found = jd.tune(method, lambda step: ours, jd.held_out(D, held), baselines[best], num_updates=300)
scores["tuned"] = apart(found.table)
print(f"root mean square distance on held-out noise: {scores[best]:.4f} -> {scores['tuned']:.4f}")

# %% [markdown]
# ## Run it without JAX
#
# The file says, for every evaluation, its level and the weights of earlier states and denoised outputs. A few lines of NumPy are enough.

# %%
with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / "tuned-4.json"
    found.table.save(file)
    size, again = file.stat().st_size, jd.load_table(file)
    print(f"{size} bytes of JSON:", ", ".join(json.loads(file.read_text())))
same = jnp.abs(jd.sample(D, again, start[:64]) - jd.sample(D, found.table, start[:64])).max()
print("the file gives the same samples:", float(same))

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4))
axes[0].bar(list(scores), list(scores.values()), color=["C0"] * 4 + ["C1"])
axes[0].set(ylabel="distance to accurate end points", title="four evaluations, held-out noise")
axes[1].semilogy(np.asarray(grid)[:-1], "o-", label=best)
axes[1].semilogy(np.asarray(found.table.levels)[:4], "s-", label="tuned")
axes[1].set(xlabel="evaluation", ylabel="noise level", title="where the network is evaluated")
axes[1].legend()
figure.tight_layout()
plt.show()
