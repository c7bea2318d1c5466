# %% [markdown]
# # Likelihood, inversion, editing
#
# The probability flow of a denoiser is a map between data and noise that can be followed both ways. Followed upwards it gives the *likelihood*
# of data and the *noise that they come from*; what was taken up with one class and comes down with another is an *edit*. An exact model says
# whether the numbers are right; then the model of digits that comes with the package is used.

# %%
# In Colab: %pip install -q git+https://github.com/jaxdiff/jaxdiff
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxdiff as jd

# %% [markdown]
# ## Likelihood
#
# $\log p(x) = \log p_T(y_T) + \int \nabla\cdot f \, ds$ along the flow. Of a mixture the density is known: the numbers agree to the tolerance.

# %%
truth = jd.exact.GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], [0.05, 0.1])
points = truth.sample(jax.random.key(0), 6)
found = jd.log_likelihood(truth.denoiser, points, 80.0, 0.01)
exact = truth.log_density(points, 0.01)
print("by the flow", np.asarray(found.log_density).round(3))
print("exact      ", np.asarray(exact).round(3))

# %% [markdown]
# Of a network there is no other way to know. With a class each: which class makes a digit most likely? (A random probe instead of all 64
# derivatives, and equal steps: cheap, and enough to compare.)

# %%
from sklearn.datasets import load_digits  # noqa: E402

model = jd.load_pretrained("digits")
scans = load_digits()
images = jnp.asarray(scans.images[:4, :, :, None] / 8 - 1, jnp.float32)
labels = jnp.asarray(scans.target[:4])
tiled, classes = jnp.repeat(images, 10, axis=0), jnp.tile(jnp.arange(10), 4)
nats = jd.log_likelihood(
    model.denoiser, tiled, 80.0, 0.1, classes, probes=1, num_steps=12, key=jax.random.key(1),
    index=jnp.repeat(jnp.arange(4), 10), per_sample=False,
)  # fmt: skip
by_class = np.asarray(nats.log_density).reshape(4, 10)
print("the digits are", labels, "and most likely as", by_class.argmax(axis=1))

# %% [markdown]
# ## Inversion
#
# `jd.invert` walks a solver backwards: the noise that the sampler makes this image of. How well it comes back is a matter of steps; EDICT and
# BDIA come back exactly, whatever their number. The noise of a sample would have standard deviation 1; that of these scans has less, as their
# ground is exactly black, more even than noise of the lowest level leaves it.

# %%
counts, errors = (5, 10, 20), []
for n in counts:
    levels = jd.grids.karras(n, 0.02, 80.0, zero=False)
    noise = jd.invert(model.denoiser, jd.solvers.heun, levels, images, labels)
    table = jd.table(jd.solvers.heun, levels)
    back = jd.sample(model.denoiser, table, 80.0 * noise, labels)
    errors.append(float(jnp.sqrt(jnp.mean((back - images) ** 2))))
print(dict(zip(counts, errors, strict=True)))
print("standard deviation of the noise:", float(noise.std()))

# %% [markdown]
# ## Editing
#
# SDEdit noises an image up to a level and comes down as another class: the higher, the less of the image is left. DDIB takes it up by the
# flow with its own class, and down with the other: nothing random is added.

# %%
sources = jnp.asarray(scans.images[[3, 13, 23, 45], :, :, None] / 8 - 1, jnp.float32)  # threes
own, wanted = jnp.full((4,), 3), jnp.full((4,), 8)
guided = jd.guidance.classifier_free(model.denoiser, 2.0)
grid = np.asarray(model.grid(12))
rows = {"threes": sources}
for strength in (0.5, 0.6):
    levels = jd.editing.last_steps(grid, strength)
    noisy = jd.editing.noised(sources, float(levels[0]), jax.random.key(2))
    rows[f"as eights, from level {levels[0]:.2g}"] = jd.sample(
        guided, jd.table(jd.solvers.dpmpp, levels), noisy, wanted
    )
up = jd.grids.karras(20, 0.02, 80.0, zero=False)
rows["by the flow (DDIB)"] = jd.editing.translate(
    model.denoiser, model.denoiser, jd.solvers.heun, up, sources, own, wanted
)

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), width_ratios=(1.2, 1, 1.4))
axes[0].imshow(by_class - by_class.max(axis=1, keepdims=True), aspect="auto", vmin=-30)
axes[0].set(title="log-likelihood, by class", xlabel="class", yticks=range(4))
axes[0].set_yticklabels([f"a {k}" for k in labels])
axes[1].semilogy(counts, errors, "o-")
axes[1].set(title="there and back", xlabel="steps of Heun", ylabel="error", xticks=counts)
gap = ((0, 0), (0, 2), (0, 2))
tiles = [np.pad(np.asarray(r)[..., 0], gap, constant_values=1) for r in rows.values()]
sheet = np.concatenate([t.swapaxes(0, 1).reshape(10, -1) for t in tiles])
axes[2].imshow(sheet, cmap="gray", vmin=-1, vmax=1)
axes[2].set(title="edits", xticks=[], yticks=np.arange(len(rows)) * 10 + 4)
axes[2].set_yticklabels(list(rows))
figure.tight_layout()
plt.show()
