r"""Guidance by a function: of the state (a classifier), or of the denoised state (an energy).

    classifier    D + w s^2 grad_y log p(c | y, s)     Dhariwal and Nichol, arXiv 2105.05233
    energy        D - w s^2 grad_y L(D(y, s))          Bansal et al., arXiv 2302.07121 (forward
                                                       universal guidance, with s(t) = w
                                                       sqrt(1 - alpha_t) there); FreeDoM, Yu et
                                                       al., arXiv 2303.09833
    mpgd          D - w L'(D)                          He et al., arXiv 2311.16424
    backward      D + Delta, Delta by gradient descent on L(D + Delta)    arXiv 2302.07121

With L = -log p(c | x0) an energy of weight 1 is the posterior with all mass of p(x0 | y) put on its
mean. Classifier guidance with the exact log p(c | y, s) and w = 1 is the conditional denoiser, and
with other w it is classifier-free guidance of that weight around the unconditional one.

Time travel and self-recurrence go up in noise again and are a matter of the solver.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import check, expand, fixed
from jaxdiff.brief import Changed
from jaxdiff.conditioning.posterior.parts import (
    check_iterations,
    denoised,
    pulled,
    square,
)
from jaxdiff.conditioning.weights import Weight, as_weight, weight_at
from jaxdiff.denoisers import as_partial
from jaxdiff.typing import Array, Cond, Denoiser, PerSample

Loss = Callable[[Array], PerSample]


def classifier(
    denoiser: Denoiser, log_likelihood: Callable[..., PerSample], weight: Weight = 1.0
) -> Partial:
    """Classifier guidance, by any log-likelihood of the noisy state (arXiv 2105.05233).

    Args:
        denoiser: ``D(y, level, cond)``.
        log_likelihood: ``f(y, level, cond) -> (batch,)``, log p(c | y, level), differentiable in y,
            each row of its own state.
        weight: a number, one per sample (batch,), or a function of the level.

    >>> import jax.numpy as jnp
    >>> D = lambda y, level, cond=None: y / (1 + level**2)  # of N(0, I)
    >>> seen = lambda y, level, cond=None: -((1.0 - y[:, 0] / 2) ** 2) / 3  # x0 + N(0, 1) is 1
    >>> round(float(classifier(D, seen)(jnp.zeros((1, 1)), 1.0)[0, 0]), 4)  # E[x0 | y, u]
    0.3333
    """
    return Changed(_classifier, as_partial(denoiser), as_function(log_likelihood, "a likelihood"),
                   as_weight(weight))  # fmt: skip


def energy(denoiser: Denoiser, loss: Loss, weight: Weight = 1.0) -> Partial:
    """Guidance by any differentiable loss of the denoised state (arXiv 2302.07121, 2303.09833).

    Args:
        denoiser: ``D(y, level, cond)``.
        loss: ``L(x0) -> (batch,)``, each row of its own sample: of features, styles, segmentations.
        weight: a number, one per sample (batch,), or a function of the level, such as
            :func:`per_step` for FreeDoM's "step, then subtract rho times the gradient".

    Costs an evaluation and its gradient.
    """
    return Changed(_energy, as_partial(denoiser), as_function(loss, "a loss"), as_weight(weight))


def mpgd(denoiser: Denoiser, loss: Loss, weight: Weight = 1.0) -> Partial:
    """Manifold preserving guidance without an autoencoder (arXiv 2311.16424): a gradient step of
    the loss on the denoised state itself, so that nothing is differentiated through the network.

    Args:
        denoiser: ``D(y, level, cond)``.
        loss: ``L(x0) -> (batch,)``.
        weight: the step, c_t of the paper: a number, one per sample, or a function of the level.
    """
    return Changed(_mpgd, as_partial(denoiser), as_function(loss, "a loss"), as_weight(weight))


def backward(
    denoiser: Denoiser, loss: Loss, num_iterations: int = 5, step: float | Array = 0.1
) -> Partial:
    """Backward universal guidance: the denoised state moved down a loss (arXiv 2302.07121).

    The paper adds Delta to x0 by eps - sqrt(a/(1 - a)) Delta, which in this frame is D + Delta. Its
    forward guidance is :func:`energy`; ``backward(energy(D, loss), loss)`` is both.

    Args:
        denoiser: ``D(y, level, cond)``.
        loss: ``L(x0) -> (batch,)``.
        num_iterations: m of the paper, steps of gradient descent.
        step: their size, a number or one per sample.
    """
    check_iterations("backward", num_iterations)
    check("step must be positive", lambda a: (a > 0).all(), step)
    moves = fixed(_backward, num_iterations=num_iterations)
    return Changed(moves, as_partial(denoiser), as_function(loss, "a loss"), step)


def as_function(function: Callable[..., Any], name: str) -> Partial:
    """Return a function as an argument of compiled functions. TypeError for no function."""
    if not callable(function):
        raise TypeError(f"{name} is a function, not {type(function).__name__}")
    return function if isinstance(function, Partial) else Partial(function)


def slope(loss: Partial, x: Array) -> Array:
    """Return the gradient of every row's loss. ValueError for a loss of another shape."""
    return jax.grad(lambda x: jnp.sum(each(loss(x), x)))(x)


def each(values: Array, x: Array) -> PerSample:
    """Return losses (batch,) of samples. ValueError for a loss of another shape."""
    if jnp.shape(values) != x.shape[:1]:
        raise ValueError(
            f"a loss has a number for each sample, {x.shape[:1]}; got {jnp.shape(values)}"
        )
    return values


def _classifier(
    denoiser: Partial, likelihood: Partial, weight: Any, y: Array, level: Array, cond: Cond = None,
    **options: Any,
) -> Array:  # fmt: skip
    g = slope(Partial(lambda y: likelihood(y, level, cond)), y)
    output = denoised(denoiser, y, level, cond, options)
    return output + weight_at(weight, level, y) * square(level, y) * g


def _energy(
    denoiser: Partial, loss: Partial, weight: Any, y: Array, level: Array, cond: Cond = None,
    **options: Any,
) -> Array:  # fmt: skip
    output, back = pulled(denoiser, y, level, cond, options)
    return output - weight_at(weight, level, y) * square(level, y) * back(slope(loss, output))


def _mpgd(
    denoiser: Partial, loss: Partial, weight: Any, y: Array, level: Array, cond: Cond = None,
    **options: Any,
) -> Array:  # fmt: skip
    output = denoised(denoiser, y, level, cond, options)
    return output - weight_at(weight, level, y) * slope(loss, output)


def _backward(
    denoiser: Partial, loss: Partial, step: Any, y: Array, level: Array, cond: Cond = None, *,
    num_iterations: int, **options: Any,
) -> Array:  # fmt: skip
    x0 = denoised(denoiser, y, level, cond, options)
    move = lambda _, x: x - expand(step, x) * slope(loss, x)  # noqa: E731
    return jax.lax.fori_loop(0, num_iterations, move, x0)
