"""Methods in stages: halvings, phases, rounds. A stage makes a method of what the one before left.

The loop over stages is :func:`jaxdiff.training.fit_stages.fit_stages`.
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from jaxdiff.brief import short
from jaxdiff.method import Method
from jaxdiff.sampling.pairs import Data as Data
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.typing import Params


class Before(NamedTuple):
    """Outcome of the stage before: its method's sampler, with one option ``steps``, and the
    student's parameters (their average, where one is kept).
    """

    __repr__ = short

    sampler: Callable[..., Sampler]
    params: Params


DataOf: TypeAlias = Callable[..., Data]
"""``data(given, before, spread)``: what a stage trains on."""


class Stage(NamedTuple):
    """One stage.

    name: for progress bars and folders.
    method: ``method(before) -> Method``; ``before`` is None in the first stage.
    share: of the updates of the whole training, relative to the other stages'.
    data: ``data(given, before, spread)``, what the stage trains on (stored pairs), made of the data
        given and of what was before, on the devices that ``spread`` knows
        (:func:`jaxdiff.sampling.pairs.pairs_like`); None for the data as they are.
    """

    __repr__ = short

    name: str
    method: Callable[[Before | None], Method]
    share: float = 1.0
    data: DataOf | None = None
