# %% [markdown]
# # Conditional networks: a picture that a sample follows
#
# A condition is any tree of arrays, usually a dictionary: classes, tokens of a text, a picture. Each entry has a *null*, which stands for "not
# given". This notebook takes the class-conditional model of digits that comes with the package and teaches it to be shown a picture, too, without
# changing any of its numbers: a ControlNet (arXiv 2302.05543), a copy of the U-Net's way down whose outputs pass through layers that begin at zero.

# %%
# In Colab: %pip install -q git+https://github.com/jaxdiff/jaxdiff
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import jaxdiff as jd

base = jd.load_pretrained("digits")
train, test = jd.data.load_digits("train"), jd.data.load_digits("test")


def silhouette(images):
    """The picture that is shown: 1 where a digit is bright, 0 elsewhere."""
    return (np.asarray(images) > 0).astype(np.float32)


# %% [markdown]
# ## Before training
#
# `controlnet_of` makes the ControlNet and `steered` puts it beside the model. What comes out is a denoiser whose condition has a further entry,
# `"control"`, and which computes what the model does, bit for bit, whatever it is shown.

# %%
D = jd.adapt.steered(base.denoiser, jd.adapt.controlnet_of(base.denoiser, channels=1, widths=(16,)))
classes = jnp.asarray(test.labels[:10], jnp.int32)
shown = jnp.asarray(silhouette(test.images[:10]))
y = jax.random.normal(jax.random.key(0), (10, *base.shape))
same = D(y, 1.0, {"classes": classes, "control": shown}) == base.denoiser(y, 1.0, classes)
print("the same as the model's:", bool(same.all()))

# %% [markdown]
# ## Training
#
# A batch is an image and its condition. `trainable` gives the optimiser the parameters of the ControlNet alone.


# %%
def data(step):
    """32 digits, with their classes and silhouettes: a function of the step."""
    index = np.random.default_rng(step).choice(len(train.images), 32)
    images = np.asarray(train.images[index], np.float32)
    cond = {"classes": train.labels[index].astype(np.int32), "control": silhouette(images)}
    return {"image": images, "label": cond}


rate = optax.cosine_decay_schedule(2e-3, 300)
student = jd.distill.Student.of(
    D, optimiser=jd.adapt.trainable(optax.adam(rate), jd.adapt.STEERING), label_drop=0.0
)
state = jd.fit(jd.distill.score_matching(student), data, num_updates=300, progress=False)
trained = student.denoiser(state.params["student"])

# %% [markdown]
# ## Samples that follow a picture
#
# Silhouettes of digits that were not trained on, with their classes. The overlap of two silhouettes is Dice's coefficient,
# $2|A \cap B| / (|A| + |B|)$: 1 where they agree.

# %%
control = jd.adapt.steering_of(trained)
table = jd.table(jd.solvers.dpmpp, base.grid(10), order=2)
start = jd.start(jax.random.key(1), table, 10, base.shape)
cond = {"classes": classes, "control": shown}
half = jd.adapt.steered(base.denoiser, control, 0.5)
rows = {
    "shown": 2 * shown - 1,
    "the model alone": jd.sample(base.denoiser, table, start, classes),
    "followed half": jd.sample(half, table, start, cond),
    "followed": jd.sample(trained, table, start, cond),
}
overlap = {}
for name, x in list(rows.items())[1:]:
    both = silhouette(x)
    overlap[name] = float(2 * (both * shown).sum() / (both.sum() + shown.sum()))
    print(f"{name:16} overlap {overlap[name]:.2f}")
assert overlap["followed"] > overlap["followed half"] > overlap["the model alone"]

# %% [markdown]
# ## A condition that contradicts itself
#
# The silhouette of one digit, and the class of another: the first row is shown, the others have the classes 0 to 9.

# %%
others = jnp.arange(10, dtype=jnp.int32)
one = jnp.broadcast_to(shown[:1], shown.shape)
mixed = jd.sample(trained, table, start, {"classes": others, "control": one})


def sheet(rows):
    """Rows of images with a gap between them."""
    tiles = [np.pad(np.asarray(r)[..., 0], ((0, 0), (0, 1), (0, 1))) for r in rows]
    return np.concatenate([t.swapaxes(0, 1).reshape(9, -1) for t in tiles])


figure, axes = plt.subplots(2, 1, figsize=(7, 4.6), height_ratios=(4, 2))
for ax, blocks in (
    (axes[0], rows),
    (axes[1], {"shown": 2 * one - 1, "of the classes 0 to 9": mixed}),
):
    ax.imshow(sheet(blocks.values()), cmap="gray", vmin=-1, vmax=1)
    ax.set(xticks=[], yticks=np.arange(len(blocks)) * 9 + 4)
    ax.set_yticklabels(list(blocks))
figure.tight_layout()
plt.show()

# %% [markdown]
# `jd.adapt.save_steering(control, "silhouettes.safetensors")` keeps the ControlNet alone. From the command line, `jaxdiff adapt --kind controlnet`
# trains one by edges. Text is a condition of the same kind, a dictionary with token ids: `jaxdiff train text` trains a small text-to-image network.
