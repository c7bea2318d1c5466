"""Learned denoisers beside the null models of their data: digits, and two models of MNIST."""

from pathlib import Path
from typing import Any

from jaxdiff.app import config as configs
from jaxdiff.app.analyse import measured
from jaxdiff.app.subjects import loaded

START = 10.0  # of the published MNIST model, which leaves the data from higher levels
PUBLISHED = "mnist_ddpm_0001_0400.pt"


def digits(run: str, students: tuple[str, ...], count: int, seed: int) -> dict[str, Any]:
    """Return what jaxdiff analyse measures of a model of the digits, and of its students."""
    return _numbers(configs.Analyse(run=run, students=students, count=count, seed=seed))


def mnist(data: str, count: int, seed: int) -> dict[str, Any]:
    """Return it of the model of MNIST that comes with the package."""
    given = configs.OtherData(path=data)
    return _numbers(configs.Analyse(run="mnist", count=count, seed=seed, data=given))


def published(weights: str, data: str, count: int, seed: int) -> dict[str, Any]:
    """Return it of the published DDPM of MNIST, from a level at which it is at home."""
    config = configs.Analyse(
        run=str(Path(weights) / PUBLISHED), count=count, seed=seed, high=START,
        data=configs.OtherData(path=data), guidance=(),
    )  # fmt: skip
    return _numbers(config)


def _numbers(config: configs.Analyse) -> dict[str, Any]:
    numbers, _ = measured(config, *loaded(config, False), progress=True)
    for one in (*numbers["paths"].values(), *numbers.get("guidance", {}).values()):
        del one["boomerang"]  # many numbers, which no table has
    numbers["parts"] = numbers.pop("seconds")
    return numbers
