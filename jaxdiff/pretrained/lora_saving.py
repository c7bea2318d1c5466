"""Low-rank changes of weights, written as they go about (:mod:`jaxdiff.pretrained.lora_files`).

    peft     unet.down_blocks.0...to_q.lora_A.weight, .lora_B.weight, .lora_magnitude_vector; ranks
             and alphas in the header, lora_adapter_metadata, as diffusers has it
    kohya    lora_unet_down_blocks_0_..._to_q.lora_down.weight, .lora_up.weight, .alpha, .dora_scale

with names of published layers where a network has them (:mod:`jaxdiff.pretrained.lora_names`).
"""

import collections
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.brief import short
from jaxdiff.pretrained.lora_names import At, layers_of
from jaxdiff.pretrained.saving import write_tensors
from jaxdiff.typing import Params

KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}
PEFT_ENDS = {"down": "lora_A.weight", "up": "lora_B.weight", "magnitude": "lora_magnitude_vector"}
KOHYA_ENDS = {"down": "lora_down.weight", "up": "lora_up.weight", "magnitude": "dora_scale"}


POINTWISE = ("conv_shortcut", "skip_conv")


class Factors(NamedTuple):
    """Of one kernel (..., in, out). down: A (n, rank), n the product of all axes but the last. up:
    B (rank, out). alpha: of the scale alpha / rank. magnitude: (out,) of DoRA, or None.
    """

    __repr__ = short

    down: Any
    up: Any
    alpha: float
    magnitude: Any = None

    def published(self, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
        """Return the factors as published, of a kernel of this shape: down (rank, in, ...), up
        (out, rank, 1, ...).
        """
        down, up = np.asarray(self.down), np.asarray(self.up)
        rank, pixels = down.shape[1], shape[:-2]
        down = np.moveaxis(down.reshape(*pixels, shape[-2], rank), (-1, -2), (0, 1))
        made: dict[str, np.ndarray] = {
            "down": down,
            "up": up.T.reshape(*up.T.shape, *[1] * len(pixels)),
        }
        if self.magnitude is not None:
            made["magnitude"] = np.asarray(self.magnitude)
        return {name: np.ascontiguousarray(value) for name, value in made.items()}


def write_lora(
    path: str | os.PathLike[str],
    params: Params,
    factors: Mapping[At, Factors],
    layout: str = "peft",
    metadata: Mapping[str, str] | None = None,
    part: str = "unet",
    pointwise: Sequence[str] = POINTWISE,
) -> None:
    """Write a file of low-rank changes, whole or not at all.

    Args:
        path: of the file, ``.safetensors``.
        params: of the base, whose layers are named.
        factors: by the path of the kernel in params.
        layout: "peft" or "kohya".
        metadata: further texts for the header.
        part: of a pipeline that the network is, where it is no text-to-image network.
        pointwise: ends of the names of layers that are linear here and convolutions of size 1 where
            they are published.

    Raises:
        ValueError: for another layout, no factors, a kernel without a name, and a part that the
            layout has no prefix for, before anything is written.
    """
    if layout not in ("peft", "kohya"):
        raise ValueError(f"layouts of low-rank changes are 'peft' and 'kohya', not {layout!r}")
    if not factors:
        raise ValueError("there are no changes to write")
    named = _named(params, factors, part)
    if layout == "kohya" and (absent := set(named) - {*KOHYA}):
        raise ValueError(f"the layout 'kohya' has no prefix for the {min(absent)}; 'peft' has")
    tensors: dict[str, np.ndarray] = {}
    for own, layers in named.items():
        for name, at in layers.items():
            shape = tuple(_leaf(params, at).shape)
            point = len(shape) == 2 and name.endswith(tuple(pointwise))
            for what, value in factors[at].published(((1, 1) if point else ()) + shape).items():
                if layout == "peft":
                    tensors[f"{own}.{name}.{PEFT_ENDS[what]}"] = value
                    continue
                value = value[:, None] if what == "magnitude" else value
                tensors[f"{KOHYA[own]}{name.replace('.', '_')}.{KOHYA_ENDS[what]}"] = value
            if layout == "kohya":
                alpha = np.asarray(factors[at].alpha, np.float32)
                tensors[f"{KOHYA[own]}{name.replace('.', '_')}.alpha"] = alpha
    said = {"format": "pt", **(metadata or {})}
    if layout == "peft":
        said["lora_adapter_metadata"] = json.dumps(_header(named, factors), indent=1)
    write_tensors(path, tensors, said)


def _named(params: Params, factors: Mapping[At, Factors], part: str) -> dict[str, dict[str, At]]:
    """Return the path of each kernel that is changed, by part and the first of its names."""
    made: dict[str, dict[str, At]] = {}
    for own, layers in layers_of(params, part).items():
        first: dict[At, str] = {}
        for name, at in layers.items():
            first.setdefault(at, name)
        if own_named := {first[at]: at for at in factors if at in first}:
            made[own] = own_named
    known = {at for layers in made.values() for at in layers.values()}
    if absent := [at for at in factors if at not in known]:
        raise ValueError(
            f"{'/'.join(absent[0])} is no layer that files of low-rank changes have a name for: a "
            "kernel of a linear layer or a convolution is"
        )
    for layers in made.values():
        twice = collections.Counter(name.replace(".", "_") for name in layers)
        if both := [name for name, count in twice.items() if count > 1]:
            raise ValueError(f"two layers are {both[0]}, which files cannot tell apart")
    return made


def _header(named: Mapping[str, Mapping[str, At]], factors: Mapping[At, Factors]) -> dict[str, Any]:
    """Return what PEFT's configuration says of each part."""
    said: dict[str, Any] = {}
    for part, layers in named.items():
        ranks = {name: int(np.shape(factors[at].down)[1]) for name, at in layers.items()}
        alphas = {name: float(factors[at].alpha) for name, at in layers.items()}
        rank, alpha = (collections.Counter(x.values()).most_common(1)[0][0] for x in
                       (ranks, alphas))  # fmt: skip
        own = {
            "peft_type": "LORA", "r": rank, "lora_alpha": alpha, "bias": "none",
            "target_modules": sorted(layers), "use_rslora": False,
            "use_dora": any(factors[at].magnitude is not None for at in layers.values()),
            "rank_pattern": {n: r for n, r in ranks.items() if r != rank},
            "alpha_pattern": {n: a for n, a in alphas.items() if a != alpha},
        }  # fmt: skip
        said |= {f"{part}.{key}": value for key, value in own.items()}
    return said


def _leaf(params: Params, at: At) -> Any:
    for key in at:
        params = params[key]
    return params
