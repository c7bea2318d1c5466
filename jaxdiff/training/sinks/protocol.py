"""The four functions of a sink, and the check of the package that one needs."""

import importlib.util
from collections.abc import Mapping
from typing import NamedTuple, Protocol

import numpy as np


class Sink(Protocol):
    """A place where a run is logged."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by name.

        Args:
            step: updates made so far.
            values: finite or not, by name.
        """

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Write a picture.

        Args:
            step: updates made so far.
            name: of the picture.
            pixels: (height, width, 3), uint8.
        """

    def resume(self, step: int) -> None:
        """Go on from a step: what was written of later ones is made again, and is not to be there
        twice. Called before anything is written, with 0 for a new run.

        Args:
            step: updates made so far.
        """

    def close(self) -> None:
        """Finish writing. The sink may be written to again."""


class Later(NamedTuple):
    """A sink whose steps are counted from another one on: of a stage, in those of its run."""

    sink: Sink
    start: int

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Write numbers by name."""
        self.sink.scalars(self.start + step, values)

    def picture(self, step: int, name: str, pixels: np.ndarray) -> None:
        """Write a picture."""
        self.sink.picture(self.start + step, name, pixels)

    def resume(self, step: int) -> None:
        """Go on from a step."""
        self.sink.resume(self.start + step)

    def close(self) -> None:
        """Finish writing."""
        self.sink.close()


def check_installed(package: str, purpose: str) -> None:
    """Raise ImportError, with the command that installs it, if a package is missing.

    Args:
        package: its name, for import and for pip.
        purpose: what it is for, in words.
    """
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{purpose} needs {package}: pip install {package}")
