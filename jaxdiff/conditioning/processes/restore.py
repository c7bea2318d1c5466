"""Sampling of bridges, and of processes that degrade without noise.

A bridge's denoiser is ``D(x, t, cond) -> E[x0 | x]`` in the bridge's own state and time, a network
of x0 (:func:`restorer`) or any function. Its sampler is traced to a table as every solver is.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.arrays import check, expand
from jaxdiff.conditioning.processes.bridge import Bridge
from jaxdiff.denoisers import as_partial
from jaxdiff.noise import index_of, start_noise
from jaxdiff.sampling.checks import check_start, check_typed
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.ancestral import check_eta
from jaxdiff.solvers.held import value
from jaxdiff.solvers.scalar import D, Noise, Scalar, State, is_traced, is_zero, root, sqrt
from jaxdiff.typing import Array, Cond, Denoiser, Key, Network, Params


def posterior(
    D: D,
    y: State,
    levels: Sequence[Scalar],
    noise: Noise,
    bridge: Bridge,
    eta: float = 1.0,
    mean: bool = False,
) -> Iterator[State]:
    """Draw of a bridge's posteriors, in coordinates around the degraded picture. One evaluation per
    step, and one draw per step that adds noise.

    Args:
        levels: decreasing times, of the bridge.
        eta: in [0, 1], of the posterior's noise; 0 is its deterministic sampler.
        mean: go to the posterior's mean, without noise: the limit of I2SB without diffusion (its
            OT-ODE), and InDI's step. Not together with another eta than 1.

    Raises ValueError for eta outside [0, 1], or both options.
    """
    check_eta("posterior", eta)
    if mean and eta != 1:
        raise ValueError("mean= leaves out all noise, and eta= has no effect: give one of them")
    for t, r in pairwise(levels):
        keep, up = step_weights(bridge, t, r, eta)
        a, b = (1 - bridge.weight(s) for s in (t, r))
        if mean:
            keep, up = bridge.posterior(t, r)[0], 0.0
        y = keep * y + (b - keep * a) * D(y, t)
        if not is_zero(up):
            y = y + up * noise()
        yield y


def step_weights(bridge: Bridge, t: Scalar, r: Scalar, eta: float) -> tuple[Scalar, Scalar]:
    """Return the weight of the state and the standard deviation added in a step from t to r."""
    keep, variance = bridge.posterior(t, r)
    if is_zero(r):
        return keep, 0.0
    late = bridge.variance(t)
    if eta == 1 or is_zero(late):  # a start without noise has none to keep
        return keep, 0.0 if is_zero(variance) else sqrt(variance)
    kept, up = bridge.variance(r) - eta**2 * variance, root(variance)
    if is_traced(late):
        noisy = late > 0
        share = jnp.where(noisy, root(kept / jnp.where(noisy, late, 1)), keep)
        return share, jnp.where(noisy, eta * up, up)
    return root(kept / late), 0.0 if eta == 0 else eta * up


def restore(
    denoiser: Denoiser,
    bridge: Bridge,
    times: Sequence[float] | np.ndarray | Array,
    degraded: Array,
    cond: Cond = None,
    *,
    key: Key,
    index: Array | None = None,
    eta: float = 1.0,
    mean: bool = False,
) -> Array:
    """Restore samples from their degraded pictures.

    Args:
        denoiser: ``D(x, t, cond) -> E[x0 | x]``.
        bridge: of :mod:`jaxdiff.conditioning.processes.bridge`.
        times: decreasing, from 1 to 0 as a rule: ``numpy.linspace(1, 0, num_steps + 1)``; none
            above 1, where the bridge ends.
        degraded: (batch, *shape), brought to the shape of samples; float32 or float64.
        cond: handed to the denoiser.
        key, index: as for :func:`jaxdiff.sample`; the start has noise too where the bridge has.
        eta, mean: of :func:`posterior`.

    Raises:
        ValueError, TypeError: for arguments that do not fit, before anything is compiled.
    """
    check_start(degraded, index)
    check_typed(key)
    options: Any = {"mean": True, "eta": eta} if mean else {"eta": eta}
    made = table(posterior, times, bridge=bridge, name=bridge.name, **options)
    check("the times of a bridge are at most 1", lambda t: t <= 1, made.levels[0])
    first = jnp.sqrt(jnp.asarray(bridge.variance(made.levels[0]), degraded.dtype))
    own = start_noise(key, index_of(degraded, index), degraded.shape[1:], degraded.dtype)
    own_frame = Partial(around, as_partial(denoiser))
    z = sample(own_frame, made, first * own, (degraded, cond), key=key, index=index)
    return degraded + z


def around(denoiser: Partial, z: Array, t: Array, cond: Cond = None) -> Array:
    """Return a bridge's denoiser in coordinates around the degraded picture, the first of the two
    that are its condition.
    """
    degraded, own = cond
    return denoiser(z + degraded, t, own) - degraded


class _Restorer(NamedTuple):
    """The static half of a denoiser of a bridge, equal for equal networks."""

    network: Network
    bridge: Bridge
    prediction: str

    def __call__(self, params: Params, x: Array, t: Array, cond: Cond = None, **more: Any) -> Array:
        t = jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1])
        out = self.network(params, x, t, cond, **more)
        if self.prediction == "x0" or self.bridge.size is None:
            return out
        return x - expand(self.bridge.size(t), x) * out


def restorer(
    network: Network, params: Params, bridge: Bridge, prediction: str | None = None
) -> Partial:
    """Return the denoiser ``D(x, t, cond)`` of a bridge's network, a pytree of its parameters.

    Args:
        network: ``network(params, x, t, cond)``, t (batch,) in [0, 1].
        params: its parameters.
        bridge: whose states and times it is shown.
        prediction: "x0", or "difference": (x_t - x0)/size(t), which is I2SB's default and that of
            bridges with a ``size``.

    Raises ValueError for another prediction, or "difference" without a size.
    """
    prediction = check_prediction(bridge, prediction)
    return Partial(_Restorer(network, bridge, prediction), params)


def check_prediction(bridge: Bridge, prediction: str | None) -> str:
    """Return a bridge's prediction, its own if None. Raises ValueError for one it does not have."""
    own = ("x0",) if bridge.size is None else ("difference", "x0")
    prediction = own[0] if prediction is None else prediction
    if prediction not in own:
        raise ValueError(f"{bridge.name} predicts {' or '.join(own)}, not {prediction!r}")
    return prediction


def cold(
    D: D, y: State, levels: Sequence[Scalar], degrade: Callable[[Array, Scalar], Array]
) -> Iterator[State]:
    """Cold diffusion (Bansal et al. 2208.09392, algorithm 2), for
    :func:`jaxdiff.sampling.direct.direct`: y_r = y_t - degrade(D, t) + degrade(D, r).

    Any degradation takes the place of noise. Where it is linear in how much, errors of D cancel.
    One evaluation per step.

    Args:
        levels: decreasing severities, to 0 as a rule.
        degrade: ``degrade(x0, severity)`` of samples (batch, *shape), the sample itself at 0.
    """
    for t, r in pairwise(levels):
        output = D(y, t)
        y = y - degrade(value(output), t) + degrade(value(output), r)  # type: ignore[operator]
        yield y
