"""Effects of distillation and guidance on a model's trajectories, for ``jaxdiff analyse``."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.app.data import class_labels
from jaxdiff.app.ends import between, spread
from jaxdiff.app.geometry import bends, euler_path, over_levels, statistics
from jaxdiff.app.models import Model
from jaxdiff.app.subjects import Subject
from jaxdiff.conditioning.guidance import classifier_free
from jaxdiff.distance import norm
from jaxdiff.recipes import RECIPES
from jaxdiff.sampling.run import call
from jaxdiff.typing import Array


def conditioned(model: Model, count: int, label: int | None) -> np.ndarray | None:
    """Return classes of samples, in turn unless there is one; None for a model without."""
    made = class_labels(count, model.classes, label, model.metadata["class_names"])
    return None if made is None else made.astype(np.int32)


def distillation(
    model: Model, students: Mapping[str, Model], noise: Array, levels: np.ndarray, label: int | None
) -> dict[str, Any]:
    """Return the distance to the end of the teacher's path of what teacher and students return at
    its states, |D(x_n) - x_0|: a student moves it to 0 (arXiv 2305.19947).

    A student of a map between two levels is evaluated by its jump to level 0, and one that samples
    from noise alone is known at the highest level only. And the spread of the students' own
    outputs between two noises at the highest level. "follows": whether its method is meant to end
    where the teacher's flow ends.
    """
    cond = conditioned(model, noise.shape[0], label)
    path = euler_path(Subject(model.denoiser, cond), levels, noise)
    at = jnp.asarray(levels, noise.dtype)
    found = {"teacher": _to_end(path.denoised, path.end)}
    given, ends = between(noise), {}
    given_cond = given.cond(cond)
    for name, student in students.items():
        found[name] = _to_end(_outputs(student, path.path.states, at, cond), path.end)
        ends[name] = {
            mode: spread(given, z, _outputs(student, at[0] * z[None], at[:1], given_cond)[0])
            for mode, z in given.noises.items()
        }
    teacher = found["teacher"].mean(axis=1).sum()
    models: dict[str, dict[str, Any]] = {
        name: over_levels(levels, apart) | {"share": float(apart.mean(axis=1).sum() / teacher)}
        for name, apart in found.items()
    }
    for name, student in students.items():
        recipe = RECIPES.get(student.metadata["method"])
        models[name] |= {"follows": None if recipe is None else recipe.follows_flow}
    latents = {"fractions": given.fractions.tolist(), "models": ends}
    return {"models": models, "latent": latents}


def _to_end(outputs: Array, end: Array) -> np.ndarray:
    return np.asarray(jax.vmap(lambda one: norm(one - end))(outputs), np.float64)


def _outputs(student: Model, states: Array, levels: Array, cond: Any) -> Array:
    """Return what a student returns at every state of a path."""
    entry = next(iter(student.metadata["samplers"].values()))
    jumps = entry["table"].get("targets") is not None
    target = jnp.zeros((), states.dtype) if jumps else None
    run = jax.jit(lambda D, y, s: call(D, y, s, target, cond))
    return jnp.stack([run(student.denoiser, y, s) for y, s in zip(states, levels, strict=True)])


def guidance(
    model: Model, weights: tuple[float, ...], noise: Array, levels: np.ndarray, label: int | None
) -> dict[str, Any]:
    """Return statistics of trajectories with classifier-free guidance of several weights, on the
    same noises and classes, and their curvature.
    """
    cond, found = conditioned(model, noise.shape[0], label), {}
    for weight in weights:
        D = classifier_free(model.denoiser, jnp.asarray(weight, noise.dtype))
        guided = Subject(D, cond)
        path = euler_path(guided, levels, noise)
        bent = bends(guided, path.path, torsion=False)
        found[f"weight {weight:g}"] = statistics(path) | bent
    return found
