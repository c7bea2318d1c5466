# %% [markdown]
# # Your own model
#
# Everything here works on a denoiser $D(y, s)$, and a denoiser is made of any network by saying what it predicts and in which process. This
# notebook makes denoisers of networks from four places: flax's linen and nnx, equinox, a plain function; and opens a folder in the layout of
# diffusers and a file of safetensors, both written on the spot.

# %%
# In Colab: %pip install -q git+https://github.com/jaxdiff/jaxdiff equinox
import pathlib
import tempfile

import flax.linen as nn
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import jaxdiff as jd

# %% [markdown]
# ## One network in four libraries
#
# A network takes the scaled state `x` (batch, 2), a `label` (batch,) that tells the noise level, and a condition. It predicts whatever it was
# trained to predict; here what EDM's networks predict, between state and noise.


# %%
def features(x, label):
    """The state, and sines of the time."""
    waves = label[:, None] * jnp.asarray([1.0, 3.0, 9.0, 27.0])
    return jnp.concatenate([x, jnp.sin(waves), jnp.cos(waves)], axis=1)


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x, label, cond=None):
        h = features(x, label)
        for _ in range(2):
            h = nn.silu(nn.Dense(96)(h))
        return nn.Dense(2)(h)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.first, self.second = nnx.Linear(10, 96, rngs=rngs), nnx.Linear(96, 96, rngs=rngs)
        self.last = nnx.Linear(96, 2, rngs=rngs)

    def __call__(self, x, label, cond=None):
        return self.last(nnx.silu(self.second(nnx.silu(self.first(features(x, label))))))


def plain(params, x, label, cond=None, **options):
    h = features(x, label)
    for weight, bias in params[:-1]:
        h = jax.nn.silu(h @ weight + bias)
    return h @ params[-1][0] + params[-1][1]


sizes = (10, 96, 96, 2)
keys = jax.random.split(jax.random.key(0), 3)
plain_params = [
    (jax.random.normal(k, (a, b)) / a**0.5, jnp.zeros(b))
    for k, a, b in zip(keys, sizes, sizes[1:], strict=False)
]
linen = Linen()
networks = {
    "linen": (
        jd.networks.from_linen(linen),
        linen.init(jax.random.key(0), jnp.zeros((1, 2)), jnp.zeros(1))["params"],
    ),
    "nnx": jd.networks.from_nnx(Nnx(nnx.Rngs(0))),
    "plain function": (plain, plain_params),
}
try:
    import equinox as eqx
except ImportError:
    print("equinox is not installed: three networks")
else:

    class Equinox(eqx.Module):
        body: eqx.nn.MLP

        def __call__(self, x, label, cond=None):  # of one sample
            return self.body(features(x[None], label[None])[0])

    mlp = eqx.nn.MLP(10, 2, 96, 2, activation=jax.nn.silu, key=jax.random.key(0))
    networks["equinox"] = jd.networks.from_equinox(Equinox(mlp))

# %% [markdown]
# ## Trained by the same loop
#
# Each becomes a `Student` of score matching and is trained on a ring of six Gaussians. What was trained is a denoiser like any other.

# %%
angles = 2 * np.pi * np.arange(6) / 6
means = np.stack([np.cos(angles), np.sin(angles)], 1)
truth = jd.exact.GaussianMixture(np.full(6, 1 / 6), means, np.full(6, 0.02))


def data(step):
    return {"image": np.asarray(truth.sample(jax.random.key(step), 256))}


table = jd.table(jd.solvers.dpmpp, jd.grids.karras(12, 0.02, 40.0))
start = jd.start(jax.random.key(1), table, 400, (2,))
samples = {"exact": jd.sample(truth.denoiser, table, start)}
for name, (network, params) in networks.items():
    student = jd.distill.Student(
        network, params, prediction="edm", sigma_data=0.7, optimiser=optax.adam(5e-3)
    )
    state = jd.fit(jd.distill.score_matching(student), data, num_updates=600, progress=False)
    D = student.denoiser(state.params["student"])
    samples[name] = jd.sample(D, table, start)
    apart = jnp.sqrt(jnp.mean((samples[name] - samples["exact"]) ** 2))
    print(f"{name}: {float(apart):.3f} from the exact samples of the same noise")

# %%
figure, axes = plt.subplots(1, len(samples), figsize=(2.4 * len(samples), 2.5), sharey=True)
for ax, (name, x) in zip(axes, samples.items(), strict=True):
    ax.scatter(*np.asarray(x).T, s=2)
    ax.set(title=name, xlim=(-1.8, 1.8), ylim=(-1.8, 1.8), aspect="equal")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Files: a folder of diffusers, and safetensors
#
# A U-Net in diffusers' layout is saved as a folder that diffusers itself reads, and opened again by `jd.load_pretrained`, which reads names
# and shapes and runs nothing. The same call opens EDM's pickles (`jd.load_pretrained("edm-cifar10-32x32-cond-vp.pkl")`), guided-diffusion's
# checkpoints and a dozen other families; `jaxdiff list models` lists those that it can fetch.

# %%
network = jd.networks.UNet2D(
    channels=(16, 32),
    out_channels=1,
    blocks=1,
    groups=4,
    down=("plain", "plain"),
    up=("plain", "plain"),
)
params = jd.networks.init(network, jax.random.key(0), (8, 8, 1))
process = jd.process.Discrete.from_betas(jd.process.linear_betas(1000))
label = jd.process.discrete_label(1000)
D = jd.denoiser(
    jd.networks.from_linen(network), params, prediction="eps", process=process, label=label
)
mine = jd.pretrained.Pretrained(
    D, params, network, (8, 8, 1), "eps", process, jd.grids.karras, metadata={"name": "mine"}
)
with tempfile.TemporaryDirectory() as folder:
    there = pathlib.Path(folder)
    jd.pretrained.save_diffusers(mine, there / "pipeline")
    jd.pretrained.save_safetensors(mine, there / "mine.safetensors")
    print(sorted(str(p.relative_to(there)) for p in there.rglob("*") if p.is_file()))
    opened = [jd.load_pretrained(there / name) for name in ("pipeline", "mine.safetensors")]
for again in opened:
    print(again)
y = jax.random.normal(jax.random.key(2), (4, 8, 8, 1))
answers = [np.asarray(m.denoiser(y, 1.0)) for m in (mine, *opened)]
print("the same answers:", [float(abs(a - answers[0]).max()) for a in answers])

# %%
figure, axes = plt.subplots(1, 2, figsize=(7, 2.8))
for ax, grid, title in (
    (axes[0], opened[0].grid, "the folder's grid: equal steps of the table"),
    (axes[1], opened[1].grid, "the file's grid: Karras's"),
):
    ax.semilogy(np.asarray(grid(10))[:-1], "o-")
    ax.set(title=title, xlabel="step", ylabel="noise level")
figure.tight_layout()
plt.show()
