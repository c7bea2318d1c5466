"""A model read from a file: a denoiser and what is known of it."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.pretrained.tensors import Tensors
from jaxdiff.process import Discrete, Process
from jaxdiff.typing import Array, Denoiser, Key, Params


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A published model, ready for every sampler, tuner and method.

    Attributes:
        denoiser: ``D(y, level, cond) -> E[x0 | y]``, channels last, with its parameters.
        params: these alone, in the dtype of the file unless another was requested.
        network: the linen module.
        shape: of a sample, (height, width, channels) for images and latents.
        prediction: what the network predicts, one of ``jaxdiff.prediction.PREDICTIONS``.
        process: the process it was trained on.
        grid: ``grid(num_steps) -> levels``, decreasing, the last one 0: the noise levels its
            publishers sample on.
        classes: number of classes, 0 for a model without.
        cond: what the denoiser's ``cond`` is, in words, "" for a model without conditions.
        metadata: what else is known: name, source, licence, configuration, published score.
        parts: further networks of a pipeline, by name ("vae", "text_encoder"), each with what it
            needs; of a student's run its samplers, "samplers", by their evaluations.
    """

    denoiser: Denoiser
    params: Params
    network: Any
    shape: tuple[int, ...]
    prediction: str
    process: Process
    grid: Callable[[int], Array | np.ndarray]
    classes: int = 0
    cond: str = ""
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def levels(self) -> tuple[float, float]:
        """Return the lowest noise level above 0 and the highest that its publishers sample on, with
        as many steps as a table has, or a hundred.
        """
        table = isinstance(self.process, Discrete)
        count = self.process.log_alphas.shape[0] - 1 if table else 100  # type: ignore[attr-defined]
        fine = np.asarray(self.grid(count), np.float64)
        return float(fine[fine > 0].min()), float(max(fine[0], np.asarray(self.grid(1))[0]))

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Return the values between which samples lie, (-1, 1) for most images; None for latents,
        which have other numbers of channels than 1 and 3, or an autoencoder as a part.
        """
        if "vae" in self.parts or (len(self.shape) == 3 and self.shape[-1] not in (1, 3)):
            return None
        low, high = self.metadata.get("bounds", (-1.0, 1.0))
        return float(low), float(high)

    def __repr__(self) -> str:
        """Say in one line what the model is."""
        leaves = jax.tree.leaves(self.params)
        count = sum(math.prod(np.shape(leaf)) for leaf in leaves)
        kinds = sorted({str(jnp.result_type(leaf)) for leaf in leaves})
        said = [
            str(self.metadata.get("name") or type(self.network).__name__),
            "x".join(map(str, self.shape)),
            f"{self.prediction} of {type(self.process).__name__}",
            f"{self.classes} classes" if self.classes else self.cond or "unconditional",
            f"{count} parameters in {', '.join(kinds)}",
        ]
        return f"Pretrained({'; '.join(said)})"


@dataclasses.dataclass(frozen=True)
class Autoencoder:
    """A published autoencoder: images in [-1, 1] to the latents that models are trained on.

    Attributes:
        params: of the network, in the dtype of the file unless another was requested.
        network: the linen module, with methods ``encode`` and ``decode``.
        factor: images are so many times higher and wider than latents.
        channels: of latents.
        scale, shift: latents are (z - shift) scale, of the network's own z.
        random: whether the network encodes as a Gaussian, mean and log variance side by side.
        metadata: what else is known.
    """

    params: Params
    network: Any
    factor: int
    channels: int
    scale: Any = 1.0
    shift: Any = 0.0
    random: bool = False
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def encode(self, images: Array, key: Key | None = None) -> Array:
        """Return the latents of images (batch, height, width, channels) in [-1, 1].

        With a key they are drawn; without, the mean is taken. Raises ValueError for a key where
        there is nothing to draw.
        """
        z = self.network.apply({"params": self.params}, images, method="encode")
        if key is not None and not self.random:
            raise ValueError("this autoencoder's latents are not drawn: leave the key out")
        if self.random:
            z, log_variance = jnp.split(z, 2, axis=-1)
            if key is not None:
                std = jnp.exp(0.5 * jnp.clip(log_variance, -30.0, 20.0))
                z = z + std * jax.random.normal(key, z.shape, z.dtype)
        return (z - self._row(self.shift, z)) * self._row(self.scale, z)

    def decode(self, latents: Array) -> Array:
        """Return the images, about in [-1, 1], of latents (batch, height, width, channels)."""
        z = latents / self._row(self.scale, latents) + self._row(self.shift, latents)
        return self.network.apply({"params": self.params}, z, method="decode")

    def _row(self, value: Any, z: Array) -> Array:
        return jnp.broadcast_to(jnp.asarray(value, z.dtype), z.shape)

    def __repr__(self) -> str:
        """Say in one line what the autoencoder is."""
        count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.params))
        name = self.metadata.get("name") or type(self.network).__name__
        return (
            f"Autoencoder({name}; {self.factor} times smaller; {self.channels} channels; "
            f"{count} parameters)"
        )


class Source(NamedTuple):
    """A published model.

    path: of the file or the folder. config: what its config.json holds and what the caller adds.
    object: that of a pickle, None otherwise. tensors: by name, empty where there is no one file of
    them. dtype: what floating parameters are to be converted to, None for no conversion. put: see
    :func:`jaxdiff.pretrained.layout.fill`.
    """

    path: Path
    config: Mapping[str, Any]
    object: Any
    tensors: Tensors
    dtype: Any = None
    put: Any = None
