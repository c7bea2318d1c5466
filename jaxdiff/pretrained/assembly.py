"""A model of a published network: its tensors in its places, and the denoiser that it is."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import grids
from jaxdiff.denoisers import denoiser
from jaxdiff.networks.adapters import from_linen
from jaxdiff.pretrained.layout import Layout, fill
from jaxdiff.pretrained.model import Pretrained, Source
from jaxdiff.typing import Array, Cond

FIRST = 0.999  # time of a flow's first level, whose level is finite


def shapes_of(module: Any, shape: tuple[int, ...], cond: Cond = None) -> Any:
    """Return the shapes of a network's parameters, without any numbers.

    shape: of a sample. cond: an example of the condition, batch 1, of arrays or their shapes.
    """
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    label = jax.ShapeDtypeStruct((1,), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), x, label, cond)["params"]


def example(**shapes: tuple[int, ...]) -> dict[str, jax.ShapeDtypeStruct]:
    """Return an example of a condition that is a dictionary of arrays, batch 1."""
    return {name: jax.ShapeDtypeStruct((1, *s), jnp.float32) for name, s in shapes.items()}


def assembled(
    source: Source,
    module: Any,
    layout: Layout,
    *,
    shape: tuple[int, ...],
    prediction: str,
    process: Any,
    label: Callable[[Array], Array] | None,
    grid: Callable[[int], np.ndarray],
    example: Cond = None,
    classes: int = 0,
    cond: str = "",
    metadata: Mapping[str, Any] | None = None,
) -> Pretrained:
    """Return the model of a source, its prediction, process, label and grid as given.

    example: of the network's condition. Raises ValueError for tensors that do not fit, by name.
    """
    shapes = shapes_of(module, shape, example)
    params = fill(shapes, source.tensors, layout, dtype=source.dtype, put=source.put)
    made = denoiser(from_linen(module), params, prediction=prediction, process=process, label=label)
    said = {"name": source.path.name, "config": dict(source.config), **(metadata or {})}
    return Pretrained(made, params, module, shape, prediction, process, grid, classes, cond, said)


def thousand(t: Array) -> Array:
    """Return 1000 t, the label of networks of a rectified flow with timesteps."""
    return 1000 * t


def shifted_flow(num_steps: int, shift: float, end: float) -> np.ndarray:
    """Return levels at times uniform from 1 to ``end``, then shifted, then 0, the first of which,
    infinite, is at the time 0.999.
    """
    levels = grids.flow(num_steps, shift=shift, start=1 - 1e-9, end=end)
    levels[0] = shift * FIRST / (1 - FIRST)
    return levels
