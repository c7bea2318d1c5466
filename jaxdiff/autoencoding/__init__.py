"""Training of autoencoders, the first stage of latent diffusion: methods for the one loop.

network = jaxdiff.networks.AutoencoderKL(channels=(32, 64), latent_channels=4, ...)
method = kl_autoencoder(network, init)                     # or vq_autoencoder
state = jaxdiff.fit(method, data, num_updates=20_000)
vae = scaled(method.sampler(state), images)                # latents of standard deviation 1
z = vae.encode(images)                                     # what the second stage is trained on
"""

from jaxdiff.autoencoding.adversary import Adversary as Adversary
from jaxdiff.autoencoding.kl import kl_autoencoder as kl_autoencoder
from jaxdiff.autoencoding.kl import kl_divergence as kl_divergence
from jaxdiff.autoencoding.quantised import vq_autoencoder as vq_autoencoder
from jaxdiff.autoencoding.scale import latent_std as latent_std
from jaxdiff.autoencoding.scale import scaled as scaled
