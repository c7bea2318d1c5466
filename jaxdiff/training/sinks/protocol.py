"""The four functions of a sink, and the check of the package that one needs."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

FUNCTIONS = ("scalars", "picture", "resume", "close")


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


def check_sinks(sinks: Any) -> None:
    """Raise TypeError for what is no sequence of sinks.

    Args:
        sinks: of a run.
    """
    if not isinstance(sinks, Sequence) or isinstance(sinks, str) or hasattr(sinks, "scalars"):
        raise TypeError(f"sinks is a list of sinks, not {type(sinks).__name__}")
    for sink in sinks:
        missing = [n for n in FUNCTIONS if not callable(getattr(sink, n, None))]
        if missing or isinstance(sink, type):
            what = f"the class {sink.__name__}" if isinstance(sink, type) else repr(sink)
            lacks = f", which has no {' and no '.join(missing)}" if missing else ""
            raise TypeError(f"a sink is an object with {', '.join(FUNCTIONS)}; not {what}{lacks}")


def check_installed(package: str, purpose: str) -> None:
    """Raise ImportError, with the command that installs it, if a package is missing.

    Args:
        package: its name, for import and for pip.
        purpose: what it is for, in words.
    """
    if importlib.util.find_spec(package) is None:
        raise ImportError(f"{purpose} needs {package}: pip install {package}")
