"""AMED's predictor: where a step evaluates, told sample by sample from the network's own features.

For every step from level s to r of a solver with middles (:mod:`jaxdiff.solvers.intermediate`) a
network of nine thousand parameters predicts the ratio a of the middle, the direction factor c and
the time factor t:

    h = [ W2 silu(W1 b + b1) + b2,  e(s),  e(r) ],    e(s) = silu(W3 waves(s) + b3)
    a = e + (1 - 2 e) sigmoid(head),
    c = 1 + C (2 sigmoid(head) - 1),    t = 1 + T (2 sigmoid(head) - 1),

where e = 0.001 keeps the middle a level of its own (the paper has e = 0), b is the mean over
channels of the denoiser's lowest map in the first evaluation of the step and waves(s) are the
cosines and sines of s at the frequencies 1, 10^(-4/3), 10^(-8/3), 10^(-4). Without b every sample
is told the same: a few numbers per step, nearly as good (the paper's ablation), and then a table
does as well (``jd.table(solvers.amed, levels, middles=...)``).

It is trained on a teacher's trajectories, whose states at the student's levels a step of the
student should meet:

    loss = sum_i |step_i(y_i) - teacher_{i + 1}|^2,

y_i being the teacher's state for a solver that starts every step afresh, and for one that remembers
its past its own state, through neither of which gradients pass.

Source: Zhou et al., arXiv 2312.00094. Deviations: the heads start at zero, so that the untrained
predictor is the solver with a = 1/2, c = t = 1; one update for the sum over steps, where the paper
makes one after every step; gradients that are not finite are not replaced.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff.method import Batch, Context, Method, Metrics, Player
from jaxdiff.prediction import as_partial, expand
from jaxdiff.sampling.sample import check_start, start_noise
from jaxdiff.solvers.intermediate import Step, Told, amed_step, march
from jaxdiff.solvers.scalar import check_levels, is_zero
from jaxdiff.typing import Array, Cond, Denoiser, Key, Outputs, Params

WAVES = 8
LEAST = 1e-3  # e


class Predictor(NamedTuple):
    """What is predicted, and from what.

    inputs: size of b (:func:`bottleneck_size`), or None to predict from the levels alone.
    direction, time: C and T, the ranges of the factors; a factor of range 0 is 1 and has no head.
        The paper has C = 0.01 (0.05 for DPM-Solver++ by data prediction) and T = 0 or 0.2.
    index: which of the denoiser's features is the lowest map; the middle one by default.
    """

    inputs: int | None = None
    direction: float = 0.01
    time: float = 0.0
    index: int | None = None


def init(key: Key, predictor: Predictor) -> Params:
    """Fresh parameters, float32. 8,950 of them for b of size 64 without a head for the time, 8,971
    with it.
    """
    keys, heads = jax.random.split(key, 3), 2 * WAVES
    params = {"levels": _dense(keys[0], WAVES, WAVES)}
    if predictor.inputs is not None:
        params["hidden"] = _dense(keys[1], predictor.inputs, 128)
        params["reduced"] = _dense(keys[2], 128, 4)
        heads = heads + 4
    ranges = {"ratio": 1.0, "direction": predictor.direction, "time": predictor.time}
    zero = {"kernel": jnp.zeros((heads, 1), jnp.float32), "bias": jnp.zeros(1, jnp.float32)}
    return params | {name: zero for name, width in ranges.items() if width > 0}


def _dense(key: Key, inputs: int, outputs: int) -> dict[str, Array]:
    kernel = jax.random.normal(key, (inputs, outputs), jnp.float32) / math.sqrt(inputs)
    return {"kernel": kernel, "bias": jnp.zeros(outputs, jnp.float32)}


def inside(share: Array) -> Array:
    """The ratio of a middle from a share in [0, 1]: never at an end of its step."""
    return LEAST + (1.0 - 2.0 * LEAST) * share


def predict(
    params: Params, bottleneck: Array | None, s: Array | float, r: Array | float, own: Predictor
) -> Told:
    """Ratio, direction and time of a step from level s to r.

    Args:
        bottleneck: b, (batch, inputs), or None if the predictor has no inputs.
        own: what ``params`` were made for.

    Returns:
        Numbers of shape (batch,), or scalars without b.
    """

    def dense(name: str, x: Array) -> Array:
        return x @ params[name]["kernel"] + params[name]["bias"][None]

    def factor(name: str, width: float) -> Array | float:
        return 1.0 + width * (2.0 * share(name) - 1.0) if name in params else 1.0

    def share(name: str) -> Array:
        answer = jax.nn.sigmoid(dense(name, h)[:, 0])
        return answer[0] if bottleneck is None else answer

    dtype = params["levels"]["kernel"].dtype
    h = jnp.concatenate([jax.nn.silu(dense("levels", _waves(x, dtype))) for x in (s, r)], axis=1)
    if bottleneck is not None:
        b = dense("reduced", jax.nn.silu(dense("hidden", bottleneck.astype(dtype))))
        h = jnp.concatenate([b, jnp.broadcast_to(h, (len(b), 2 * WAVES))], axis=1)
    return Told(
        inside(share("ratio")), factor("direction", own.direction), factor("time", own.time)
    )


def _waves(level: Array | float, dtype: Any) -> Array:
    """Cosines and sines of a level, (1, WAVES)."""
    angles = jnp.asarray(level, dtype) * jnp.asarray(np.logspace(0, -4, WAVES // 2), dtype)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])[None]


def bottleneck(outputs: Outputs, index: int | None = None) -> Array:
    """B of what a denoiser returns with ``full=True``: (batch, inputs), its lowest map's mean over
    channels (the last axis); features without a map are taken as they are.
    """
    features = outputs.features[len(outputs.features) // 2 if index is None else index]
    return features if features.ndim == 2 else jnp.mean(features, -1).reshape(len(features), -1)


def bottleneck_size(
    denoiser: Denoiser, shape: Sequence[int], cond: Cond = None, index: int | None = None
) -> int:
    """The ``inputs`` of a :class:`Predictor` for samples of a shape; ``cond`` is of one sample."""
    full = functools.partial(as_partial(denoiser), full=True)
    y, level = jnp.zeros((1, *shape), jnp.float32), jnp.ones((), jnp.float32)
    return jax.eval_shape(lambda *told: bottleneck(full(*told), index), y, level, cond).shape[1]


class Solve(NamedTuple):
    """A solver with predicted middles, all but its parameters.

    levels: the grid. step: of the solver, such as
    :func:`jaxdiff.solvers.intermediate.amed_step`. first: an analytic first step, as for
    :func:`jaxdiff.table`; b is zero in that step.
    """

    levels: tuple[float, ...]
    predictor: Predictor
    step: Step = amed_step
    first: Callable[[Array, float], Array] | None = None

    @property
    def nfe(self) -> int:
        """Evaluations: two per step, one in a step to level 0, none in an analytic one."""
        whole = 2 * (len(self.levels) - 1)
        return whole - is_zero(self.levels[-1]) - (self.first is not None)


def _asking(
    solve: Solve, denoiser: Any, params: Params, cond: Cond, like: Array
) -> tuple[Callable[[Array, Any], Array], Callable[[int], Told]]:
    """The denoiser D(y, s) that a solver calls, and what its steps are told after their first
    call of it.
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

    def ask(i: int) -> Told:
        s, r = solve.levels[i : i + 2]
        return Told(*(expand(x, like) for x in predict(params, seen[-1], s, r, own)))

    return evaluate, ask


@functools.partial(jax.jit, static_argnames="solve")
def _solved(solve: Solve, denoiser: Denoiser, params: Params, start: Array, cond: Cond) -> Array:
    evaluate, ask = _asking(solve, denoiser, params, cond, start)
    *_, last = march(solve.step, evaluate, start, solve.levels, ask)
    return last


class PredictedSampler(NamedTuple):
    """A sampler whose steps are predicted as it goes: called as a
    :class:`jaxdiff.sampling.sample.Sampler` is, but without a table.
    """

    denoiser: Any
    params: Params
    solve: Solve

    def sample(self, start: Array, cond: Cond = None) -> Array:
        """The samples of starts (batch, *shape) at the first level, one compiled program."""
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
    """AMED-Solver, or a plug-in, with its learned predictor (arXiv 2312.00094).

    Args:
        denoiser: frozen; if the predictor has inputs, one that returns its features with
            ``full=True``, as :func:`jaxdiff.denoiser` makes of a network.
        levels: of the student. The paper has the linear VP time (``grids.vp_time(steps,
            zero=False)``) for AMED-Solver.
        step: of the solver: ``amed_step``, ``amed_dpm2_step``, ``amed_ipndm_step`` or
            ``amed_dpmpp_step`` of :mod:`jaxdiff.solvers.intermediate`; other options of it by
            ``functools.partial``.
        first: an analytic first step (``solvers.unit_first``), which the paper takes on CIFAR-10.
        optimiser: Adam, rate 0.005, by default.

    Batches have "path" (batch, steps + 1, *shape), the teacher's states at the levels, and labels
    as "label" if any: every (M + 1)-th accepted state of a teacher on a grid with M levels put into
    each step, as ``make_pairs(teacher, ..., path=True)`` stores them. The paper's M is 1 with
    Heun's method for AMED-Solver and 2 with the solver itself for plug-ins; 10,000 starts once,
    128 in a batch. An update costs as many evaluations as sampling. The error is summed over steps
    and elements, its mean taken over the batch; metrics tell the last step's own. Fails where the
    grid is so coarse that no middle lies well: a better grid gains more
    (:mod:`jaxdiff.tuning.gits`).

    ``sampler(state)`` is a :class:`PredictedSampler`. Raises ValueError for levels that are no
    grid, and for paths of another number of states.
    """
    solve = Solve(tuple(check_levels(levels)), predictor, step, first)
    steps = len(solve.levels) - 1

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        path = batch["path"]
        if path.shape[1] != steps + 1:
            raise ValueError(f"paths have {path.shape[1]} states; {steps} steps need {steps + 1}")
        cond = batch.get("label")
        evaluate, ask = _asking(solve, context.frozen, params, cond, path[:, 0])
        y, past, errors = path[:, 0], (), []
        for i in range(steps):
            begin, past = _held(y) if past else path[:, i], _held(past)
            y, past = step(evaluate, begin, past, solve.levels, i, functools.partial(ask, i))
            errors.append(jnp.sum((y - path[:, i + 1]) ** 2) / len(path))
        value = jnp.sum(jnp.stack(errors))
        return value, {"loss": value, "last step": errors[-1]}

    return Method(
        init=lambda key: {"predictor": init(key, predictor)},
        players={"predictor": Player(loss, optax.adam(5e-3) if optimiser is None else optimiser)},
        sampler=lambda state: PredictedSampler(denoiser, state.params["predictor"], solve),
        frozen=as_partial(denoiser),
    )


def _held(tree: Any) -> Any:
    """The arrays of a tree behind stop_gradient, its numbers as they are."""
    hold = lambda a: jax.lax.stop_gradient(a) if isinstance(a, jax.Array) else a  # noqa: E731
    return jax.tree.map(hold, tree)
