"""TensorBoard, by tensorboardX, which writes its files without TensorFlow."""

import importlib
import os
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdiff.training.sinks.protocol import Sink, check_installed


def tensorboard(folder: str | os.PathLike[str]) -> Sink:
    """Return a sink of event files: ``tensorboard --logdir FOLDER`` shows them.

    A run that goes on adds a file, whose first event has TensorBoard drop the steps that are made
    again.

    Args:
        folder: for the event files.

    Returns:
        The sink.

    Raises:
        ImportError: if tensorboardX is not installed.
    """
    check_installed("tensorboardX", "TensorBoard")
    return _TensorBoard(os.fspath(folder))


class _TensorBoard:
    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.writer: Any = None
        self.after: int | None = None  # the step that the next file goes on from

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._open().add_scalar(name, float(value), step)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        self._open().add_image(name, pixels, step, dataformats="HWC")

    def resume(self, step: int) -> None:
        self.close()
        self.after = step

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        self.writer = None

    def _open(self) -> Any:
        if self.writer is None:
            package = importlib.import_module("tensorboardX")
            purge = None if self.after is None else self.after + 1
            own = f".{time.time_ns()}"  # else files of one second have one name
            self.writer = package.SummaryWriter(
                self.folder, purge_step=purge, flush_secs=20, filename_suffix=own
            )
            self.after = None  # a file opened later goes on from what this one holds
        return self.writer
