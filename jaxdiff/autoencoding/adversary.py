r"""An adversary of an autoencoder: a critic of images and reconstructions, and its weight.

    L = L_rec + w |grad_x' L_rec| / (|grad_x' L_adv| + 1e-4) L_adv,    L_adv = -E l(x')

from update ``start`` on, with the hinge loss for the critic's logits l. Source: Esser et al.
(VQGAN), arXiv 2012.09841, eq. 5 to 7. Deviation: the paper takes the gradients in the decoder's
last layer, here they are in the reconstruction x', from which those of the layer follow.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff.brief import short
from jaxdiff.distance import Distance
from jaxdiff.distill.parts.critic import HINGE, Game
from jaxdiff.distill.parts.frame import drawn
from jaxdiff.method import Batch, Context, Metrics, Player
from jaxdiff.typing import Array, Key, Params

Coded = Callable[[Params, Batch, Key], tuple[Array, Array, Metrics]]
"""``coded(params, batch, key)``: reconstructions, the loss without the adversary's, metrics."""


class Adversary(NamedTuple):
    """An adversary.

    logits: ``logits(params, images) -> logits`` of any shape, of a patch each, say. params: where
    it starts; or ``init(key) -> params``. weight: w of the module's text. start: the first update
    that it counts in. game: losses of critic and decoder. optimiser: the critic's, Adam at 4.5e-6
    times 12, the authors' for batches of 12, by default.
    """

    __repr__ = short

    logits: Callable[[Params, Array], Array]
    params: Params | Callable[[Key], Params]
    weight: float = 0.5
    start: int = 0
    game: Game = HINGE
    optimiser: optax.GradientTransformation | None = None


def players(
    coded: Coded, distance: Distance, adversary: Adversary | None, optimiser: Any, ema: Any
) -> dict[str, Player]:
    """Return the players of an autoencoder: itself, and the critic if there is an adversary.

    Args:
        coded: the losses of an autoencoder.
        distance: of images and reconstructions.
        adversary: or None.
        optimiser, ema: of the autoencoder's player.

    Returns:
        The players by name.
    """

    def loss(params: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        made, value, metrics = coded(params, batch, key)
        if adversary is None:
            return value, {"loss": value, **metrics}
        far = lambda x: jnp.mean(distance(batch["image"], x))  # noqa: E731
        value, more = _with_adversary(adversary, context, made, value, far)
        return value, {"loss": value, **metrics, **more}

    found = {"autoencoder": Player(loss, optimiser, ema=ema)}
    return found if adversary is None else found | {"critic": _critic(coded, adversary)}


def _with_adversary(
    adversary: Adversary, context: Context, made: Array, value: Array, far: Any
) -> tuple[Array, Metrics]:
    """Return the loss with the adversary's part, and its metrics."""
    fool = lambda x: adversary.game.student(adversary.logits(context.params["critic"], x))  # noqa: E731
    here, fooled = jax.lax.stop_gradient(made), fool(made)
    near, away = (jnp.sqrt(jnp.sum(jax.grad(f)(here) ** 2)) for f in (far, fool))
    weight = adversary.weight * jnp.clip(near / (away + 1e-4), 0, 1e4)
    weight = jax.lax.stop_gradient(jnp.where(context.step >= adversary.start, weight, 0))
    return value + weight * fooled, {"adversary": fooled, "weight": weight}


def _critic(coded: Coded, adversary: Adversary) -> Player:
    def loss(params: Params, context: Context, batch: Batch, key: Key) -> tuple[Array, Metrics]:
        made, _, _ = coded(context.params["autoencoder"], batch, key)
        real, fake = (adversary.logits(params, x) for x in (batch["image"], made))
        value = adversary.game.critic(real, fake)
        return value, {"loss": value, "real": jnp.mean(real), "fake": jnp.mean(fake)}

    return Player(loss, adversary.optimiser or optax.adam(12 * 4.5e-6, b1=0.5, b2=0.9))


def starts(params: Any, adversary: Adversary | None) -> Callable[[Key], dict[str, Params]]:
    """Return ``init(key)`` of these players."""

    def init(key: Key) -> dict[str, Params]:
        keys = jax.random.split(key)
        found = {"autoencoder": drawn(params, keys[0])}
        return found if adversary is None else found | {"critic": drawn(adversary.params, keys[1])}

    return init
