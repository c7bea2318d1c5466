"""Checkpoints of guided diffusion, improved diffusion and consistency models.

Bare dictionaries of tensors, in files of PyTorch's. Shapes determine the architecture; the rest
is known for the published models (:mod:`jaxdiff.pretrained.guided_published`) and must be said
for others. Images have values from -1 to 1.

guided, improved     eps (or x0) of a table of betas, "linear" or "cosine" (capped at 0.999), the
                     network with the step as label; the upsamplers take the small image as a
                     condition.
consistency models   EDM's preconditioning with sigma_data 0.5, the network with label 250
log(level);
                     those that are distilled or trained as consistency functions have its boundary
                     condition at level 0.002, those trained as diffusion models ("edm") have none.

Sources: github.com/openai/guided-diffusion, improved-diffusion, consistency_models (MIT).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import grids
from jaxdiff.denoisers import denoiser
from jaxdiff.networks.adapters import from_linen
from jaxdiff.networks.guided_unet import GuidedUNet
from jaxdiff.pretrained.few_step_schedulers import log_label
from jaxdiff.pretrained.guided_layout import Found, found_in, is_guided, layout_of
from jaxdiff.pretrained.guided_options import options_of, sample_channels
from jaxdiff.pretrained.guided_published import published
from jaxdiff.pretrained.layout import Layout, fill
from jaxdiff.pretrained.model import Pretrained, Source
from jaxdiff.process import EDM, Discrete, cosine_betas, discrete_label, linear_betas
from jaxdiff.typing import Array

MODES = {"edm": False, "consistency_distillation": True, "consistency_training": True,
         "progdist": False}  # fmt: skip
STARTS = {"edm_": "edm", "cd_": "consistency_distillation", "ct_": "consistency_training"}


def read_guided(source: Source) -> Pretrained | None:
    """Return the model of a checkpoint of this family; None for other files.

    Raises ValueError, naming what is missing, for a model that is not one of the published and of
    which ``config`` does not say what shapes do not; for one that contradicts them; for a
    classifier, which :func:`jaxdiff.pretrained.guided_classifier.load_guided_classifier` opens; and
    for a consistency model of which neither ``training_mode`` nor the file's name says whether it
    is one.
    """
    if not is_guided(source.tensors.shapes):
        return None
    path = str(source.path)
    found = found_in(source.tensors.shapes, path, source.config)
    if not any(name.startswith("output_blocks.") for name in source.tensors):
        raise ValueError(
            f"{path} is a classifier of noisy images, and no model to sample from: "
            "jaxdiff.pretrained.load_guided_classifier opens it"
        )
    known = published(found, source.path.stem)
    options = options_of(found, known, source.config, path)
    network, layout = network_of(found, options, path)
    shape = (options["image_size"], options["image_size"], sample_channels(found, options))
    params = fill(shapes_of(network, shape), source.tensors, layout,
                  dtype=source.dtype, put=source.put)  # fmt: skip
    made = _consistency if found.planar else _discrete
    D, prediction, process, grid = made(from_linen(network), params, options, source)
    conditions = {0: "", 1: "class indices (batch,)"}[found.num_classes > 0]
    if network.low_res:
        conditions = "{'low_res': images (batch, height, width, channels)" + (
            ", 'class': indices (batch,)}" if found.num_classes else "}"
        )
    return Pretrained(
        D, params, network, shape, prediction, process, grid, found.num_classes, conditions,
        {"name": source.path.stem, "licence": "MIT", "options": options,
         "published": None if known is None else known.names, "data": "values from -1 to 1"},
    )  # fmt: skip


def network_of(found: Found, options: Mapping[str, Any], path: str) -> tuple[GuidedUNet, Layout]:
    """Return the U-Net of these shapes and options, and where its tensors belong."""
    channels = sample_channels(found, options)
    if found.inputs not in (channels, 2 * channels) or found.outputs not in (
        channels,
        2 * channels,
    ):
        raise ValueError(
            f"{path} takes {found.inputs} channels and gives {found.outputs}: images of {channels} "
            "channels have one or two times as many; config={'in_channels': ...} says how many"
        )
    heads = max(int(options["num_heads"]), 1)
    heads_up = max(int(options["num_heads_upsample"] or 0), 0)
    head_channels = max(int(options["num_head_channels"] or 0), 0)
    network = GuidedUNet(
        found.channels, found.multipliers, found.blocks, found.attention, heads, heads_up,
        head_channels, found.size_by, found.scale_shift, found.num_classes,
        found.outputs == 2 * channels, found.inputs == 2 * channels, options["dropout"],
    )  # fmt: skip
    legacy = not (found.planar or options["use_new_attention_order"])
    return network, layout_of(found, heads, heads_up or heads, head_channels, legacy)


def shapes_of(network: Any, shape: tuple[int, ...]) -> Any:
    """Return the shapes of a network's parameters."""
    x, label = jnp.zeros((1, *shape), jnp.float32), jnp.zeros(1, jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), x, label)["params"]


def process_of(options: Mapping[str, Any], path: str) -> Any:
    """Return the process of a table of betas."""
    count, name = int(options["diffusion_steps"]), options["noise_schedule"]
    if name == "linear":  # the range of 1000 steps, whatever their number
        return Discrete.from_betas(linear_betas(count, 0.1 / count, 20 / count))
    if name == "cosine":
        return Discrete.from_betas(cosine_betas(count))
    raise ValueError(f"{path}: noise_schedule is 'linear' or 'cosine', not {name!r}")


def _discrete(network: Any, params: Any, options: Mapping[str, Any], source: Source) -> Any:
    process, count = process_of(options, str(source.path)), int(options["diffusion_steps"])
    prediction = "x0" if options["predict_xstart"] else "eps"
    label = step_label(count, bool(options["rescale_timesteps"]))

    def grid(num_steps: int) -> np.ndarray:
        steps = (
            [count - 1]
            if num_steps == 1
            else grids.timesteps(num_steps, "linspace", num_timesteps=count)
        )
        return np.asarray(grids.of_timesteps(process, steps))

    D = denoiser(network, params, prediction=prediction, process=process, label=label)
    return D, prediction, process, grid


def _consistency(network: Any, params: Any, options: Mapping[str, Any], source: Source) -> Any:
    mode = options["training_mode"]
    mode = mode or next((m for s, m in STARTS.items() if source.path.name.startswith(s)), "")
    if mode not in MODES:
        raise ValueError(
            f"{source.path}: config={{'training_mode': ...}} says whether this is a diffusion "
            f"model or a consistency model: one of {', '.join(MODES)}; not {mode!r}"
        )
    low, high = float(options["sigma_min"]), float(options["sigma_max"])
    D = denoiser(
        network, params, prediction="edm", sigma_data=0.5, label=log_label,
        sigma_min=low if MODES[mode] else 0.0,
    )  # fmt: skip
    return D, "edm", EDM(high), lambda n: np.asarray(grids.karras(n, low, high))


@functools.cache
def step_label(count: int, rescale: bool) -> Callable[[Any], Array]:
    """The nearest step of a table, in units of a thousandth of the table if ``rescale``."""
    nearest = discrete_label(count)
    return (lambda t: nearest(t) * (1000 / count)) if rescale else nearest
