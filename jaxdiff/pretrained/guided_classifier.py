"""Guided diffusion's classifiers of noisy images, and log p(class | noisy image) of them.

Its gradient is what classifier guidance adds to the score (Dhariwal & Nichol 2105.05233, section
4.1): :func:`jaxdiff.conditioning.correction.discriminator_guidance` takes ``log_probability``.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from jaxdiff.arrays import pick
from jaxdiff.networks.adapters import from_linen
from jaxdiff.networks.guided_classifier import GuidedClassifier
from jaxdiff.pretrained.guided import process_of, shapes_of, step_label
from jaxdiff.pretrained.guided_layout import Found, found_in, is_guided, layout_of
from jaxdiff.pretrained.guided_options import options_of
from jaxdiff.pretrained.guided_published import published
from jaxdiff.pretrained.layout import Layout, fill
from jaxdiff.pretrained.opening import open_source
from jaxdiff.process import Process, time
from jaxdiff.typing import Array, Params


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A classifier of noisy images.

    Attributes:
        logits: ``logits(y, level) -> (batch, classes)``, with its parameters.
        log_probability: ``log_probability(y, level, cond) -> (batch,)``, that of class indices
            (batch,).
        params: these alone. network: the linen module, whose labels are steps of ``process``.
            shape: of an image. classes: how many.
    """

    logits: Partial
    log_probability: Partial
    params: Params
    network: GuidedClassifier
    shape: tuple[int, ...]
    process: Process
    classes: int

    def __repr__(self) -> str:
        """Say in one line what it is."""
        size = "x".join(map(str, self.shape))
        return f"Classifier({type(self.network).__name__}; {size}; {self.classes} classes)"


def load_guided_classifier(
    path: str | os.PathLike[str],
    *,
    config: Mapping[str, Any] | None = None,
    dtype: Any = None,
    put: Any = None,
) -> Classifier:
    """Return the classifier in a checkpoint. Arguments as :func:`load_pretrained`'s.

    Args:
        path: of the folder or file.
        config: what neither names nor shapes of a file's tensors say, by the publisher's names.
        dtype: of the floating parameters; by default that of the file.
        put: ``put(path, array)`` places each parameter as it is read, on a device or a mesh.

    Returns:
        The classifier: logits and log probabilities of noisy images, with its parameters.

    Raises:
        OSError: if there is nothing at ``path``.
        ValueError: if it is damaged, no such classifier, or not one of the published and ``config``
            does not say what shapes do not.
    """
    source = open_source(path, config=config, dtype=dtype, put=put)
    shapes = source.tensors.shapes
    if not is_guided(shapes) or any(name.startswith("output_blocks.") for name in shapes):
        raise ValueError(f"{path} is not a classifier of guided diffusion's")
    found = found_in(shapes, str(path), source.config)
    options = options_of(found, published(found, source.path.stem), source.config, str(path))
    network, layout = classifier_of(found, options, str(path))
    shape = (options["image_size"], options["image_size"], found.inputs)
    params = fill(shapes_of(network, shape), source.tensors, layout, dtype=dtype, put=put)
    process = process_of(options, str(path))
    label = step_label(int(options["diffusion_steps"]), bool(options["rescale_timesteps"]))
    logits = Partial(_Logits(from_linen(network), label), params, process)
    return Classifier(
        logits, Partial(_log_probability, logits), params, network, shape, process, found.outputs
    )


def classifier_of(
    found: Found, options: Mapping[str, Any], path: str
) -> tuple[GuidedClassifier, Layout]:
    """Return the classifier of these shapes and options, and where its tensors belong."""
    side = options["image_size"] >> (len(found.multipliers) - 1)
    if found.tokens and found.tokens != side**2 + 1:
        raise ValueError(
            f"{path}: its attention pool has {found.tokens} positions; images of "
            f"{options['image_size']} give {side**2 + 1}"
        )
    heads, each = max(int(options["num_heads"]), 1), max(int(options["num_head_channels"] or 0), 0)
    network = GuidedClassifier(
        found.outputs, found.channels, found.multipliers, found.blocks, found.attention, heads,
        each, found.size_by, found.scale_shift, "attention" if found.tokens else "mean",
        options["dropout"],
    )  # fmt: skip
    legacy = not options["use_new_attention_order"]
    return network, layout_of(found, heads, heads, each, legacy)


@dataclasses.dataclass(frozen=True)
class _Logits:
    """The static half of the logits, equal for equal networks."""

    apply: Any
    label: Any

    def __call__(
        self, params: Params, process: Process, y: Array, level: Array, **options: Any
    ) -> Array:
        t = time(process, jnp.asarray(level, y.dtype))
        alpha = jnp.broadcast_to(process.alpha(t), y.shape[:1])
        label = jnp.broadcast_to(self.label(t), y.shape[:1])
        x = alpha.reshape(-1, *(1,) * (y.ndim - 1)) * y
        return self.apply(params, x, label, None, **options)


def _log_probability(logits: Any, y: Array, level: Array, cond: Array) -> Array:
    """The log probability of each image's class."""
    return pick(jax.nn.log_softmax(logits(y, level), axis=-1), cond)
