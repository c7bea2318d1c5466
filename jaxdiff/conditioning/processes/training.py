r"""Training of bridges: one regression, in which they differ by their state and by what is
predicted.

    E_{x0, m, t, eps} |F(x_t, t) - target|^2,     x_t = (1 - b) x0 + b m + c eps,

with the target x0 (InDI 2303.11435, eq. 8; ResShift 2307.12348, eq. 9; IR-SDE's optimal previous
state, 2301.11699, eq. 14, is affine in x0) or (x_t - x0)/size(t) (I2SB 2302.05872, eq. 12).
"""  # noqa: E501

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax.tree_util import Partial

from jaxdiff.arrays import check, check_fields, check_same_shape, expand
from jaxdiff.conditioning.processes.bridge import Bridge
from jaxdiff.conditioning.processes.restore import check_prediction, restorer
from jaxdiff.distance import absolute, squared
from jaxdiff.method import Batch, Context, Decay, Method, Metrics, Player, is_init
from jaxdiff.solvers.scalar import sqrt
from jaxdiff.typing import Array, Key, Network, Params


def bridge_state(bridge: Bridge, x0: Array, degraded: Array, t: Array, eps: Array) -> Array:
    """Return x_t of samples and degraded pictures (batch, *shape) at times (batch,)."""
    b, c = expand(bridge.weight(t), x0), expand(sqrt(bridge.variance(t)), x0)
    return (1 - b) * x0 + b * degraded + c * eps


def bridge_matching(
    network: Network,
    params: Any,
    bridge: Bridge,
    *,
    prediction: str | None = None,
    condition_on_degraded: bool = False,
    distance: Literal["l2", "l1"] = "l2",
    lowest: float = 1e-3,
    optimiser: optax.GradientTransformation | None = None,
    ema: Mapping[str, Decay] | None = None,
) -> Method:
    """Train the network of a bridge: a :class:`jaxdiff.method.Method` of one player, "restorer".

    Batches have "image" and "degraded", both (batch, *shape), and may have "label".

    Args:
        network: ``network(params, x, t, cond, key=...)``.
        params: where it starts, or ``init(key) -> params``.
        bridge: of :mod:`jaxdiff.conditioning.processes.bridge`.
        prediction: as for :func:`jaxdiff.conditioning.processes.restorer`.
        condition_on_degraded: whether the network's condition is the degraded picture (IR-SDE,
            ResShift); else it is the label.
        distance: squared, or "l1" as IR-SDE has it.
        lowest: times are drawn uniformly from here to 1, positive.
        optimiser: None for Adam with learning rate 1e-4, which I2SB and IR-SDE have.
        ema: moving averages to keep, by name.

    Sampled by ``sampler(state, ema=None)``, a denoiser for
    :func:`jaxdiff.conditioning.processes.restore`.

    Raises ValueError for an unknown prediction or distance, or a lowest time outside (0, 1).
    """
    kind = check_prediction(bridge, prediction)
    check("the lowest time must be in (0, 1)", lambda t: 0 < t < 1, lowest)
    if distance not in ("l2", "l1"):
        raise ValueError(f"distances are 'l2' and 'l1', not {distance!r}")

    measure = absolute if distance == "l1" else squared

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        x0, degraded = batch["image"], batch["degraded"]
        key_time, key_noise, key_dropout = jax.random.split(key, 3)
        t = jax.random.uniform(key_time, x0.shape[:1], x0.dtype, lowest, 1.0)
        eps = jax.random.normal(key_noise, x0.shape, x0.dtype)
        x = bridge_state(bridge, x0, degraded, t, eps)
        cond = degraded if condition_on_degraded else batch.get("label")
        out = network(params, x, t, cond, key=key_dropout)
        value = jnp.mean(measure(out, _target(bridge, kind, x, x0, t)))
        return value, {"loss": value}

    def checked(batch: Batch) -> None:
        check_fields(batch, "bridge_matching", "image", "degraded")
        check_same_shape(batch, "bridge_matching", "image", "degraded")

    def sampler(state: Any, ema: str | None = None) -> Partial:
        own = state.params["restorer"] if ema is None else state.ema["restorer"][ema]
        return restorer(network, own, bridge, kind)

    start = params if is_init(params) else lambda key: params
    player = Player(loss, optimiser or optax.adam(1e-4), ema=ema or {})
    return Method(
        init=lambda key: {"restorer": start(key)}, players={"restorer": player}, sampler=sampler,
        check=checked,
    )  # fmt: skip


def _target(bridge: Bridge, kind: str, x: Array, x0: Array, t: Array) -> Array:
    if kind == "x0" or bridge.size is None:
        return x0
    return (x - x0) / expand(bridge.size(t), x)
