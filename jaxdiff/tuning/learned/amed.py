"""AMED's predictor: where a step evaluates, predicted for each sample from the network's own
features.

For every step from level s to r of a solver with intermediate times (:mod:`jaxdiff.solvers.amed`) a
network of nine thousand parameters (:mod:`jaxdiff.tuning.learned.amed_network`) predicts the ratio
a of the intermediate time, the direction factor c and the time factor t from the levels and the
features b of the first evaluation of the step. Without b all samples share them: a few numbers per
step, nearly as good (the paper's ablation), and then a table does as well (``jd.table(solvers.amed,
levels, ratios=...)``).

It is trained on a teacher's trajectories, whose states at the student's levels a step of the
student should meet:

    loss = sum_i |step_i(y_i) - teacher_{i + 1}|^2,

y_i being the teacher's state for a solver that starts every step afresh, and for one that remembers
its past its own state, through neither of which gradients pass.

Source: Zhou et al., arXiv 2312.00094. Deviations, beside the network's: one update for the sum over
steps, where the paper makes one after every step; gradients that are not finite are not replaced.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff.arrays import check_fields, expand
from jaxdiff.brief import short
from jaxdiff.denoisers import as_partial
from jaxdiff.method import Batch, Context, Method, Metrics, Player
from jaxdiff.noise import start_noise
from jaxdiff.sampling.checks import check_start
from jaxdiff.solvers.amed import Step, StepNumbers, amed_step, march
from jaxdiff.solvers.held import value
from jaxdiff.solvers.scalar import Scalar, check_levels, is_zero
from jaxdiff.tuning.learned.amed_network import Predictor, bottleneck, init, predict
from jaxdiff.typing import Array, Cond, Denoiser, Key, Params


class Solve(NamedTuple):
    """A solver with predicted intermediate times, all but its parameters.

    levels: the grid. step: of the solver, such as
    :func:`jaxdiff.solvers.amed.amed_step`. first: an analytic first step, as for
    :func:`jaxdiff.table`; b is zero in that step.
    """

    levels: tuple[Scalar, ...]
    predictor: Predictor
    step: Step = amed_step
    first: Callable[[Array, float], Array] | None = None

    @property
    def nfe(self) -> int:
        """Evaluations: two per step, one in a step to level 0, none in an analytic one."""
        whole = 2 * (len(self.levels) - 1)
        return whole - is_zero(self.levels[-1]) - (self.first is not None)


def _predicting(
    solve: Solve, denoiser: Any, params: Params, cond: Cond, like: Array
) -> tuple[Callable[[Array, Any], Array], Callable[[int], StepNumbers]]:
    """Return the denoiser D(y, s) that a solver calls, and the numbers that its steps take after
    their first call of it.
    """
    own, analytic, seen = solve.predictor, [] if solve.first is None else [solve.first], []
    seen.append(None if own.inputs is None else jnp.zeros((len(like), own.inputs), like.dtype))

    def evaluate(y: Array, s: Any) -> Array:
        if analytic:
            return analytic.pop()(y, s)
        level = jnp.asarray(s, y.dtype)
        if own.inputs is None:
            return denoiser(y, level, cond)
        outputs = denoiser(y, level, cond, full=True)
        seen.append(bottleneck(outputs, own.index))
        return outputs.value

    def predict_step(i: int) -> StepNumbers:
        s, r = solve.levels[i : i + 2]
        return StepNumbers(*(expand(x, like) for x in predict(params, seen[-1], s, r, own)))

    return evaluate, predict_step


@functools.partial(jax.jit, static_argnames="solve")
def _solved(solve: Solve, denoiser: Denoiser, params: Params, start: Array, cond: Cond) -> Array:
    evaluate, predict_step = _predicting(solve, denoiser, params, cond, start)
    *_, last = march(solve.step, evaluate, start, solve.levels, predict_step)
    return value(last)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Predicted:
    """A solver with its predictor's parameters, of any denoiser: a pytree."""

    __repr__ = short

    params: Params
    solve: Solve = dataclasses.field(metadata={"static": True})

    @property
    def levels(self) -> tuple[Scalar, ...]:
        """(num_steps + 1,) noise levels."""
        return self.solve.levels

    @property
    def nfe(self) -> int:
        """Number of network evaluations."""
        return self.solve.nfe

    def sample(self, denoiser: Denoiser, start: Array, cond: Cond = None) -> Array:
        """Return the samples of starts (batch, *shape) at the first level."""
        return _solved(self.solve, as_partial(denoiser), self.params, start, cond)


class PredictedSampler(NamedTuple):
    """A sampler whose steps are predicted as it goes: called as a
    :class:`jaxdiff.sampling.sampler.Sampler` is, but without a table.
    """

    __repr__ = short

    denoiser: Any
    params: Params
    solve: Solve

    def sample(self, start: Array, cond: Cond = None) -> Array:
        """Return the samples of starts (batch, *shape) at the first level, one compiled program."""
        check_start(start, None)
        return _solved(self.solve, as_partial(self.denoiser), self.params, start, cond)

    def __call__(
        self, key: Key, index: Array | Sequence[int] | int, shape: Sequence[int], cond: Cond = None
    ) -> Array:
        """Samples (len(index), *shape), numbered ``index``, in float32."""
        return self.sample(self.solve.levels[0] * start_noise(key, index, shape), cond)


def amed_predictor(
    denoiser: Denoiser,
    levels: Sequence[float] | np.ndarray,
    predictor: Predictor,
    *,
    step: Step = amed_step,
    first: Callable[[Array, Any], Array] | None = None,
    optimiser: optax.GradientTransformation | None = None,
) -> Method:
    """Return the method that trains AMED-Solver, or a plug-in, with its learned predictor (arXiv
    2312.00094).

    Args:
        denoiser: frozen; if the predictor has inputs, one that returns its features with
            ``full=True``, as :func:`jaxdiff.denoiser` makes of a network.
        levels: of the student. The paper has the linear VP time (``grids.vp_time(num_steps,
            zero=False)``) for AMED-Solver.
        predictor: its inputs and outputs, see :class:`Predictor`.
        step: of the solver: ``amed_step``, ``amed_dpm2_step``, ``amed_ipndm_step`` or
            ``amed_dpmpp_step`` of :mod:`jaxdiff.solvers.amed`; other options of it by
            ``functools.partial``.
        first: an analytic first step (``solvers.steps.unit_first``), which the paper takes on
            CIFAR-10.
        optimiser: Adam, rate 0.005, by default.

    Returns:
        The method, whose one player trains the predictor, and the sampler of the trained one.

    Raises:
        ValueError: for levels that are no grid, and for paths of another number of states.

    Batches have "path" (batch, num_steps + 1, *shape), the teacher's states at the levels, and
    labels as "label" if any: every (M + 1)-th accepted state of a teacher on a grid with M levels
    put into each step, as ``make_pairs(teacher, ..., path=True)`` stores them. The paper's M is 1
    with Heun's method for AMED-Solver and 2 with the solver itself for plug-ins; 10,000 starts
    once, 128 in a batch. An update costs as many evaluations as sampling. The error is summed over
    steps and elements, its mean taken over the batch; metrics have the last step's own. Fails where
    the
    grid is so coarse that no intermediate time is accurate: a better grid gains more
    (:mod:`jaxdiff.tuning.search.gits`).

    ``sampler(state)`` is a :class:`PredictedSampler`.
    """
    solve = Solve(tuple(check_levels(levels)), predictor, step, first)
    num_steps = len(solve.levels) - 1

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        path = batch["path"]
        cond = batch.get("label")
        evaluate, predict_step = _predicting(solve, context.frozen, params, cond, path[:, 0])
        y, past, errors = path[:, 0], (), []
        for i in range(num_steps):
            begin, past = _held(y) if past else path[:, i], _held(past)
            y, past = step(
                evaluate, begin, past, solve.levels, i, functools.partial(predict_step, i)
            )
            errors.append(jnp.sum((value(y) - path[:, i + 1]) ** 2) / len(path))
        total = jnp.sum(jnp.stack(errors))
        return total, {"loss": total, "last step": errors[-1]}

    return Method(
        init=lambda key: {"predictor": init(key, predictor)},
        players={"predictor": Player(loss, optax.adam(5e-3) if optimiser is None else optimiser)},
        sampler=lambda state: PredictedSampler(denoiser, state.params["predictor"], solve),
        frozen=as_partial(denoiser),
        check=functools.partial(_check_path, num_steps),
    )


def _check_path(num_steps: int, batch: Batch) -> None:
    check_fields(batch, "amed_predictor", "path")
    shape = np.shape(batch["path"])
    if len(shape) < 3 or shape[1] != num_steps + 1:
        raise ValueError(
            f'batch "path" should be (batch, states, *shape); {num_steps} steps need '
            f"{num_steps + 1} states, this has shape {shape}"
        )


def _held(tree: Any) -> Any:
    """Return the arrays of a tree behind stop_gradient, its numbers as they are."""
    hold = lambda a: jax.lax.stop_gradient(a) if isinstance(a, jax.Array) else a  # noqa: E731
    return jax.tree.map(hold, tree)
