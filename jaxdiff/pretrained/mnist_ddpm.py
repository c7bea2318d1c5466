"""The MNIST models of J. Hughes, github.com/james-hughes1/diffusion-mnist (MIT licence).

A checkpoint holds epoch, model_state_dict, optimizer_state_dict and losses. The model is a plain
convolutional network ``gt.`` (:mod:`jaxdiff.networks.cnn`) and two tables of T + 1 numbers,
``beta_t`` and its products ``alpha_t`` = prod(1 - beta), of which index 0 is never noised to:

    x_t = sqrt(alpha_t) x0 + sqrt(1 - alpha_t) eps,    the network's label is t/T, t = 1 .. T - 1,

and predicts eps. Images are 28x28 with values from -1/2 to 1/2. Its authors sample at every t from
T to 1, T included, which it was not trained on. The repository's models of another degradation
(``noise_t`` in place of ``beta_t``, pixels displaced) are not diffusion models and are refused.
"""

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import grids
from jaxdiff.denoisers import denoiser
from jaxdiff.networks.adapters import from_linen
from jaxdiff.networks.cnn import CNN, waves
from jaxdiff.pretrained.layout import Layout, fill
from jaxdiff.pretrained.model import Pretrained, Source
from jaxdiff.process import Discrete
from jaxdiff.typing import Array


def read_mnist_ddpm(source: Source) -> Pretrained | None:
    """Return the model of a checkpoint of these; None for other files.

    Raises ValueError, naming what it is, for a model of another degradation, tables that are not of
    one schedule, frequencies that are not those of the network, and tensors that do not fit.
    """
    tensors = source.tensors
    if "gt.frequencies" not in tensors or "gt.time_embed.0.weight" not in tensors:
        return None
    if "beta_t" not in tensors or "alpha_t" not in tensors:
        raise ValueError(
            f"{source.path} has no tables beta_t and alpha_t: it displaces pixels instead of adding"
            " noise, and is not a diffusion model"
        )
    network, layout = network_of(tensors.shapes, str(source.path))
    alphas = _table(np.asarray(tensors["beta_t"], np.float64), tensors["alpha_t"], source)
    given = np.asarray(tensors["gt.frequencies"])
    if not np.allclose(given, waves(network.frequencies), rtol=1e-5):
        raise ValueError(f"{source.path}: gt.frequencies are not 0 and 2 pi 1.5^i")
    shape = (*network.size, tensors.shapes["gt.blocks.0.net.0.weight"][1])
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, *shape)), jnp.zeros(1))
    params = fill(shapes["params"], tensors, layout, dtype=source.dtype, put=source.put)
    process: Any = Discrete(alphas)
    D = denoiser(
        from_linen(network), params, prediction="eps", process=process,
        label=trained_time(len(alphas) - 1),
    )  # fmt: skip
    return Pretrained(
        D, params, network, shape, "eps", process, lambda n: grid(process, n),
        metadata={
            "name": f"MNIST DDPM of {source.path.name}", "licence": "MIT",
            "source": "https://github.com/james-hughes1/diffusion-mnist",
            "data": "MNIST digits, values from -0.5 to 0.5", "bounds": (-0.5, 0.5),
            "epoch": source.tensors.metadata.get("epoch"),
        },
    )  # fmt: skip


@functools.cache
def trained_time(last: int) -> Callable[[Array], Array]:
    """Return the time t/T that is the network's label, of the time of a table of T + 1 steps: that
    of the nearest step that it was trained on, 1 to T - 1.
    """

    def label(t: Array) -> Array:
        return jnp.clip(jnp.round((last + 1) * t - 1), 1, last - 1) / last

    return label


def grid(process: Discrete, num_steps: int) -> np.ndarray:
    """Levels at steps T, ..., 1 of equal distance, then 0: with T steps, those of the authors."""
    last = process.log_alphas.shape[0] - 1
    if not 1 <= num_steps <= last:
        raise ValueError(f"this model has 1 to {last} steps, not {num_steps}")
    chosen = np.round(np.linspace(last, 1, num_steps))
    return np.asarray(grids.of_timesteps(process, chosen))


def network_of(shapes: Mapping[str, tuple[int, ...]], path: str) -> tuple[CNN, Layout]:
    """Return the network of published shapes, and where its tensors belong."""
    matches = [re.fullmatch(r"gt\.blocks\.(\d+)\.net\.0\.weight", name) for name in shapes]
    blocks = sorted(int(m[1]) for m in matches if m)
    last = f"gt.blocks.{len(blocks)}.weight"
    if not blocks or blocks != list(range(len(blocks))) or last not in shapes:
        raise ValueError(f"{path}: its blocks are not numbered 0, 1, ..., with a last convolution")
    kernels = {shapes[f"gt.blocks.{i}.net.0.weight"][2] for i in blocks}
    if len(kernels) > 1:
        raise ValueError(f"{path}: kernels of sizes {sorted(kernels)}, where one is expected")
    height, width = shapes["gt.blocks.0.net.1.weight"]
    network = CNN(
        (height, width),
        tuple(shapes[f"gt.blocks.{i}.net.0.weight"][0] for i in blocks),
        kernels.pop(), shapes[last][2], shapes["gt.frequencies"][0],
    )  # fmt: skip
    rules = (
        (r"gt\.blocks\.(\d+)\.net\.0", r"conv_\1"),
        (r"gt\.blocks\.(\d+)\.net\.1", r"norm_\1"),
        (re.escape(last.removesuffix(".weight")), "conv_out"),
        *((rf"gt\.time_embed\.{2 * i}", f"time_{i}") for i in range(4)),
    )
    return network, Layout(rules, unused=("beta_t", "alpha_t", r"gt\.frequencies"))


def _table(betas: np.ndarray, alphas: np.ndarray, source: Source) -> np.ndarray:
    """The products in float64; a table in float32 has no digits left near 1."""
    products = np.cumprod(1 - betas)
    if products.shape != alphas.shape or not np.allclose(products, alphas, rtol=1e-3):
        raise ValueError(f"{source.path}: alpha_t are not the products of 1 - beta_t")
    return products
