"""The model that a command is given: of a run, finished or not, or published weights."""

import functools
import os
from pathlib import Path
from typing import Any

import jax

from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.app import folder as folders
from jaxdiff.app.methods import average, stages_of, student_metadata, teacher_method
from jaxdiff.app.models import Model, model_of, published_model
from jaxdiff.app.published import is_published, lasting
from jaxdiff.distill.parts.stage import Stage
from jaxdiff.method import Method
from jaxdiff.training import checkpoint as checkpoints
from jaxdiff.training import hosts
from jaxdiff.training.checkpoint import fingerprint
from jaxdiff.training.fit_stages import left, split_updates
from jaxdiff.training.step import State, init_state


def restored_model(run: str | os.PathLike[str], checkpoint: str | None, progress: bool) -> Model:
    """Return the model of a checkpoint, as :func:`load_model` describes it."""
    config, known = config_file.load_known(run)
    made = folders.stage_checkpoints(run)
    if not any(steps for _, steps in made):
        raise FileNotFoundError(
            f"the run {run} is not finished (no model.npz) and has no checkpoint yet: run its "
            "command again to go on with it"
        )
    if "metadata" not in known:
        raise ValueError(
            f"the run {run} is not finished and was begun by an earlier version, which did not say "
            "enough of its model: run its command again to finish it"
        )
    step = _step(checkpoint)
    make = _teacher if isinstance(config, configs.Train) else _student
    done, model = make(Path(run), config, known, step)
    if progress and hosts.is_main_process():
        print(f"{run}: the checkpoint after {done} of {config.updates} updates", flush=True)
    return model


def _step(checkpoint: str | None) -> int | None:
    if checkpoint in (None, "latest"):
        return None
    if not checkpoint.isdecimal():
        raise ValueError(f'--checkpoint is "latest" or the step of one, not {checkpoint!r}')
    return int(checkpoint)


def checkpoint_state(folder: Path, method: Method, step: int | None) -> State:
    """Return the state of a checkpoint of a method, the newest by default."""
    like = jax.eval_shape(functools.partial(init_state, method), jax.random.key(0))
    return checkpoints.restore(folder, like, step).state


def _teacher(run: Path, config: Any, known: dict[str, Any], step: int | None) -> tuple[int, Model]:
    metadata = known["metadata"]
    state = checkpoint_state(run / "checkpoints", teacher_method(config, metadata), step)
    return int(state.step), model_of(average(state), metadata, run)


def _student(run: Path, config: Any, known: dict[str, Any], step: int | None) -> tuple[int, Model]:
    """Return the student of a checkpoint. Every stage before is gone through, for what it left."""
    teacher = load_model(config.teacher, config.checkpoint)
    if why := folders.difference(known.get("teacher"), fingerprint(teacher.params)):
        raise ValueError(f"the teacher {config.teacher} is not the one {run} began with ({why})")
    stages = stages_of(config, teacher)
    begun = [checkpoints.all_steps(_folder(run, n, stage)) for n, stage in enumerate(stages)]
    before, done = None, 0
    for n, (stage, count) in enumerate(
        zip(stages, split_updates(stages, config.updates), strict=True)
    ):
        method = stage.method(before)
        last = not any(begun[n + 1 :]) if step is None else step <= done + count
        state = checkpoint_state(
            _folder(run, n, stage), method, step - done if step is not None and last else None
        )
        done += int(state.step)
        if last:
            metadata = student_metadata(config, teacher, method, state)
            return done, model_of(state.ema["student"]["average"], metadata, run)
        before = left(method, state, "average")
    raise FileNotFoundError(f"{run} is of {done} updates: there is no checkpoint of step {step}")


def _folder(run: Path, number: int, stage: Stage) -> Path:
    return run / "checkpoints" / f"{number}-{stage.name}"


def load_model(
    run: str | os.PathLike[str], checkpoint: str | None = None, progress: bool = False
) -> Model:
    """Return the model of a run, the finished one or that of a checkpoint, or of published weights.

    run: folder of a run; a file or folder of published weights, or the name of a card of some
    (:mod:`jaxdiff.pretrained`); or "module:FILE.py:FUNCTION", the user's own, which is run.
    checkpoint: its step, or "latest"; by default the latest of a run that is not finished. With
    ``progress`` one line says which checkpoint it is.

    Raises:
        FileNotFoundError: if there is no run and no weights, or no such checkpoint. ValueError: if
            its files are damaged, or ``checkpoint`` is no step, or of no run.
    """
    if is_published(os.fspath(run)):
        if checkpoint is not None:
            raise ValueError(f"--checkpoint is of a run, which {run} is not")
        found = published_model(lasting(str(run)))
        if progress and hosts.is_main_process():
            print(f"{run}: {found.source!r}", flush=True)
        return found
    from jaxdiff.training.checkpoint import load_params

    config, path = config_file.load(run), Path(run) / "model.npz"
    finished: Model | None = None
    if checkpoint is None and path.exists():
        params, metadata = load_params(path)
        try:
            finished = model_of(params, metadata, Path(run))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        if "updates" not in finished.metadata:
            raise ValueError(
                f"{path} was written by an earlier version and does not say of how many updates it "
                "is: train the run again in another folder"
            )
        if finished.metadata["updates"] == config.updates:
            return finished
    return restored_model(run, checkpoint, progress)
