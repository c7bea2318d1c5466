"""Regression of a smaller denoiser to its teacher's output and maps.

    E_{x0, s, eps} a w(s) |D_S - x0|^2 + b w(s) |D_S - D_T|^2 + c sum over pairs of
        mean ( P(f_S) - f_T )^2,      D and f at y = x0 + s eps,

P a linear map of channels for each pair of maps, w = 1/c_out^2. With c = 0 this is output
regression, the counterpart of a classifier's KL to its teacher's logits.

Source: Kim et al., arXiv 2305.15798 (BK-SDM), section 3.2, whose a, b and c are 1.
"""

import jax
import jax.numpy as jnp

from jaxdiff.distance import squared
from jaxdiff.distill.compression.frame import (
    EQUAL,
    LEVELS,
    Seen,
    Shares,
    check_shares,
    checked_shape,
    compressed,
    maps_of,
    regressions,
    student_maps,
)
from jaxdiff.distill.parts.level_distributions import LevelDistribution
from jaxdiff.distill.parts.student import Student
from jaxdiff.method import Method, Metrics
from jaxdiff.typing import Array, Denoiser, Key, Params

Pairs = tuple[tuple[int, int], ...]


def block_knowledge(
    teacher: Denoiser,
    student: Student,
    shape: tuple[int, ...],
    *,
    pairs: Pairs | None = None,
    shares: Shares = EQUAL,
    levels: LevelDistribution = LEVELS,
) -> Method:
    """Train a smaller denoiser by output and feature regression (Kim et al., arXiv 2305.15798).

    Args:
        teacher: ``D(y, level, cond, full=True)``, or any denoiser where shares.features is 0;
            frozen.
        student: of any smaller network that shows its maps.
        shape: of one sample.
        pairs: numbers (student's map, teacher's map) of what is compared, in the order of
            ``full=True``; by default all, one after the other, of networks with equally many.
        shares: weights of the three terms, 1 each in the paper.
        levels: how levels are drawn; EDM's by default.

    Returns:
        The method, whose one player trains the student and the linear maps.

    Sampled by ``sampler(state, table=None, ema=None)``.

    Deviations: the paper's students have their teacher's widths and need no linear maps; its
    outputs are eps, and here weights 1/c_out^2 make all levels' errors count as the network's own.

    Raises:
        ValueError: for pairs that are not there or of maps of other sizes, and for weights that
            are negative or all zero.
    """
    check_shares(shares)
    if not shares.features and pairs is not None:
        raise ValueError("pairs of maps have no effect where their weight, shares.features, is 0")
    f_s = f_t = ()
    if shares.features:
        f_s = student_maps(student, shape)
        f_t = maps_of(teacher, shape, "teacher", None)
        pairs = _checked(pairs, f_s, f_t)
    compared = pairs or ()

    def beside(key: Key) -> Params:
        draw = jax.nn.initializers.lecun_normal()
        keys = jax.random.split(key, max(1, len(compared)))
        return {
            f"map{i}": draw(keys[i], (f_s[s].shape[-1], f_t[t].shape[-1]), jnp.float32)
            for i, (s, t) in enumerate(compared)
        }

    def loss(seen: Seen) -> tuple[Array, Metrics]:
        total, metrics = regressions(seen, shares, student.sigma_data)
        for i, (s, t) in enumerate(compared):
            own, known = seen.student.features[s], seen.teacher.features[t]
            projected = own @ seen.beside[f"map{i}"].astype(own.dtype)
            apart = squared(projected, known)
            metrics[f"map{i}"] = jnp.mean(apart)
            total = total + shares.features * apart
        return total, metrics

    method = compressed(
        teacher, student, loss, levels=levels, beside=beside, maps=bool(shares.features)
    )
    return method._replace(check=checked_shape(shape, method.check))


def _checked(pairs: Pairs | None, f_s: tuple[Array, ...], f_t: tuple[Array, ...]) -> Pairs:
    if pairs is None and len(f_s) != len(f_t):
        raise ValueError(
            f"the student has {len(f_s)} maps and the teacher {len(f_t)}: give pairs=((student's, "
            "teacher's), ...)"
        )
    chosen = tuple((i, i) for i in range(len(f_s))) if pairs is None else pairs
    if not chosen:
        raise ValueError("no pairs of maps are given, and their weight, shares.features, is not 0")
    for s, t in chosen:
        if not (0 <= s < len(f_s) and 0 <= t < len(f_t)):
            raise ValueError(
                f"there is no pair ({s}, {t}) of {len(f_s)} maps of the student and {len(f_t)} of "
                "the teacher"
            )
        if f_s[s].shape[1:-1] != f_t[t].shape[1:-1]:
            raise ValueError(
                f"map {s} of the student has size {f_s[s].shape[1:-1]}, map {t} of the teacher "
                f"{f_t[t].shape[1:-1]}"
            )
    return chosen
