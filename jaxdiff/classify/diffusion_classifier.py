r"""Classification by a conditional diffusion model: the class whose denoiser explains x best.

By Bayes' rule p(c | x) is in proportion to p(c) p(x | c), and the density of a class is an integral
of its denoiser's errors over noise levels. With y = x + s eps and eps_c(y) = (y - D(y, s, c))/s,

    log p(x | c) = const - int E_eps |eps - eps_c(x + s eps)|^2 d log s,                       (1)

exactly for the exact denoiser over all levels, and a lower bound for any other. So the weight of
the bound is uniform in log level, and is here written so. Between levels low and high, with u = log
s,

    log p(c | x) = log softmax_c [log p(c) - (u_high - u_low) mean_{u, eps} |eps - eps_c|^2],  (2)

the mean over levels uniform in log, in equal parts of the range, and over noise. All classes see
the same levels and noises: what is hard about a draw is hard for every class, and cancels. Classes
that are behind after a few draws are dropped, and the next draws go to the others (:class:`Round`).

Source: (1) pointwise form of Kong, Brekelmans and Ver Steeg, Information-theoretic diffusion (arXiv
2302.03792), equations 8 and 10; (2) with shared noise, and the rounds, Li et al., Your diffusion
model is secretly a zero-shot classifier (arXiv 2303.16203), equations 5 and 6 and algorithm 2;
Clark and Jaini, Text-to-image diffusion models are zero-shot classifiers (arXiv 2303.15233).
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Float, Int

from jaxdiff.arrays import check, expand
from jaxdiff.brief import short
from jaxdiff.denoisers import as_partial, check_network_cond
from jaxdiff.noise import draw, sample_keys
from jaxdiff.sampling.checks import as_states, check_typed
from jaxdiff.typing import Array, Cond, Denoiser, Key


class Round(NamedTuple):
    """Draws that all remaining classes see, after which the best are kept.

    draws: levels and noises per class. keep: how many classes stay; all in the last round.
    """

    draws: int
    keep: int


class Classified(NamedTuple):
    """Outcome of :func:`diffusion_classifier`.

    log_posterior: (batch, classes) log p(c | x) by (2) of the module; -inf for a class that was
        dropped.
    errors: (batch, classes) mean of |eps - eps_c|^2 over the draws that a class saw.
    nfe: evaluations of the denoiser per sample.
    """

    __repr__ = short

    log_posterior: Float[Array, "batch classes"]
    errors: Float[Array, "batch classes"]
    nfe: int

    @property
    def label(self) -> Int[Array, " batch"]:
        """Return the likeliest class, (batch,), by its place among the candidates; their number,
        which is none of them, for a sample whose posterior is not a number.
        """
        known = ~jnp.isnan(self.log_posterior).any(axis=1)
        best = jnp.argmax(self.log_posterior, axis=1)
        return jnp.where(known, best, self.log_posterior.shape[1])


def diffusion_classifier(
    denoiser: Denoiser,
    data: Array,
    candidates: Cond,
    low: float,
    high: float,
    *,
    key: Key,
    rounds: Sequence[Round | tuple[int, int]],
    prior: Array | None = None,
    index: Array | None = None,
) -> Classified:
    """Classify samples by the errors of a conditional denoiser.

    Args:
        denoiser: ``D(y, level, cond)``.
        data: (batch, *shape), clean.
        candidates: the conditions to choose between: a tree of arrays (classes, ...), for class
            numbers ``jnp.arange(classes)``.
        low, high: noise levels, 0 < low < high, between which the errors are integrated.
        key: typed key; a sample's draws depend on it and on the sample's number alone.
        rounds: draws and classes kept, one after another; one round of all classes is the plain
            estimate, ((draws, classes),).
        prior: (classes,) probabilities of the classes, uniform if None.
        index: (batch,) integers naming the samples; 0, 1, ... if None.

    Returns:
        log posteriors, errors and the number of evaluations: the sum over rounds of draws times the
        classes there were.

    Raises:
        ValueError, TypeError: if the arguments do not fit, before anything is compiled.

    Source: Li et al. (arXiv 2303.16203), algorithms 1 and 2; uniform in log level instead of their
    uniform in time, which is the weighting of the bound.
    """
    check("levels must be 0 < low < high", lambda a, b: 0 < a < b < np.inf, low, high)
    check_typed(key)
    classes = _count(candidates)
    plan = _checked(rounds, classes)
    data = jnp.asarray(data)
    if not jnp.issubdtype(data.dtype, jnp.floating) or data.ndim < 1:
        raise TypeError(f"data must be floating, (batch, *shape); got {data.dtype}{data.shape}")
    if not len(data):
        raise ValueError(f"data has no samples: shape {data.shape}")
    log_prior = _log_prior(prior, classes, data.dtype)
    keys, D = sample_keys(key, data, index), as_partial(denoiser)
    check_network_cond(D, candidates)
    ends = [jnp.asarray(level, data.dtype) for level in (low, high)]
    span = jnp.log(ends[1] / ends[0])
    kept = jnp.broadcast_to(jnp.arange(classes), (len(data), classes))
    total = jnp.zeros(kept.shape, data.dtype)  # squared errors so far, of the classes kept
    errors = jnp.full((len(data), classes), jnp.nan, data.dtype)
    seen, nfe, rows = 0, 0, jnp.arange(len(data))[:, None]
    for draws, keep in plan:
        made = _squared_errors(D, data, candidates, kept, keys, *ends, seen, draws)
        total, seen, nfe = total + made, seen + draws, nfe + draws * kept.shape[1]
        errors = errors.at[rows, kept].set(total / seen)
        score = log_prior[kept] - span * total / seen
        best = jax.lax.top_k(score, keep)[1]
        kept, total = (jnp.take_along_axis(x, best, axis=1) for x in (kept, total))
    last = jnp.full((len(data), classes), -jnp.inf, data.dtype)
    last = last.at[rows, kept].set(log_prior[kept] - span * total / seen)
    return Classified(jax.nn.log_softmax(last, axis=1), errors, nfe)


def bayes(log_likelihoods: Array, prior: Array | None = None) -> Float[Array, "batch classes"]:
    """Return log p(c | x), (batch, classes), of log p(x | c) in nats, by Bayes' rule.

    Args:
        log_likelihoods: (batch, classes): of :func:`jaxdiff.sampling.likelihood.log_likelihood`,
            once for every class, or of an exact model.
        prior: (classes,) probabilities, uniform if None.
    """
    log_prior = _log_prior(prior, log_likelihoods.shape[-1], log_likelihoods.dtype)
    return jax.nn.log_softmax(log_likelihoods + log_prior[None], axis=1)


def quadrature_log_posterior(
    denoiser: Denoiser,
    data: Array,
    candidates: Cond,
    levels: Array,
    level_weights: Array,
    noises: Array,
    noise_weights: Array,
    *,
    prior: Array | None = None,
) -> Float[Array, "batch classes"]:
    """Return log p(c | x) by (1), both integrals being sums over given nodes.

    In few dimensions, with Gauss-Legendre nodes in log level and Gauss-Hermite nodes of noise, the
    exact denoiser's answer is Bayes' rule to many digits.

    Args:
        denoiser: ``D(y, level, cond)``.
        data: (batch, *shape).
        candidates: as of :func:`diffusion_classifier`.
        levels, level_weights: (nodes,) noise levels, and weights that integrate over log level.
        noises, noise_weights: (points, *shape) and (points,) of the standard normal distribution.
        prior: (classes,) probabilities, uniform if None.

    Raises:
        ValueError: for nodes and weights of other shapes.
    """
    if jnp.shape(levels) != jnp.shape(level_weights) or jnp.ndim(levels) != 1:
        raise ValueError("levels and level_weights must both have shape (nodes,)")
    if jnp.shape(noises) != (*jnp.shape(noise_weights), *data.shape[1:]):
        raise ValueError(
            f"noises must have shape (points, *{data.shape[1:]}) and noise_weights (points,); got "
            f"{jnp.shape(noises)} and {jnp.shape(noise_weights)}"
        )
    classes = _count(candidates)
    check_network_cond(denoiser, candidates)

    def at_level(node: tuple[Array, Array]) -> Array:
        level, weight = node

        def one(x: Array, cond: Cond) -> Array:
            conds = jax.tree.map(lambda c: jnp.broadcast_to(c, (len(noises), *c.shape)), cond)
            error = _eps_errors(denoiser, x[None] + level * noises, level, noises, conds)
            return weight * jnp.sum(noise_weights * error)

        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(data, candidates)

    integral = jnp.sum(jax.lax.map(at_level, (levels, level_weights)), axis=0)
    return jax.nn.log_softmax(_log_prior(prior, classes, data.dtype)[None] - integral, axis=1)


@functools.partial(jax.jit, static_argnames="draws")
def _squared_errors(
    D: Partial, data: Array, candidates: Cond, kept: Array, keys: Key,
    low: Array, high: Array, seen: int, draws: int,
) -> Array:  # fmt: skip
    """Return the sum over draws of |eps - eps_c|^2 of the classes kept, (batch, kept)."""
    count, own = kept.shape
    conds = jax.tree.map(lambda c: jnp.asarray(c)[kept.reshape(-1)], candidates)
    repeated = jnp.repeat(data, own, axis=0)

    def one(total: Array, i: Array) -> tuple[Array, None]:
        number = seen + i
        part = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, number), (), data.dtype))
        place = (i.astype(data.dtype) + part(keys)) / draws  # a part of the range each
        level = low * (high / low) ** place
        eps = draw(keys, number, 1, data.shape[1:], data.dtype)
        y = data + expand(level, data) * eps
        y, noise, levels = (jnp.repeat(x, own, axis=0) for x in (y, eps, level))
        return total + _eps_errors(D, y, levels, noise, conds).reshape(count, own), None

    zero = jnp.zeros(kept.shape, repeated.dtype)
    return jax.lax.scan(one, zero, jnp.arange(draws))[0]


def _eps_errors(denoiser: Denoiser, y: Array, level: Array, eps: Array, cond: Cond) -> Array:
    apart = eps - (y - as_states(denoiser(y, level, cond), y)) / expand(level, y)
    return jnp.sum(apart.reshape(len(apart), -1) ** 2, axis=1)


def _count(candidates: Cond) -> int:
    sizes = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(candidates)}
    if len(sizes) != 1 or () in sizes or next(iter(sizes))[0] < 2:
        raise ValueError(
            "candidates must have a first axis of classes, two or more, in every leaf; for class "
            "numbers give jnp.arange(classes)"
        )
    return next(iter(sizes))[0]


def _checked(rounds: Sequence[Round | tuple[int, int]], classes: int) -> list[Round]:
    plan = [Round(*r) for r in rounds]
    left = classes
    for r in plan:
        whole = all(isinstance(number, (int, np.integer)) for number in r)
        if not whole or r.draws < 1 or not 1 <= r.keep <= left:
            raise ValueError(
                f"rounds must each have draws of at least 1 and keep 1 to {left} of the classes "
                f"that there are then, whole numbers; got {tuple(r)}"
            )
        left = r.keep
    if not plan:
        raise ValueError("rounds must have at least one: ((draws, classes),) is the plain estimate")
    return plan


def _log_prior(prior: Array | None, classes: int, dtype: jnp.dtype) -> Array:
    if prior is None:
        return jnp.full(classes, -np.log(classes), dtype)
    if jnp.shape(prior) != (classes,):
        raise ValueError(f"prior must have shape ({classes},); got {jnp.shape(prior)}")
    message = "prior must be positive and sum to 1"
    check(message, lambda p: (p > 0).all() and abs(p.sum() - 1) < 1e-5, prior)
    return jnp.log(jnp.asarray(prior, dtype))
