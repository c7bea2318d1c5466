"""Discriminator guidance of a run (arXiv 2211.17091): behind ``jaxdiff discriminate``.

A head on the frozen features of the run's own network learns to distinguish the run's data with
noise from its samples with noise; ``jaxdiff sample --discriminator FILE`` then corrects the run's
score by its gradient. The file holds the head alone: it goes with the run it was trained on, and
with no other.
"""

import os
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import solvers
from jaxdiff.app import config as configs
from jaxdiff.app.conditions import check_class_condition, say_alone
from jaxdiff.app.data import check_classes, data_of
from jaxdiff.app.generate import generate
from jaxdiff.app.load import load_model
from jaxdiff.app.models import Model
from jaxdiff.app.options import check, placed
from jaxdiff.app.published import from_pictures
from jaxdiff.arrays import take
from jaxdiff.conditioning.correction import discriminator_guidance
from jaxdiff.data.dataset import to_float
from jaxdiff.denoisers import denoiser, description
from jaxdiff.distill.adversarial.discriminator import discriminator
from jaxdiff.distill.parts.generator import log_uniform
from jaxdiff.files import check_writable
from jaxdiff.grids import karras
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.training.checkpoint import fingerprint, load_params, save_params
from jaxdiff.training.loop import fit
from jaxdiff.typing import Array, Cond, Denoiser, Key, Params


def discriminate(config: configs.Discriminate, progress: bool = True) -> dict[str, float]:
    """Train a discriminator of a run's data from its samples and save it; return the mean logits of
    the last update, of data ("real") and of samples ("made"): equal where it cannot distinguish
    them.

    Raises ValueError, before anything is computed, for a run that is a student, and data that are
    not the run's.
    """
    check(config)
    check_writable(config.out)
    levels_of_head = log_uniform(config.low, config.high)  # its error now
    model = load_model(config.run, config.checkpoint, progress)
    if model.student:
        raise ValueError(f"{config.run} is a student; a discriminator is of its teacher's samples")
    check_class_condition(model, "discriminate")
    if model.pairs:
        raise ValueError(
            f"{config.run} makes images of a picture that it is shown, which jaxdiff discriminate "
            "does not show: from Python, jd.distill.discriminator takes any condition"
        )
    say_alone(model, config.run, progress)
    data = data_of(model, config.data, progress)
    check_classes(data, model)
    chosen = np.random.default_rng(config.seed).permutation(len(data))[: config.count]
    labels = data.labels[chosen] if model.classes and data.labels is not None else None
    levels = karras(config.num_steps, *model.levels)
    sampler = Sampler(model.denoiser, table(solvers.dpmpp, levels, order=2))
    made = generate(
        sampler, len(chosen), model.shape, labels, batch=config.batch, seed=config.seed,
        progress=progress, title="samples of the run", bounds=model.bounds, **placed(config),
    )  # fmt: skip
    rows: dict[str, Any] = {"image": from_pictures(model.source, to_float(data.images[chosen]))}
    rows |= {"sample": made}
    rows |= {} if labels is None else {"label": labels}
    logits, init = head_of(model, config.width)
    method = discriminator(
        model.denoiser, logits, lambda key: {"trunk": model.params, "head": init(key)},
        levels=levels_of_head, optimiser=_of_head(config.learning_rate),
    )  # fmt: skip

    def batches(step: int) -> dict[str, Any]:
        draw = np.random.default_rng([config.seed, step])
        return take(rows, draw.integers(0, len(chosen), config.batch))

    last: dict[str, float] = {}
    state = fit(
        method, batches, num_updates=config.updates, key=config.seed, progress=progress,
        log=lambda step, row: last.update({k: float(v) for k, v in row.items()}),
        **placed(config),
    )  # fmt: skip
    metadata = {"kind": "discriminator", "model": fingerprint(model.params), "width": config.width}
    save_params(config.out, state.params["student"]["head"], metadata | {"source": config.run})
    return last


def _of_head(rate: float) -> optax.GradientTransformation:
    """Adam for the head; the trunk stays."""
    each: dict[Hashable, optax.GradientTransformation] = {
        "head": optax.adam(rate),
        "trunk": optax.set_to_zero(),
    }
    return optax.multi_transform(each, {"head": "head", "trunk": "trunk"})


def head_of(model: Model, width: int) -> tuple[Callable[..., Array], Callable[[Key], Params]]:
    """``logits(params, y, level, cond) -> (batch,)`` of {"trunk", "head"}, the mean over all
    positions of a head on the network's features, and ``init(key)`` of the head.
    """
    from jaxdiff.networks.heads import feature_head

    made = description(model.denoiser)
    if made is None:
        raise ValueError("a discriminator needs the features of a network, and there is none here")
    network, read = made.pop("network"), {k: v for k, v in made.items() if k != "params"}
    head, init = feature_head(
        network, model.params, model.shape, width=width, num_classes=model.classes
    )

    def logits(params: Params, y: Array, level: Array, cond: Cond = None) -> Array:
        D: Any = denoiser(network, params["trunk"], **read)
        features = D(y, level, cond, full=True).features
        return jnp.mean(head(params["head"], features, cond), axis=1)

    return logits, init


def guided_by(path: str | os.PathLike[str], model: Model, D: Denoiser, weight: float) -> Denoiser:
    """Return a denoiser with the score corrected by a discriminator's file.

    Raises ValueError if it is none, or of another model.
    """
    head, metadata = load_params(path)
    if metadata.get("kind") != "discriminator" or type(metadata.get("width")) is not int:
        raise ValueError(f"{path} is not a discriminator that jaxdiff discriminate saved")
    if metadata.get("model") != (own := fingerprint(model.params)):
        raise ValueError(
            f"{path} was trained on the model {metadata.get('model')} ({metadata.get('source')}), "
            f"whose features it needs; this one is {own}"
        )
    logits, init = head_of(model, metadata["width"])
    wanted = jax.eval_shape(init, jax.random.key(0))
    shapes = [jax.tree.map(jnp.shape, tree) for tree in (head, wanted)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{path} is damaged: its arrays have the shapes {shapes[0]}")
    params = {"trunk": model.params, "head": head}
    return discriminator_guidance(D, jax.tree_util.Partial(logits, params), weight)
