# %% [markdown]
# # The geometry of sampling, beside null models
#
# Sampling trajectories of diffusion models look alike: nearly straight, close to a plane, a boomerang. How much of that is the network,
# and how much would a plain Gaussian with the data's covariance show as well? Here are scikit-learn's digits: the optimal denoiser of the
# 1,797 pictures, and the Gaussian of the same mean and covariance, from the same noises.

# %%
# In Colab: %pip install -q git+https://github.com/jaxdiff/jaxdiff
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import jaxdiff as jd
from jaxdiff import analysis

data = jnp.asarray(load_digits().data / 8 - 1, jnp.float32)
models = {
    "finite data set": jd.exact.Empirical(data).denoiser,
    "Gaussian": analysis.as_denoiser(analysis.gaussian_of(data)),
    "isotropic Gaussian": analysis.as_denoiser(analysis.isotropic_of(data)),
}

# %%
table = jd.table(jd.solvers.heun, jd.grids.karras(40, 0.01, 80.0))
start = jd.start(jax.random.key(0), table, 64, data.shape[1:])
run = jax.jit(jd.trajectory)
paths = {name: run(D, table, start) for name, D in models.items()}

# %% [markdown]
# Deviation is the distance of a trajectory from the chord between its ends. The isotropic Gaussian's is 0; what the Gaussian shows is
# explained by the covariance of the data alone.

# %%
figure, axes = plt.subplots(1, 3, figsize=(13, 3.6))
for name, path in paths.items():
    away = np.asarray(analysis.deviation(path.states)).mean(1)
    axes[0].semilogx(np.asarray(path.levels)[:-1], away[:-1], label=name)
    print(f"{name:20} largest mean deviation {away.max():.2f}")
axes[0].invert_xaxis()
axes[0].set(xlabel="noise level", ylabel="distance from the chord", title="deviation")
axes[0].legend()
for ax, (name, path) in zip(axes[1:], list(paths.items())[:2], strict=True):
    ends = (
        np.asarray(path.states)[-1, :16].reshape(4, 4, 8, 8).transpose(0, 2, 1, 3).reshape(32, 32)
    )
    ax.imshow(ends, cmap="gray_r", vmin=-1, vmax=1)
    ax.set(title=f"ends of the {name}'s trajectories", xticks=[], yticks=[])
figure.tight_layout()
plt.show()
