"""``jaxdiff sample --base RUN``: another run's small samples, enlarged by a restoration network
(:mod:`jaxdiff.conditioning.cascade`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.app.conditions import conditions
from jaxdiff.app.control import shown as beside
from jaxdiff.app.data import same_classes
from jaxdiff.app.generate import generate
from jaxdiff.app.load import load_model
from jaxdiff.app.models import Model
from jaxdiff.app.options import refuse
from jaxdiff.app.restoration_tasks import operator_of
from jaxdiff.app.samplers import make_sampler
from jaxdiff.app.shown import BOUNDS
from jaxdiff.conditioning.cascade import noisy
from jaxdiff.conditioning.operators import Operator


def enlarging(model: Model, config: configs.Sample, labels: Any) -> tuple[Any, np.ndarray | None]:
    """Return the condition of samples, and the small ones that they enlarge; labels and None
    without a base.

    Raises ValueError for options without effect, a run that enlarges nothing, a base that makes
    other samples than it enlarges, or of other classes, and noise that it was not trained on.
    """
    if config.base is None:
        refuse(config, "there is no --base", "base_noise")
        return labels, None
    operator, noise = _operator(model, config)
    base = load_model(config.base, progress=True)
    if base.shape != operator.measured or base.bounds != BOUNDS:
        raise ValueError(
            f"--base {config.base} makes {base.shape}; {config.run} enlarges images of "
            f"{operator.measured}"
        )
    small = configs.Sample(config.base, count=config.count, batch=config.batch, seed=config.seed)
    if model.classes and labels is not None and not same_classes(base, model):
        names = [", ".join(m.metadata["class_names"]) or "none" for m in (base, model)]
        raise ValueError(
            f"--base {config.base} has the classes {names[0]}, and {config.run} {names[1]}: it "
            "would enlarge samples of other classes than it is told"
        )
    other = base.tokenizer != model.tokenizer  # a base that takes no text, say
    given = conditions(base, small) if labels is None or other else labels
    made = generate(
        make_sampler(base, small), config.count, base.shape, given, batch=config.batch,
        seed=config.seed, title="small samples", bounds=base.bounds,
    )  # fmt: skip
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    numbers = jnp.arange(config.count, dtype=jnp.int32)
    shown = np.asarray(noisy(operator, jnp.asarray(made), noise, key, numbers))
    return beside(labels, shown, "beside"), made


def _operator(model: Model, config: configs.Sample) -> tuple[Operator, float]:
    """Return what a run enlarges, as the operator of its images, and the level of noise."""
    measure = model.measure
    if measure is None or measure.task not in ("super", "bicubic", "decimate"):
        raise ValueError(
            f"{config.run} enlarges no images: --base is of a run of jaxdiff train super"
        )
    low, high = measure.noise
    noise = low if config.base_noise is None else config.base_noise
    if not low <= noise <= high:
        raise ValueError(f"--base-noise is from {low:g} to {high:g}, which {config.run} was shown")
    return operator_of(measure, model.shape, BOUNDS)[0], noise
