"""Snapshots of a run's power-function averages, of which ``jaxdiff ema`` makes averages of other
widths (2312.02696, section 3; :mod:`jaxdiff.power_average`).

A snapshot is ``snapshots/UPDATES-WIDTH.npz`` in the run's folder.
"""

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.app.options import refuse
from jaxdiff.power_average import coefficients
from jaxdiff.training import hosts
from jaxdiff.training.checkpoint import load_params, save_params
from jaxdiff.training.leaves import check_fits
from jaxdiff.training.step import State

FOLDER = "snapshots"


def snapshot_name(std: float) -> str:
    """Return the name of the average of a relative width."""
    return f"std_{std:g}"


def decay_name(decay: float) -> str:
    """Return the name of the plain average of a decay."""
    return f"decay_{decay:g}"


def check_snapshots(config: configs.Train) -> None:
    """Raise ValueError, naming them, for options of averages without effect or meaning."""
    if not config.ema:
        raise ValueError("--ema needs a decay, such as 0.998; 0 keeps no average of the past")
    if len({decay_name(decay) for decay in config.ema}) < len(config.ema):
        raise ValueError(f"--ema names a decay twice: {config.ema}")
    if not config.ema_std:
        refuse(config, "there is no --ema-std to take snapshots of", "snapshot_every")
    if len(set(config.ema_std)) < len(config.ema_std):
        raise ValueError(f"--ema-std names a width twice: {config.ema_std}")


def leaving(config: configs.Train, folder: Path) -> tuple[Any, int | None]:
    """Return the function that leaves snapshots as it watches a run, and its period; None for
    none.
    """
    if not config.ema_std:
        return None, None
    every = config.snapshot_every or config.save_every
    return functools.partial(_write, config, folder / FOLDER), every


def _write(config: configs.Train, folder: Path, step: int, state: State) -> bool:
    (averages,) = state.ema.values()
    for std in config.ema_std:
        path = folder / f"{step}-{std:g}.npz"
        if hosts.is_main_process():
            folder.mkdir(parents=True, exist_ok=True)
        save_params(path, averages[snapshot_name(std)], {"kind": "snapshot", "updates": step})
    return False


def snapshots(run: str | os.PathLike[str]) -> dict[tuple[int, float], Path]:
    """Return the snapshots of a run by updates and width. ValueError for another file there."""
    found = {}
    for path in (Path(run) / FOLDER).glob("*.npz"):
        updates, _, std = path.stem.partition("-")
        try:
            found[int(updates), float(std)] = path
        except ValueError as error:
            raise ValueError(f"{path} is no snapshot of a run") from error
    return dict(sorted(found.items()))


def reconstructed(
    found: Mapping[tuple[int, float], Path], std: float, updates: int | None, like: Any
) -> tuple[Any, int]:
    """Return the average of a width after so many updates (by default the last snapshot's), and of
    how many snapshots it was made. like: parameters of the same shapes.

    Raises ValueError for updates that no snapshot is of, and snapshots that do not fit.
    """
    times = sorted({time for time, _ in found})
    last = (times[-1] if times else 0) if updates is None else updates
    if last not in times:
        raise ValueError(f"no snapshot is of {last} updates; there are {times}")
    kept = {key: path for key, path in found.items() if key[0] <= last}
    if len(kept) < 2:
        raise ValueError(f"an average is made of at least two snapshots; there is {len(kept)}")
    weights = coefficients([t for t, _ in kept], [w for _, w in kept], last, std)
    total: Any = None
    for path, weight in zip(kept.values(), weights, strict=True):
        params, _ = load_params(path)
        check_fits(params, like, str(path))
        part = jax.tree.map(lambda p, w=weight: w * np.asarray(p, np.float64), params)
        total = part if total is None else jax.tree.map(np.add, total, part)
    return jax.tree.map(lambda s, p: s.astype(p.dtype), total, like), len(kept)
