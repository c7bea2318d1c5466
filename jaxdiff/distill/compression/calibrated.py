"""SemCKD for denoisers: each stage learns from those of the teacher's stages that say the same.

    alpha[b, i, j] = softmax over j of ( q_i(r_i[b], s_b) . k_j(r_j[b], s_b) / soft ),
    loss[b] = a w |D_S - x0|^2 + b w |D_S - D_T|^2
            + c / S sum over i, j of alpha[b, i, j] mean ( P_ij(f_i)[b] - f_j[b] )^2,

i the S maps of the student, j those of the teacher; r[b] sample b's row of the batch's similarities
F F' / n, F = f flattened to n numbers; q and k two-layer maps of a row and the level's embedding to
unit vectors; P_ij projectors whose norms the level modulates; the larger of two maps averaged to
the smaller.

Source: Chen et al., arXiv 2012.03236 (SemCKD, AAAI 2021), section 3, of classifiers.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.arrays import einsum
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
from jaxdiff.method import Batch, Method, Metrics
from jaxdiff.networks.embedding import sinusoidal
from jaxdiff.networks.reused_decoder import Projector
from jaxdiff.networks.transfer import RowMLP
from jaxdiff.typing import Array, Denoiser, Key, Params

WAVES = 16  # numbers by which queries and keys depend on the level


def semckd(
    teacher: Denoiser,
    student: Student,
    shape: tuple[int, ...],
    *,
    batch: int,
    soft: float = 1.0,
    factor: int = 2,
    shares: Shares = EQUAL,
    levels: LevelDistribution = LEVELS,
) -> Method:
    """Train a smaller denoiser by calibrated maps (after Chen et al., arXiv 2012.03236).

    Args:
        teacher: ``D(y, level, cond, full=True)``, frozen.
        student: of any smaller network that shows its maps, as many as the teacher's or not.
        shape: of one sample.
        batch: samples of every batch (of each device's part under pmap, and of each part under
            gradient accumulation): queries and keys are as wide.
        soft: divides the products of queries and keys.
        factor: a projector has a factor-th of the teacher's channels within.
        shares: weights of the three terms.
        levels: how levels are drawn; EDM's by default.

    Returns:
        The method, whose one player trains the student, projectors, queries and keys.

    Sampled by ``sampler(state, table=None, ema=None)``.

    Deviations: similarities are divided by the maps' sizes and seen together with the level, which
    decides what a denoiser's maps hold; projectors have a narrow middle in place of a wide one. A
    loss of pairs of samples: of the whole batch, and under pmap of each device's part.

    Raises:
        ValueError: for numbers out of range, for a batch of another size, and for maps of which one
            is not a whole number of times as large as the other.
    """
    check_shares(shares)
    if not shares.features:
        raise ValueError("without the term of features, shares.features, this is block_knowledge")
    if batch < 2 or factor < 1 or not soft > 0:
        raise ValueError(
            f"a batch of 2 at least, factor >= 1 and soft > 0; got {batch}, {factor} and {soft}"
        )
    f_s, f_t = student_maps(student, shape), maps_of(teacher, shape, "teacher", None)
    modules, inputs = _modules(f_s, f_t, batch, factor)

    def beside(key: Key) -> Params:
        keys = jax.random.split(key, len(modules))

        def draw(keys: Array) -> Params:
            zeros = {
                n: jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), inputs[n]) for n in inputs
            }
            return {
                n: module.init(keys[i], *zeros[n])["params"]
                for i, (n, module) in enumerate(modules.items())
            }

        return jax.jit(draw)(keys)

    def loss(seen: Seen) -> tuple[Array, Metrics]:
        if seen.level.shape[0] != batch:
            raise ValueError(f"made for batches of {batch} samples; one has {seen.level.shape[0]}")
        label = jnp.log(seen.level) / 4.0
        run = functools.partial(_run, modules, seen.beside)
        term = calibrated(run, seen.student.features, seen.teacher.features, label, soft)
        total, metrics = regressions(seen, shares, student.sigma_data)
        return total + shares.features * term, {**metrics, "features": jnp.mean(term)}

    def check(given: Batch) -> None:
        if len(given["image"]) % batch:
            raise ValueError(f"made for batches of {batch} samples; one has {len(given['image'])}")
        student.check(given)

    method = compressed(teacher, student, loss, levels=levels, beside=beside)
    return method._replace(check=checked_shape(shape, check))


def _modules(
    f_s: tuple[Any, ...], f_t: tuple[Any, ...], batch: int, factor: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the modules beside the student by name, and examples of their inputs."""
    label = jax.ShapeDtypeStruct((1,), jnp.float32)
    row = (jax.ShapeDtypeStruct((1, batch + WAVES), jnp.float32),)
    modules: dict[str, Any] = {f"query{i}": RowMLP(4) for i in range(len(f_s))}
    modules |= {f"key{j}": RowMLP(4) for j in range(len(f_t))}
    inputs: dict[str, Any] = dict.fromkeys(modules, row)
    for i, f in enumerate(f_s):
        for j, g in enumerate(f_t):
            small = jax.eval_shape(lambda f, g=g: pooled(f, g.shape), f)
            channels = g.shape[-1]
            modules[f"projector{i}_{j}"] = Projector(channels, max(1, channels // factor))
            inputs[f"projector{i}_{j}"] = (small, label)
    return modules, inputs


def _run(modules: dict[str, Any], params: Params, name: str, *inputs: Array) -> Array:
    return modules[name].apply({"params": params[name]}, *inputs)


def calibrated(
    run: Callable[..., Array], f_s: tuple[Array, ...], f_t: tuple[Array, ...], label: Array,
    soft: float,
) -> Array:  # fmt: skip
    """Return the term of features per sample, (batch,), of two networks' maps.

    run: ``run(name, *inputs)`` applies "query0", "key0", "projector0_0" and so on.
    """
    queries = [run(f"query{i}", rows(f, label)) for i, f in enumerate(f_s)]
    keys = [run(f"key{j}", rows(f, label)) for j, f in enumerate(f_t)]
    alpha = attention(jnp.stack(queries, axis=1), jnp.stack(keys, axis=1), soft)
    term = jnp.zeros_like(alpha[:, 0, 0])
    for i, f in enumerate(f_s):
        for j, g in enumerate(f_t):
            a, b = pooled(f, g.shape), pooled(g, f.shape)
            apart = squared(run(f"projector{i}_{j}", a, label), b)
            term = term + alpha[:, i, j] * apart / len(f_s)
    return term


def rows(f: Array, label: Array) -> Array:
    """Return each sample's similarities to the batch and its level's waves, (batch, batch + k)."""
    flat = f.reshape(f.shape[0], -1)
    similar = einsum("ai,bi->ab", flat, flat) / flat.shape[1]
    return jnp.concatenate([similar, sinusoidal(label, WAVES).astype(similar.dtype)], axis=1)


def attention(queries: Array, keys: Array, soft: float) -> Array:
    """Return alpha (batch, S, T), which sums to 1 over the last axis, of unit vectors (batch, S, k)
    and (batch, T, k).
    """
    return jax.nn.softmax(einsum("bsk,btk->bst", queries, keys) / soft, axis=2)


def pooled(f: Array, other: tuple[int, ...]) -> Array:
    """Return the map averaged to the other's size along the axes where it is larger.

    Raises ValueError where it is not a whole number of times as large.
    """
    if len(other) != f.ndim:
        raise ValueError(f"maps of shapes {f.shape} and {other} have no common size")
    for axis in range(1, f.ndim - 1):
        n, m = f.shape[axis], other[axis]
        if n > m:
            if n % m:
                raise ValueError(f"a map of size {n} is not averaged to size {m}")
            f = jnp.mean(f.reshape(*f.shape[:axis], m, n // m, *f.shape[axis + 1 :]), axis=axis + 1)
    return f
