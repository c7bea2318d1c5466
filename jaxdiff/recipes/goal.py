"""What a recipe starts from and what it is: a method with choices that suit a few thousand updates.

The methods' own defaults are their papers', made for days of training. A recipe keeps the algorithm
and sets what must shrink with the budget: stages, grids, learning rate.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import optax

from jaxdiff.distill.stages import Before, Stage
from jaxdiff.distill.student import Student
from jaxdiff.method import Decay, Method
from jaxdiff.typing import Denoiser, Network, Params


class Goal(NamedTuple):
    """What is to be distilled, and with how many updates.

    teacher: the frozen denoiser.
    network: ``network(labels, log_variance)`` makes the student's network and its parameters: that
        of the teacher, taking so many labels, with that head or not, computing what the teacher
        computes.
    shape: of one sample. classes: number of classes, or None.
    steps: updates in all.
    rate: the learning rate that the teacher's kind of network likes.
    seed: of stored pairs.
    """

    teacher: Denoiser
    network: Callable[[int, bool], tuple[Network, Params]]
    shape: tuple[int, ...]
    steps: int
    rate: float = 1e-3
    classes: int | None = None
    sigma_data: float = 0.5
    low: float = 0.002
    high: float = 80.0
    seed: int = 0
    ema: Mapping[str, Decay] = {}

    def student(
        self,
        *,
        labels: int = 1,
        log_variance: bool = False,
        before: Before | None = None,
        share: float = 1.0,
        rate: float = 1.0,
        clip: float = 1.0,
    ) -> Student:
        """Return a student: RAdam, its learning rate ``rate`` times the goal's and going to zero by
        a cosine within ``share`` of all updates, gradients clipped. It starts as the teacher, or as
        the stage before left it.
        """
        network, params = self.network(labels, log_variance)
        schedule = optax.cosine_decay_schedule(self.rate * rate, max(1, round(self.steps * share)))
        optimiser = optax.chain(optax.clip_by_global_norm(clip), optax.radam(schedule, b2=0.99))
        return Student(
            network, params if before is None else before.params, sigma_data=self.sigma_data,
            low=self.low, high=self.high, classes=self.classes, optimiser=optimiser, ema=self.ema,
        )  # fmt: skip


class Recipe(NamedTuple):
    """A method by name.

    stages: ``stages(goal)`` are its stages.
    follows_flow: whether one evaluation is meant to end where the teacher's flow ends (a method
        that matches distributions, or follows another flow, does not).
    weakness: why it may fall short of others, if it does.
    """

    stages: Callable[[Goal], list[Stage]]
    follows_flow: bool = True
    weakness: str = ""


def one(method: Method) -> list[Stage]:
    """A recipe of one stage."""
    return [Stage("distil", lambda before: method)]
