"""Scenes of blobs against a class-conditional network of handwritten digits.

All scenes, as many of each class, are one tree of parameters (:mod:`experiments.scenes.render`);
scene i is of class i mod classes. A batch has the classes in turn, 0 1 .. 9 0 1 .., and in each
place a random scene of its class, so that a rendering's condition is known before it is drawn.
"""

import functools
import sys
import time
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.scenes import render
from jaxdiff import grids, solvers
from jaxdiff.app import samplers as choosing
from jaxdiff.app.data import class_labels
from jaxdiff.app.evaluator import Evaluator, measure
from jaxdiff.app.generate import generate
from jaxdiff.app.models import Model
from jaxdiff.data.dataset import Dataset, to_float
from jaxdiff.distill.parts.generator import in_time
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.score.score_distillation import (
    score_distillation,
    variational_score_distillation,
)
from jaxdiff.method import Batch, Context, Method, Metrics, Player
from jaxdiff.networks import from_linen
from jaxdiff.process import VP
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.training import fit
from jaxdiff.typing import Array, Key, Params

Row = dict[str, Any]
RATE, FAKE_RATE = 0.05, 2e-3
BATCH = 4  # renderings of a class per update


class Choice(NamedTuple):
    """Optimisation of the scenes.

    method: "sds" or "vsd". weight: of the teacher's guidance, 1 for none. alone: one scene of a
    class, not several. annealed: the second half of the updates has levels from 2 to 50 % of the
    time only, not to 98 %.
    """

    method: str
    weight: float = 1.0
    alone: bool = False
    annealed: bool = False


class Plan(NamedTuple):
    """Options of all choices. rank: of the fake score's adapters; 0 for all parameters."""

    scenes: int = 16
    blobs: int = 16
    updates: int = 600
    rank: int = 16
    seed: int = 0


def scattered(key: Key, count: int, blobs: int) -> Params:
    """``count`` scenes to start from."""
    return jax.vmap(lambda own: render.blobs(own, blobs))(jax.random.split(key, count))


def in_turn(classes: int, scene: Params, key: Key) -> Array:
    """Return the rendering: a random scene of class 0, 1, ... in turn, BATCH times."""
    places = jnp.arange(BATCH * classes)
    own = scene["angle"].shape[0] // classes
    chosen = jax.random.randint(key, places.shape, 0, own) * classes + places % classes
    return render.pictures(jax.tree.map(lambda leaf: leaf[chosen], scene))


def teacher(model: Model, weight: float) -> Any:
    """Return the teacher with guidance; without, at half the cost, for a weight of 1."""
    return model.denoiser if weight == 1 else choosing.guided(model, model.denoiser, weight)


def method_of(
    choice: Choice, plan: Plan, model: Model, scene: Params, last: float, rate: Any
) -> Method:
    """Return the method, its levels uniform in time from 2 % to ``last``."""
    levels = in_time(cast(Any, VP()), 0.02, last)
    common = {"levels": levels, "optimiser": optax.adam(rate, b2=0.99)}
    draw = functools.partial(in_turn, model.classes)
    guided = teacher(model, choice.weight)
    if choice.method == "sds":
        return score_distillation(guided, draw, scene, **common)
    fake = Student(
        from_linen(model.module), model.params,
        sigma_data=model.metadata["sigma_data"], classes=model.classes,
        optimiser=optax.adam(FAKE_RATE),
    )  # fmt: skip
    return variational_score_distillation(
        guided, draw, scene, fake, rank=plan.rank, late_levels=levels, fake_levels=levels, **common
    )


def distilled(choice: Choice, plan: Plan, model: Model) -> Params:
    """Return the scenes at the end."""
    count = model.classes * (1 if choice.alone else plan.scenes)
    scene = scattered(jax.random.key(plan.seed), count, plan.blobs)
    rate = optax.cosine_decay_schedule(RATE, plan.updates, 0.05)
    batch = {"label": np.arange(BATCH * model.classes, dtype=np.int32) % model.classes}
    half = plan.updates // 2
    parts = (
        [(half, 0.98), (plan.updates - half, 0.5)] if choice.annealed else [(plan.updates, 0.98)]
    )
    players, made = None, 0
    for updates, last in parts:
        later = functools.partial(_later, rate, made)
        method = method_of(choice, plan, model, scene, last, later)
        if players is not None:
            method = method._replace(init=lambda key, players=players: players)
        state = fit(
            method, lambda step: batch, num_updates=updates, key=plan.seed + made,
            progress=sys.stderr.isatty(),
        )  # fmt: skip
        players, made = state.params, made + updates
    assert players is not None
    return players["student"]


def _later(rate: optax.Schedule, made: int, step: Any) -> Any:
    return rate(step + made)


def traced(plan: Plan, images: np.ndarray) -> Params:
    """Scenes fitted to images by least squares: what blobs can draw at all."""
    scene = scattered(jax.random.key(plan.seed), len(images), plan.blobs)

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        value = jnp.mean((render.pictures(params) - batch["image"]) ** 2)
        return value, {"loss": value}

    optimiser = optax.adam(optax.cosine_decay_schedule(RATE, plan.updates, 0.05), b2=0.99)
    method = Method(
        init=lambda key: {"student": scene}, players={"student": Player(loss, optimiser)},
        sampler=lambda state: None,
    )  # fmt: skip
    batch = {"image": images.astype(scene["angle"].dtype)}
    state = fit(method, lambda step: batch, num_updates=plan.updates, progress=sys.stderr.isatty())
    return state.params["student"]


class Measures(NamedTuple):
    """Measures of pictures. real: digits, for their diversity."""

    evaluator: Evaluator
    real: Dataset
    classes: int

    def numbers(self, images: np.ndarray) -> Row:
        """Of pictures whose classes come in turn: "class", how often the evaluator sees it;
        "frechet" and "real_data", that of as many real digits; "diversity" and "contrast", relative
        to real digits.
        """
        labels = np.arange(len(images)) % self.classes
        scores = measure(self.evaluator, np.clip(images, -1, 1), labels, ("Frechet distance",))
        distance = scores["Frechet distance"]
        real_data = distance.real_data
        real = diversity(to_float(self.real.images), np.asarray(self.real.labels), self.classes)
        return {
            "count": len(images),
            "class": scores["agreement"].value,
            "frechet": distance.value,
            "real_data": real_data.value if real_data else None,
            "diversity": diversity(images, labels, self.classes) / real,
            "contrast": float(images.std() / to_float(self.real.images).std()),
        }


def diversity(images: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """Root mean square distance between two pictures of one class, the mean over classes; 0 for
    classes of one picture.
    """
    squares = []
    for k in range(classes):
        x = images[labels == k].reshape(-1, images[0].size).astype(np.float64)
        squares.append(2 * x.var(axis=0, ddof=1).sum() if len(x) > 1 else 0.0)
    return float(np.mean(np.sqrt(squares)))


def run(choice: Choice, plan: Plan, model: Model, measures: Measures) -> Row:
    """Numbers of one choice, and the scenes."""
    began = time.perf_counter()
    scene = jax.block_until_ready(distilled(choice, plan, model))
    return scored(scene, time.perf_counter() - began, measures)


def run_traced(plan: Plan, measures: Measures) -> Row:
    """Return the same of scenes fitted to real digits drawn at random, the classes in turn."""
    began = time.perf_counter()
    mixed = np.random.default_rng(plan.seed).permutation(len(measures.real))
    labels = np.asarray(measures.real.labels)[mixed]
    own = [mixed[labels == k][: plan.scenes] for k in range(measures.classes)]
    images = to_float(measures.real.images)[np.stack(own, axis=1).ravel()]
    scene = jax.block_until_ready(traced(plan, images))
    return scored(scene, time.perf_counter() - began, measures)


def scored(scene: Params, seconds: float, measures: Measures) -> Row:
    """Return a row: numbers of scenes and the scenes themselves."""
    found = measures.numbers(np.asarray(render.pictures(scene)))
    kept = {name: np.asarray(leaf, np.float64).round(4).tolist() for name, leaf in scene.items()}
    return {"seconds": seconds, **found, "scene": kept}


def run_teacher(weight: float, plan: Plan, model: Model, measures: Measures) -> Row:
    """Numbers of the teacher's own samples: Heun's method, 35 evaluations, with guidance twice as
    many.
    """
    began = time.perf_counter()
    count = plan.scenes * model.classes
    sampler = Sampler(teacher(model, weight), table(solvers.heun, grids.karras(18)))
    labels = class_labels(count, model.classes)
    images = generate(
        sampler, count, model.shape, labels, batch=count, seed=plan.seed, progress=False
    )
    seconds = time.perf_counter() - began
    kept = np.asarray(images[: 4 * model.classes], np.float64).round(3).tolist()
    return {"seconds": seconds, **measures.numbers(images), "images": kept}
