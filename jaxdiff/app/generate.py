"""Many samples, in batches of one shape."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxdiff.arrays import check_any_rows, check_rows, take
from jaxdiff.denoisers import as_partial
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.training import hosts
from jaxdiff.training.devices import Devices, Parallel, over_batch
from jaxdiff.typing import Array, Cond


def generate(
    sampler: Sampler,
    count: int,
    shape: tuple[int, ...],
    labels: Cond = None,
    *,
    batch: int = 256,
    seed: int = 0,
    progress: bool = True,
    title: str = "sampling",
    parallel: Parallel = "jit",
    devices: Devices | None = None,
    bounds: tuple[float, float] | None = (-1.0, 1.0),
) -> np.ndarray:
    """``count`` samples (count, *shape); sample i depends on the seed and i alone, not
    on ``batch`` or the devices.

    bounds: the samples are clipped to these two values, None for no clipping.
    labels: the conditions, any tree of arrays with a row for every sample. ValueError for other
    rows, and for a denoiser that holds numbers per sample where there are several batches;
    FloatingPointError, as soon as there is one, for samples that are not finite.
    """
    from tqdm import tqdm

    given = (as_partial(sampler.denoiser), sampler.table, jax.random.key(seed))
    constant = {"latent": sampler.latent, "shape": tuple(shape)}
    every, block = np.arange(count, dtype=np.int32), min(batch, count)
    check_rows(labels, count, "labels")
    if count > block:
        made = functools.partial(_samples, **constant)
        check_any_rows(made, given, take((every, labels), slice(block)), "generate")
    run = over_batch(_samples, given, parallel=parallel, devices=devices, **constant)
    silent = not (progress and hosts.is_main_process())
    if not silent:
        size = "x".join(map(str, shape))
        print(f"compiling the sampler for {block} of {size} at a time, once per shape", flush=True)
    bar = tqdm(total=count, desc=title, unit="image", disable=silent, leave=False)
    parts = []
    with bar:
        for numbers in _blocks(count, block):
            parts.append(np.asarray(run(take((every, labels), numbers))))
            _check_finite(parts[-1], numbers, sampler)
            bar.update(min(len(numbers), count - bar.n))
    images = np.concatenate(parts)[:count]
    return images if bounds is None else np.clip(images, *bounds)


def _check_finite(part: np.ndarray, numbers: np.ndarray, sampler: Sampler) -> None:
    """Raise FloatingPointError, at the first batch, for samples that are not finite."""
    wrong = ~np.isfinite(part.reshape(len(part), -1)).all(axis=1)
    if wrong.any():
        first = int(numbers[np.argmax(wrong)])
        raise FloatingPointError(
            f"{sampler.table!r} gave samples that are not finite, number {first} the first of them"
        )


def _samples(given: Any, batch: Any, *, latent: int, shape: tuple[int, ...]) -> Array:
    """Return the samples of a batch: their numbers, and their labels or None."""
    (D, chosen, key), (numbers, labels) = given, batch
    return Sampler(D, chosen, latent)(key, numbers, shape, labels)


def _blocks(count: int, batch: int) -> Iterator[np.ndarray]:
    """Sample numbers, always ``batch`` at a time so that one shape is compiled; the last block
    repeats its last.
    """
    for first in range(0, count, batch):
        yield np.minimum(np.arange(first, first + batch), count - 1)
