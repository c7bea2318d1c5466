"""Score distillation of images by name: the scene is the images themselves, all in every update.

The learning rate falls to zero by a cosine, and what the papers count in tens of thousands of
updates is a share of all here.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import optax

from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.score.score_distillation import (
    score_distillation,
    variational_score_distillation,
)
from jaxdiff.method import Method
from jaxdiff.noise import start_noise
from jaxdiff.ranges import Fraction, NotNegative, Positive, PositiveBelow1
from jaxdiff.recipes.parts import vp_time
from jaxdiff.typing import Array, Denoiser, Key


class Images(NamedTuple):
    """The goal of an optimisation: teacher, renderer and number of updates.

    teacher: the frozen denoiser, guided or not. model: its network and parameters, unguided, which
    a fake score starts from. count, shape: of the images. num_updates: updates.
    """

    teacher: Denoiser
    model: Student
    count: int
    shape: tuple[int, ...]
    num_updates: int

    def start(self, spread: float) -> Callable[[Key], Array]:
        """``init(key)`` of images (count, *shape): Gaussian noise, each image's own."""
        return lambda key: spread * start_noise(key, self.count, self.shape)


class OfImages(NamedTuple):
    """A method by name: ``makes(images, **choices)`` is it, ``of`` the functions whose keywords it
    passes on, ``fixed`` those that it sets itself.
    """

    makes: Callable[..., Method]
    of: tuple[Callable[..., Any], ...]
    fixed: tuple[str, ...] = ("levels",)


def _sds(
    images: Images,
    spread: NotNegative = 1.0,
    rate: Positive = 0.03,
    first: PositiveBelow1 = 0.02,
    last: Fraction = 0.98,
    **options: Any,
) -> Method:
    """Score distillation sampling.

    spread: standard deviation of the Gaussian noise that the images start as.
    rate: of Adam, on the images; it falls to zero.
    first, last: the levels of the noise are uniform between these shares of a VP process's time.
    """
    return score_distillation(
        images.teacher, _itself, images.start(spread), levels=vp_time(first, last),
        optimiser=optax.adam(_falling(rate, images), b2=0.99), **options,
    )  # fmt: skip


def _vsd(
    images: Images,
    spread: NotNegative = 1.0,
    rate: Positive = 0.03,
    fake_rate: Positive = 1e-3,
    first: PositiveBelow1 = 0.02,
    last: Fraction = 0.98,
    late: Fraction = 0.2,
    late_last: Fraction = 0.5,
    **options: Any,
) -> Method:
    """Variational score distillation: the images are the particles.

    spread: standard deviation of the Gaussian noise that the images start as.
    rate: of Adam, on the images; it falls to zero.
    fake_rate: of Adam, on the adapters of the fake score.
    first, last: the levels of the noise are uniform between these shares of a VP process's time.
    late: from this share of the updates on they end at ``late_last`` instead.
    late_last: that end.
    """
    fake = images.model._replace(optimiser=optax.adam(fake_rate, b2=0.99))
    return variational_score_distillation(
        images.teacher, _itself, images.start(spread), fake, levels=vp_time(first, last),
        late_levels=vp_time(first, late_last), late_from=round(late * images.num_updates),
        optimiser=optax.adam(_falling(rate, images), b2=0.99, eps=1e-15), **options,
    )  # fmt: skip


def _itself(scene: Array, key: Key) -> Array:
    """Return the rendering of images."""
    return scene


def _falling(rate: float, images: Images) -> optax.Schedule:
    return optax.cosine_decay_schedule(rate, images.num_updates)


OF_IMAGES: Mapping[str, OfImages] = {
    "sds": OfImages(_sds, (score_distillation,)),
    "vsd": OfImages(
        _vsd, (variational_score_distillation,),
        ("levels", "late_levels", "late_from", "fake_levels", "optimiser"),
    ),
}  # fmt: skip
