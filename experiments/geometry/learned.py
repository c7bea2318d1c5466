"""Learned denoisers beside the null models of their data: digits, and the published MNIST model."""

from pathlib import Path
from typing import Any

from jaxdiff.app import config as configs
from jaxdiff.app.analyse import measured
from jaxdiff.app.subjects import loaded

PARTS = ("paths", "convergence", "optimal", "copies")
START = 10.0  # of the MNIST model, which leaves the data from higher levels
MNIST = "mnist_ddpm_0001_0400.pt"


def digits(run: str, students: tuple[str, ...], count: int, seed: int) -> dict[str, Any]:
    """Return what jaxdiff analyse measures of a run of the preset digits, and of its students."""
    config = configs.Analyse(run=run, students=students, count=count, seed=seed)
    return _numbers(config)


def mnist(weights: str, data: str, count: int, seed: int) -> dict[str, Any]:
    """Return the parts for the published MNIST model, from a level at which it is at home."""
    config = configs.Analyse(
        run=str(Path(weights) / MNIST), count=count, seed=seed, high=START,
        data=configs.OtherData(path=data),
    )  # fmt: skip
    return _numbers(config, PARTS)


def _numbers(config: configs.Analyse, only: tuple[str, ...] | None = None) -> dict[str, Any]:
    numbers, _ = measured(config, *loaded(config, False), progress=True, only=only)
    for one in numbers["paths"].values():
        del one["boomerang"]  # many numbers, which no table has
    return numbers
