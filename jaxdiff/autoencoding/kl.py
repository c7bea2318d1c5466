r"""The autoencoder with a slight pull of its latents toward a standard normal distribution.

    L = E [ sum |x - G(z)| + beta KL(N(mu, sigma^2) || N(0, I)) ],    z = mu + sigma eps,
    KL = 1/2 sum (mu^2 + sigma^2 - 1 - log sigma^2)

with (mu, log sigma^2) = E(x); sums are over the numbers of a sample. Source: Rombach et al.,
arXiv 2112.10752, section 3.1 and appendix G (KL-reg., beta = 1e-6); the KL of Kingma and Welling,
arXiv 1312.6114, appendix B. Deviation: no network of perceptual features comes with the library;
``distance`` takes one.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.autoencoding.adversary import Adversary, players, starts
from jaxdiff.distance import Distance
from jaxdiff.method import Batch, Decay, Method, Metrics
from jaxdiff.pretrained.model import Autoencoder
from jaxdiff.typing import Array, Key, Params, PerSample


def absolute(x: Array, made: Array) -> PerSample:
    """Return the sum of |x - x'| of every sample, (batch,)."""
    return jnp.sum(jnp.abs(x - made).reshape(x.shape[0], -1), axis=1)


def kl_divergence(mean: Array, log_variance: Array) -> PerSample:
    """Return KL(N(mean, exp(log_variance)) || N(0, I)) in nats, (batch,).

    Args:
        mean: (batch, *shape).
        log_variance: of the same shape.

    Returns:
        (batch,), not negative.

    >>> import jax.numpy as jnp
    >>> kl_divergence(jnp.array([[1.0, 0.0]]), jnp.zeros((1, 2))).tolist()
    [0.5]
    """
    terms = mean**2 + jnp.exp(log_variance) - 1 - log_variance
    return 0.5 * jnp.sum(terms.reshape(mean.shape[0], -1), axis=1)


def kl_autoencoder(
    network: Any,
    params: Params | Callable[[Key], Params],
    *,
    kl_weight: float = 1e-6,
    distance: Distance = absolute,
    adversary: Adversary | None = None,
    optimiser: optax.GradientTransformation | None = None,
    ema: Mapping[str, Decay] | None = None,
) -> Method:
    """Train an autoencoder whose latents are Gaussian (Rombach et al., arXiv 2112.10752).

    Args:
        network: a linen module with ``encode``, giving mean and log variance side by side, and
            ``decode``: :class:`jaxdiff.networks.autoencoder_kl.AutoencoderKL`.
        params: where it starts; or ``init(key)``.
        kl_weight: beta of the module's text.
        distance: ``distance(x, x') -> (batch,)`` of images and reconstructions.
        adversary: a critic of the reconstructions, None for none.
        optimiser: Adam at 4.5e-6 times 12, the authors' for batches of 12, by default.
        ema: averages to keep, by name.

    Returns:
        The method, of the player "autoencoder", and "critic" with an adversary. Batches hold
        "image" (batch, height, width, channels) in [-1, 1]. ``sampler(state, ema=None)`` is the
        :class:`jaxdiff.pretrained.model.Autoencoder`, whose latents :func:`jaxdiff.autoencoding.
        scaled` brings to a standard deviation of 1.

    Raises:
        ValueError: for a negative weight.
    """
    if not 0 <= kl_weight < float("inf"):
        raise ValueError(f"kl_weight is not negative, and finite; got {kl_weight}")

    def coded(params: Params, batch: Batch, key: Key) -> tuple[Array, Array, Metrics]:
        x = batch["image"]
        moments = network.apply({"params": params}, x, method="encode")
        mean, log_variance = jnp.split(moments, 2, axis=-1)
        log_variance = jnp.clip(log_variance, -30.0, 20.0)
        eps = jax.random.normal(key, mean.shape, mean.dtype)
        z = mean + jnp.exp(0.5 * log_variance) * eps
        made = network.apply({"params": params}, z, method="decode")
        far, kl = jnp.mean(distance(x, made)), jnp.mean(kl_divergence(mean, log_variance))
        return made, far + kl_weight * kl, {"distance": far, "kl": kl, "std": jnp.std(z)}

    return Method(
        init=starts(params, adversary),
        players=players(
            coded, distance, adversary, optimiser or optax.adam(12 * 4.5e-6, 0.5, 0.9), ema or {}
        ),
        sampler=trained(network, True),
    )


def trained(network: Any, random: bool) -> Callable[..., Autoencoder]:
    """Return ``sampler(state, ema=None)``, the trained autoencoder."""

    def sampler(state: Any, ema: str | None = None) -> Autoencoder:
        own = state.params if ema is None else state.ema
        found = own["autoencoder"] if ema is None else own["autoencoder"][ema]
        factor = 2 ** (len(network.channels) - 1)
        return Autoencoder(found, network, factor, network.latent_channels, random=random)

    return sampler
