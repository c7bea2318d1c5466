"""OKDDip for denoisers: peers that attend to each other, and a leader; no trained teacher.

Members share their way down and have a way up each. Of peers a with denoised outputs D_a and means
h_a of their last maps, and a leader L,

    alpha_ab = softmax over peers b of (W_q h_a . W_k h_b),   itself included,
    target_a = sum over b of alpha_ab D_b,
    loss = sum over all of w(s) |D - x0|^2
         + r [ sum over a of w(s) |D_a - target_a|^2 + w(s) |D_L - mean of D_b|^2 ],

w = 1/c_out^2 and r(step) = exp(-5 (1 - min(step / ramp, 1))^2). Targets are constants but for
alpha, by which W_q and W_k learn. The leader is used alone: a plain U-Net.

Source: Chen et al., arXiv 1912.00350 (OKDDip, AAAI 2020), section 3, of classifiers: squared
distances are the divergences KL of Gaussians of one variance.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from jaxdiff.arrays import einsum, expand
from jaxdiff.denoisers import scalings
from jaxdiff.distance import squared
from jaxdiff.distill.compression.frame import LEVELS
from jaxdiff.distill.compression.reused_decoder import unet_of
from jaxdiff.distill.parts.frame import bind, drawn, mean_loss
from jaxdiff.distill.parts.level_distributions import LevelDistribution
from jaxdiff.distill.parts.primitives import perturb
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.score_matching import default_table
from jaxdiff.method import Batch, Context, Method, Metrics, Player, is_init
from jaxdiff.networks.adapters import from_linen
from jaxdiff.networks.branches import Branches, member, split_member
from jaxdiff.prediction import edm_weight
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Key, Params

Which = int | Literal["leader"]


def okddip(
    student: Student,
    *,
    peers: int = 3,
    reduction: int = 8,
    num_updates: int = 10_000,
    warmup: float = 80 / 300,
    reference: bool = False,
    levels: LevelDistribution = LEVELS,
) -> Method:
    """Train denoisers that learn from each other (after Chen et al., arXiv 1912.00350).

    Args:
        student: of a :class:`jaxdiff.networks.UNet`; its ``params`` is ``init(key)``, since members
            that started as one would stay one. Each member is such a network.
        peers: their number, 3 in the paper; the leader comes to them.
        reduction: queries and keys have 1/reduction of the last map's channels, at least 1.
        num_updates: of the training, which the ramp is a part of.
        warmup: fraction of the updates after which r is 1.
        reference: gradients of the targets' outputs too, as the authors' code has them.
        levels: how levels are drawn; EDM's by default.

    Returns:
        The method, whose one player trains all members.

    ``method.sampler(state, table=None, ema=None, member="leader")`` samples with the leader, or
    with the member of a number, the leader being the last.

    Raises:
        TypeError: for a student that is not a UNet.
        ValueError: for a student with given parameters, and for numbers out of range.
    """
    unet = unet_of(student.network, "student")
    _check(student, peers, reduction, num_updates, warmup)
    count = peers + 1
    group = student._replace(network=from_linen(Branches(unet, count)))
    channels = unet.channels * unet.multipliers[0]
    size = max(1, channels // reduction)

    def init(key: Key) -> dict[str, Params]:
        first, second = jax.random.split(key)
        draw, keys = jax.nn.initializers.lecun_normal(), jax.random.split(second)
        beside = {n: draw(k, (channels, size)) for n, k in zip(("query", "key"), keys, strict=True)}
        return {"student": {"network": started(student, unet, first, count), "beside": beside}}

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        key_level, key_noise, key_label, key_dropout = jax.random.split(key, 4)
        x0 = batch["image"]
        level = levels.draw(key_level, x0)
        y = perturb(x0, level, jax.random.normal(key_noise, x0.shape, x0.dtype))
        _, own = bind(student, batch, key_label, key_dropout)
        D = group.denoiser(params["network"])
        outputs, h = own(D)(y, level, full=True).features
        skip, out = (
            expand(jnp.broadcast_to(c, level.shape), y)[:, None] for c in scalings(D, level)
        )
        denoised = skip * y[:, None] + out * outputs
        share = ramp(context.step, num_updates, warmup).astype(level.dtype)
        alpha = attention(h[:, :-1], params["beside"]["query"], params["beside"]["key"])
        task, apart, lead = terms(denoised, x0, alpha, reference)
        weight = edm_weight(level, student.sigma_data)
        metrics = {n: jnp.mean(weight * a) for n, a in (("task", task), ("peers", apart))}
        metrics["leader"] = jnp.mean(weight * squared(denoised[:, -1], x0))
        total, known = mean_loss(weight * (task + share * (apart + lead)))
        return total, {**known, **metrics}

    def sampler(
        state: Any, table: Table | None = None, ema: str | None = None, member: Which = "leader"
    ) -> Sampler:
        params = state.params["student"] if ema is None else state.ema["student"][ema]
        D = student.denoiser(chosen(params["network"], member, count))
        return Sampler(D, default_table() if table is None else table)

    player = Player(loss, student.optimiser or optax.adam(1e-3), ema=student.ema)
    return Method(init, {"student": player}, sampler, None, student.check)


def started(student: Student, unet: Any, key: Key, count: int) -> Params:
    """Return parameters of the members: each way up is of another draw."""
    drawn_ones = [drawn(student.params, k) for k in jax.random.split(key, count)]
    halves = [split_member(unet, params) for params in drawn_ones]
    return {"shared": halves[0][0]} | {f"member_{i}": own for i, (_, own) in enumerate(halves)}


def chosen(params: Params, which: Which, count: int) -> Params:
    """Return one member's parameters. Raises ValueError for one that is not there."""
    number = count - 1 if which == "leader" else which
    if not isinstance(number, int) or not 0 <= number < count:
        raise ValueError(f'member is "leader" or 0 to {count - 1}; got {which!r}')
    return member(params, number)


def ramp(step: Array, num_updates: int, warmup: float) -> Array:
    """Return r of the step, which reaches 1 after ``warmup`` of the updates."""
    left = 1.0 - jnp.minimum(step.astype(jnp.float32) / max(1.0, warmup * num_updates), 1.0)
    return jnp.exp(-5.0 * left**2)


def attention(h: Array, query: Array, key: Array) -> Array:
    """Return alpha (batch, peers, peers), which sums to 1 over the last axis, of features (batch,
    peers, k) and matrices (k, l).
    """
    q, k = (einsum("bak,kl->bal", h, matrix.astype(h.dtype)) for matrix in (query, key))
    return jax.nn.softmax(einsum("bal,bcl->bac", q, k), axis=2)


def terms(
    denoised: Array, x0: Array, alpha: Array, reference: bool = False
) -> tuple[Array, Array, Array]:
    """Return three squared distances per sample, (batch,) each, of outputs (batch, members,
    *shape): all members' to the data, the peers' to their targets, the leader's to the peers' mean.
    """
    flat = denoised.reshape(*denoised.shape[:2], -1)
    known = flat if reference else jax.lax.stop_gradient(flat)
    targets = einsum("bac,bcn->ban", alpha, known[:, :-1])
    task = jnp.sum(jnp.mean((flat - x0.reshape(x0.shape[0], 1, -1)) ** 2, axis=2), axis=1)
    apart = jnp.sum(jnp.mean((flat[:, :-1] - targets) ** 2, axis=2), axis=1)
    lead = jnp.mean((flat[:, -1] - jnp.mean(known[:, :-1], axis=1)) ** 2, axis=1)
    return task, apart, lead


def _check(student: Student, peers: int, reduction: int, num_updates: int, warmup: float) -> None:
    if not is_init(student.params):
        raise ValueError(
            "the student's params are given, and members that start as one stay one: give "
            "init(key) -> params"
        )
    if peers < 2 or reduction < 1 or num_updates < 1 or not 0 <= warmup <= 1:
        raise ValueError(
            "2 peers, a reduction of 1 and 1 update at least, and a warm-up of 0 to 1; got "
            f"{peers}, {reduction}, {num_updates} and {warmup}"
        )
