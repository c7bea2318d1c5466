"""``jaxdiff distill``: a student of a run or of published weights."""

from pathlib import Path
from typing import Any

from jaxdiff.app import config as configs
from jaxdiff.app import folder as folders
from jaxdiff.app.conditions import check_class_condition
from jaxdiff.app.data import batches_of, check_batch, check_classes, data_of
from jaxdiff.app.load import load_model
from jaxdiff.app.logs import check_log, look_at, of_student, sample_every, sinks_of
from jaxdiff.app.methods import check_method, class_reward, stages_of, student_metadata
from jaxdiff.app.models import Model
from jaxdiff.app.options import check, placed
from jaxdiff.app.published import to_pictures, without_pictures
from jaxdiff.app.train import say_distance
from jaxdiff.training.checkpoint import fingerprint, save_params
from jaxdiff.training.fit_stages import fit_stages


def distill(config: configs.Distill, progress: bool = True) -> Model:
    """Distil a teacher into a student, or go on; return the finished student.

    Raises ValueError, before anything is written, for a teacher that is a student, a choice that
    the method does not have, data that are not the teacher's, and a folder that holds another run.
    """
    check(config)
    check_batch(config)
    check_log(config)
    teacher = load_model(config.teacher, config.checkpoint, progress)
    check_method(config, teacher)
    if teacher.tokenizer is None:
        check_class_condition(teacher, "distill")
    data = data_of(teacher, config.data, progress)
    check_classes(data, teacher)
    stages = stages_of(config, teacher, lambda: class_reward(data, config.seed))
    known = {"data": data.fingerprint(), "teacher": fingerprint(teacher.params), "metadata": {}}
    batches = batches_of(data, config, teacher.metadata, teacher.source)
    with folders.opened(config, known, len(stages), progress) as folder:
        logs = sinks_of(config, folder)
        drawn = None if without_pictures(teacher) else lambda x: to_pictures(teacher.source, x)
        look = look_at(config, folder, batches, len(data), of_student, teacher.bounds, drawn, logs)
        method, state = fit_stages(
            stages, batches, num_updates=config.updates,
            key=config.seed, ema="average", checkpoint=folder / "checkpoints",
            save_every=config.save_every, progress=progress, log_every=config.log_every,
            sinks=logs, watch=look, watch_every=sample_every(config) or 1, **placed(config),
        )  # fmt: skip
        say_distance(state.ema["student"]["average"], state.params["student"], progress)
        metadata = student_metadata(config, teacher, method, state)
        save_params(folder / "model.npz", state.ema["student"]["average"], metadata)
        return load_model(folder)


def history(run: str | Path) -> list[dict[str, Any]]:
    """Return the logged losses of a run, one stage after the other, steps counted through."""
    from jaxdiff.training.history import HISTORY, read_history

    folder = Path(run) / "checkpoints"
    if (folder / HISTORY).exists():
        return read_history(folder)
    rows, done = [], 0
    for stage in sorted(folder.iterdir(), key=lambda p: int(p.name.split("-")[0])):
        own = read_history(stage)
        rows += [row | {"step": row["step"] + done, "stage": stage.name} for row in own]
        done += own[-1]["step"] if own else 0
    return rows
