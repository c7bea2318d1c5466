"""Knowledge distillation of samplers: regression on what the teacher's deterministic sampler makes.

A deterministic sampler is a function of its starting noise. With pairs of a start y_T = s_max eps
and the sample x the teacher makes of it,

    one step    E d( f(y_T, s_max), x )
    to the end  E d( f(y_i, s_i), x ),            y_i any stored state of the teacher's path
    any jump    E d( g(y_i, s_i, s_j), x_ij ),    x_ij = (y_j - (s_j/s_i) y_i)/(1 - s_j/s_i), j > i

where the last network is conditioned on both levels and G(y, s -> r) = (r/s) y + (1 - r/s) g leads
from one stored state to the other. No data are needed: pairs are stored before training
(:func:`stored_pairs`) or solved within the loss (``teacher=``).

Source: Luhman and Luhman, arXiv 2101.02388, section 3 (one step).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import solvers
from jaxdiff.distance import Distance, squared
from jaxdiff.distill.parts.frame import Step, regression
from jaxdiff.distill.parts.levels import grid_index
from jaxdiff.distill.parts.primitives import implied
from jaxdiff.distill.parts.stage import Before, Data, DataOf
from jaxdiff.distill.parts.student import Student
from jaxdiff.grids import from_list
from jaxdiff.method import Method
from jaxdiff.sampling.pairs import Spread, here, pairs_like
from jaxdiff.sampling.sample import trajectory
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Key


def endpoint_loss(
    f: Callable[[Array, Array], Array], y: Array, s: Array, x: Array, distance: Distance = squared
) -> Array:
    """Return how far f(y, s) is from the end x of the teacher's path through y, per sample
    (batch,).
    """
    return distance(f(y, s), jax.lax.stop_gradient(x))


def jump_loss(
    g: Callable[..., Array],
    y: Array,
    s: Array,
    z: Array,
    r: Array,
    distance: Distance = squared,
) -> Array:
    """Return how far the denoised output ``g(y, s, target=r)`` is from the one whose step from y at
    level s ends in z at level r, per sample (batch,).
    """
    return distance(g(y, s, target=r), jax.lax.stop_gradient(implied(y, s, z, r)))


def pick(path: Array, index: Array) -> Array:
    """State number ``index`` (batch,) of each sample's path (batch, states, *shape)."""
    rows = index.astype(jnp.int32).reshape((-1,) + (1,) * (path.ndim - 1))
    return jnp.take_along_axis(path, rows, axis=1)[:, 0]


def warm_adam(rate: float = 2e-4, warmup: int = 5000) -> optax.GradientTransformation:
    """Return the paper's Adam: b2 = 0.98, its rate rising linearly within the first 5000
    updates.
    """
    return optax.adam(optax.linear_schedule(0.0, rate, warmup), b2=0.98)


def knowledge_distillation(
    student: Student,
    *,
    levels: Sequence[float] | np.ndarray | Array | None = None,
    teacher: Sampler | None = None,
    distance: Distance = squared,
) -> Method:
    """Denoising student (Luhman and Luhman, arXiv 2101.02388), in one step or from the whole path.

    Args:
        student: Adam(0.9, 0.98), 2e-4 after 5000 updates of warm-up, by default.
        levels: of the stored paths' states, high to low; the student learns to jump from any of
            them to the end, half of the batch from the first. None: from the start only.
        teacher: solves the pairs within the loss, one for each of the batch's data, whose number
            and labels alone are used; deterministic, its table's levels the paths'. None: the batch
            has them (:func:`stored_pairs`).
        distance: squared (the paper), absolute, or of features.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Raises:
        ValueError: for a stochastic teacher, for levels that are not decreasing, and, when
            sampling, for more steps than levels were learnt.

    The paper's CIFAR-10 run regresses 1.024 million pairs of a 100-step DDIM teacher for 25 epochs
    of batches of 512, with an average of the parameters at 0.995. Batches have "start" and "image",
    or "path", as of :func:`jaxdiff.sampling.pairs.make_pairs`. Sampled in one step; with
    ``levels`` by multistep consistency sampling over some of them, which draws new noise (a
    deviation: the paper has one step only). Each update costs one network call, the pairs (once, or
    in every update) as many as the teacher's sampler. Fails: blurred where noise that is nearly the
    same has different samples, as the mean minimises the loss; never better than the teacher. With
    labels dropped, stored pairs still are those of their label.
    """
    known = _known(student, levels, teacher)
    paths = _paths(teacher, len(known))

    def student_loss(step: Step) -> Array:
        if levels is None:
            batch = stored(step, "start") if teacher is None else solved(step, step.key)
            high = jnp.full_like(step.x0, known[0], shape=step.x0.shape[:1])
            return endpoint_loss(step.student, batch["start"], high, batch["image"], distance)
        key_index, key_half, key_pairs = jax.random.split(step.key, 3)
        path = paths(step, key_pairs)
        index = grid_index(key_index, path, len(known) - 1)
        index = jnp.where(jax.random.bernoulli(key_half, 0.5, index.shape), 0.0, index)
        s = jnp.asarray(known, path.dtype)[index.astype(jnp.int32)]
        return endpoint_loss(step.student, pick(path, index), s, path[:, -1], distance)

    def tables(num_steps: int) -> Table:
        return table(solvers.consistency, subset(known, num_steps))

    return regression(student, student_loss, tables, optimiser=warm_adam(), **_frozen(teacher))


def path_distillation(
    student: Student,
    levels: Sequence[float] | np.ndarray | Array,
    *,
    teacher: Sampler | None = None,
    distance: Distance = squared,
) -> Method:
    """Knowledge distillation of whole paths into a map between any two of their levels.

    A path variant of arXiv 2101.02388 (not the paper's own). The network takes two labels. Half of
    the batch jumps from the start to the end; the other jumps are uniform among pairs of states.

    Args:
        student, teacher, distance: as for :func:`knowledge_distillation`.
        levels: of the stored paths' states, high to low.

    Returns:
        The method: losses, optimisers and starts of its players, and the sampler of the trained
        student.

    Sampled by jumps (deterministic) over some of the levels. Cost and failures are those of
    :func:`knowledge_distillation`; a student in k steps does not draw noise, so each of its samples
    can be compared with the teacher's. Raises ValueError likewise.
    """
    known = _known(student, levels, teacher)
    count, last, paths = len(known), len(known) - 1, _paths(teacher, len(known))

    def student_loss(step: Step) -> Array:
        key_first, key_second, key_half, key_pairs = jax.random.split(step.key, 4)
        path = paths(step, key_pairs)
        one, two = (grid_index(k, path, n) for k, n in ((key_first, count), (key_second, last)))
        two = jnp.where(two < one, two, two + 1.0)  # any two different states
        whole = jax.random.bernoulli(key_half, 0.5, one.shape)
        i = jnp.where(whole, 0.0, jnp.minimum(one, two))
        j = jnp.where(whole, float(last), jnp.maximum(one, two))
        s, r = (jnp.asarray(known, path.dtype)[k.astype(jnp.int32)] for k in (i, j))
        return jump_loss(step.student, pick(path, i), s, pick(path, j), r, distance)

    def tables(num_steps: int) -> Table:
        return table(solvers.jump, subset(known, num_steps))

    return regression(student, student_loss, tables, optimiser=warm_adam(), **_frozen(teacher))


def stored(step: Step, name: str, states: int | None = None) -> Mapping[str, Array]:
    """Return the batch, if it has stored pairs, paths of so many states. ValueError otherwise."""
    if name not in step.batch:
        raise ValueError(
            f"the batch has no {name!r}: train on stored pairs (stored_pairs, make_pairs), or give "
            "teacher= to solve them in every update"
        )
    if states is not None and step.batch[name].shape[1] != states:
        raise ValueError(
            f"paths have {step.batch[name].shape[1]} states, but levels= {states} levels"
        )
    return step.batch


def _paths(teacher: Sampler | None, states: int) -> Callable[[Step, Key], Array]:
    """Paths of a step (batch, states, *shape): the batch's, or solved now."""
    if teacher is None:
        return lambda step, key: stored(step, "path", states)["path"]
    return lambda step, key: solved(step, key)["path"]


def solved(step: Step, key: Key) -> Mapping[str, Array]:
    """New starts and the frozen teacher's paths from them, as stored pairs have them."""
    made = jax.tree.map(jax.lax.stop_gradient, step.context.frozen["table"])
    level = jnp.asarray(made.levels[0], step.x0.dtype)
    start = level * jax.random.normal(key, step.x0.shape, step.x0.dtype)
    states = trajectory(step.context.frozen["teacher"], made, start, step.cond).states
    states = jax.lax.stop_gradient(states)
    return {"start": start, "image": states[-1], "path": jnp.moveaxis(states, 0, 1)}


def subset(levels: np.ndarray, num_steps: int) -> list[float]:
    """``num_steps`` + 1 of the levels, both ends among them, evenly by number. ValueError if there
    are fewer.
    """
    if not 1 <= num_steps < len(levels):
        raise ValueError(
            f"this student was taught {len(levels) - 1} levels to start from; it samples in 1 to "
            f"{len(levels) - 1} steps, not {num_steps}"
        )
    numbers = np.linspace(0, len(levels) - 1, num_steps + 1).round().astype(int)
    return [float(levels[i]) for i in numbers]


def stored_pairs(
    teacher: Sampler,
    count: int,
    key: Key,
    *,
    states: Sequence[int] | None = None,
    progress: bool = True,
) -> DataOf:
    """Return the ``data`` of a stage that trains on stored pairs: ``count`` of them are solved by
    the teacher when the stage begins (:func:`jaxdiff.sampling.pairs.pairs_like`).
    """

    def data(given: Data, before: Before | None, spread: Spread = here) -> Data:
        return pairs_like(
            given, teacher, count, key, states=states, progress=progress, spread=spread
        )

    return data


def _known(
    student: Student, levels: Sequence[float] | np.ndarray | Array | None, teacher: Sampler | None
) -> np.ndarray:
    """Return the levels of the path's states that are used: given, the teacher's, or the two
    ends.
    """
    if teacher is not None and teacher.table.stochastic:
        raise ValueError("pairs need a deterministic sampler; this one draws noise")
    if teacher is None:
        return from_list([student.high, 0.0] if levels is None else np.asarray(levels))
    own = from_list(np.asarray(teacher.table.levels))
    if levels is None:
        return own[[0, -1]]
    levels = np.asarray(levels)
    if len(levels) != len(own) or not np.allclose(levels, own):
        raise ValueError(f"levels must be the teacher's own, {own.tolist()}; got {levels.tolist()}")
    return own


def _frozen(teacher: Sampler | None) -> dict[str, Any]:
    """Return the teacher as arguments of the program."""
    if teacher is None:
        return {}
    return {"teacher": teacher.denoiser, "frozen": {"table": teacher.table}}
