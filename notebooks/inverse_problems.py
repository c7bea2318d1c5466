# %% [markdown]
# # Inverse problems beside their exact answer
#
# A measurement $u = A x_0 + \text{noise}$ says something of a sample. Methods that steer a diffusion model by it are approximations, each
# its own: on a Gaussian mixture the true posterior is known, so that one sees what each gets wrong.

# %%
# In Colab: %pip install -q git+https://github.com/jaxdiff/jaxdiff
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxdiff as jd
from jaxdiff.conditioning.operators import Measurement, random_matrix

truth = jd.exact.GaussianMixture(
    [0.5, 0.5],
    [[-1.0, -0.6], [1.0, 0.6]],
    [[[0.15, 0.1], [0.1, 0.15]], [[0.15, -0.1], [-0.1, 0.15]]],
)

# %% [markdown]
# What is measured is one number: a random direction of the sample, with some noise.

# %%
A = random_matrix((2,), 1, seed=3)
noise = 0.15
measurement = Measurement(A, jnp.array([0.25]), jnp.asarray(noise))
exact = truth.posterior(A.apply(jnp.eye(2)).T, measurement.observation, noise**2)

# %% [markdown]
# Each method is a denoiser in, a denoiser out. The same table runs all of them: stochastic DDIM with 100 steps. DPS has a step to
# choose, which for pictures is about 1; on this problem 1 is worse than no guidance at all.

# %%
levels = jd.grids.karras(100, 0.02, 20.0)
table = jd.table(jd.solvers.ddim, levels, eta=1.0)
start = jd.start(jax.random.key(0), table, 3000, (2,))
D = truth.denoiser
methods = {
    "DPS": jd.posterior.dps(D, measurement, levels, step=0.1),
    "PiGDM": jd.posterior.pigdm(D, measurement, data_std=1.0),
    "MMPS": jd.posterior.mmps(D, measurement, num_iterations=1),
    "the posterior's own denoiser": exact.denoiser,
}
sample = jax.jit(jd.sample)
found = {
    name: np.asarray(sample(D, table, start, key=jax.random.key(1))) for name, D in methods.items()
}

# %%
answer = np.asarray(exact.sample(jax.random.key(2), 3000))
prior = np.asarray(truth.sample(jax.random.key(2), 3000))
axes_of = np.random.default_rng(0).standard_normal((2, 64))
axes_of /= np.linalg.norm(axes_of, axis=0)


def sliced(a, b):
    """The sliced Wasserstein distance of two equal numbers of samples."""
    return float(np.abs(np.sort(a @ axes_of, 0) - np.sort(b @ axes_of, 0)).mean())


print(f"{'prior':30} {sliced(prior, answer):.3f}")
for name, x in found.items():
    print(f"{name:30} {sliced(x, answer):.3f}")

# %%
figure, axes = plt.subplots(1, 5, figsize=(15, 3.2), sharex=True, sharey=True)
for ax, (name, x) in zip(axes, {"exact posterior": answer, **found}.items(), strict=True):
    ax.scatter(*prior.T, s=1, color="0.85")
    ax.scatter(*x.T, s=2, alpha=0.4)
    ax.set_title(f"{name}\n{sliced(x, answer):.3f}", fontsize=9)
figure.suptitle(
    "samples given one measured number; the prior in grey; distance to the exact posterior", y=1.06
)
plt.show()
