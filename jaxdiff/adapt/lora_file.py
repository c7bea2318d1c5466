"""LoRA and DoRA as files: written in the layouts of PEFT and kohya, read in all that there are.

Matrices (n, rank) and (rank, out) here are lora_A (rank, in, ...) and lora_B (out, rank, ...)
there, each layer with its own rank and alpha (:mod:`jaxdiff.pretrained.lora_files`).
"""

import collections
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.adapt.low_rank import LowRank
from jaxdiff.adapt.patterns import paths
from jaxdiff.pretrained.lora import located
from jaxdiff.pretrained.lora_files import MAGNITUDE, Change, read_changes
from jaxdiff.pretrained.lora_names import layers_of
from jaxdiff.pretrained.lora_saving import POINTWISE, Factors, write_lora
from jaxdiff.typing import Params

Small = dict[str, dict[str, Any]]


def save_lora(
    path: str | os.PathLike[str],
    base: Params,
    adapter: LowRank,
    small: Small,
    layout: str = "peft",
    part: str = "unet",
    pointwise: Sequence[str] = POINTWISE,
) -> None:
    """Save LoRA or DoRA alone, a file that diffusers and others read where the base is published.

    Args:
        path: of the file, ``.safetensors``.
        base: the base's parameters, a tree of dictionaries.
        adapter: that was trained.
        small: its factors.
        layout: "peft", with ranks and alphas in the header, or "kohya".
        part: of a pipeline that the base is, where it is no text-to-image network.
        pointwise: ends of the names of layers that are linear here and convolutions of size 1 where
            they are published; with "proj_in" and "proj_out" that is Stable Diffusion 1.

    Returns:
        None, when the file is written.

    Raises:
        ValueError: for factors of another base, another layout, and a kernel without a name, before
            anything is written.
        OSError: where the file cannot be written.
    """
    jax.eval_shape(adapter.apply, base, small)  # what does not fit is named
    factors = {}
    for name, low in small.items():
        alpha = adapter.scale_of(name, low) * low["A"].shape[1]
        at = tuple(name.split("/"))
        factors[at] = Factors(low["A"], low["B"], alpha, low.get("magnitude"))
    write_lora(path, base, factors, layout, part=part, pointwise=pointwise)


def load_lora(
    path: str | os.PathLike[str], base: Params, part: str | None = None
) -> tuple[LowRank, Small]:
    """Read LoRA or DoRA of a file, to be applied, trained on or saved.

    Args:
        path: of the file, in any layout that :func:`jaxdiff.pretrained.merge_lora` reads.
        base: parameters of the network that it is for.
        part: of a pipeline that the base is; None for "unet", and for both parts of a text-to-image
            network.

    Returns:
        The adapter, whose ``ranks`` and ``alphas`` are those of each layer, and its factors.

    Raises:
        OSError: if there is no file.
        ValueError: for a file of another kind, or, naming it, a layer that the base does not have,
            of another shape, or with other factors than two (LoHa, LoKr, which
            :func:`jaxdiff.pretrained.merge_lora` merges).
    """
    changes = read_changes(path)
    layers = layers_of(base, part or "unet")
    own = {name: given for name, given in changes.items() if name in layers}
    if not own:
        raise ValueError(
            f"{path} changes {', '.join(changes) or 'nothing'}; the base is {', '.join(layers)}"
        )
    leaves = dict(zip(paths(base), jax.tree.leaves(base), strict=True))
    small: Small = {}
    alphas: dict[str, float] = {}
    for name, given in own.items():
        for layer, at in located(given, layers[name], f"{path}", name).items():
            place = "/".join(at)
            small[place], alphas[place] = _factors(given[layer], leaves[place])
    ranks = {place: low["A"].shape[1] for place, low in small.items()}
    rank, alpha = _commonest(ranks), _commonest(alphas)
    adapter = LowRank(
        rank, layers=tuple(sorted(small)), alpha=alpha,
        dora=any("magnitude" in low for low in small.values()),
        ranks=tuple((n, r) for n, r in sorted(ranks.items()) if r != rank),
        alphas=tuple((n, a) for n, a in sorted(alphas.items()) if a != alpha),
    )  # fmt: skip
    jax.eval_shape(adapter.apply, base, small)
    return adapter, small


def _commonest(numbers: dict[str, Any]) -> Any:
    return collections.Counter(numbers.values()).most_common(1)[0][0]


def _factors(change: Change, w: Any) -> tuple[dict[str, Any], float]:
    """Return A, B and the norms of a layer's change, and its alpha."""
    given, shape = change.factors, tuple(w.shape)
    norm = next((name for name in ("dora_scale", MAGNITUDE) if name in given), None)
    if set(given) - {norm} != {"up", "down"}:
        raise ValueError(
            f"the change of {change.name} has factors {', '.join(sorted(given))}, which are no "
            "LoRA's: jaxdiff.pretrained.merge_lora merges them"
        )
    down, up = given["down"], given["up"]
    rank, out = down.shape[0], shape[-1]
    if rank < 1 or up.size != out * rank or down.size != rank * math.prod(shape[:-1]):
        raise ValueError(
            f"the change of {change.name} has factors of shapes {list(down.shape)} and "
            f"{list(up.shape)}; the layer's kernel has {list(shape)}"
        )
    pixels = shape[:-2]
    down = np.moveaxis(down.reshape(rank, shape[-2], *pixels), (0, 1), (-1, -2))
    kind = np.promote_types(np.float32, w.dtype)
    low: dict[str, np.ndarray] = {"A": down.reshape(-1, rank), "B": up.reshape(out, rank).T}
    if norm is not None:
        if given[norm].size != out or _by_inputs(norm, given[norm], out):
            raise ValueError(
                f"the norms of {change.name} are of shape {list(given[norm].shape)}, of inputs and "
                f"not of its {out} outputs: jaxdiff.pretrained.merge_lora merges them"
            )
        low["magnitude"] = given[norm].reshape(-1)
    return {k: jnp.asarray(v, kind) for k, v in low.items()}, change.scale * rank


def _by_inputs(name: str, norm: np.ndarray, out: int) -> bool:
    return name == "dora_scale" and norm.ndim > 1 and norm.shape[0] == 1 and out > 1
