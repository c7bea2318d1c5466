# %% [markdown]
# # Distillation: six methods beside each other, on an exact teacher
#
# A student is a network that does in one evaluation what its teacher needs many for. Of an exact teacher (a mixture of Gaussians, whose
# denoiser is a formula) the right answer is known for every single noise: where the teacher's flow takes it. So one can see what each family
# of methods learns: to follow the flow, or only to have the right distribution.
#
# | method | family | what it matches |
# |---|---|---|
# | knowledge distillation | trajectory | the end of the teacher's trajectory of each noise |
# | easy consistency distillation | consistency | the student itself, a step further down the trajectory |
# | mean flow | flow map | the average velocity between two levels, by its derivative |
# | shortcut | flow map | one long step is two short ones |
# | Diff-Instruct | score | the difference of the scores of samples and data |
# | score identity distillation | score | the Fisher divergence between the same |

# %%
# In Colab: %pip install -q git+https://github.com/jaxdiff/jaxdiff
import jax
import matplotlib.pyplot as plt
import numpy as np

import jaxdiff as jd
from jaxdiff.recipes import RECIPES, Goal
from jaxdiff.training import fit_stages

angles = 2 * np.pi * np.arange(5) / 5
modes = np.stack([np.cos(angles), np.sin(angles)], 1)
truth = jd.exact.GaussianMixture(np.full(5, 0.2), modes, np.full(5, 0.01))
D = truth.denoiser

# %% [markdown]
# Every noise has its own end: the flow of the exact denoiser, in many steps.

# %%
few = 300
table = jd.table(jd.solvers.unipc, jd.grids.karras(60))
start = jd.start(jax.random.key(0), table, few, (2,))
ends = jd.sample(D, table, start)
colour = np.asarray(truth.responsibilities(ends, 0.0)).argmax(axis=1)

# %% [markdown]
# Students start from a small network that was trained by score matching, as a pretrained model would be.

# %%
module = jd.networks.MLP(width=64, depth=2)
network = jd.networks.from_linen(module)
SIGMA_DATA = 0.7
points = np.asarray(truth.sample(jax.random.key(4), 100_000))


def data(step):
    """256 points: a function of the step."""
    return {"image": points[np.random.default_rng(step).integers(len(points), size=256)]}


first = jd.distill.Student(
    network, jd.networks.init(module, jax.random.key(1), (2,)), sigma_data=SIGMA_DATA
)
begun = jd.fit(jd.distill.score_matching(first, std=1.6), data, num_updates=400, progress=False)
params = begun.params["student"]


def student_network(labels, log_variance):
    """A network for a student: with a second level as input, or a further head, it is larger."""
    larger = module.clone(log_variance=log_variance)
    fresh = jd.networks.init(larger, jax.random.key(2), (2,), labels=labels)
    return jd.networks.from_linen(larger), jd.networks.graft(params, fresh)


# %% [markdown]
# The recipes have each method by name, for a few hundred updates. `watch` looks at the student while it learns: its samples of the same noises.

# %%
NAMES = {
    "knowledge_distillation": "knowledge distillation",
    "easy_consistency_distillation": "easy consistency",
    "mean_flow": "mean flow",
    "shortcut": "shortcut",
    "diff_instruct": "Diff-Instruct",
    "sid": "SiD",
}
UPDATES, LOOKS = 400, 4
seen = {}


def distil(name):
    """Train a student by a recipe; keep its samples after every hundred updates."""
    goal = Goal(D, student_network, (2,), UPDATES, rate=2e-3, sigma_data=SIGMA_DATA)

    def watch(method, step, state):
        sampler = method.sampler(state, 1)
        seen.setdefault(name, []).append(np.asarray(sampler(jax.random.key(0), few, (2,))))
        return False

    fit_stages(
        RECIPES[name].stages(goal), data, num_updates=UPDATES, progress=False, watch=watch,
        watch_every=UPDATES // LOOKS,
    )  # fmt: skip


for name in NAMES:
    distil(name)

# %% [markdown]
# ## The student learns
#
# Every row is a method, every column a moment of its training. Colours say where the *teacher's flow* takes the noise: a student that keeps the
# colours apart follows the flow; one that mixes them has another map with the same distribution.

# %%
figure, axes = plt.subplots(len(NAMES), LOOKS, figsize=(1.6 * LOOKS + 1, 1.6 * len(NAMES)))
for row, (name, title) in enumerate(NAMES.items()):
    for column, x in enumerate(seen[name][-LOOKS:]):
        ax = axes[row, column]
        ax.scatter(*x.T, c=colour, s=3, cmap="tab10", vmax=9)
        ax.set(xlim=(-1.7, 1.7), ylim=(-1.7, 1.7), xticks=[], yticks=[], aspect="equal")
        if row == 0:
            ax.set_title(f"{(column + 1) * UPDATES // LOOKS} updates", fontsize=8)
    axes[row, 0].set_ylabel(title, fontsize=8)
figure.tight_layout()
plt.show()

# %% [markdown]
# ## In numbers
#
# The distance of each sample to the end of its own noise, and of the samples as a whole to the data (the kernel distance MMD², 0 for equal
# distributions). One Euler step of the exact teacher is where everything starts from.

# %%
euler = jd.sample(D, jd.table(jd.solvers.euler, jd.grids.karras(1)), start)
reference = np.asarray(truth.sample(jax.random.key(3), 2000))
rows = {"one Euler step": np.asarray(euler), **{NAMES[n]: seen[n][-1] for n in NAMES}}
own = {n: float(np.sqrt(((x - np.asarray(ends)) ** 2).sum(1).mean())) for n, x in rows.items()}
whole = {n: float(jd.metrics.mmd2(x, reference)) for n, x in rows.items()}
for n in rows:
    print(f"{n:24} to its own end {own[n]:.2f}   to the data {whole[n]:.4f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), sharey=True)
for ax, values, title in (
    (axes[0], own, "distance to the end of its own noise"),
    (axes[1], whole, "MMD² to the data"),
):
    ax.barh(list(values), np.maximum(list(values.values()), 0), color=["C7"] + ["C0"] * 6)
    ax.set(title=title)
    ax.invert_yaxis()
axes[1].invert_yaxis()
figure.tight_layout()
plt.show()
