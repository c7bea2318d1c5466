r"""Cascades: a model of small images, and models that enlarge what the one before made.

    z ~ p(A x),    u = z + s eps,    x ~ p(x | u, s)

Each later model is a restoration network for u = A x + s eps, A its averages, say
(:mod:`jaxdiff.conditioning.operators.observing`), told the level s that is chosen at sampling:
noise-conditioning augmentation, which makes it forgive what the model before gets wrong. With exact
models the result is exact for every s.

Source: Ho et al., "Cascaded diffusion models for high fidelity image generation", arXiv 2106.15282,
sections 3 and 4.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxdiff.brief import short
from jaxdiff.conditioning.operators.algebra import Operator
from jaxdiff.conditioning.operators.measurement import Measurement
from jaxdiff.conditioning.operators.observing import beside
from jaxdiff.noise import draw, sample_numbers
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.typing import Array, Cond, Key


class CascadeStage(NamedTuple):
    """A stage of a cascade.

    sampler: of its model, given a condition as :func:`cascade` says. shape: of one sample.
    operator: sees of one sample what the stage before makes; None for the first stage. noise:
    standard deviation of what is added to that, a level that the model was trained on. bounds: the
    values that its samples are clipped to, None for none.
    """

    __repr__ = short

    sampler: Sampler
    shape: tuple[int, ...]
    operator: Operator | None = None
    noise: float = 0.0
    bounds: tuple[float, float] | None = None


class Cascade(NamedTuple):
    """Stages, called as a sampler is; made by :func:`cascade`."""

    __repr__ = short

    stages: tuple[CascadeStage, ...]

    def __call__(self, key: Key, index: Array | Sequence[int] | int, cond: Cond = None) -> Array:
        """Return the last stage's samples (len(index), *shape), numbered as of a sampler."""
        return self.every(key, index, cond)[-1]

    def every(
        self, key: Key, index: Array | Sequence[int] | int, cond: Cond = None
    ) -> tuple[Array, ...]:
        """Return the samples of every stage. Arguments as of the call."""
        numbers, made = sample_numbers(index), []
        for place, stage in enumerate(self.stages):
            key_noise, key_start = jax.random.split(jax.random.fold_in(key, place))
            given = cond
            if stage.operator is not None:
                given = _shown(stage, made[-1], cond, key_noise, numbers)
            x = stage.sampler(key_start, numbers, stage.shape, given)
            made.append(x if stage.bounds is None else jnp.clip(x, *stage.bounds))
        return tuple(made)


def cascade(stages: Sequence[CascadeStage]) -> Cascade:
    """Return a sampler of several stages, each of which enlarges what the one before made.

    Args:
        stages: the first of them without an operator; later ones are given the condition
            {"beside": b} (:func:`jaxdiff.operators.beside`), and "classes", or the entries of a
            dictionary, of what the cascade is called with.

    Returns:
        ``samples(key, index, cond=None)``, and ``samples.every(...)``, those of each stage.

    Raises:
        ValueError: for no stages, a first one with an operator, later ones without, an operator
            that does not see what the stage before makes, or negative noise.
    """
    if not stages or stages[0].operator is not None:
        raise ValueError("a cascade begins with a stage that has no operator")
    for place, (before, stage) in enumerate(zip(stages, stages[1:], strict=False), 1):
        A = stage.operator
        if A is None:
            raise ValueError(f"stage {place} has no operator: what does it enlarge?")
        if A.shape != tuple(stage.shape) or A.measured != tuple(before.shape):
            raise ValueError(
                f"the operator of stage {place} sees {A.measured} of {A.shape}; the stages make "
                f"{tuple(before.shape)} and {tuple(stage.shape)}"
            )
        if not 0 <= stage.noise < float("inf"):
            raise ValueError(f"noise is a standard deviation, not {stage.noise} (stage {place})")
    return Cascade(tuple(stages))


def _shown(stage: CascadeStage, z: Array, cond: Cond, key: Key, numbers: Array) -> Cond:
    """Return the condition of a later stage: z with noise, and what else the cascade is given."""
    seen = noisy(stage.operator, z, stage.noise, key, numbers)  # type: ignore[arg-type]
    rest = cond if isinstance(cond, dict) else {} if cond is None else {"classes": cond}
    return {**rest, "beside": seen}


def noisy(operator: Operator, z: Array, noise: float, key: Key, numbers: Array) -> Array:
    """Return what a network is shown of small samples z (batch, *measured), with noise added.

    Args:
        operator: of large samples, whose measurements z are like.
        z: (batch, *measured).
        noise: standard deviation.
        key: typed key.
        numbers: (batch,) integers naming the samples.

    Returns:
        (batch, *axes, channels), as :func:`jaxdiff.operators.beside`.
    """
    eps = draw(jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers), 0, 0, z.shape[1:], z.dtype)
    return beside(Measurement(operator, z + jnp.asarray(noise, z.dtype) * eps, noise))
