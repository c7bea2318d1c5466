# %% [markdown]
# # Classifiers: distilled, and by diffusion; and drug-target prediction
#
# Distillation is older than diffusion: a small classifier learns from a large one. `jaxdiff.classify` has two dozen methods for the same training
# loop. This notebook shows SimKD (arXiv 2203.14001) beside plain training and Hinton's distillation on few labels, a classifier made of a
# diffusion model, and the last subject of the package: which drug acts on which protein.

# %%
# In Colab: %pip install -q git+https://github.com/jaxdiff/jaxdiff
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxdiff as jd
from jaxdiff.classify import interactions
from jaxdiff.data.digits import load_digits

parts = [load_digits(part) for part in ("train", "test")]
images, tests = (np.asarray(part.images, np.float32) for part in parts)
labels, truths = (np.asarray(part.labels, np.int32) for part in parts)
rng = np.random.default_rng(0)
train = np.arange(len(images))
few = rng.permutation(train)[:150]  # with labels: 15 images of a class


# %%
def batches(known, size=64):
    """Batches of shifted images: a function of the step."""

    def data(step):
        rng = np.random.default_rng(step)
        index = rng.choice(known, size)
        shift = rng.integers(-1, 2, 2)
        return {"image": np.roll(images[index], shift, (1, 2)), "label": labels[index]}

    return data


def trained(method, known, updates):
    """The classifier that a method ends with."""
    return method.sampler(jd.fit(method, batches(known), num_updates=updates, progress=False))


large = jd.classify.ImageClassifier(jd.networks.ResNetCIFAR(1, (16, 16, 32, 64)), (8, 8, 1))
small = jd.classify.ImageClassifier(jd.networks.ResNetCIFAR(1, (4, 4, 8, 16)), (8, 8, 1))
recipe = jd.classify.Recipe(num_updates=300)
teacher = trained(jd.classify.vanilla(large, recipe=recipe), train, 300)

# %% [markdown]
# ## SimKD in one page
#
# The student keeps the teacher's last layer and only learns to put its own features where that layer can read them: one loss, the squared
# distance of features, and no labels at all. So it learns from all images, where the others have the 150 that are labelled. (The paper's weight
# of the loss is 1, over 240 epochs; here are 13, and it is 20.)

# %%
methods = {
    "labels alone": jd.classify.vanilla(small, recipe=recipe),
    "KD": jd.classify.kd(teacher, small, recipe=recipe),
    "SimKD": jd.classify.simkd(teacher, small, weight=20.0, recipe=recipe),
}
seen = {"labels alone": few, "KD": few, "SimKD": train}  # SimKD needs no labels: it sees all images
students = {name: trained(method, seen[name], 300) for name, method in methods.items()}
share = {
    name: jd.classify.accuracy(one, tests, truths)
    for name, one in {"teacher": teacher, **students}.items()
}
for name, one in {"teacher": teacher, **students}.items():
    count = sum(np.size(leaf) for leaf in jax.tree.leaves(one.variables.value))
    print(f"{name:14} {count:6d} trained numbers, {share[name]:.1%} of the test digits")

# %% [markdown]
# ## A diffusion model classifies, too
#
# It was never trained to. The class under which the denoiser errs least is the likeliest by Bayes' rule; after a first round of few draws the
# unlikely classes are dropped.

# %%
model = jd.load_pretrained("digits")
count = 40
found = jd.classify.diffusion_classifier(
    model.denoiser, jnp.asarray(tests[:count]), jnp.arange(10), 0.3, 3.0,
    key=jax.random.key(0), rounds=((8, 3), (24, 1)),
)  # fmt: skip
guess = np.asarray(found.log_posterior).argmax(axis=1)
share["diffusion model"] = float((guess == truths[:count]).mean())
print(f"{share['diffusion model']:.0%} of {count} test digits")

# %% [markdown]
# ## Which drug acts on which protein?
#
# A matrix of known interactions, similarities of drugs and of targets; the missing pairs are to be ranked. The data here are made on the spot:
# hidden groups of drugs act on hidden groups of targets, and a third of the interactions is not known yet. (`python -m
# experiments.drug_target predict` reads your own matrices.)

# %%
drugs, targets = rng.integers(0, 6, 60), rng.integers(0, 5, 45)
acts = rng.random((6, 5)) < 0.3
true = acts[drugs][:, targets] & (rng.random((60, 45)) < 0.8)
known = true & (rng.random(true.shape) < 2 / 3)


def similarity(groups):
    """Noisy similarities of things in groups."""
    features = np.eye(groups.max() + 1)[groups] + 0.3 * rng.normal(
        size=(len(groups), groups.max() + 1)
    )
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features @ features.T * 0.5 + 0.5


whole = interactions.problem(known.astype(float), similarity(drugs), similarity(targets))
masks = interactions.held_out(whole.known.shape, "pairs", seeds=(0,), num_folds=5)
ranking = {
    "RLS-Kron": lambda problem, key: interactions.rls_kron(problem),
    "NRLMF": lambda problem, key: interactions.nrlmf(problem, key, rank=10),
}
for name, method in ranking.items():
    score = interactions.cross_validate(method, whole, masks, jax.random.key(0))
    print(f"{name:9} AUC {score.auc.mean():.3f}  AUPR {score.aupr.mean():.3f}, five folds")
new = interactions.new_interactions(ranking["RLS-Kron"], whole, jax.random.key(0), count=40)
right = np.cumsum([true[i, j] for i, j, _ in new])
print(f"of the 40 best new pairs {right[-1]} are true; by chance it would be "
      f"{40 * (true & ~known).sum() / (~known).sum():.0f}")  # fmt: skip

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 3))
axes[0].barh(list(share), list(share.values()), color=["C7", "C0", "C0", "C1", "C2"])
axes[0].set(title="share of test digits", xlim=(0.5, 1))
axes[0].invert_yaxis()
order = np.argsort(drugs), np.argsort(targets)
axes[1].imshow((true.astype(int) + known)[order[0]][:, order[1]], cmap="Greys", aspect="auto")
axes[1].set(title="known (black), hidden (grey)", xlabel="target", ylabel="drug")
axes[2].plot(np.arange(1, 41), right, label="RLS-Kron's ranking")
axes[2].plot([0, 40], [0, 40 * (true & ~known).sum() / (~known).sum()], "C7--", label="chance")
axes[2].set(title="true among the best new pairs", xlabel="pairs looked at")
axes[2].legend()
figure.tight_layout()
plt.show()
