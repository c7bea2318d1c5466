"""DiT (2212.09748) and SiT (2401.08740) as their authors save them.

A dictionary of tensors, or a training checkpoint {model, ema, opt, args}, of which the average is
read. Both have the same names and shapes; which of them it is, is said by ``model`` ("DiT-XL/2") of
the checkpoint's arguments or of ``config``, or by the file's name.

DiT   predicts eps of 1000 steps, betas from 1e-4 to 0.02, with a learned variance; the label is the
      step.
SiT   predicts the velocity data - noise of x = t data + (1 - t) noise, so that its sign and its
      time are turned round here: t = 1 - the time of :class:`jaxdiff.process.RectifiedFlow`. A
      second half of its output is not used by its authors.

Both are trained on latents of Stable Diffusion's autoencoder, times 0.18215. The row after the
classes is that of no class. Their own samplers guide the first three channels of the latents alone:
``classifier_free(D, weight, channels=3)``.

Sources: github.com/facebookresearch/DiT (CC BY-NC), github.com/willisma/SiT (MIT).
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import grids
from jaxdiff.denoisers import denoiser
from jaxdiff.networks.adapters import from_linen
from jaxdiff.networks.dit import PUBLISHED, DiT
from jaxdiff.networks.patches import positions
from jaxdiff.pretrained.layout import Layout, fill
from jaxdiff.pretrained.model import Pretrained, Source
from jaxdiff.pretrained.pickles import Record
from jaxdiff.process import Discrete, RectifiedFlow, discrete_label, linear_betas
from jaxdiff.typing import Array

Shapes = Mapping[str, tuple[int, ...]]
HEADS = {1152: 16, 1024: 16, 768: 12, 384: 6}
"""Heads of the published models, by width."""
KNOWN = {"model", "num_heads", "learn_sigma", "class_dropout_prob", "num_classes", "image_size",
         "input_size", "path_type", "prediction"}  # fmt: skip
TELLING = {"x_embedder.proj.weight", "t_embedder.mlp.0.weight", "pos_embed",
           "final_layer.linear.weight", "y_embedder.embedding_table.weight"}  # fmt: skip
STEPS = 1000


def read_dit(source: Source) -> Pretrained | None:
    """Return the model of a checkpoint of DiT or SiT; None for other files.

    Raises ValueError, naming what is missing, where neither arguments nor name say which of the two
    it is, where the heads of a width that is not published are not said; for positions that are not
    the fixed ones; and for SiT of another path or prediction than "Linear" and "velocity".
    """
    shapes = source.tensors.shapes
    if not TELLING <= set(shapes):
        return None
    path, options = str(source.path), {**_arguments(source), **source.config}
    if strange := sorted(set(source.config) - KNOWN):
        raise ValueError(f"{path}: config has {', '.join(strange)}, which DiT and SiT do not have")
    family = _family(source, options)
    network, layout = network_of(shapes, options, path, sign=-1 if family == "SiT" else 1)
    side = math.isqrt(shapes["pos_embed"][1])
    fixed = positions(side, side, network.width, column_first=True)
    if not np.allclose(np.asarray(source.tensors["pos_embed"])[0], fixed, atol=1e-3):
        raise ValueError(f"{path}: its positions are not the fixed ones; trained ones are not read")
    shape = (side * network.patch,) * 2 + (shapes["x_embedder.proj.weight"][1],)
    params = fill(shapes_of(network, shape), source.tensors, layout,
                  dtype=source.dtype, put=source.put)  # fmt: skip
    D, prediction, process, grid = (_dit if family == "DiT" else _sit)(
        network, params, options, path
    )
    return Pretrained(
        D, params, network, shape, prediction, process, grid, network.num_classes,
        "class indices (batch,)" + (", or None" if network.null_class else ""),
        {"name": source.path.stem, "family": family, "options": options,
         "latents": "of Stable Diffusion's autoencoder, times 0.18215",
         "licence": "CC BY-NC 4.0" if family == "DiT" else "MIT"},
    )  # fmt: skip


def network_of(
    shapes: Shapes, options: Mapping[str, Any], path: str, sign: int = 1
) -> tuple[DiT, Layout]:
    """Return the network of published shapes, and where its tensors belong."""
    width, channels, patch, _ = shapes["x_embedder.proj.weight"]
    tokens, outputs = shapes["pos_embed"][1], shapes["final_layer.linear.weight"][0]
    numbers = [re.fullmatch(r"blocks\.(\d+)\.attn\.qkv\.weight", name) for name in shapes]
    depth = 1 + max((int(m[1]) for m in numbers if m), default=-1)
    heads = options.get("num_heads") or HEADS.get(width)
    if heads is None:
        raise ValueError(
            f"{path} has width {width}, as no published DiT or SiT does, and shapes do not say how "
            "many heads its attention has: give config={'num_heads': ...}"
        )
    if math.isqrt(tokens) ** 2 != tokens or outputs not in (
        patch**2 * channels, 2 * patch**2 * channels,
    ):  # fmt: skip
        raise ValueError(f"{path}: {tokens} tokens and {outputs} outputs are of no square latents")
    rows, null = shapes["y_embedder.embedding_table.weight"][0], True
    if options.get("class_dropout_prob") == 0:
        null = False
    said = {
        "num_classes": rows - null,
        "learn_sigma": outputs == 2 * patch**2 * channels,
        "input_size": math.isqrt(tokens) * patch,
        "image_size": 8 * math.isqrt(tokens) * patch,
    }
    if wrong := {n: options[n] for n in said if options.get(n, said[n]) != said[n]}:
        pairs = ", ".join(f"{n} = {v!r}, by its shapes {said[n]!r}" for n, v in wrong.items())
        raise ValueError(f"{path}: it is said to have {pairs}")
    ratio = shapes["blocks.0.mlp.fc1.weight"][0] / width
    network = DiT(
        patch, width, depth, heads, ratio, num_classes=said["num_classes"], null_class=null,
        learned_variance=said["learn_sigma"], sign=sign, **PUBLISHED,
    )  # fmt: skip
    return network, LAYOUT


def _changed(name: str, value: np.ndarray) -> np.ndarray:
    """Published kernels in the order of ours: patches' pixels row by row; scales before shifts."""
    if name == "x_embedder.proj.weight":
        return value.transpose(0, 2, 3, 1).reshape(len(value), -1)
    if ".adaLN_modulation." in name:  # shift, scale(, gate) of each of the two parts
        parts = 2 if name.startswith("final_layer") else 3
        parted = value.reshape(-1, parts, len(value) // (2 if parts == 2 else 6), *value.shape[1:])
        return parted[:, [1, 0, 2][:parts]].reshape(value.shape)
    return value


LAYOUT = Layout(
    (
        (r"x_embedder\.proj", "Dense_0"),
        (r"t_embedder\.mlp\.0", "Embedding_0/Dense_0"),
        (r"t_embedder\.mlp\.2", "Embedding_0/Dense_1"),
        (r"y_embedder\.embedding_table", "Embedding_0/Embed_0"),
        (r"blocks\.(\d+)\.adaLN_modulation\.1", r"Block_\1/Dense_0"),
        (r"blocks\.(\d+)\.attn\.qkv", r"Block_\1/Dense_1"),
        (r"blocks\.(\d+)\.attn\.proj", r"Block_\1/Dense_2"),
        (r"blocks\.(\d+)\.mlp\.fc1", r"Block_\1/Dense_3"),
        (r"blocks\.(\d+)\.mlp\.fc2", r"Block_\1/Dense_4"),
        (r"final_layer\.adaLN_modulation\.1", "Dense_1"),
        (r"final_layer\.linear", "Dense_2"),
    ),
    unused=("pos_embed",),
    change=_changed,
)


def shapes_of(network: DiT, shape: tuple[int, ...]) -> Any:
    """Return the shapes of the network's parameters."""
    x, label = jnp.zeros((1, *shape), jnp.float32), jnp.zeros(1, jnp.float32)
    return jax.eval_shape(network.init, jax.random.key(0), x, label)["params"]


def _arguments(source: Source) -> dict[str, Any]:
    """Return the options that a training checkpoint states."""
    args = source.tensors.metadata.get("args")
    state = args.state if isinstance(args, Record) else args
    return {n: v for n, v in state.items() if n in KNOWN} if isinstance(state, dict) else {}


def _family(source: Source, options: Mapping[str, Any]) -> str:
    for text in (str(options.get("model", "")), source.path.name):
        for family in ("DiT", "SiT"):
            if text.lower().startswith(family.lower()):
                return family
    raise ValueError(
        f"{source.path} is a DiT or a SiT, which have the same tensors: config={{'model': 'DiT'}}, "
        "or 'SiT', says which"
    )


def _dit(network: DiT, params: Any, options: Mapping[str, Any], path: str) -> Any:
    process: Any = Discrete.from_betas(linear_betas(STEPS))
    D = denoiser(
        from_linen(network), params, prediction="eps", process=process, label=discrete_label(STEPS)
    )

    def grid(num_steps: int) -> np.ndarray:
        steps = [STEPS - 1] if num_steps == 1 else grids.timesteps(num_steps, "linspace")
        return np.asarray(grids.of_timesteps(process, steps))

    return D, "eps", process, grid


def _sit(network: DiT, params: Any, options: Mapping[str, Any], path: str) -> Any:
    kind = options.get("path_type", "Linear"), options.get("prediction", "velocity")
    if kind != ("Linear", "velocity"):
        raise ValueError(f"{path}: SiT of path {kind[0]!r} and prediction {kind[1]!r} is not read")
    process: Any = RectifiedFlow()
    D = denoiser(
        from_linen(network), params, prediction="flow", process=process, label=time_of_data
    )
    return D, "flow", process, lambda n: np.asarray(grids.flow(n))


def time_of_data(t: Array) -> Array:
    """SiT's time, 0 at noise and 1 at data, of the flow's, which runs the other way."""
    return 1 - t
