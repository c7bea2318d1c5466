"""Configurations of looking at runs: a list of them, and several side by side."""

import dataclasses

from jaxdiff.ranges import Count, Natural, Seed


@dataclasses.dataclass(frozen=True)
class Runs:
    """List the runs in a folder: what they are, whether they are finished, training or stopped,
    their updates, last loss, best score of jaxdiff evaluate, and size.
    """

    folder: str = "runs"
    """The folder, which is searched through; the option's name may be left out."""
    json: bool = False
    """As JSON."""


@dataclasses.dataclass(frozen=True)
class Compare:
    """Put runs side by side on one page: the options in which they differ, losses, distances of
    samples as they trained, scores of jaxdiff evaluate, and samples of the same noise and classes.
    """

    runs: tuple[str, ...] = ()
    """Their folders, two or more; the option's name may be left out."""
    out: str = "compare.html"
    """The page (HTML, with its numbers beside it as JSON)."""
    count: Natural = 20
    """Samples of each run; 0 for none, which takes seconds."""
    num_steps: Count | None = None
    """Sampling steps of every run: 10 for a teacher and 1 for a student by default."""
    batch: Count = 256
    """Samples at a time."""
    seed: Seed = 0
