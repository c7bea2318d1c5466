r"""One-step students of a bridge's deterministic sampler: SinSR, ResShift in one evaluation.

The deterministic sampler of a bridge that ends in noise (``eta=0``) makes of every start
x_1 = m + c(1) eps one sample T(x_1, m). A student f(x, t, m) learns that map, at t = 1, and its
inverse, at t = 0, and is shown real samples by the start that it finds for them itself:

    L = |f(x_1, 1) - T|^2 + w_i |f(T, 0) - x_1|^2 + w_g |f(sg f(x0, 0), 1) - x0|^2

Source: SinSR, Wang et al., arXiv 2311.14760 (distillation, inverse and consistency-preserving
loss; its deterministic process of ResShift is the posterior's with eta = 0).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.tree_util import Partial

from jaxdiff.arrays import check, check_fields, check_same_shape
from jaxdiff.conditioning.processes.bridge import Bridge
from jaxdiff.conditioning.processes.restore import around, posterior, restorer
from jaxdiff.denoisers import as_partial
from jaxdiff.method import Batch, Context, Decay, Method, Metrics, Player, is_init
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table
from jaxdiff.typing import Array, Denoiser, Key, Network, Params


def sinsr(
    network: Network,
    params: Any,
    teacher: Denoiser,
    bridge: Bridge,
    times: Sequence[float] | np.ndarray,
    *,
    condition_on_degraded: bool = True,
    inverse: float = 1.0,
    truth: float = 1.0,
    optimiser: optax.GradientTransformation | None = None,
    ema: Mapping[str, Decay] | None = None,
) -> Method:
    """Distil a bridge's deterministic sampler into one evaluation (SinSR, arXiv 2311.14760): a
    :class:`jaxdiff.method.Method` of one player, "student".

    Batches have "image" and "degraded", both (batch, *shape), and may have "label".

    Args:
        network: ``network(params, x, t, cond, key=...)``, of x0 at t = 1 and of the start at t = 0.
        params: where it starts, the teacher's in the paper, or ``init(key) -> params``.
        teacher: the bridge's trained denoiser ``D(x, t, cond)``, frozen.
        bridge: one with noise at its end; :func:`jaxdiff.conditioning.processes.resshift` of the
            paper.
        times: the teacher's, decreasing from 1 to 0; the paper has ResShift's 15 steps.
        condition_on_degraded: whether the condition of both is the degraded picture, as in the
            paper; else it is the label.
        inverse, truth: w_i and w_g, not negative, 1 of the authors' configuration.
        optimiser: None for Adam with learning rate 5e-5, which that has.
        ema: moving averages to keep, by name; 0.999 there.

    Sampled by ``sampler(state, ema=None)``, a denoiser for
    :func:`jaxdiff.conditioning.processes.restore` with times (1, 0): one evaluation.

    Each update costs the teacher's steps and four evaluations of the student. Raises ValueError for
    a bridge that ends without noise, whose starts make one sample each, for times that do not go
    from 1 to 0, and for negative weights.
    """
    if not bridge.variance(1.0) > 0:
        raise ValueError(f"{bridge.name} ends without noise: there is nothing to make samples of")
    made = table(posterior, times, bridge=bridge, eta=0.0, name=bridge.name)
    if made.levels[0] != 1 or np.asarray(times)[-1] != 0:
        raise ValueError(f"sinsr needs times from 1 to 0, not from {times[0]} to {times[-1]}")
    check("weights must not be negative", lambda a, b: a >= 0 and b >= 0, inverse, truth)
    size = float(np.sqrt(bridge.variance(1.0)))

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        x0, degraded = batch["image"], batch["degraded"]
        keys = jax.random.split(key, 5)
        cond = degraded if condition_on_degraded else batch.get("label")
        noise = size * jax.random.normal(keys[0], x0.shape, x0.dtype)
        own = Partial(around, context.frozen)
        made_of = degraded + jax.lax.stop_gradient(sample(own, made, noise, (degraded, cond)))

        def f(x: Array, t: float, key: Key) -> Array:
            return network(params, x, jnp.full(x.shape[:1], t, x.dtype), cond, key=key)

        start = degraded + noise
        found = jax.lax.stop_gradient(f(x0, 0.0, keys[3]))
        parts = {
            "distilled": jnp.mean((f(start, 1.0, keys[1]) - made_of) ** 2),
            "inverse": jnp.mean((f(made_of, 0.0, keys[2]) - start) ** 2),
            "truth": jnp.mean((f(found, 1.0, keys[4]) - x0) ** 2),
        }
        value = parts["distilled"] + inverse * parts["inverse"] + truth * parts["truth"]
        return value, parts | {"loss": value}

    def checked(batch: Batch) -> None:
        check_fields(batch, "sinsr", "image", "degraded")
        check_same_shape(batch, "sinsr", "image", "degraded")

    def sampler(state: Any, ema: str | None = None) -> Partial:
        own = state.params["student"] if ema is None else state.ema["student"][ema]
        return restorer(network, own, bridge, "x0")

    first = params if is_init(params) else lambda key: params
    player = Player(loss, optimiser or optax.adam(5e-5), ema=ema or {})
    return Method(
        init=lambda key: {"student": first(key)}, players={"student": player}, sampler=sampler,
        frozen=as_partial(teacher), check=checked,
    )  # fmt: skip
