# %% [markdown]
# # Adapters: small changes of a frozen model
#
# A trained model can learn something new without being changed: an *adapter* is a small tree of numbers that changes its parameters,
# $W' = W + A B$ for LoRA, trained alone, saved alone and put in with any strength. An adapted network is a network, so every method takes it as
# it is: here score matching on a new kind of images, and consistency distillation (LCM-LoRA). The base is the model of digits that comes with
# the package.

# %%
# In Colab: %pip install -q git+https://github.com/jaxdiff/jaxdiff
import pathlib
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxdiff as jd
from jaxdiff.solvers.steps import euler_step

base = jd.load_pretrained("digits")
digits = jd.data.load_digits("train")


def batch(step, images):
    """32 images with their classes: a function of the step."""
    index = np.random.default_rng(step).choice(len(images), 32)
    return {"image": images[index], "label": np.asarray(digits.labels[index], np.int32)}


# %% [markdown]
# ## A new style
#
# The same digits, each between two bright bars. 200 updates of LoRA of rank 4.

# %%
barred = np.array(digits.images, np.float32)
barred[:, :, [0, -1]] = 1.0

adapter = jd.adapt.LowRank(rank=4)
D = jd.adapt.adapted(base.denoiser, adapter)
student = jd.distill.Student.of(D, classes=10, optimiser=jd.adapt.adapter_only(optax.adam(5e-3)))
state = jd.fit(
    jd.distill.score_matching(student), lambda step: batch(step, barred), num_updates=200,
    progress=False,
)  # fmt: skip
small = state.params["student"]["adapter"]
counts = [sum(np.size(leaf) for leaf in jax.tree.leaves(tree)) for tree in (base.params, small)]
unchanged = jax.tree.all(
    jax.tree.map(lambda a, b: bool((a == b).all()), base.params, state.params["student"]["base"])
)
print(f"{counts[1]} numbers trained, {counts[0]} frozen; the base kept its bits: {unchanged}")

# %% [markdown]
# The file holds the adapter alone. `with_adapter` merges it into any denoiser of this base, with a strength: 0 is the base, 1 what was trained.

# %%
table = jd.table(jd.solvers.dpmpp, base.grid(10))
classes = jnp.arange(10)
start = jd.start(jax.random.key(0), table, 10, base.shape)
others = jd.table(jd.solvers.dpmpp, base.grid(20)), jd.table(jd.solvers.euler, base.grid(1))
ten, twenty, one = jd.pad([table, *others])  # one program runs all three
strengths = (0.0, 0.5, 0.8, 1.0)
styles = {}
with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder) / "bars.safetensors"
    jd.adapt.save_adapter(file, base.params, adapter, small)
    print(file.stat().st_size, "bytes")
    for strength in strengths:
        merged, _ = jd.adapt.with_adapter(base.denoiser, file, strength)
        styles[strength] = jd.sample(merged, ten, start, classes)

# %% [markdown]
# ## Few steps as an adapter
#
# The same adapter, trained by another method: consistency distillation teaches it to jump to the end of the teacher's trajectory. What comes
# out is a small file that makes the base a sampler of one or two evaluations: LCM-LoRA (arXiv 2311.05556).

# %%
faster = jd.adapt.LowRank(rank=16)
student = jd.distill.Student.of(
    jd.adapt.adapted(base.denoiser, faster), classes=10,
    optimiser=jd.adapt.adapter_only(optax.adam(optax.cosine_decay_schedule(5e-3, 300))),
)  # fmt: skip
method = jd.distill.consistency_distillation(
    base.denoiser, student, scales=12, solver_step=euler_step
)
images = np.asarray(digits.images, np.float32)
state = jd.fit(method, lambda step: batch(step, images), num_updates=300, progress=False)
key = jax.random.key(0)
few = {
    "base, 20 evaluations": jd.sample(base.denoiser, twenty, start, classes),
    "base, 1 (Euler)": jd.sample(base.denoiser, one, start, classes),
    "adapter, 1": method.sampler(state, 1)(key, 10, base.shape, classes),
    "adapter, 2": method.sampler(state, 2)(key, 10, base.shape, classes),
}


# %%
def sheet(rows):
    """Rows of images with a gap between them."""
    tiles = [np.pad(np.asarray(r)[..., 0], ((0, 0), (0, 1), (0, 1))) for r in rows]
    return np.concatenate([t.swapaxes(0, 1).reshape(9, -1) for t in tiles])


figure, axes = plt.subplots(1, 2, figsize=(11, 2.6))
for ax, rows, title in (
    (axes[0], styles, "LoRA of a style, by its strength"),
    (axes[1], few, "LCM-LoRA: few evaluations"),
):
    ax.imshow(sheet(rows.values()), cmap="gray", vmin=-1, vmax=1)
    ax.set(title=title, xticks=[], yticks=np.arange(len(rows)) * 9 + 4)
    ax.set_yticklabels(list(rows))
figure.tight_layout()
plt.show()
