"""Weights & Biases and trackio, which is called as that is and keeps its data on this machine.

A run is one run there, too, however often it is stopped and goes on: its identifier and the last
step that was written are kept in a small file of its folder. A step that is made again gives the
numbers it gave before, and is not written twice.
"""

import importlib
import json
import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.files import read_json, write_text
from jaxdiff.training.sinks.protocol import Sink, check_installed


def wandb(
    folder: str | os.PathLike[str], project: str = "jaxdiff", config: Mapping[str, Any] = {}
) -> Sink:
    """Return a sink of a run of Weights & Biases, named as its folder. ``WANDB_MODE=offline`` keeps
    it on this machine; ``wandb sync`` sends it later.

    Args:
        folder: of the run; wandb's own files and ``wandb.json`` are written there.
        project: of the account.
        config: values that are shown beside the run.

    Returns:
        The sink.

    Raises:
        ImportError: if wandb is not installed.
        ValueError: if ``wandb.json`` is damaged.
    """
    check_installed("wandb", "Weights & Biases")
    return _Tracker("wandb", Path(folder), project, config)


def trackio(
    folder: str | os.PathLike[str], project: str = "jaxdiff", config: Mapping[str, Any] = {}
) -> Sink:
    """Return a sink of a run of trackio, named as its folder: ``trackio show`` opens it.

    Args:
        folder: of the run; ``trackio.json`` is written there, the data where trackio keeps them.
        project: of the run.
        config: values that are shown beside the run.

    Returns:
        The sink.

    Raises:
        ImportError: if trackio is not installed.
        ValueError: if ``trackio.json`` is damaged.
    """
    check_installed("trackio", "trackio")
    return _Tracker("trackio", Path(folder), project, config)


class _Tracker:
    def __init__(self, package: str, folder: Path, project: str, config: Mapping[str, Any]) -> None:
        self.package, self.folder, self.project, self.config = package, folder, project, config
        self.note = folder / f"{package}.json"
        self.known = _known(self.note)
        self.before = self.known["step"]  # written by those before it
        self.api: Any = None

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._log(step, {name: float(value) for name, value in values.items()})

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        if step > self.before:
            self._log(step, {name: self._open().Image(pixels)})

    def resume(self, step: int) -> None:
        if step == 0 and self.before:  # begun anew: another run there, too
            self.close()
            self.known, self.before = _fresh(), 0

    def close(self) -> None:
        if self.api is not None:
            self.api.finish()
        self.api = None

    def _log(self, step: int, values: dict[str, Any]) -> None:
        if step <= self.before:
            return
        if self.package == "wandb":  # whose own steps only rise
            self._open().log({**values, "step": step})
        else:
            self._open().log(values, step=step)
        if step > self.known["step"]:
            self.known["step"] = step
            write_text(self.note, json.dumps(self.known))

    def _open(self) -> Any:
        if self.api is None:
            self.api = importlib.import_module(self.package)
            name = f"{self.folder.name}-{self.known['id']}"
            own = {"name": name, "resume": "allow", "config": dict(self.config)}
            if self.package == "wandb":
                own |= {"id": self.known["id"], "dir": str(self.folder), "name": self.folder.name}
            self.folder.mkdir(parents=True, exist_ok=True)
            self.api.init(project=self.project, **own)
            if self.package == "wandb":
                self.api.define_metric("step", hidden=True)
                self.api.define_metric("*", step_metric="step")
        return self.api


def _fresh() -> dict[str, Any]:
    return {"id": uuid.uuid4().hex[:8], "step": 0}


def _known(note: Path) -> dict[str, Any]:
    if not note.exists():
        return _fresh()
    known = read_json(note)
    if not isinstance(known, dict) or type(known.get("step")) is not int or "id" not in known:
        raise ValueError(f"{note} is damaged: it has no id and step; remove it for a new run there")
    return known
