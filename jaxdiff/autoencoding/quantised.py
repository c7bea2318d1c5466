r"""The autoencoder whose latents are taken to the nearest rows of a codebook.

    L = mean |x - G(q)| + mean |sg(z) - q|^2 + beta mean |z - sg(q)|^2,    q = the code next to z,

with the gradient of G(q) in q handed to z as it is (straight-through: q = z + sg(q - z)). Sources:
van den Oord et al., arXiv 1711.00937, eq. 3 (beta = 0.25); Esser et al., arXiv 2012.09841, eq. 4.

The use of the codebook is reported: "codes", the perplexity exp(-sum p log p) of the codes in a
batch, which is how many there are if all are used alike, and "used", the share of all codes in it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.autoencoding.adversary import Adversary, players, starts
from jaxdiff.autoencoding.kl import trained
from jaxdiff.distance import Distance, absolute, squared
from jaxdiff.method import Batch, Decay, Method, Metrics
from jaxdiff.typing import Array, Key, Params


def vq_autoencoder(
    network: Any,
    params: Params | Callable[[Key], Params],
    *,
    commitment: float = 0.25,
    distance: Distance = absolute,
    adversary: Adversary | None = None,
    optimiser: optax.GradientTransformation | None = None,
    ema: Mapping[str, Decay] | None = None,
) -> Method:
    """Train an autoencoder with a codebook (van den Oord et al., arXiv 1711.00937).

    Args:
        network: a linen module with ``encode``, ``codes`` and ``decode``:
            :class:`jaxdiff.networks.autoencoder_vq.AutoencoderVQ`.
        params: where it starts; or ``init(key)``.
        commitment: beta of the module's text.
        distance: ``distance(x, x') -> (batch,)`` of images and reconstructions.
        adversary: a critic of the reconstructions, None for none.
        optimiser: Adam at 4.5e-6 times 12, VQGAN's for batches of 12, by default.
        ema: averages to keep, by name.

    Returns:
        The method; players, batches and sampler as of
        :func:`jaxdiff.autoencoding.kl.kl_autoencoder`. Latents are z, and decoding takes each to
        its code.

    Raises:
        ValueError: for a negative commitment.
    """
    if not 0 <= commitment < float("inf"):
        raise ValueError(f"commitment is not negative, and finite; got {commitment}")
    hold = jax.lax.stop_gradient

    def coded(params: Params, batch: Batch, key: Key) -> tuple[Array, Array, Metrics]:
        x, variables = batch["image"], {"params": params}
        z = network.apply(variables, x, method="encode")
        q, index = network.apply(variables, z, method="codes")
        through = z + hold(q - z)
        made = network.apply(variables, through, method="decode", nearest=False)
        far = jnp.mean(distance(x, made))
        pull, commit = jnp.mean(squared(hold(z), q)), jnp.mean(squared(z, hold(q)))
        metrics = {"distance": far, "commitment": commit, **codebook_use(index, len(_book(params)))}
        return made, far + pull + commitment * commit, metrics

    return Method(
        init=starts(params, adversary),
        players=players(
            coded, distance, adversary, optimiser or optax.adam(12 * 4.5e-6, 0.5, 0.9), ema or {}
        ),
        sampler=trained(network, False),
    )


def codebook_use(index: Array, count: int) -> dict[str, Array]:
    """Return how much of a codebook of ``count`` rows is used by codes, integers of any shape:
    their perplexity, "codes", and the share of rows that occur, "used".

    >>> import jax.numpy as jnp
    >>> use = codebook_use(jnp.array([0, 0, 1, 1]), 4)
    >>> round(float(use["codes"]), 4), float(use["used"])
    (2.0, 0.5)
    """
    share = jnp.bincount(index.reshape(-1), length=count) / index.size
    entropy = -jnp.sum(jax.scipy.special.xlogy(share, share))
    return {"codes": jnp.exp(entropy), "used": jnp.mean((share > 0).astype(share.dtype))}


def _book(params: Params) -> Array:
    return params["codebook"]
