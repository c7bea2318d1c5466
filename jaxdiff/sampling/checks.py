"""Checks of what samplers are given, before anything is compiled."""

import warnings
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdiff.arrays import check_cond
from jaxdiff.brief import Changed
from jaxdiff.denoisers import check_network_cond, description
from jaxdiff.process import Process
from jaxdiff.process.calculus import floating
from jaxdiff.sampling.start import outside, warn_unscaled
from jaxdiff.sampling.table import Table
from jaxdiff.typing import Array, Cond, Denoiser, Key


def check_start(start: Array, index: Array | None, level: float | Array | None = None) -> None:
    """Raise for a start that is no batch of states, or an index that does not name them; warn
    of one that is not at its level.
    """
    shape, dtype = jnp.shape(start), getattr(start, "dtype", None)
    if dtype == np.float64 and jax.dtypes.canonicalize_dtype(np.float64) != np.float64:
        raise TypeError(
            "start is in float64, and jax would run it in float32: give start.astype('float32'), "
            "or jax.config.update('jax_enable_x64', True)"
        )
    if not shape or dtype not in (jnp.float32, jnp.float64):
        raise TypeError(
            "start must be a batch of states in float32 or float64 (lower precision belongs "
            "inside the network); "
            f"this has dtype {dtype or type(start).__name__} and shape {shape}"
        )
    if 0 in shape:
        raise ValueError(f"start has shape {shape}: there is nothing to sample")
    if index is not None and jnp.shape(index) != start.shape[:1]:
        raise ValueError(
            f"index must name each of the {start.shape[0]} samples; its shape is {jnp.shape(index)}"
        )
    if level is not None:
        warn_unscaled(start, level)


def warn_beyond(denoiser: Denoiser, level: float | Array) -> None:
    """Warn of a level above the last one of a network's process: it is shown what it has never
    seen, at the label of the last. Of networks that are guided, too; only where both are known.
    """
    if isinstance(level, Tracer):
        return
    for made in _networks(denoiser):
        alpha, sigma = _ends(made["process"])
        if made["prediction"] == "edm" or isinstance(alpha, Tracer) or not alpha > 0:
            continue
        last = float(sigma) / float(alpha)
        if float(level) > 1.01 * last:
            warnings.warn(
                f"the first level is {float(level):.4g}, and the process of the network "
                f"({type(made['process']).__name__}) ends at {last:.4g}: above it the network is "
                "shown what it was not trained on. Begin there, such as by "
                f"jaxdiff.grids.karras(num_steps, high={last:.4g})",
                stacklevel=outside(),
            )


def _networks(denoiser: Denoiser) -> Iterator[dict[str, Any]]:
    """What :func:`jaxdiff.denoisers.denoiser` made a denoiser, or those that guidance combines,
    of.
    """
    if (made := description(denoiser)) is not None:
        yield made
    elif isinstance(denoiser, Changed):
        for part in denoiser.args:
            if callable(part):
                yield from _networks(part)  # type: ignore[arg-type]


@jax.jit
def _ends(process: Process) -> tuple[Array, Array]:
    (t,) = floating(process.t_max)
    return process.alpha(t), process.sigma(t)


def check_key(name: str, key: Key | None, recorded: Array | None = None) -> None:
    """Raise ValueError unless a stochastic sampler has a typed key or recorded noise."""
    if (key is None) == (recorded is None):
        raise ValueError(f"{name} draws noise: give either key= or recorded noise=")
    if key is not None:
        check_typed(key)


def check_typed(key: Key) -> None:
    """Raise TypeError for a key that is not a typed one."""
    if not jnp.issubdtype(getattr(key, "dtype", np.void), jax.dtypes.prng_key):
        raise TypeError("key must be a typed key, as made by jax.random.key(seed)")


def check_no_noise(name: str, stochastic: bool, recorded: Array | None) -> None:
    """Raise ValueError for recorded noise for a sampler that draws none."""
    if recorded is not None and not stochastic and len(recorded):
        raise ValueError(f"{name} draws no noise; recorded: {jnp.shape(recorded)}")


def check_run(
    denoiser: Denoiser,
    t: Table,
    start: Array,
    key: Key | None,
    index: Array | None,
    noise: Array | None,
    cond: Cond,
) -> Array | None:
    """Check arguments against a table, and return recorded noise by evaluation
    and slot.
    """
    if not isinstance(t, Table):
        raise TypeError(
            f"sample needs a table, as made by table(solver, levels); this is {type(t).__name__}"
        )
    check_start(start, index, t.levels[0] if t.levels.shape[0] else None)
    if t.levels.shape[0]:
        warn_beyond(denoiser, t.levels[0])
    check_cond(cond, start.shape[0])
    check_network_cond(denoiser, cond)
    check_no_noise(t.name, t.stochastic, noise)
    if not t.stochastic:
        return None
    check_key(t.name, key, noise)
    if noise is None:
        return None
    if t.count is not None:
        raise ValueError("recorded noise does not go with a padded table")
    if jnp.shape(noise) != (len(t.draws), *start.shape):
        raise ValueError(
            f"{t.name} draws {len(t.draws)} noises of shape {start.shape}; recorded: "
            f"{jnp.shape(noise)}"
        )
    slots = jnp.zeros((t.states.shape[0] * t.slots, *start.shape), start.dtype)
    slots = slots.at[jnp.array(t.draws, jnp.int32)].set(jnp.asarray(noise, start.dtype))
    return slots.reshape(t.states.shape[0], t.slots, *start.shape)


def as_states(output: Any, y: Array) -> Array:
    """A denoiser's output at the states ``y`` in their dtype; errors as of :func:`evaluate`."""
    shape = getattr(output, "shape", None)
    if shape != y.shape:
        found = type(output).__name__ if shape is None else f"shape {shape}"
        raise ValueError(f"the denoiser was given states of shape {y.shape} and returned {found}")
    if not jnp.issubdtype(output.dtype, jnp.floating):
        raise TypeError(
            f"the denoiser was given states in {y.dtype} and returned {output.dtype}: it must "
            "return floating numbers, which are brought to the dtype of the states"
        )
    return output.astype(y.dtype)
