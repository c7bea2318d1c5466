"""Averages of a run's parameters that were not stored, of those that were (2312.02696, section 3).

EDM2's runs store two power-function averages of the parameters every now and then, in files called
``NAME-KIMG-WIDTH.pkl``; an average of any width, at the time of any of them, is a weighted sum
(:mod:`jaxdiff.power_average`).
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.power_average import coefficients
from jaxdiff.pretrained.edm2 import read_edm2, snapshot_of
from jaxdiff.pretrained.model import Pretrained
from jaxdiff.pretrained.opening import open_source
from jaxdiff.pretrained.tensors import Tensors


def reconstruct(
    paths: Iterable[str | os.PathLike[str]],
    *,
    std: float,
    num_images: int | None = None,
    dtype: Any = None,
    put: Any = None,
) -> Pretrained:
    """Return the EDM2 model whose parameters are an average that was not stored.

    Args:
        paths: snapshots of one run, whose names end in thousands of images and width,
            "...-0134217-0.050.pkl"; at least two. Their tensors are read one by one.
        std: relative width of the average, in (0, 0.2886].
        num_images: its time, that of one of the snapshots; the last if None. Later snapshots are
            left out.
        dtype: of the floating parameters; float32 by default, in which the sum is taken. What is
            not trained, frequencies and phases, is the last snapshot's.
        put: see :func:`jaxdiff.pretrained.opening.load_pretrained`.

    Raises:
        OSError: if there is no such file.
        ValueError: for names without time and width, a time or width out of range, and
            files that are not of one network.
    """
    found = {Path(path): snapshot_of(path) for path in paths}
    for path, parsed in found.items():
        if parsed is None:
            raise ValueError(f"{path.name} does not end in thousands of images and width")
    parsed = sorted((parsed, path) for path, parsed in found.items() if parsed is not None)
    times = [time for (time, _), _ in parsed]
    last = max(times, default=0) if num_images is None else num_images
    if last not in times:
        raise ValueError(f"no snapshot is of {last} images; there are {sorted(set(times))}")
    kept = [entry for entry in parsed if entry[0][0] <= last]
    if len(kept) < 2:
        raise ValueError("an average is made of at least two snapshots")
    weights = coefficients([t for (t, _), _ in kept], [w for (_, w), _ in kept], last, std)
    sources = [open_source(path, dtype=dtype, put=put) for _, path in kept]
    summed = weighted_sum([source.tensors for source in sources], weights)
    model = read_edm2(sources[-1]._replace(tensors=summed))
    if model is None:
        raise ValueError(f"{kept[-1][1]} is not a snapshot of EDM2")
    made = {"num_images": last, "ema_width": std, "snapshots": [path.name for _, path in kept]}
    return dataclasses.replace(model, metadata={**model.metadata, **made})


def weighted_sum(files: Sequence[Tensors], weights: Iterable[float]) -> Tensors:
    """Return tensors whose numbers are sums over files, in float32, each read on demand.

    Raises ValueError, naming it, for a tensor that is not in all of the files with one shape.
    """
    first, numbers = files[-1], [float(w) for w in weights]
    for file in files:
        for name in sorted(set(first) ^ set(file)):
            raise ValueError(f"{name} is not in both of {first.source} and {file.source}")
        for name in first:
            if first.shapes[name] != file.shapes[name]:
                raise ValueError(
                    f"{name} is {list(first.shapes[name])} in {first.source} and "
                    f"{list(file.shapes[name])} in {file.source}"
                )

    def total(name: str) -> np.ndarray:
        if name.endswith((".freqs", ".phases")):
            return first[name].astype(np.float32)
        made = np.zeros(first.shapes[name], np.float32)
        for file, weight in zip(files, numbers, strict=True):
            made += weight * file[name].astype(np.float32)
        return made

    kind = np.dtype(np.float32)
    entries = {n: (first.shapes[n], kind, lambda n=n: total(n)) for n in first}
    return Tensors(entries, first.metadata, first.source)
