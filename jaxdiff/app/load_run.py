"""From a run of the command line to Python: its model as that of a file of weights."""

import functools
import os
from pathlib import Path

from jaxdiff import grids
from jaxdiff.app.load import load_model
from jaxdiff.app.models import Model
from jaxdiff.app.objective import process_named
from jaxdiff.app.published import is_run
from jaxdiff.app.samplers import student_sampler
from jaxdiff.pretrained.model import Pretrained


def load_run(run: str | os.PathLike[str], *, checkpoint: str | int | None = None) -> Pretrained:
    """Return the model of a run, as :func:`jaxdiff.load_pretrained` gives that of a file.

    Args:
        run: folder that ``jaxdiff train``, ``distill`` or ``ema`` made.
        checkpoint: the step of a checkpoint, or "latest"; by default the finished model, or the
            latest checkpoint of a run that is not finished.

    Returns:
        The model, with averaged parameters: a denoiser, network, shape of a sample, process, grid,
        classes and metadata, among them the names of the classes. Of a student,
        ``parts["samplers"]`` holds its samplers by their numbers of evaluations; of a run that is
        conditioned on texts ``parts["tokenizer"]`` makes these token ids.

    Raises:
        FileNotFoundError: if there is no run, or no such checkpoint.
        ValueError: if its files are damaged, or ``checkpoint`` is no step.

    Example: ``model = jd.load_run("runs/digits")``, and ``model.denoiser`` goes wherever one does.
    """
    if not is_run(Path(run)):
        raise FileNotFoundError(
            f"{run} is no folder of a run (it has no config.json of one); jd.load_pretrained opens "
            "published weights and those that come with the package"
        )
    return as_pretrained(load_model(run, None if checkpoint is None else str(checkpoint)), run)


def as_pretrained(model: Model, run: str | os.PathLike[str]) -> Pretrained:
    """Return a command's model as that of a file, named after its run."""
    low, high = model.levels
    own = model.source
    process = process_named(model.metadata["process"], model.metadata["sigma_data"])
    samplers = {int(n): student_sampler(model, int(n)) for n in model.metadata.get("samplers", {})}
    words = model.tokenizer
    classes = "class indices (batch,)" if model.classes else ""
    if words is not None:
        more = f', "classes": {classes}' * bool(classes)
        classes = f'{{"text": token ids (batch, {words.length}){more}}}'
    more = {} if words is None else {"tokenizer": words}
    return Pretrained(
        model.denoiser, model.params, model.module, model.shape,
        own.prediction if own else model.metadata["prediction"],
        own.process if own else process,
        own.grid if own else functools.partial(grids.karras, low=low, high=high),
        model.classes,
        classes,
        {"name": Path(run).resolve().name, **model.metadata},
        {**(own.parts if own else {}), **more, **({"samplers": samplers} if samplers else {})},
    )  # fmt: skip
