"""Tasks of ``jaxdiff restore``: what is measured of an image, by name."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jaxdiff.app.options import refuse
from jaxdiff.conditioning import operators
from jaxdiff.conditioning.operators import Operator

OPTIONS = ("share", "factor", "width", "angle", "quality")
Shape = tuple[int, ...]


class Task(NamedTuple):
    """A task: its operator on images of a shape, and the options with the values they have where
    they are not given.
    """

    make: Callable[..., Operator]
    defaults: dict[str, Any] = {}


def _inpaint(shape: Shape, share: float) -> Operator:
    hidden = [min(n, max(1, round(share * n))) for n in shape[:2]]
    if hidden == list(shape[:2]):
        raise ValueError(f"--share {share} of {shape} hides all of it: take a smaller one")
    low = tuple((n - m) // 2 for n, m in zip(shape, hidden, strict=False))
    return operators.box(shape, low, tuple(a + m for a, m in zip(low, hidden, strict=True)))


def _pixels(shape: Shape, share: float, seed: int) -> Operator:
    height, width = shape[:2]
    known = np.zeros(height * width, bool)
    seen = max(1, round(share * height * width))
    known[np.random.default_rng(seed).permutation(height * width)[:seen]] = True
    return operators.mask(np.broadcast_to(known.reshape(height, width, 1), shape))


def _motion(shape: Shape, width: float, angle: float) -> Operator:
    if width != int(width):
        raise ValueError(f"--width of motion is an odd number of pixels, not {width}")
    return operators.convolution(shape, operators.motion_kernel(int(width), angle))


def _colour(shape: Shape) -> Operator:
    if shape[-1] != 3:
        raise ValueError(f"--task colour needs images of three channels; the model's are {shape}")
    return operators.grey(shape)


def _sensing(shape: Shape, share: float, seed: int) -> Operator:
    n = math.prod(shape)
    if n & (n - 1):
        raise ValueError(
            f"sensing takes images of a power of 2 of numbers, not {n}: --task projections takes "
            f"any, of up to {LARGEST}"
        )
    return operators.hadamard(shape, max(1, round(share * n)), seed)


def _projections(shape: Shape, share: float, seed: int) -> Operator:
    n = math.prod(shape)
    if n > LARGEST:
        raise ValueError(
            f"--task projections keeps a matrix, of images of up to {LARGEST} numbers; the model's "
            f"have {n}: --task sensing does without"
        )
    return operators.random_matrix(shape, max(1, round(share * n)), seed)


LARGEST = 4096
NOISE = 0.05  # of a measurement, by default
TASKS = {
    "inpaint": Task(_inpaint, {"share": 0.5}),
    "pixels": Task(_pixels, {"share": 0.25}),
    "super": Task(operators.average, {"factor": 2}),
    "bicubic": Task(operators.bicubic, {"factor": 2}),
    "decimate": Task(operators.decimate, {"factor": 2}),
    "blur": Task(lambda shape, width: operators.gaussian_blur(shape, width), {"width": 1.0}),
    "motion": Task(_motion, {"width": 5.0, "angle": 0.0}),
    "colour": Task(_colour),
    "sensing": Task(_sensing, {"share": 0.25}),
    "projections": Task(_projections, {"share": 0.25}),
    "phase": Task(operators.phase_retrieval),
    "jpeg": Task(operators.jpeg, {"quality": 10}),
}
SEEDED = ("pixels", "sensing", "projections")


def operator_of(config: Any, shape: Shape, bounds: tuple[float, float]) -> tuple[Operator, dict]:
    """Return the operator of a configuration on images (height, width, channels), and the options
    it was made with.

    Raises ValueError for an option of another task, and for one that does not go with the shape.
    """
    task = TASKS[config.task]
    others = [name for name in OPTIONS if name not in task.defaults]
    refuse(config, f"--task {config.task} has no such option", *others)
    given = {name: getattr(config, name, None) for name in task.defaults}
    chosen = {name: task.defaults[name] if v is None else v for name, v in given.items()}
    more: dict[str, Any] = {"seed": config.seed} if config.task in SEEDED else {}
    if config.task == "jpeg":
        more = {"low": bounds[0], "high": bounds[1]}
    try:
        return task.make(shape, **chosen, **more), chosen
    except ValueError as error:
        raise ValueError(f"--task {config.task} on images of {shape}: {error}") from error
