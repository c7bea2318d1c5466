"""Inputs of published transformers: images that divide into patches, conditions by name."""

from collections.abc import Mapping

import jax.numpy as jnp

from jaxdiff.typing import Array, Cond


def check_images(x: Array, label: Array, patch: int, channels: int) -> tuple[int, int]:
    """Return rows and columns of patches.

    Raises:
        ValueError: for anything but x (batch, height, width, channels), which divides into patches,
            and label (batch,).
    """
    if x.ndim != 4 or x.shape[-1] != channels or label.shape != x.shape[:1]:
        raise ValueError(
            f"this transformer takes x (batch, height, width, {channels}) and label (batch,); got "
            f"{x.shape} and {label.shape}"
        )
    if x.shape[1] % patch or x.shape[2] % patch:
        raise ValueError(
            f"patches of {patch}x{patch} need a height and a width divisible by {patch}; got "
            f"{x.shape[1]}x{x.shape[2]}"
        )
    return x.shape[1] // patch, x.shape[2] // patch


def conditions(
    cond: Cond,
    batch: int,
    needed: Mapping[str, tuple[int | None, ...]],
    optional: Mapping[str, tuple[int | None, ...]] | None = None,
) -> dict[str, Array]:
    """Return the parts of a condition, a dictionary, by name.

    needed, optional: shapes without the batch, None for any length.

    Raises:
        ValueError: naming what is missing, unknown or of another shape.
    """
    known = {**needed, **(optional or {})}
    say = ", ".join(f"{n} ({', '.join(['batch', *map(_length, s)])})" for n, s in known.items())
    if not isinstance(cond, Mapping) or set(needed) - set(cond) or set(cond) - set(known):
        got = sorted(map(str, cond)) if isinstance(cond, Mapping) else type(cond).__name__
        extra = f" ({', '.join(optional)} may be left out)" if optional else ""
        raise ValueError(f"cond is a dictionary of {say}{extra}; got {got}")
    for name, value in cond.items():
        shape = jnp.shape(value)
        right = len(shape) == 1 + len(known[name]) and shape[0] == batch
        if not right or any(
            n not in (None, m) for n, m in zip(known[name], shape[1:], strict=True)
        ):
            raise ValueError(f"cond has {name} of shape {shape}, but cond is of {say}")
    return {name: jnp.asarray(value) for name, value in cond.items()}


def _length(n: int | None) -> str:
    return "any" if n is None else str(n)
