"""``jaxdiff export``: a sampler with its network as one file."""

from typing import Any

import numpy as np

from jaxdiff.app import config as configs
from jaxdiff.app.conditions import check_class_condition
from jaxdiff.app.load import load_model
from jaxdiff.app.models import Model
from jaxdiff.app.samplers import make_sampler
from jaxdiff.app.shown import channels_of
from jaxdiff.app.text import away
from jaxdiff.files import check_writable
from jaxdiff.sampling.export import export_sampler


def export(config: configs.Export) -> None:
    """Export a sampler."""
    check_writable(config.out)
    model = load_model(config.run, config.checkpoint, progress=True)
    if model.tokenizer is None:
        check_class_condition(model, "export")
    sampler = make_sampler(model, config, config.num_steps)
    cond = _condition(model)
    export_sampler(
        config.out, sampler, model.shape, classes=0 if cond else model.classes,
        platforms=config.platforms, clip=model.bounds, cond=cond or None,
    )  # fmt: skip
    print(f"{sampler.table!r} of {config.run} for {', '.join(config.platforms)}: {config.out}\n"
          "how to run it with jax alone: python -c 'import jaxdiff.sampling.export as e; "
          "help(e)'")  # fmt: skip


def _condition(model: Model) -> dict[str, Any]:
    """Return one sample's condition of a model that takes more than a class; empty of others."""
    texts = {} if model.tokenizer is None else away(model.tokenizer, classes=model.classes)
    if not model.shown:
        return texts
    none = {"classes": np.int32(model.classes)} if model.classes else {}
    channels = model.pairs if model.measure is None else channels_of(model.measure, model.shape)
    return none | texts | {"beside": np.zeros((*model.shape[:2], channels), np.float32)}
