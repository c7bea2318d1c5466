# %% [markdown]
# # Distribution matching: where each divergence puts its mass
#
# A one-step generator that cannot be everything has to choose. Score distillation moves its samples by the difference of two scores, and the
# divergence that this descends decides the choice: reverse KL takes one mode, KL covers all. f-distill (arXiv 2502.15681, theorem 1) writes all of
# them as one gradient, of samples $y = x + s\,\varepsilon$ of the generator $x = g(z)$ and the ratio $r = p/q$ of data to samples:
#
# $$ \nabla_\theta D_f = -\,E\; h(r)\, (s_p - s_q)(y)\, \frac{dx}{d\theta}, \qquad h(r) = f''(r)\, r^2. $$
#
# Here the generator is a single Gaussian, $g(z) = \mu + \sigma z$, so that both scores and the ratio are formulas, and the data are two modes.

# %%
# In Colab: %pip install -q git+https://github.com/jaxdiff/jaxdiff
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxdiff as jd
from jaxdiff.distill.score.f_distill import DIVERGENCES

data = jd.exact.GaussianMixture([0.65, 0.35], [[-1.2], [1.4]], [0.06, 0.06])
LOW, HIGH, BATCH = 0.1, 3.0, 1024


def generator(params, z):
    """Samples (batch, 1) of noise."""
    return params["mean"] + jnp.exp(params["log_std"]) * z


def log_q(params, y, s):
    """Log density of the generator's samples with noise of level s."""
    variance = jnp.exp(2 * params["log_std"]) + s**2
    return -0.5 * ((y[:, 0] - params["mean"]) ** 2 / variance + jnp.log(2 * np.pi * variance))


def score_q(params, y, s):
    """Its gradient in y."""
    variance = jnp.exp(2 * params["log_std"]) + s**2
    return -(y - params["mean"]) / variance[:, None]


# %% [markdown]
# ## First the theorem
#
# At one level, the gradient by samples beside the derivative of the divergence itself, by quadrature. They agree: the
# weights $h$ are the library's own.

# %%
F = {  # D_f = integral of q f(p/q)
    "reverse-kl": lambda r: -jnp.log(r),
    "kl": lambda r: r * jnp.log(r),
    "jensen-shannon": lambda r: r * jnp.log(r) - (r + 1) * jnp.log((r + 1) / 2),
    "hellinger": lambda r: 4 * (1 - jnp.sqrt(r)),
    "jeffreys": lambda r: (r - 1) * jnp.log(r),
}


def surrogate(params, key, h, s):
    """A loss with the gradient of the theorem at levels s (batch,)."""
    key_z, key_y = jax.random.split(key)
    x = generator(params, jax.random.normal(key_z, (len(s), 1)))
    y = jax.lax.stop_gradient(x) + s[:, None] * jax.random.normal(key_y, x.shape)
    r = jnp.exp(jnp.clip(data.log_density(y, s) - log_q(params, y, s), -8, 8))
    push = -h(r)[:, None] * (data.score(y, s) - score_q(params, y, s))
    return jnp.mean(jax.lax.stop_gradient(push) * x)


def divergence(params, f, s=1.0):
    """D_f at one level, by quadrature."""
    y = jnp.linspace(-9, 9, 4001)[:, None]
    level = jnp.full(len(y), s)
    q, p = jnp.exp(log_q(params, y, level)), jnp.exp(data.log_density(y, level))
    return jnp.trapezoid(q * f(p / q), y[:, 0])


here = {"mean": jnp.float32(0.2), "log_std": jnp.float32(0.1)}
levels = jnp.ones(400_000)
for name, f in F.items():
    exact = jax.grad(divergence)(here, f)
    found = jax.grad(surrogate)(here, jax.random.key(0), DIVERGENCES[name], levels)
    print(f"{name:16} mean {float(found['mean']):+.3f} (exact {float(exact['mean']):+.3f})  "
          f"log std {float(found['log_std']):+.3f} (exact {float(exact['log_std']):+.3f})")  # fmt: skip

# %% [markdown]
# ## Then where they lead
#
# The noise levels are drawn from 0.1 to 3, as the methods do. Every divergence starts from the same wide Gaussian.


# %%
def train(h, updates=600):
    """The mean and standard deviation that descending a divergence ends in, and the way there."""
    optimiser = optax.adam(optax.cosine_decay_schedule(0.03, updates))
    start = {"mean": jnp.float32(0.0), "log_std": jnp.float32(0.3)}

    def update(carry, key):
        params, state = carry
        s = jnp.exp(jax.random.uniform(key, (BATCH,), minval=jnp.log(LOW), maxval=jnp.log(HIGH)))
        slope = jax.grad(surrogate)(params, jax.random.fold_in(key, 1), h, s)
        change, state = optimiser.update(slope, state)
        return (optax.apply_updates(params, change), state), params

    keys = jax.random.split(jax.random.key(1), updates)
    (params, _), path = jax.lax.scan(update, (start, optimiser.init(start)), keys)
    return params, path


ends, paths = {}, {}
for name, h in DIVERGENCES.items():
    weighted = lambda r, h=h: h(r) / (jnp.mean(h(r)) + 1e-6)  # as f-distill does  # noqa: E731
    ends[name], paths[name] = jax.jit(train, static_argnums=0)(weighted)
    print(
        f"{name:20} mean {float(ends[name]['mean']):+.2f}  std {float(jnp.exp(ends[name]['log_std'])):.2f}"
    )

# %%
order = sorted(ends, key=lambda name: float(ends[name]["log_std"]))
figure, axes = plt.subplots(figsize=(5.5, 3.4))
for name in order:
    axes.plot(paths[name]["mean"], jnp.exp(paths[name]["log_std"]), label=name)
    axes.plot(ends[name]["mean"], jnp.exp(ends[name]["log_std"]), "k.")
axes.set(xlabel="mean", ylabel="standard deviation", title="from one start to seven ends")
axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
figure.tight_layout()
plt.show()

# %% [markdown]
# Reverse KL and its softened form give up the smaller mode and sit on the larger one. All others stay wide, KL most, and have samples
# between the modes, where there are no data. That is what a student of too little capacity does with pictures, too: fewer kinds of them, or
# some that are between two kinds. (Where a divergence has several minima, the start decides: here it is a wide Gaussian between the modes.)

# %%
figure, axes = plt.subplots(1, len(ends), figsize=(13, 2.3), sharey=True)
grid = jnp.linspace(-4, 4, 400)[:, None]
at = jnp.full(len(grid), 1e-3)
for ax, name in zip(axes, order, strict=True):
    ax.fill_between(grid[:, 0], jnp.exp(data.log_density(grid, at)), color="0.8")
    ax.plot(grid[:, 0], jnp.exp(log_q(ends[name], grid, at)), "C0")
    ax.set(title=name, yticks=[])
    ax.title.set_fontsize(9)
figure.tight_layout()
plt.show()
