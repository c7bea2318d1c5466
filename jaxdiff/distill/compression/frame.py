"""The frame of methods of smaller students: one player that sees both networks' maps at noisy data.

    y = x0 + s eps,    log s ~ N(mean, std^2),    D_S(y, s) and D_T(y, s) with all their maps.

The player's parameters are {"network": the student's, "beside": what is trained for the comparison
and not used afterwards}.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff.distance import squared
from jaxdiff.distill.parts.frame import bind, bind_teacher, drawn, mean_loss, with_teacher
from jaxdiff.distill.parts.level_distributions import LevelDistribution, log_normal
from jaxdiff.distill.parts.primitives import perturb
from jaxdiff.distill.parts.student import Student, check_teacher
from jaxdiff.distill.score_matching import default_table
from jaxdiff.method import Batch, Context, Method, Metrics, Player
from jaxdiff.prediction import edm_weight
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Denoiser, Key, Outputs, Params

LEVELS = log_normal()


class Shares(NamedTuple):
    """Weights of |D_S - x0|^2 (task) and |D_S - D_T|^2 (output), both also weighted by the level,
    and of the method's term of features.
    """

    task: float = 1.0
    output: float = 1.0
    features: float = 1.0


EQUAL = Shares()


class Seen(NamedTuple):
    """Arguments of a loss: data x0, noisy data y at levels (batch,), outputs with all maps of
    student and teacher, the parameters beside, and the context.
    """

    x0: Array
    y: Array
    level: Array
    student: Outputs
    teacher: Outputs
    beside: Params
    context: Context


Loss = Callable[[Seen], tuple[Array, Metrics]]


def compressed(
    teacher: Denoiser,
    student: Student,
    loss: Loss,
    *,
    levels: LevelDistribution = LEVELS,
    beside: Callable[[Key], Params] = lambda key: {},
    optimiser: optax.GradientTransformation | None = None,
    maps: bool = True,
) -> Method:
    """Return the method of a loss per sample.

    Args:
        teacher: ``D(y, level, cond)``, with ``full=True`` where maps are seen; frozen.
        student: what is trained, by ``optimiser``, its own, or Adam of rate 1e-3.
        loss: ``loss(seen) -> (batch,)`` numbers and metrics.
        levels: how levels are drawn.
        beside: ``beside(key)``, parameters beside the student's.
        optimiser: in place of the student's.
        maps: whether the loss sees maps, which a denoiser may not have.
    """
    check_teacher(teacher, student)

    def init(key: Key) -> dict[str, Params]:
        first, second = jax.random.split(key)
        return {"student": {"network": drawn(student.params, first), "beside": beside(second)}}

    def student_loss(
        params: Params, context: Context, batch: Batch, key: Key
    ) -> tuple[Array, Metrics]:
        key_level, key_noise, key_label, key_dropout = jax.random.split(key, 4)
        x0 = batch["image"]
        level = levels.draw(key_level, x0)
        y = perturb(x0, level, jax.random.normal(key_noise, x0.shape, x0.dtype))
        cond, bound = bind(student, batch, key_label, key_dropout)
        student_now = bound(student.denoiser(params["network"]))
        T = bind_teacher(context, cond)
        own, known = (outputs(D, y, level, maps) for D in (student_now, T))
        known = jax.tree.map(jax.lax.stop_gradient, known)
        return mean_loss(loss(Seen(x0, y, level, own, known, params["beside"], context)))

    chosen = optimiser or student.optimiser or optax.adam(1e-3)
    return Method(
        init, {"student": Player(student_loss, chosen, ema=student.ema)},
        network_sampler(student), with_teacher(None, teacher), student.check,
    )  # fmt: skip


def outputs(D: Any, y: Array, level: Array, maps: bool) -> Outputs:
    """Return a denoiser's outputs, with its maps or without."""
    return D(y, level, full=True) if maps else Outputs(D(y, level), None, ())


def network_sampler(student: Student) -> Callable[..., Sampler]:
    """Return ``sampler(state, table=None, ema=None)`` of a player that has more than its network's
    parameters.
    """

    def sampler(state: Any, table: Table | None = None, ema: str | None = None) -> Sampler:
        params = state.params["student"] if ema is None else state.ema["student"][ema]
        D = student.denoiser(params["network"])
        return Sampler(D, default_table() if table is None else table)

    return sampler


def regressions(seen: Seen, shares: Shares, sigma_data: Any) -> tuple[Array, dict[str, Array]]:
    """Return the weighted sum of task and output regression per sample, and their means."""
    weight = edm_weight(seen.level, sigma_data)
    task = weight * squared(seen.student.value, seen.x0)
    output = weight * squared(seen.student.value, seen.teacher.value)
    metrics = {"task": jnp.mean(task), "output": jnp.mean(output)}
    return shares.task * task + shares.output * output, metrics


def check_shares(shares: Shares) -> None:
    """Raise ValueError for weights that are negative or all zero."""
    if not all(0 <= share < float("inf") for share in shares) or not any(shares):
        raise ValueError(f"the weights must not be negative, nor all be 0; got {tuple(shares)}")


def maps_of(D: Denoiser, shape: tuple[int, ...], name: str, cond: Any) -> tuple[Any, ...]:
    """Return shapes and dtypes of a denoiser's maps for one sample of ``shape``, batch 1.

    Raises ValueError for a network that shows no maps.
    """
    call: Any = D
    y = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    level = jax.ShapeDtypeStruct((1,), jnp.float32)
    features = jax.eval_shape(lambda D, y, s: call_full(D, y, s, cond), call, y, level)
    if not features:
        raise ValueError(f"the {name}'s network shows no features with full=True")
    return features


def call_full(D: Any, y: Array, level: Array, cond: Any) -> tuple[Any, ...]:
    """Return a denoiser's maps."""
    return D(y, level, cond, full=True).features


def student_maps(student: Student, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Return shapes and dtypes of the student's maps, as :func:`maps_of`."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(lambda k: drawn(student.params, k), key)
    return maps_of(student.denoiser(params), shape, "student", None)


def checked_shape(shape: tuple[int, ...], check: Callable[[Batch], None] | None) -> Any:
    """Return a method's check of batches that also refuses images of another shape."""

    def checked(batch: Mapping[str, Any]) -> None:
        found = np.shape(batch["image"])[1:]
        if found != tuple(shape):
            raise ValueError(
                f"the method was made for samples of shape {tuple(shape)}; the batch's are {found}"
            )
        if check is not None:
            check(batch)

    return checked
