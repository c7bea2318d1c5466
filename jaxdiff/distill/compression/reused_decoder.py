"""SimKD for denoisers: the student ends in its teacher's decoder, and learns the maps it reads.

    E_{x0, s, eps} sum over maps j of mean ( P_j(f_S)(y, s) - f_T,j(y, s) )^2,    y = x0 + s eps,

f_T,j the maps that the last stages of the teacher's way up read: that of the stage before them and
the first ones of the way down; P_j a projector whose norms are modulated by the level. Nothing else
is trained: if all maps agree, so do D, and with it every trajectory.

Source: Chen et al., arXiv 2203.14001 (SimKD, CVPR 2022), section 3, of classifiers: the decoder's
end and its skips are what the last layer is there.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.denoisers import description
from jaxdiff.distance import squared
from jaxdiff.distill.compression.frame import LEVELS, Seen, checked_shape, compressed
from jaxdiff.distill.parts.frame import drawn
from jaxdiff.distill.parts.level_distributions import LevelDistribution
from jaxdiff.distill.parts.student import Student
from jaxdiff.method import Method, Metrics
from jaxdiff.networks.adapters import Linen, from_linen
from jaxdiff.networks.parameters import init
from jaxdiff.networks.reused_decoder import ReusedDecoder, replaced
from jaxdiff.networks.unet import UNet
from jaxdiff.typing import Array, Denoiser, Key, Params


def simkd(
    teacher: Denoiser,
    student: Student,
    shape: tuple[int, ...],
    *,
    reused: int = 1,
    factor: int = 2,
    levels: LevelDistribution = LEVELS,
) -> Method:
    """Train a small encoder for the teacher's frozen decoder (after Chen et al., arXiv 2203.14001).

    Args:
        teacher: of a :class:`jaxdiff.networks.UNet`, as ``denoiser(from_linen(unet), params)``
            makes it; frozen.
        student: of a smaller UNet of as many levels; what it has beyond the reused stages'
            counterpart is left out.
        shape: of one sample.
        reused: stages of the teacher's way up that are kept, 0 for the last norm and convolution
            alone. More of them are more exact, and leave less to be saved.
        factor: a projector has a factor-th of the teacher's channels within; 2, 4 or 8 in the
            paper.
        levels: how levels are drawn; EDM's by default.

    Returns:
        The method, whose one player trains encoder and projectors.

    Sampled by ``sampler(state, table=None, ema=None)``. The decoder is among the student's
    parameters, so that whatever keeps these keeps it; its optimiser leaves it as it is.

    Deviations: the projectors' norms are group norms that the level modulates, for batch norm, and
    they end without a ReLU, since the maps of a U-Net are not after one.

    Raises:
        TypeError: for a teacher or student that is not a UNet.
        ValueError: for networks that do not fit, for a student that reads levels or states
            otherwise than its teacher, and for numbers out of range.
    """
    small, large, params = _networks(teacher, student)
    pairs = replaced(small, large, reused)
    if factor < 1:
        raise ValueError(f"the factor must be at least 1; got {factor}")
    module = ReusedDecoder(small, large, reused, factor)

    def start(key: Key) -> Params:
        first, second = jax.random.split(key)
        whole, own = dict(init(module, first, shape)), drawn(student.params, second)
        whole["student"] = _taken(own, whole["student"], "student")
        whole["teacher"] = _taken(params, whole["teacher"], "teacher")
        return whole

    def loss(seen: Seen) -> tuple[Array, Metrics]:
        apart = [
            squared(f_s, seen.teacher.features[t])
            for f_s, (_, t) in zip(seen.student.features, pairs, strict=True)
        ]
        return sum(apart[1:], apart[0]), {}

    trainee = student._replace(network=from_linen(module), params=start)
    optimiser = held_still(student.optimiser or optax.adam(1e-3))
    method = compressed(teacher, trainee, loss, levels=levels, optimiser=optimiser)
    return method._replace(check=checked_shape(shape, method.check))


def held_still(optimiser: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return the optimiser that leaves a student's "teacher" as it is, weight decay included."""

    def labels(params: Params) -> Any:
        network = {n: "held" if n == "teacher" else "trained" for n in params["network"]}
        return {"network": network, "beside": "trained"}

    return optax.multi_transform({"trained": optimiser, "held": optax.set_to_zero()}, labels)


def _networks(teacher: Denoiser, student: Student) -> tuple[UNet, UNet, Params]:
    made = description(teacher)
    small = unet_of(student.network, "student")
    large = unet_of(None if made is None else made["network"], "teacher")
    assert made is not None  # unet_of has raised
    for name in ("prediction", "process", "label"):
        there, here = made[name], getattr(student, name)
        same = type(there) is type(here) if name == "process" else there == here
        if not same:
            raise ValueError(f"the teacher has {name} {there!r} and the student {here!r}")
    if made["prediction"] == "edm" and made["sigma_data"] != student.sigma_data:
        raise ValueError(
            f"the teacher has sigma_data {made['sigma_data']}, the student {student.sigma_data}: "
            "equal maps would be other denoisers"
        )
    return small, large, made["params"]


def unet_of(network: Any, name: str) -> UNet:
    """Return the module of a network, a UNet. TypeError for another, ValueError for one with a head
    of log variance, which no part of it has.
    """
    module = network.module if isinstance(network, Linen) else None
    if not isinstance(module, UNet):
        raise TypeError(
            f"the {name} must be jaxdiff.networks.from_linen(UNet(...)), whose stages are known; "
            f"got {type(network).__name__ if module is None else type(module).__name__}"
        )
    if module.log_variance:
        raise ValueError(f"the {name} has a head of log variance, which would not be trained")
    return module


def _taken(params: Params, like: Params, name: str) -> Params:
    """Return copies of those parameters that ``like`` has; ValueError where they do not fit."""
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)  # noqa: E731
    missing = [n for n in like if n not in params or shapes(params[n]) != shapes(like[n])]
    if missing:
        raise ValueError(f"the {name}'s parameters do not fit its network at {missing[0]}")
    return {n: jax.tree.map(lambda a: jnp.array(a, copy=True), params[n]) for n in like}
