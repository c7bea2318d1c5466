"""Recipes, methods with choices that suit a few thousand updates, and the goal they start from.

The methods' own defaults are their papers', made for days of training. A recipe keeps the algorithm
and sets what must shrink with the budget: stages, grids, learning rate.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax

from jaxdiff.brief import short
from jaxdiff.denoisers import description
from jaxdiff.distill.parts.stage import Before, Stage
from jaxdiff.distill.parts.student import Student
from jaxdiff.method import Decay, Method
from jaxdiff.training.measures import rated
from jaxdiff.typing import Array, Cond, Denoiser, Network, Params

READ = ("prediction", "process", "label", "compute_dtype")  # how a network is made a denoiser


class Goal(NamedTuple):
    """The goal of a distillation: teacher, network and number of updates.

    teacher: the frozen denoiser.
    network: ``network(labels, log_variance)`` makes the student's network and its parameters: that
        of the teacher, taking so many labels, with that head or not, computing what the teacher
        computes.
    shape: of one sample. classes: number of classes, or None. null: of another condition, one
        sample's value that stands for none.
    num_updates: updates in all.
    rate: the learning rate that the teacher's kind of network likes.
    seed: of stored pairs.
    reward: ``reward()`` makes the function of samples and classes, (batch,) numbers, that is to be
        high where a recipe takes a reward; None where there is none.
    """

    __repr__ = short

    teacher: Denoiser
    network: Callable[[int, bool], tuple[Network, Params]]
    shape: tuple[int, ...]
    num_updates: int
    rate: float = 1e-3
    classes: int | None = None
    sigma_data: float = 0.5
    low: float = 0.002
    high: float = 80.0
    seed: int = 0
    ema: Mapping[str, Decay] = {}
    reward: Callable[[], Callable[[Array, Cond], Array]] | None = None
    null: Cond = None

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
        a cosine within ``share`` of all updates, gradients clipped. It starts as the teacher, whose
        prediction, process and label it has, or as the stage before left it.
        """
        network, params = self.network(labels, log_variance)
        known = description(self.teacher) or {}
        read = {k: v for k, v in known.items() if k in READ}
        schedule = optax.cosine_decay_schedule(
            self.rate * rate, max(1, round(self.num_updates * share))
        )
        clipped = optax.chain(optax.clip_by_global_norm(clip), optax.radam(schedule, b2=0.99))
        optimiser = rated(clipped, schedule)
        return Student(
            network, params if before is None else before.params, sigma_data=self.sigma_data,
            low=self.low, high=self.high, classes=self.classes, null=self.null, optimiser=optimiser,
            ema=self.ema, **read,
        )  # fmt: skip


class Recipe(NamedTuple):
    """A method by name.

    stages: ``stages(goal, **choices)`` are its stages.
    of: the functions of :mod:`jaxdiff.distill` that it calls, the one of the loss first: whose
        keywords it passes on, if it takes any, and whose docstrings say what its choices mean.
    fixed: keywords of these that it sets itself.
    follows_flow: whether one evaluation is meant to end where the teacher's flow ends (a method
        that matches distributions, or follows another flow, does not).
    share: of the updates of a comparison, what it gets: less than all where they are so dear that
        on the gym's problems all would take more than a minute on two cores.
    fewest: the fewest evaluations that its student samples in.
    divides: the choice, if any, whose value must divide the batch.
    between_blocks: whether it puts layers between the blocks of the teacher's network, which is
        then one of :mod:`jaxdiff.networks`, not any function.
    weakness: why it may fall short of others, if it does.
    """

    stages: Callable[..., list[Stage]]
    of: tuple[Callable[..., Any], ...] = ()
    fixed: tuple[str, ...] = ()
    follows_flow: bool = True
    share: float = 1.0
    fewest: int = 1
    divides: str = ""
    between_blocks: bool = False
    weakness: str = ""

    @property
    def makes(self) -> Callable[..., list[Stage]]:
        """Return the function whose keywords are the recipe's choices."""
        return self.stages


def one(method: Method) -> list[Stage]:
    """Return a recipe of one stage."""
    return [Stage("distil", lambda before: method)]
