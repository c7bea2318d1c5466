"""The history of a run: its logged metrics, one JSON object in a line, only ever appended to."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdiff.files import replacing
from jaxdiff.training import hosts

HISTORY = "history.jsonl"
PICTURES = "pictures"


def read_history(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the logged metrics of a run, in order.

    Each row has "step", "seconds" since the start and the metrics, "player/name". The file is only
    ever appended to: what a crash has cut short is left out, and so are the rows of steps that a
    resumed run made again. Raises FileNotFoundError if ``folder`` has no history, ValueError for a
    line that is no row.

    Args:
        folder: of the run.

    Returns:
        A row per logged step.
    """
    path, rows = Path(folder) / HISTORY, []
    for line in path.read_bytes().split(b"\n"):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # cut short
            continue
        named = row.get("resumed", row.get("step")) if isinstance(row, dict) else None
        if type(named) is not int:
            raise ValueError(f"{path} is damaged: {line!r:.60} has no step")
        if "resumed" in row:
            rows = [earlier for earlier in rows if earlier["step"] <= row["resumed"]]
        else:
            rows.append(row)
    return rows


class History:
    """The history file as a sink (:mod:`jaxdiff.training.sinks`); pictures lie beside it, in
    ``pictures/NAME-STEP.png``.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Add a row."""
        self.folder.mkdir(parents=True, exist_ok=True)
        append(self.folder, {"step": step, **values})

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Write a PNG, whole or not at all."""
        from PIL import Image

        with replacing(self.folder / PICTURES / f"{name}-{step}.png") as file:
            Image.fromarray(pixels).save(file, "png")

    def resume(self, step: int) -> None:
        """Note that what follows continues from a step."""
        mark(self.folder, step)

    def close(self) -> None:
        """Do nothing: every row is written at once."""


def append(folder: Path, row: dict[str, Any]) -> None:
    """Add a row."""
    with (folder / HISTORY).open("a") as file:
        file.write(json.dumps(row) + "\n")


def mark(folder: Path, step: int) -> None:
    """Note that what follows continues from ``step``, on a line of its own whatever came before."""
    path = folder / HISTORY
    if path.exists() and hosts.is_main_process():
        with path.open("a") as file:
            file.write("\n")
        append(folder, {"resumed": step})
