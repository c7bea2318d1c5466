"""Architectures of EDM's and EDM2's networks, read off names and shapes of tensors."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.pretrained.pickles import Record

Shapes = Mapping[str, tuple[int, ...]]
MOST_LEVELS, MOST_BLOCKS = 12, 100


def shapes_of(module: Any) -> Any:
    """Return the shapes of a network's parameters."""
    size = (1, module.resolution, module.resolution, module.in_channels)
    x, label = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in (size, (1,)))
    return jax.eval_shape(module.init, jax.random.key(0), x, label)["params"]


def shape_of(shapes: Shapes, name: str, rank: int) -> tuple[int, ...]:
    """Return the shape of a tensor that should be there and have so many axes, none of length 0.

    Raises ValueError if it is not so.
    """
    shape = tuple(shapes.get(name, ()))
    if name not in shapes or len(shape) != rank or 0 in shape:
        said = f"has shape {list(shape)}" if name in shapes else "is missing"
        raise ValueError(f"{name} {said}, where {rank} axes are expected")
    return shape


def number_of(options: Mapping[str, Any], key: str, default: float) -> float:
    """Return an option that is a number. Raises ValueError, naming it, for what is none."""
    value = options.get(key, default)
    if type(value) not in (int, float) or value != value:
        raise ValueError(f"the option {key} is {value!r:.40}, where a number is expected")
    return float(value)


def options_in(record: Any) -> dict[str, Any]:
    """Return the options that a recorded network was made with. ValueError without them."""
    state: Any = record.state
    own = state.get("_init_kwargs", {}) if isinstance(state, dict) else None
    if not isinstance(own, dict):
        raise ValueError(f"{record!r:.60} has no options")
    return own


def by_kind(value: np.ndarray, heads: int) -> np.ndarray:
    """Order the rows of a qkv tensor by q, k, v, head and channel; they are by head, channel and q,
    k, v.
    """
    rows = value.reshape(heads, -1, 3, *value.shape[1:])
    return np.moveaxis(rows, 2, 0).reshape(value.shape)


def first_layer(prefix: str) -> re.Pattern[str]:
    """Return the pattern of the first convolution's name, which has the resolution."""
    return re.compile(rf"{re.escape(prefix)}enc\.(\d+)x\1_conv\.weight")


def levels_of(shapes: Shapes) -> tuple[int, int]:
    """Return the resolution of the finest level, and how many there are."""
    found = [int(m[1]) for name in shapes if (m := first_layer("").fullmatch(name))]
    sizes = {int(m[1]) for name in shapes if (m := re.match(r"(?:enc|dec)\.(\d+)x\d+_", name))}
    if len(found) != 1 or sizes != {found[0] >> i for i in range(len(sizes))}:
        raise ValueError(f"maps of {sorted(sizes)} pixels, of which each should be half the next")
    if len(sizes) > MOST_LEVELS:
        raise ValueError(f"{len(sizes)} levels; at most {MOST_LEVELS} are read")
    return found[0], len(sizes)


def stages_of(
    shapes: Shapes, resolution: int, levels: int, first: str = "conv0", attention: str = "qkv"
) -> tuple[tuple[int, ...], list[int], int]:
    """Return the heights with attention, the channels of each level and its number of blocks."""
    attends, widths, counts = [], [], set()
    for size in (resolution >> level for level in range(levels)):
        start = f"enc.{size}x{size}_block"
        blocks = {n.removeprefix(start).split(".")[0] for n in shapes if n.startswith(start)}
        if not blocks:
            raise ValueError(f"there are no blocks {start}*")
        counts.add(len(blocks))
        widths.append(shape_of(shapes, f"{start}0.{first}.weight", 4)[0])
        if f"{start}0.{attention}.weight" in shapes:
            attends.append(size)
        if len(blocks) > MOST_BLOCKS:
            raise ValueError(f"{len(blocks)} blocks of a level; at most {MOST_BLOCKS} are read")
    if len(counts) > 1:
        raise ValueError(f"levels of {sorted(counts)} blocks, where the same are expected")
    return tuple(attends), widths, counts.pop()


def whole(width: int, channels: int) -> int:
    """Return width/channels. Raises ValueError if it is no whole number."""
    if width % channels:
        raise ValueError(f"{width} channels are not a multiple of {channels}")
    return width // channels


def plain(made: Any) -> Any:
    """Return a record as a dictionary."""
    if not isinstance(made, Record):
        return made
    state: Any = made.state
    return {"class_name": made.name, **(state if isinstance(state, dict) else {})}
