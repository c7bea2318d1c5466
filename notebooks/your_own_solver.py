# %% [markdown]
# # Your own solver in ten lines
#
# A solver is a plain generator in the form it has in a paper: it calls `D(y, s)`, adds and scales states, and yields what it accepts.
# Traced once with symbolic vectors, it is a *table* of weights: jit, vmap, grad, sharding, saving and tuning come from the table.

# %%
# In Colab: %pip install -q git+https://github.com/jaxdiff/jaxdiff
from itertools import pairwise

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxdiff as jd
from jaxdiff.solvers.scalar import is_zero

# %% [markdown]
# The probability-flow ODE in the frame $y = x_0 + s\varepsilon$ is $dy/ds = (y - D(y, s))/s$. Ralston's method has its second evaluation
# at two thirds of the step, and weights 1/4 and 3/4.


# %%
def ralston(D, y, levels):
    for s, r in pairwise(levels):
        slope = (y - D(y, s)) / s
        if is_zero(r):  # a division by zero: the last step is Euler's
            y = y + (r - s) * slope
        else:
            between = s + 2 / 3 * (r - s)
            inner = y + (between - s) * slope
            second = (inner - D(inner, between)) / between
            y = y + (r - s) * (slope / 4 + 3 / 4 * second)
        yield y


table = jd.table(ralston, jd.grids.karras(6))
print(table)

# %% [markdown]
# ## Is its order 2?
#
# A Gaussian's flow is known in closed form, so that the error is not compared with another solver but with the answer.

# %%
truth = jd.exact.Gaussian(jnp.zeros(4), jnp.array([1.0, 0.3, 0.1, 0.03]))
high, low = 10.0, 0.1
start = high * jax.random.normal(jax.random.key(0), (64, 4))
answer = truth.flow(start, high, low)
counts = np.array([8, 16, 32, 64])


def error(solver, n, **options):
    made = jd.table(solver, jd.grids.karras(n, low, high, zero=False), **options)
    return float(jnp.abs(jd.sample(truth.denoiser, made, start) - answer).max())


errors = {
    "ralston": [error(ralston, n) for n in counts],
    "heun": [error(jd.solvers.heun, n) for n in counts],
    "euler": [error(jd.solvers.euler, n) for n in counts],
}
for name, found in errors.items():
    slope = -np.polyfit(np.log(counts), np.log(found), 1)[0]
    print(f"{name:8} order {slope:.2f}")

# %% [markdown]
# ## Train its numbers
#
# A table is a pytree, so that gradient descent improves the solver for one model and a few evaluations. Here: all weights and levels of
# Ralston's method with three steps, on a mixture, towards accurate end points.

# %%
mixture = jd.exact.GaussianMixture([0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], [0.02, 0.05])
first = jd.table(ralston, jd.grids.karras(3, 0.02, 20.0))
begin = jd.start(jax.random.key(1), first, 1024, (2,))
accurate = jd.sample(
    mixture.denoiser, jd.table(jd.solvers.unipc, jd.grids.karras(60, 0.02, 20.0)), begin
)
ours, held = ({"start": begin[i::2], "image": accurate[i::2]} for i in range(2))
levels = jd.tuning.of_grid(ralston, jd.grids.karras(3, 0.02, 20.0))
method = jd.tuning.tuning(
    mixture.denoiser,
    jd.tuning.of_weights(levels),
    jd.tuning.end_point(),
    optimiser=optax.adam(0.02),
)
found = jd.tune(
    method, lambda step: ours, jd.held_out(mixture.denoiser, held), first, num_updates=150
)
print(f"distance to accurate samples on held-out noise: {found.before:.4f} -> {found.score:.4f}")

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
for name, values in errors.items():
    axes[0].loglog(counts, values, "o-", label=name)
axes[0].set(xlabel="steps", ylabel="largest error", title="orders, on a Gaussian")
axes[0].legend()
for ax, (name, made) in zip(
    axes[1:], {"as written": first, "trained": found.table}.items(), strict=True
):
    x = np.asarray(jd.sample(mixture.denoiser, made, begin[:500]))
    ax.scatter(*x.T, s=3, alpha=0.5)
    ax.set(xlim=(-2, 2), ylim=(-1, 1.5), title=f"{name}, {made.nfe} evaluations")
figure.tight_layout()
plt.show()
