# %% [markdown]
# # Composing transforms over a sampler
#
# `jd.sample` is a pure function of (denoiser, table, start, condition). JAX's transforms go over any of them: this notebook compiles a
# sampler, maps it over guidance weights, and differentiates it with respect to its grid, its weights, a condition and its start.

# %%
# In Colab: %pip install -q git+https://github.com/jaxdiff/jaxdiff
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxdiff as jd

# A row of weights for each class: each has a component of its own here.
truth = jd.exact.GaussianMixture(
    np.eye(3) * 0.94 + 0.02, [[-1.0, 0.0], [1.0, 0.5], [0.0, -1.0]], [0.02, 0.05, 0.03]
)
table = jd.table(jd.solvers.dpmpp, jd.grids.karras(8, 0.02, 20.0), order=2)
start = jd.start(jax.random.key(0), table, 256, (2,))

# %% [markdown]
# ## jit: the denoiser is an argument
#
# A denoiser carries its parameters as a pytree. Another model of the same shape compiles nothing.

# %%
sample = jax.jit(jd.sample)
other = jd.exact.GaussianMixture(
    np.eye(3) * 0.7 + 0.1, [[-1.0, 1.0], [1.0, 1.5], [0.0, 0.0]], [0.1, 0.1, 0.1]
)
sample(truth.denoiser, table, start)
before = sample._cache_size()
sample(other.denoiser, table, start)
print("programs:", before, "->", sample._cache_size())

# %% [markdown]
# ## vmap: one call for many guidance weights
#
# The mixture's components are its classes; guidance weight 1 is the conditional model, 0 the unconditional one.

# %%
classes = jnp.arange(256) % 3
guided = jax.vmap(
    lambda w: jd.sample(jd.guidance.classifier_free(truth.denoiser, w), table, start, cond=classes)
)(jnp.array([0.0, 1.0, 3.0]))
print("samples for three weights:", guided.shape)

# %% [markdown]
# ## grad: with respect to the grid
#
# Traced levels give traced weights, so that the distance to the exact flow has a gradient with respect to every noise level.

# %%
flow = jd.adaptive(truth.denoiser, start, 20.0, 0.02, rtol=1e-6, atol=1e-6, denoise=True).states


def distance(logs):
    made = jd.table(jd.solvers.dpmpp, jnp.concatenate([jnp.exp(logs), jnp.zeros(1)]), order=2)
    return jnp.mean((jd.sample(truth.denoiser, made, start) - flow) ** 2)


logs = jnp.log(jnp.asarray(table.levels[:8], jnp.float32))
value, slope = jax.jit(jax.value_and_grad(distance))(logs)
print(f"distance {value:.2e}; its gradient with respect to log levels:", np.round(slope, 5))

# %% [markdown]
# With respect to the weights of the table itself, the condition's strength, and the start:

# %%
weights = jax.grad(lambda t: jnp.mean((jd.sample(truth.denoiser, t, start) - flow) ** 2))(table)
print("weights:", weights.denoised.shape, float(jnp.abs(weights.denoised).max()))
strength = jax.grad(
    lambda w: jd.sample(
        jd.guidance.classifier_free(truth.denoiser, w), table, start, cond=classes
    ).var()
)(2.0)
print(f"variance of samples falls by {-strength:.3f} per unit of guidance at weight 2")

# %% [markdown]
# ## jvp: how a sample moves with its start
#
# A sampler is a map from noise to data; a tangent in its start says how stiff it is there. Along the flow between two modes it is large.

# %%
push = jax.jit(
    lambda y: jax.jvp(lambda y: jd.sample(truth.denoiser, table, y), (y,), (jnp.ones_like(y),))[1]
)
stretch = jnp.linalg.norm(push(start), axis=-1)

# %% [markdown]
# ## Many devices
#
# Noise belongs to a sample and not to the batch, so that the same samples come of one device or of eight: place the start, and jit does
# the rest.

# %%
mesh = jax.make_mesh((jax.device_count(),), ("data",))
placed = jax.device_put(start, jax.NamedSharding(mesh, jax.P("data")))
print(
    "largest difference:",
    float(
        jnp.abs(sample(truth.denoiser, table, placed) - sample(truth.denoiser, table, start)).max()
    ),
)

# %%
figure, axes = plt.subplots(1, 4, figsize=(13, 3.2), sharex=True, sharey=True)
for ax, x, w in zip(axes, guided, (0, 1, 3), strict=False):
    ax.scatter(*np.asarray(x).T, s=4, c=np.asarray(classes), cmap="tab10", vmax=9)
    ax.set_title(f"guidance weight {w}")
x = np.asarray(sample(truth.denoiser, table, start))
points = axes[3].scatter(*x.T, s=4, c=np.log10(np.asarray(stretch)), cmap="magma")
axes[3].set_title("log10 of what a start's tangent becomes")
figure.colorbar(points)
figure.tight_layout()
plt.show()
