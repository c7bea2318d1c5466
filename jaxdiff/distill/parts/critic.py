"""A critic beside a student: losses on logits, the critic's player, weights from gradients' norms.

A critic gives logits l, high for data and low for what a student made. Its loss and the student's:

    hinge      E max(0, 1 - l(real)) + E max(0, 1 + l(fake))         -E l(fake)
    softplus   E log(1 + e^-l(real)) + E log(1 + e^l(fake))          E log(1 + e^-l(fake))

Softplus is the game of Goodfellow et al. (arXiv 1406.2661) with the student's loss that does not
saturate; hinge is that of arXiv 1705.02894. The two are players with parameters of their own, each
of which sees the other's behind a stop-gradient.

Terms of a loss are balanced by the norms of their gradients (arXiv 2012.09841, eq. 7; arXiv
2310.02279, section 4.2): w_i = |grad L_0|/|grad L_i|, itself held fixed.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff.brief import short
from jaxdiff.method import Batch, Context, Method, Metrics, Player, is_init
from jaxdiff.typing import Array, Cond, Key, Params

Logits = Callable[..., Array]


class Game(NamedTuple):
    """critic: ``critic(real, fake) -> scalar``, both logits of any shape. student: of fakes."""

    critic: Callable[[Array, Array], Array]
    student: Callable[[Array], Array]


HINGE = Game(
    lambda real, fake: jnp.mean(jax.nn.relu(1.0 - real)) + jnp.mean(jax.nn.relu(1.0 + fake)),
    lambda fake: -jnp.mean(fake),
)
SOFTPLUS = Game(
    lambda real, fake: jnp.mean(jax.nn.softplus(-real)) + jnp.mean(jax.nn.softplus(fake)),
    lambda fake: jnp.mean(jax.nn.softplus(-fake)),
)


class Critic(NamedTuple):
    """A critic, which distinguishes data from samples.

    logits: ``logits(params, x, cond) -> logits`` of any shape.
    params: where it starts; or ``init(key) -> params``.
    game, optimiser: the two losses, and what trains it; None for the method's own.
    """

    __repr__ = short

    logits: Logits
    params: Params | Callable[[Key], Params]
    game: Game | None = None
    optimiser: optax.GradientTransformation | None = None


class Head(NamedTuple):
    """A critic on the features of a denoiser's network, at any noise level.

    logits: ``logits(params, features, cond) -> logits`` of any shape, batch first; ``features`` is
    the tuple that the network returns (:class:`jaxdiff.typing.Outputs`).
    params: where it starts; or ``init(key) -> params``. game: the two losses.
    """

    __repr__ = short

    logits: Logits
    params: Params | Callable[[Key], Params]
    game: Game = SOFTPLUS


def gradient_penalty(logits: Callable[[Array], Array], y: Array) -> Array:
    """R1: the squared norm of the gradient of the logits (summed) in y, per sample, (batch,)
    (Mescheder et al., arXiv 1801.04406, eq. 9).
    """
    slope = jax.grad(lambda y: jnp.sum(logits(y)))(y)
    return jnp.sum(jnp.square(slope.reshape(len(y), -1)), axis=1)


def approximate_penalty(
    logits: Callable[[Array], Array], y: Array, key: Key, size: float = 0.1
) -> Array:
    """R1 without a second derivative: the mean squared change of the logits when y is moved by
    ``size`` times noise, per sample, (batch,) (Lin et al., arXiv 2501.08316, section 3.3). To first
    order ``size``^2 times the gradient's squared norm.
    """
    moved = y + size * jax.random.normal(key, y.shape, y.dtype)
    change = (logits(moved) - logits(y)).reshape(len(y), -1)
    return jnp.mean(jnp.square(change), axis=1)


def critic_player(
    critic: Critic,
    samples: Callable[[Context, Batch, Key], tuple[Array, Array, Cond]],
    optimiser: optax.GradientTransformation,
    penalty: float = 0.0,
    game: Game = HINGE,
) -> Player:
    """Make the player that trains a critic.

    samples: ``samples(context, batch, key) -> (real, fake, cond)``; gets no gradient. What the
        student makes for it is made without dropout, as in sampling.
    optimiser, game: unless the critic brings its own. penalty: factor of R1
    (:func:`gradient_penalty`).
    """
    game = critic.game or game

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        real, fake, cond = samples(context, batch, key)
        real, fake = jax.lax.stop_gradient((real, fake))
        real_logits, fake_logits = (critic.logits(params, x, cond) for x in (real, fake))
        value = game.critic(real_logits, fake_logits)
        if penalty:
            slope = gradient_penalty(lambda x: critic.logits(params, x, cond), real)
            value = value + penalty * jnp.mean(slope)
        return value, {"real": jnp.mean(real_logits), "fake": jnp.mean(fake_logits)}

    return Player(loss, critic.optimiser or optimiser)


def with_critic(
    method: Method,
    critic: Critic,
    samples: Callable[[Context, Batch, Key], tuple[Array, Array, Cond]],
    optimiser: optax.GradientTransformation,
    penalty: float = 0.0,
    game: Game = HINGE,
) -> Method:
    """Return the method with one more player, "critic" (:func:`critic_player`)."""

    def init(key: Key) -> dict[str, Params]:
        start = critic.params(jax.random.fold_in(key, 1)) if is_init(critic.params) else None
        return {**method.init(key), "critic": critic.params if start is None else start}

    player = critic_player(critic, samples, optimiser, penalty, game)
    return method._replace(init=init, players={**method.players, "critic": player})


def balanced(
    terms: Sequence[Callable[[Params], Array]],
    params: Params,
    limits: Sequence[tuple[float, float]],
    factors: Sequence[Array | float],
    last: Callable[[str], bool] | None = None,
) -> tuple[Array, list[Array]]:
    """Return the sum of terms, each further one scaled to a gradient as long as the first's; and
    the weights.

        L_0 + sum_i f_i w_i L_i,    w_i = clip(|grad L_0|/|grad L_i|, *limits_i), held fixed.

    The terms' gradients are taken here, once, and the answer has their weighted sum as its own (it
    is linear in the parameters), so that the norms cost nothing beside the backward passes there
    are. Under pmap every device has weights of its own.

    Args:
        terms: functions ``term(params) -> scalar``.
        limits, factors: of every term but the first.
        last: ``last(path) -> bool`` says which parameters the norms are taken over, by their path
            such as "['Dense_3']['kernel']"; the papers take the last layer. None for all, which
            needs no knowledge of the network.

    Raises ValueError where ``last`` chooses nothing.
    """
    results = [jax.value_and_grad(term)(params) for term in terms]
    values, gradients = zip(*jax.lax.stop_gradient(results), strict=True)
    sizes = [_norm(gradient, last) for gradient in gradients]
    weights = [jnp.ones_like(sizes[0])]
    for size, bounds, factor in zip(sizes[1:], limits, factors, strict=True):
        ratio = sizes[0] / jnp.maximum(size, jnp.finfo(size.dtype).tiny)
        weights.append(jnp.clip(ratio, *bounds) * jnp.asarray(factor).astype(ratio.dtype))
    value = jnp.asarray(sum(w * v for w, v in zip(weights, values, strict=True)))
    for weight, gradient in zip(weights, gradients, strict=True):
        value = value + weight * _carrier(gradient, params, value.dtype)
    return value, weights


def _carrier(gradient: Params, params: Params, dtype: Any) -> Array:
    """0, with the gradient given."""
    pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(params), strict=True)
    parts = [jnp.sum(g * (p - jax.lax.stop_gradient(p))).astype(dtype) for g, p in pairs]
    return jnp.asarray(sum(parts))


def _norm(gradient: Params, last: Callable[[str], bool] | None) -> Array:
    named: list[tuple[Any, Array]] = jax.tree_util.tree_leaves_with_path(gradient)
    chosen = [g for path, g in named if last is None or last(jax.tree_util.keystr(path))]
    if not chosen:
        first = jax.tree_util.keystr(named[0][0])
        raise ValueError(f"last= chooses none of the parameters, the first of which is {first}")
    return jnp.sqrt(jnp.asarray(sum(jnp.sum(jnp.square(g)) for g in chosen)))
