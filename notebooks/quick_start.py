# %% [markdown]
# # Quick start: a model that comes with the package
#
# A diffusion model is a *denoiser*: given a noisy image $y = x_0 + s\,\varepsilon$ and its noise level $s$, it returns the mean of all images
# that $y$ could have come from, $D(y, s) = E[x_0 | y]$. A *solver* walks from noise to an image by asking the denoiser at a few levels. Here
# both are there from the start: a small class-conditional model of MNIST comes with the package.

# %%
# In Colab: %pip install -q git+https://github.com/jaxdiff/jaxdiff
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxdiff as jd

model = jd.load_pretrained("mnist")
print(model)
print(model.metadata["score"])

# %% [markdown]
# ## Samples
#
# Ten lines are a sampler: guidance towards the class, a solver on the model's own grid of noise levels, traced into a *table*, and noise to
# start from. A table shows itself.

# %%
D = jd.guidance.classifier_free(model.denoiser, 2.0)
table = jd.table(jd.solvers.dpmpp, model.grid(8))
table  # noqa: B018

# %%
classes = jnp.arange(40) % 10
start = jd.start(jax.random.key(0), table, 40, model.shape)
x = jd.sample(D, table, start, classes)


def show(axes, images, columns, title):
    """Draw images (n, height, width, 1) in [-1, 1] as one picture."""
    rows = len(images) // columns
    n = images.shape[1]
    sheet = np.asarray(images[: rows * columns]).reshape(rows, columns, n, n)
    sheet = sheet.swapaxes(1, 2).reshape(rows * n, columns * n)
    axes.imshow(sheet, cmap="gray", vmin=-1, vmax=1)
    axes.set(title=title, xticks=[], yticks=[])


figure, axes = plt.subplots(figsize=(7, 3))
show(axes, x, 10, "8 steps with guidance 2")
plt.show()

# %% [markdown]
# ## On the way
#
# `jd.trajectory` keeps every state. Upper row: the state, scaled to the size of the data; lower row: what the denoiser makes of it.

# %%
path = jd.trajectory(D, table, start[7:8], classes[7:8])
levels = np.asarray(path.levels)
states = np.asarray(path.states)[:, 0] / np.sqrt(1 + levels**2)[:, None, None, None]
denoised = np.asarray(path.denoised)[:, 0]
figure, axes = plt.subplots(2, 1, figsize=(7, 2.1))
show(axes[0], states[:8], 8, "states at levels " + ", ".join(f"{s:.3g}" for s in levels[:8]))
show(axes[1], denoised, 8, "their denoised images")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## How many evaluations?
#
# Solvers differ where evaluations are few. The distance of their samples to those of 40 accurate steps from the same noise, without guidance:

# %%
few = start[:20]
accurate = jd.sample(model.denoiser, jd.table(jd.solvers.unipc, model.grid(40)), few, classes[:20])
solvers = {"euler": {}, "dpmpp": {"order": 2}, "ipndm": {"order": 3}, "deis": {"order": 3}}
counts = (4, 6, 10)
tables = [
    jd.table(getattr(jd.solvers, name), model.grid(n), **options)
    for name, options in solvers.items()
    for n in counts
]
high = float(tables[0].levels[0])
distances = []
for padded in jd.pad(tables):  # of one shape: one compiled program runs all of them
    samples = jd.sample(model.denoiser, padded, few, classes[:20])
    distances.append(float(jnp.sqrt(jnp.mean((samples - accurate) ** 2))))
distances = np.reshape(distances, (len(solvers), len(counts)))

# %% [markdown]
# ## How much guidance?
#
# Weight 1 is the plain conditional model; more trades variety for samples that look like their class.

# %%
weights = (0.0, 1.0, 2.0, 4.0)
eights = jnp.full((10,), 8)
rows = [
    jd.sample(jd.guidance.classifier_free(model.denoiser, w), table, start[:10], eights)
    for w in weights
]

# %%
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.2), width_ratios=(1, 1.6))
for name, curve in zip(solvers, distances, strict=True):
    axes[0].semilogy(counts, curve, "o-", label=name)
axes[0].set(xlabel="evaluations", ylabel="distance to accurate samples", xticks=counts)
axes[0].legend()
show(axes[1], jnp.concatenate(rows), 10, "the class 8 with weights 0, 1, 2, 4")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Where to go from here
#
# `jd.load_run("runs/mine")` gives the model of a run of the command line in the same form, and `jd.load_pretrained` opens published weights.
# A table can be saved (`table.save("dpmpp-8.json")`), run in plain NumPy, differentiated and tuned: see the other notebooks.
