r"""Predictions of a network, as a row of two numbers; and weights of losses.

A prediction is a row (a, b): its target is a x0 + b eps, where x = alpha x0 + sigma eps is what
the network sees.

    x0     ( 1,             0            )
    eps    ( 0,             1            )
    score  ( 0,            -1/sigma      )   of x; that of y = x/alpha is alpha times it
    v      (-sigma,         alpha        )   2202.00512, appendix D
    flow   ( alpha',        sigma'       )   d x_t/dt, 2209.03003
    edm    ( sigma/(sd n), -alpha sd/n   )   2206.00364: (D - c_skip y)/c_out,
                                             n^2 = sigma^2 + sd^2 alpha^2

Value and state are two equations for (x0, eps), alpha x0 + sigma eps = x and a x0 + b eps = value,
so that every other row follows from one 2x2 solve: with det = alpha b - sigma a,

    a* x0 + b* eps = p x + q value,   p = (a* b - b* a)/det,   q = (alpha b* - sigma a*)/det.

det is alpha for eps, -sigma for x0, -alpha/sigma for score, alpha^2 + sigma^2 for v,
alpha sigma' - sigma alpha' for flow and -n/sd for edm. So eps and score do not determine the data
at alpha = 0, x0 does not determine the noise at sigma = 0, where the score itself is infinite.
There the weights are infinite or NaN; nothing is hidden.

The denoiser that is made of a network of any of them: :mod:`jaxdiff.denoisers`.
"""

from typing import NamedTuple, TypeAlias

import jax.numpy as jnp

from jaxdiff.arrays import expand
from jaxdiff.brief import short
from jaxdiff.process import Number, Process, rates
from jaxdiff.typing import Array, AtTimes, States, Times

Row: TypeAlias = tuple[Number, Number]

X0: Row = (1.0, 0.0)
EPS: Row = (0.0, 1.0)
PREDICTIONS = ("x0", "eps", "score", "v", "flow", "edm")
SMALLEST = 1e-12  # stands for level 0 in log(level), so that label and gradient stay finite


class Scalings(NamedTuple):
    """D(y) = c_skip y + c_out F(c_in y, c_noise); each of the shape of the level."""

    __repr__ = short

    c_skip: Array
    c_out: Array
    c_in: Array
    c_noise: Array


def edm_scalings(level: Array, sigma_data: Number = 0.5) -> Scalings:
    """Return EDM's scalings (arXiv 2206.00364, table 1); c_noise = log(level)/4, finite at level 0.

    Args:
        level: noise levels, of any shape.
        sigma_data: standard deviation of the data.

    Returns:
        :class:`Scalings`, each of the shape of ``level``.
    """
    norm = jnp.sqrt(level**2 + sigma_data**2)
    c_noise = jnp.log(jnp.maximum(level, SMALLEST)) / 4
    return Scalings(sigma_data**2 / norm**2, level * sigma_data / norm, 1 / norm, c_noise)


def boundary_scalings(
    level: Array, sigma_data: Number = 0.5, sigma_min: Number = 0.002
) -> Scalings:
    """Return the scalings that make D(y) = y at level ``sigma_min`` (consistency models, arXiv
    2303.01469, appendix C).

    Args:
        level: noise levels, of any shape.
        sigma_data: standard deviation of the data.
        sigma_min: the level of the boundary condition.

    Returns:
        :class:`Scalings`, each of the shape of ``level``.
    """
    edm = edm_scalings(level, sigma_data)
    rise = level - sigma_min
    c_skip = sigma_data**2 / (rise**2 + sigma_data**2)
    return edm._replace(c_skip=c_skip, c_out=rise * sigma_data * edm.c_in)


def check_prediction(name: str) -> None:
    """Raise ValueError unless ``name`` is one of ``PREDICTIONS``.

    Args:
        name: a prediction.

    Returns:
        None.

    Raises:
        ValueError: for another name, with those there are.
    """
    if name not in PREDICTIONS:
        raise ValueError(f"unknown prediction {name!r}; it must be one of {', '.join(PREDICTIONS)}")


def row(
    name: str,
    alpha: Number,
    sigma: Number,
    rates: tuple[Number, Number] | None = None,
    sigma_data: Number = 0.5,
) -> Row:
    """Return (a, b) of the target a x0 + b eps.

    Args:
        name: one of ``PREDICTIONS``.
        alpha, sigma: of the process, scalars or (batch,).
        rates: (d alpha/dt, d sigma/dt), needed for 'flow' only.
        sigma_data: standard deviation of the data, of 'edm' only.

    Returns:
        a and b, scalars or (batch,).

    Raises:
        ValueError: for another name, or 'flow' without rates.
    """
    check_prediction(name)
    if name == "flow":
        if rates is None:
            raise ValueError("prediction 'flow' needs rates=(d alpha/dt, d sigma/dt)")
        return rates
    if name == "edm":
        norm = (sigma**2 + (sigma_data * alpha) ** 2) ** 0.5
        return sigma / (sigma_data * norm), -sigma_data * alpha / norm
    if name == "score":
        return 0.0, -1.0 / sigma
    return {"x0": X0, "eps": EPS, "v": (-sigma, alpha)}[name]


def mix(source: Row, target: Row, alpha: Number, sigma: Number) -> Row:
    """Return the weights (p, q) with target value = p x + q source value.

    Args:
        source, target: rows, as of :func:`row`.
        alpha, sigma: of the process, scalars or (batch,).

    Returns:
        p and q, scalars or (batch,). A row onto itself (the same object) is (0, 1), also where det
        = 0.
    """
    if source is target:
        return 0.0, 1.0
    (a, b), (a_new, b_new) = source, target
    det = alpha * b - sigma * a
    return (a_new * b - b_new * a) / det, (alpha * b_new - sigma * a_new) / det


def convert(
    value: States, x: States, source: Row, target: Row, alpha: Number, sigma: Number
) -> States:
    """Convert a prediction ``value`` of the ``source`` row to the ``target`` row.

    Args:
        value: (batch, *shape), what the network predicts.
        x: (batch, *shape), alpha x0 + sigma eps.
        source, target: rows, as of :func:`row`.
        alpha, sigma: of the process, scalars or (batch,).

    Returns:
        (batch, *shape); infinite or NaN where det = alpha b - sigma a of the source row is 0 (see
        the module).
    """
    p, q = mix(source, target, alpha, sigma)
    return expand(p, x) * x + expand(q, x) * value


def target(
    name: str, x0: States, eps: States, process: Process, t: Times, sigma_data: Number = 0.5
) -> States:
    """Return a x0 + b eps, what a network of the given prediction is trained to predict at time t.

    Args:
        name: one of ``PREDICTIONS``.
        x0, eps: (batch, *shape), data and standard normal noise.
        process: the process.
        t: its time, a scalar or (batch,).
        sigma_data: standard deviation of the data, of 'edm' only.

    Returns:
        (batch, *shape).

    Raises:
        ValueError: for an unknown name.
    """
    check_prediction(name)
    a, b = row(name, process.alpha(t), process.sigma(t), rates(process, t), sigma_data)
    return expand(a, x0) * x0 + expand(b, x0) * eps


def uniform_weight(level: AtTimes, sigma_data: Number = 0.5) -> AtTimes:
    """Return 1 for every level. This and the next are weights of the squared error of x0.

    Args:
        level: noise levels, of any shape.
        sigma_data: not used; all weights are called alike.

    Returns:
        Ones, of the shape of ``level``.
    """
    return jnp.ones_like(level)


def snr_weight(level: AtTimes, sigma_data: Number = 0.5) -> AtTimes:
    """Return the signal-to-noise ratio level^-2, which makes it the squared error of eps.

    Args:
        level: noise levels, of any shape.
        sigma_data: not used; all weights are called alike.

    Returns:
        Weights, of the shape of ``level``.
    """
    return level**-2


def snr_plus_one_weight(level: AtTimes, sigma_data: Number = 0.5) -> AtTimes:
    """Return level^-2 + 1, which makes it that of v if alpha^2 + sigma^2 = 1 (2202.00512).

    Args:
        level: noise levels, of any shape.
        sigma_data: not used; all weights are called alike.

    Returns:
        Weights, of the shape of ``level``.

    Source: Salimans and Ho, Progressive Distillation for Fast Sampling of Diffusion Models, arXiv
    2202.00512.
    """
    return level**-2 + 1


def truncated_snr_weight(level: AtTimes, sigma_data: Number = 0.5) -> AtTimes:
    """Return max(level^-2, 1) (2202.00512, section 4).

    Args:
        level: noise levels, of any shape.
        sigma_data: not used; all weights are called alike.

    Returns:
        Weights, of the shape of ``level``.

    Source: Salimans and Ho, Progressive Distillation for Fast Sampling of Diffusion Models, arXiv
    2202.00512, section 4.
    """
    return jnp.maximum(level**-2, 1)


def edm_weight(level: AtTimes, sigma_data: Number = 0.5) -> AtTimes:
    """Return (level^2 + sigma_data^2)/(level sigma_data)^2 = 1/c_out^2 (2206.00364, table 1).

    Args:
        level: noise levels, of any shape.
        sigma_data: standard deviation of the data.

    Returns:
        Weights, of the shape of ``level``.

    Source: Karras et al., Elucidating the Design Space of Diffusion-Based Generative Models, arXiv
    2206.00364, table 1.
    """
    return level**-2 + sigma_data**-2
