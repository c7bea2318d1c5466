# %% [markdown]
# # One frame: every diffusion model is a denoiser
#
# A diffusion process noises data as $x_t = \alpha_t x_0 + \sigma_t \varepsilon$. Divided by $\alpha_t$ it is
# $y = x_0 + s\,\varepsilon$ with the *noise level* $s = \sigma_t/\alpha_t$, whatever the process was. In this frame a model is one
# kind of function, the denoiser $D(y, s) = E[x_0 | y]$, and everything else is written over it.
#
# This notebook takes one distribution, expresses its exact model in five ways (what a variance-exploding, variance-preserving, cosine,
# rectified-flow or TrigFlow network would predict), turns each into a denoiser and samples all of them with the same table.

# %%
# In Colab: %pip install -q git+https://github.com/jaxdiff/jaxdiff
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxdiff as jd

# %% [markdown]
# Two moons of Gaussians, whose denoiser, score and density are known in closed form.

# %%
angles = np.linspace(0, np.pi, 8)
upper = np.stack([np.cos(angles), np.sin(angles)], 1)
lower = np.stack([1 - np.cos(angles), 0.5 - np.sin(angles)], 1)
means = np.concatenate([upper, lower]) - np.array([0.5, 0.25])
truth = jd.exact.GaussianMixture(np.full(16, 1 / 16), means, np.full(16, 0.005))

# %% [markdown]
# A network of each kind, played by the exact answer: it is given $x_t$ and a time, and predicts what such networks predict.
# `jd.denoiser` turns any of them into $D(y, s)$, given the process and the prediction.

# %%
PROCESSES = {
    "variance exploding": (jd.process.EDM(), "x0"),
    "variance preserving": (jd.process.VP(), "eps"),
    "cosine": (jd.process.Cosine(), "v"),
    "rectified flow": (jd.process.RectifiedFlow(), "flow"),
    "TrigFlow": (jd.process.TrigFlow(), "v"),
}


def as_network(process, prediction):
    """The network that a model of this kind would have learnt, had it learnt perfectly."""

    def network(params, x, t, cond=None):
        alpha, sigma = jd.expand(process.alpha(t), x), jd.expand(process.sigma(t), x)
        x0 = truth.denoiser(x / alpha, process.sigma(t) / process.alpha(t))
        return jd.prediction.target(prediction, x0, (x - alpha * x0) / sigma, process, t)

    return network


denoisers = {
    name: jd.denoiser(
        as_network(process, prediction),
        None,
        prediction=prediction,
        process=process,
        label=lambda t: t,
    )
    for name, (process, prediction) in PROCESSES.items()
}

# %% [markdown]
# One table of DPM-Solver++ for all of them, one start. The samples agree to rounding: what differs between "kinds of diffusion models"
# is a change of variable.

# %%
table = jd.table(jd.solvers.dpmpp, jd.grids.karras(20, 0.01, 40.0), order=2)
start = jd.start(jax.random.key(0), table, 2000, (2,))
sample = jax.jit(jd.sample)
exact = sample(truth.denoiser, table, start)
for name, D in denoisers.items():
    apart = jnp.abs(sample(D, table, start) - exact).max()
    print(f"{name:20} largest difference {apart:.1e}")

# %%
path = jd.trajectory(truth.denoiser, table, start[:60])
figure, axes = plt.subplots(1, 3, figsize=(11, 3.4))
axes[0].scatter(*np.asarray(truth.sample(jax.random.key(1), 2000)).T, s=2, alpha=0.4)
axes[0].set_title("samples of the distribution")
axes[1].scatter(*np.asarray(exact).T, s=2, alpha=0.4, color="C1")
axes[1].set_title(f"{table.nfe} evaluations of the denoiser")
axes[2].plot(*np.moveaxis(np.asarray(path.states), -1, 0), lw=0.5, color="C2")
axes[2].set(title="their paths", xlim=(-3, 3), ylim=(-3, 3))
for ax in axes[:2]:
    ax.set(xlim=(-1.8, 1.8), ylim=(-1.2, 1.2))
figure.tight_layout()
plt.show()
