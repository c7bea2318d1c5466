"""``jaxdiff ema``: the model of a run with another average of its parameters than it has."""

import dataclasses
from pathlib import Path
from typing import Any

from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.app import folder as folders
from jaxdiff.app.load import checkpoint_state
from jaxdiff.app.methods import teacher_method
from jaxdiff.app.options import refuse
from jaxdiff.app.published import is_published
from jaxdiff.app.snapshots import decay_name, reconstructed, snapshots
from jaxdiff.training.checkpoint import load_params, save_params


def ema(config: configs.Ema, progress: bool = True) -> None:
    """Write the run of an average that was not kept.

    Raises ValueError, before anything is written, for a run without enough snapshots, and a folder
    that holds another run.
    """
    if is_published(config.run):
        raise ValueError(f"{config.run} is no run: its file holds one average, and no other")
    trained, _ = config_file.load_known(config.run)
    if (config.std is None) == (config.decay is None):
        raise ValueError("give either --std, a width, or --decay, one of the run's --ema")
    if config.decay is not None:
        refuse(config, "a plain average is that of the last checkpoint", "updates")
    if not isinstance(trained, configs.Train):
        raise ValueError(f"{config.run} is a student's run, which keeps one average")
    if config.decay is not None and config.decay not in trained.ema[1:]:
        known = " ".join(map(str, trained.ema[1:])) or "none"
        raise ValueError(f"{config.run} keeps no average of decay {config.decay}; others: {known}")
    if config.std is not None and not trained.ema_std:
        raise ValueError(f"{config.run} was not trained with --ema-std: it has no snapshots")
    finished = Path(config.run) / "model.npz"
    if not finished.exists():
        raise ValueError(
            f"the run {config.run} is not finished: run its command again to finish it"
        )
    if (Path(config.out) / "config.json").exists():
        raise ValueError(f"{config.out} holds a run: give another folder")
    like, metadata = load_params(finished)
    params, said, text = _average(config, trained, like, metadata)
    made = dataclasses.replace(trained, run=config.out)
    with folders.held(config.out):
        save_params(Path(config.out) / "model.npz", params, metadata | said)
        config_file.save(made, config.out)  # last: a folder with it is a run, and refused
    if progress:
        print(f"the average of {text}: {config.out}")


def _average(
    config: configs.Ema, trained: configs.Train, like: Any, metadata: dict[str, Any]
) -> tuple[Any, dict[str, Any], str]:
    """Return the parameters that are asked for, what their file says of them, and words for it."""
    if config.std is not None:
        made, used = reconstructed(snapshots(config.run), config.std, config.updates, like)
        return made, {"ema_std": config.std}, f"relative width {config.std:g} of {used} snapshots"
    assert config.decay is not None
    state = checkpoint_state(
        Path(config.run) / "checkpoints", teacher_method(trained, metadata), None
    )
    (averages,) = state.ema.values()
    text = f"decay {config.decay:g} after {int(state.step)} updates"
    return averages[decay_name(config.decay)], {"ema_decay": config.decay}, text
