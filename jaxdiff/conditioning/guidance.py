"""Guidance: a denoiser in, a denoiser out.

Guidance replaces the denoiser by a combination of denoisers; it nests, and every sampler runs it.
The weight convention is one throughout: weight 1 is the plain conditional model, weight 0 the
unconditional one.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.arrays import check, expand, fixed, null_condition
from jaxdiff.brief import Changed, short
from jaxdiff.conditioning.together import null_class, together
from jaxdiff.conditioning.weights import Weight, as_weight, weight_at
from jaxdiff.denoisers import as_partial, scalings
from jaxdiff.typing import Array, Cond, Denoiser


def classifier_free(
    denoiser: Denoiser,
    weight: Weight,
    null: Cond = None,
    *,
    channels: int | None = None,
    keep: tuple[str, ...] = (),
    batched: bool | None = None,
) -> jax.tree_util.Partial:
    """Apply classifier-free guidance (Ho and Salimans, arXiv 2207.12598), D_u + weight (D_c - D_u).

    The paper's own weight is ``weight - 1``. Costs two network calls per evaluation, made as one of
    twice the batch where both conditions have one structure, shapes and dtypes: it compiles sooner,
    fills an accelerator better, and on a CPU core takes as long as two (a DiT's a fifth longer with
    32 samples).

    Args:
        denoiser: conditional ``D(y, level, cond)`` that answers ``cond=None`` with the
            unconditional posterior mean.
        weight: scalar, a function of the level (:mod:`jaxdiff.conditioning.weights`), or one number
            per sample of shape (batch,), for samplers of the batch as it is. What takes a batch
            apart (stored pairs in blocks, several devices, solvers of one sample at a time) refuses
            the last: a denoiser that reads the weight from ``cond`` does there.
        null: what stands for no condition, where that is not None (which networks with classes take
            for their null class): one sample's value, a tree like cond without the batch axis. An
            entry of a dictionary that is None is left out for the unconditional call, which is then
            one of its own.
        channels: the first so many channels (the last axis) are guided, and the others are the
            conditional model's; None for all. DiT's and SiT's own samplers have 3, of latents of 4.
        keep: entries of a cond dictionary that the unconditional call is given too, as they are,
            and that null does not have: the picture that a ControlNet is shown.
        batched: None for one call where it can be: ``jax.vmap`` over the two conditions, so that
            each sample's numbers, whoever holds them, and its dropout stay with it. Where the
            conditions differ (a null of None to anything but a class of the package's networks), or
            a plain function is among the options, which may keep what it sees, there are two. True
            for an error in place of two; False for two, of what ``jax.vmap`` does not take, or of a
            batch that a sharding spreads over devices: joined rows would be moved between them
            (:func:`jaxdiff.training.devices.over_batch` moves nothing).

    Returns:
        The guided denoiser, ``D(y, level, cond)``.

    Raises:
        ValueError: for fewer than one channel, or ``keep`` without a dictionary ``null``; when
            called, for ``batched=True`` with a null that is not like the condition.

    >>> import jax.numpy as jnp
    >>> D = lambda y, level, cond=None: 0.0 * y if cond is None else 0.0 * y + cond[:, None]
    >>> guided = classifier_free(D, 3.0)
    >>> guided(jnp.zeros((1, 2)), 1.0, jnp.array([0.5])).tolist()
    [[1.5, 1.5]]
    """
    if channels is None and not keep and batched is None:
        return Changed(_classifier_free, as_partial(denoiser), as_weight(weight), null)
    if channels is not None and channels < 1:
        raise ValueError(f"at least one channel is guided, not {channels}")
    if keep and not isinstance(null, dict):
        raise ValueError(f"keep = {keep} needs null, a dictionary of the entries that are not kept")
    guide = fixed(_classifier_free, channels=channels, keep=tuple(keep), batched=batched)
    return Changed(guide, as_partial(denoiser), as_weight(weight), null)


def _classifier_free(
    denoiser: jax.tree_util.Partial,
    weight: Array,
    null: Cond,
    y: Array,
    level: Array,
    cond: Cond = None,
    *,
    channels: int | None = None,
    keep: tuple[str, ...] = (),
    batched: bool | None = None,
    **options: Any,
) -> Array:
    null = null_class(denoiser, cond) if null is None else null
    nothing = None if null is None else _nothing(cond, null, keep)
    conditional, plain = together(denoiser, y, level, (cond, nothing), options, batched)
    guided = plain + weight_at(weight, level, y) * (conditional - plain)
    if channels is None or channels >= y.shape[-1]:
        return guided
    return jnp.concatenate([guided[..., :channels], conditional[..., channels:]], axis=-1)


def _nothing(cond: Cond, null: Cond, keep: tuple[str, ...]) -> Cond:
    """Return the null condition, with entries of a dictionary kept, or left out where null's are
    None.
    """
    if not isinstance(null, dict) or not isinstance(cond, dict):
        return null_condition(cond, null)
    if wrong := [k for k in keep if k in null or k not in cond]:
        raise ValueError(f"keep names {wrong[0]!r}, which cond must have and null must not")
    left = {k for k, v in null.items() if v is None}
    rest = {k: v for k, v in cond.items() if k not in {*keep, *left}}
    nothing = null_condition(rest, {k: v for k, v in null.items() if k not in left})
    return {**nothing, **{k: cond[k] for k in keep}}


def autoguidance(
    denoiser: Denoiser, reference: Denoiser, weight: Weight, *, conditional: bool = True
) -> jax.tree_util.Partial:
    """Apply guidance by a worse model (Karras et al., arXiv 2406.02507), D_r + weight (D - D_r).

    Costs a call of each network per evaluation.

    Args:
        denoiser: ``D(y, level, cond)``.
        reference: a smaller, or less trained, denoiser of the same data: D_r.
        weight: as of :func:`classifier_free`.
        conditional: whether the reference is given the condition; an unconditional network, for
            which this is classifier-free guidance by a second network, is not.

    Returns:
        The guided denoiser, ``D(y, level, cond)``.

    >>> D, bad = lambda y, level, cond=None: 0.0 * y + 2.0, lambda y, level, cond=None: 0.0 * y
    >>> import jax.numpy as jnp
    >>> autoguidance(D, bad, 1.5)(jnp.zeros((1, 2)), 1.0).tolist()
    [[3.0, 3.0]]
    """
    worse = as_partial(reference)
    return Changed(
        _conditional_autoguidance if conditional else _autoguidance,
        as_partial(denoiser), worse, as_weight(weight),
    )  # fmt: skip


def _conditional_autoguidance(
    denoiser: Any,
    reference: Any,
    weight: Array,
    y: Array,
    level: Array,
    cond: Cond = None,
    **options: Any,
) -> Array:
    own, worse = denoiser(y, level, cond, **options), reference(y, level, cond, **options)
    return worse + weight_at(weight, level, y) * (own - worse)


def _autoguidance(
    denoiser: Any,
    reference: Any,
    weight: Array,
    y: Array,
    level: Array,
    cond: Cond = None,
    **options: Any,
) -> Array:
    own, worse = denoiser(y, level, cond, **options), reference(y, level, **options)
    return worse + weight_at(weight, level, y) * (own - worse)


class Prompts(NamedTuple):
    """A condition and another to keep away from, for every sample: trees of the same structure."""

    __repr__ = short

    positive: Cond
    negative: Cond


def negative_prompt(
    denoiser: Denoiser,
    weight: Weight,
    rescale: float | Array = 0.0,
    *,
    batched: bool | None = None,
) -> jax.tree_util.Partial:
    """Apply guidance away from a condition of each sample's own, D_n + weight (D_p - D_n).

    With the null condition as the negative one it is :func:`classifier_free`, and one call of twice
    the batch as there. The condition of the result is a :class:`Prompts`, or None.

    Args:
        denoiser: conditional ``D(y, level, cond)``.
        weight: scalar, or one number per sample (batch,), as in :func:`classifier_free`.
        rescale: phi in [0, 1] of arXiv 2305.08891, section 3.4: what the network predicts, guided,
            gets (1 - phi) of its own and phi of the conditional prediction's standard deviation
            over a sample's numbers (the unbiased one); a number, or (batch,). Not 0 only for a
            ``denoiser`` made by :func:`jaxdiff.denoisers.denoiser`, which says what its network
            predicts.
        batched: as in :func:`classifier_free`.

    Returns:
        The guided denoiser ``D(y, level, cond)``, its condition a :class:`Prompts`.

    Raises:
        ValueError: for a rescale outside [0, 1].
        TypeError: for a condition that is no :class:`Prompts`, and for a rescale of a denoiser that
            does not say what its network predicts.
    """
    check("rescale must be in [0, 1]", lambda p: ((p >= 0) & (p <= 1)).all(), rescale)
    rescaled = not isinstance(rescale, (int, float)) or rescale != 0
    if rescaled:
        scalings(denoiser, 1.0)  # its error now
    guide = _negative_prompt if batched is None else fixed(_negative_prompt, batched=batched)
    return Changed(guide, as_partial(denoiser), as_weight(weight), rescale if rescaled else None)


def _negative_prompt(
    denoiser: Any,
    weight: Array,
    rescale: Array | None,
    y: Array,
    level: Array,
    cond: Prompts | None = None,
    *,
    batched: bool | None = None,
    **options: Any,
) -> Array:
    if cond is not None and not isinstance(cond, Prompts):
        raise TypeError(f"negative_prompt takes a condition of type Prompts, not {type(cond)}")
    near, far = (None, None) if cond is None else cond
    towards, plain = together(denoiser, y, level, (near, far), options, batched)
    guided = plain + weight_at(weight, level, y) * (towards - plain)
    if rescale is None:
        return guided
    skip, out = (expand(c, y) for c in scalings(denoiser, jnp.asarray(level, y.dtype)))
    if y[0].size < 2:
        raise ValueError(f"states {y.shape} have one number a sample, and no deviation to rescale")
    axes, phi = tuple(range(1, y.ndim)), expand(rescale, y)
    std = lambda D: jnp.std((D - skip * y) / out, axis=axes, ddof=1, keepdims=True)  # noqa: E731
    factor = phi * (std(towards) / std(guided)) + (1 - phi)
    return skip * y + factor * (guided - skip * y)
