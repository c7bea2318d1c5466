r"""The network of AMED's predictor (arXiv 2312.00094): where each sample evaluates.

Of a step from level s to r it predicts the ratio a of the intermediate time, the direction factor c
and the time factor t:

    h = [ W2 silu(W1 b + b1) + b2,  e(s),  e(r) ],    e(s) = silu(W3 waves(s) + b3)
    a = e + (1 - 2 e) sigmoid(head),
    c = 1 + C (2 sigmoid(head) - 1),    t = 1 + T (2 sigmoid(head) - 1),

where e = 0.001 keeps the intermediate time a level of its own (the paper has e = 0), b is the mean
over channels of the denoiser's lowest map in the first evaluation of the step and waves(s) are the
cosines and sines of s at the frequencies 1, 10^(-4/3), 10^(-8/3), 10^(-4). Deviation: the heads
start at zero, so that the untrained predictor is the solver with a = 1/2, c = t = 1.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.brief import short
from jaxdiff.denoisers import as_partial
from jaxdiff.solvers.amed import StepNumbers
from jaxdiff.typing import Array, Cond, Denoiser, Key, Outputs, Params

WAVES = 8
LEAST = 1e-3  # e


class Predictor(NamedTuple):
    """Inputs and outputs of the predictor.

    inputs: size of b (:func:`bottleneck_size`), or None to predict from the levels alone.
    direction, time: C and T, the ranges of the factors; a factor of range 0 is 1 and has no head.
        The paper has C = 0.01 (0.05 for DPM-Solver++ by data prediction) and T = 0 or 0.2.
    index: which of the denoiser's features is the lowest map; the middle one by default.
    """

    __repr__ = short

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
    """Return an intermediate time's ratio from a share in [0, 1]: never at an end of its step."""
    return LEAST + (1.0 - 2.0 * LEAST) * share


def predict(
    params: Params, bottleneck: Array | None, s: Array | float, r: Array | float, own: Predictor
) -> StepNumbers:
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
    return StepNumbers(
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
    """Return the ``inputs`` of a :class:`Predictor` for samples of a shape; ``cond`` is of one
    sample.

    Args:
        denoiser: ``D(y, level, cond)``, the model.
        shape: of one sample.
        cond: of one sample.
        index: of the feature map among those the network returns; the middle one if None.

    Returns:
        The number of inputs.
    """
    full = functools.partial(as_partial(denoiser), full=True)
    y, level = jnp.zeros((1, *shape), jnp.float32), jnp.ones((), jnp.float32)
    return jax.eval_shape(lambda *given: bottleneck(full(*given), index), y, level, cond).shape[1]
