r"""Several conditions at once: what each adds to the unconditional output is summed.

    composable   D = D_0 + sum_i w_i (D_i - D_0)          AND; NOT by a negative weight
                                                          (Liu et al. 2206.01714, eq. 11 and 13)
    Perp-Neg     D = D_0 + w (d_1 - sum_i w_i d_i perp),  d_i perp the part of d_i = D_i - D_0
                 orthogonal to d_1                        (Armandpour et al. 2304.04968, eq. 8)
    two weights  D = D(0, 0) + a (D(c, 0) - D(0, 0)) + b (D(c, t) - D(c, 0))
                                                          (InstructPix2Pix, 2211.09800, eq. 3)
    SINE         D = D_0 + w (v D_c + (1 - v) D'_c - D_0), D' tuned on one picture, at high levels
                                                          (Zhang et al. 2212.04489, eq. 7)

Denoised outputs and noise predictions are blended alike, the frame being affine in them.
"""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.tree_util import Partial

from jaxdiff.arrays import check, null_condition
from jaxdiff.brief import Changed
from jaxdiff.conditioning.blending.pairs import inner, ratio
from jaxdiff.conditioning.guidance import classifier_free
from jaxdiff.conditioning.together import null_class, together
from jaxdiff.conditioning.weights import Weight, as_weight, weight_at, within
from jaxdiff.denoisers import as_partial
from jaxdiff.sampling.checks import as_states
from jaxdiff.typing import Array, Cond, Denoiser


def composed(denoiser: Denoiser, weights: Sequence[Weight], null: Cond = None) -> Partial:
    """Composable diffusion (arXiv 2206.01714): conditions joined by AND, negative weights are NOT.

    The condition of the result is a sequence, one condition for each weight. One evaluation more
    than there are weights, in one call where conditions and null are alike.

    Args:
        denoiser: conditional ``D(y, level, cond)``.
        weights: numbers, (batch,), or functions of the level; a single one is
            :func:`jaxdiff.guidance.classifier_free`.
        null: what stands for no condition, as there.

    Raises:
        ValueError: for no weights; when it is called, for another number of conditions.

    >>> import jax.numpy as jnp
    >>> D = lambda y, level, cond=None: 0.0 * y if cond is None else 0.0 * y + cond[:, None]
    >>> conds = jnp.array([1.0]), jnp.array([0.5])
    >>> composed(D, (2.0, -1.0))(jnp.zeros((1, 2)), 1.0, conds).tolist()
    [[1.5, 1.5]]
    """
    if len(weights) < 1:
        raise ValueError("composed needs a weight for each condition, at least one")
    return Changed(_composed, as_partial(denoiser), tuple(as_weight(w) for w in weights), null)


def _composed(
    denoiser: Partial, weights: tuple[Any, ...], null: Cond, y: Array, level: Array,
    cond: Cond = None, **options: Any,
) -> Array:  # fmt: skip
    plain, outputs = _outputs(denoiser, len(weights), null, y, level, cond, options)
    guided = plain
    for weight, output in zip(weights, outputs, strict=True):
        guided = guided + weight_at(weight, level, y) * (output - plain)
    return guided


def _outputs(
    denoiser: Partial, count: int, null: Cond, y: Array, level: Array, cond: Cond,
    options: dict[str, Any],
) -> tuple[Array, list[Array]]:  # fmt: skip
    """Return the unconditional output, and that of each of so many conditions."""
    if not isinstance(cond, (tuple, list)) or len(cond) != count:
        what = f"{len(cond)}" if isinstance(cond, (tuple, list)) else type(cond).__name__
        raise ValueError(f"cond must be a sequence of {count} conditions, one a weight, not {what}")
    null = null_class(denoiser, cond[0]) if null is None else null
    nothing = None if null is None else null_condition(cond[0], null)
    found = together(denoiser, y, level, (*cond, nothing), options)
    *outputs, plain = (as_states(output, y) for output in found)
    return plain, outputs


def perpendicular_negative(
    denoiser: Denoiser, weight: Weight, negatives: Sequence[Weight], null: Cond = None
) -> Partial:
    """Guidance away from conditions, but only in directions that the wanted one does not have
    (Perp-Neg, arXiv 2304.04968, eq. 8).

    The condition of the result is a sequence: the wanted one, then one for each of ``negatives``.

    Args:
        denoiser: conditional ``D(y, level, cond)``.
        weight: of the whole; a number, (batch,), or a function of the level.
        negatives: weights of the unwanted conditions, positive.
        null: as for :func:`composed`.

    Raises:
        ValueError: for no negatives; when it is called, for another number of conditions.
    """
    if len(negatives) < 1:
        raise ValueError("perpendicular_negative needs a weight for each negative condition")
    each = tuple(as_weight(w) for w in negatives)
    return Changed(_perpendicular, as_partial(denoiser), as_weight(weight), each, null)


def _perpendicular(
    denoiser: Partial, weight: Any, negatives: tuple[Any, ...], null: Cond, y: Array, level: Array,
    cond: Cond = None, **options: Any,
) -> Array:  # fmt: skip
    plain, outputs = _outputs(denoiser, 1 + len(negatives), null, y, level, cond, options)
    wanted = total = outputs[0] - plain
    for number, output in zip(negatives, outputs[1:], strict=True):
        away = output - plain
        across = away - ratio(inner(away, wanted), inner(wanted, wanted)) * wanted
        total = total - weight_at(number, level, y) * across
    return plain + weight_at(weight, level, y) * total


def two_weights(
    denoiser: Denoiser,
    first: Weight = 1.5,
    second: Weight = 7.5,
    nulls: tuple[Cond, Cond] = (None, None),
) -> Partial:
    """Two conditions, the second added to the first (InstructPix2Pix, arXiv 2211.09800, eq. 3).

    The denoiser's condition is a pair, (picture, text) in the paper. Three evaluations.

    Args:
        denoiser: ``D(y, level, (c, t))``; a None in the pair stands for no condition.
        first, second: weights of the pair's members; (1, 1) is the conditional model.
        nulls: what stands for no condition of each, one sample's value or None.

    Raises:
        ValueError: for another number of nulls; TypeError, when called, for no pair.
    """
    if len(nulls) != 2:
        raise ValueError(f"nulls are two, one for each member of the pair, not {len(nulls)}")
    return Changed(_two, as_partial(denoiser), as_weight(first), as_weight(second), tuple(nulls))


def _two(
    denoiser: Partial, first: Any, second: Any, nulls: tuple[Cond, Cond], y: Array, level: Array,
    cond: Cond = None, **options: Any,
) -> Array:  # fmt: skip
    if not isinstance(cond, (tuple, list)) or len(cond) != 2:
        raise TypeError(f"two_weights takes a pair of conditions, not {type(cond).__name__}")
    none = [None if n is None else null_condition(c, n) for c, n in zip(cond, nulls, strict=True)]
    pairs = ((cond[0], cond[1]), (cond[0], none[1]), (none[0], none[1]))
    both, one, plain = together(denoiser, y, level, pairs, options)
    a, b = weight_at(first, level, y), weight_at(second, level, y)
    return plain + a * (one - plain) + b * (both - one)


def mixed(denoisers: Sequence[Denoiser], weights: Sequence[Weight]) -> Partial:
    """Return sum_i w_i D_i of several denoisers, all of the same condition.

    Args:
        denoisers: ``D(y, level, cond)`` each.
        weights: one each; numbers, (batch,), or functions of the level. For a denoiser they sum to
            1, and numbers that do not are refused.

    Raises:
        ValueError: for another number of weights, or ones that do not sum to 1.
    """
    if len(denoisers) != len(weights) or not denoisers:
        raise ValueError(f"{len(denoisers)} denoisers and {len(weights)} weights: give one each")
    if not any(callable(w) for w in weights):
        numbers: list[Any] = list(weights)
        one = lambda *w: np.all(abs(sum(w) - 1) < 1e-5)  # noqa: E731
        check("the weights of denoisers must sum to 1", one, *numbers)
    parts, each = tuple(map(as_partial, denoisers)), tuple(map(as_weight, weights))
    return Changed(_mixed, parts, each)


def _mixed(
    denoisers: tuple[Partial, ...], weights: tuple[Any, ...], y: Array, level: Array,
    cond: Cond = None, **options: Any,
) -> Array:  # fmt: skip
    outputs = [D(y, level, cond, **options) for D in denoisers]
    scaled = [weight_at(w, level, y) * o for w, o in zip(weights, outputs, strict=True)]
    return jax.tree.reduce(lambda a, b: a + b, scaled)


def sine(
    denoiser: Denoiser,
    tuned: Denoiser,
    weight: Weight,
    share: float | Array = 0.7,
    above: float = 0.0,
    null: Cond = None,
) -> Partial:
    """Editing with a model tuned on one picture (SINE, arXiv 2212.04489, eq. 7).

    The condition of the result is a pair: that of the edit, and the picture's own.

    Args:
        denoiser: conditional ``D(y, level, cond)``, which also gives the unconditional output.
        tuned: the model tuned on the picture.
        weight: of guidance; a number, (batch,), or a function of the level.
        share: v in [0, 1], of ``denoiser``; the paper has 0.7.
        above: the tuned model counts at levels above this one alone (the paper's K).
        null: as for :func:`composed`.

    Raises:
        ValueError: for a share outside [0, 1] or a negative level.
    """
    check("share must be in [0, 1]", lambda v: (v >= 0).all() and (v <= 1).all(), share)
    check("above must be a level, not negative", lambda s: s >= 0, above)
    both = Changed(_sine, as_partial(denoiser), as_partial(tuned), as_weight(weight), share, null)
    if above == 0:
        return both
    return within(0.0, above, Changed(_edit_alone, classifier_free(denoiser, weight, null)), both)


def _edit_alone(guided: Partial, y: Array, level: Array, cond: Cond = None, **more: Any) -> Array:
    return guided(y, level, cond[0], **more)


def _sine(
    denoiser: Partial, tuned: Partial, weight: Any, share: Array, null: Cond, y: Array,
    level: Array, cond: Cond = None, **options: Any,
) -> Array:  # fmt: skip
    if not isinstance(cond, (tuple, list)) or len(cond) != 2:
        raise TypeError(f"sine takes a pair of conditions, not {type(cond).__name__}")
    null = null_class(denoiser, cond[0]) if null is None else null
    nothing = None if null is None else null_condition(cond[0], null)
    edit, plain = together(denoiser, y, level, (cond[0], nothing), options)
    own = tuned(y, level, cond[1], **options)
    v = weight_at(share, level, y)
    return plain + weight_at(weight, level, y) * (v * edit + (1 - v) * own - plain)
