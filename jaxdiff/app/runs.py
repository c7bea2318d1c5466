"""``jaxdiff runs``: the runs in a folder, of which nothing is loaded."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.app import folder as folders
from jaxdiff.app.distill import history
from jaxdiff.files import read_json
from jaxdiff.report.terminal import format_table

SCORE = "Frechet distance"
HEADERS = ("run", "what", "state", "updates", "of", "last loss", SCORE, "NFE", "MB")
KEYS = ("run", "what", "state", "updates", "of", "loss", "score", "nfe", "megabytes")


def runs(config: configs.Runs) -> str:
    """Return the table of the runs in a folder, or JSON.

    Raises OSError if there is no such folder, ValueError if there is no run in it.
    """
    folder = Path(config.folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: jaxdiff runs FOLDER lists the runs in one")
    rows = [row_of(path, folder) for path in found_in(folder)]
    if not rows:
        raise ValueError(f"there is no run in {folder}")
    if config.json:
        return json.dumps(rows, indent=1)
    return format_table(HEADERS, [[row[key] for key in KEYS] for row in rows])


def found_in(folder: Path) -> Iterator[Path]:
    """Yield the folders of runs in a folder, itself included, in order."""
    for where, inner, files in os.walk(folder):
        inner.sort()
        if "config.json" in files:
            try:
                kind = read_json(Path(where) / "config.json").get("kind")
            except (OSError, ValueError, AttributeError):
                continue
            if kind in ("Train", "Distill"):
                inner.clear()  # its checkpoints and pictures
                yield Path(where)


def row_of(run: Path, folder: Path) -> dict[str, Any]:
    """Return what is known of a run. Of a damaged one its state says so."""
    name = str(run.relative_to(folder)) if run != folder else str(run)
    row: dict[str, Any] = dict.fromkeys(KEYS) | {"run": name, "megabytes": size_of(run) / 1e6}
    try:
        config, _ = config_file.load_known(run)
        row |= facts_of(run, config)
    except (OSError, ValueError) as error:
        row["state"] = f"damaged: {error}"
    return row


def facts_of(run: Path, config: configs.Train | configs.Distill) -> dict[str, Any]:
    """Return a run's state, updates, last loss and best score."""
    train = isinstance(config, configs.Train)
    kept = sum(max(made) for _, made in folders.stage_checkpoints(run) if made)
    rows = losses(run)
    holder = holder_of(run)
    made = max(kept, rows[-1]["step"] if rows and holder else 0)
    finished = (run / "model.npz").exists() and kept in (0, config.updates)
    found: dict[str, Any] = {
        "what": "train" if train else config.method, "of": config.updates,
        "updates": config.updates if finished else made,
        "state": "finished" if finished and not holder else holder or "stopped",
    }  # fmt: skip
    if rows:
        found["loss"] = next(
            (value for name, value in rows[-1].items() if name.endswith("/loss")), None
        )
    if scores := scores_of(run):
        found["score"], found["nfe"] = min((score, nfe) for nfe, score in scores)
    return found


def losses(run: Path) -> list[dict[str, Any]]:
    """Return the logged losses of a run; none if there are none yet."""
    try:
        return history(run)
    except FileNotFoundError:
        return []


def scores_of(run: Path) -> list[tuple[int, float]]:
    """Return the Frechet distances that jaxdiff evaluate found last, with their evaluations."""
    path = run / "evaluation.json"
    if not path.exists():
        return []
    try:
        made = read_json(path)["scores"].values()
        return [(int(one["nfe"]), float(one[SCORE]["value"])) for one in made if SCORE in one]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error


def holder_of(run: Path) -> str:
    """Return "training" if a command is working in a run's folder, with its machine if it is
    another one; "" if none is. A process that has ended holds nothing, whatever it left.
    """
    try:
        holder = read_json(run / folders.HOLDER)
        machine, process = holder["machine"], holder["process"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    if machine != socket.gethostname():
        return f"training on {machine}"
    try:
        os.kill(int(process), 0)
    except PermissionError:  # another user's
        return "training"
    except (OSError, ValueError, OverflowError):
        return ""
    return "training"


def size_of(folder: Path) -> int:
    """Return the bytes of all files of a folder."""
    total = 0
    for where, _, files in os.walk(folder):
        for name in files:
            try:
                total += (Path(where) / name).stat().st_size
            except OSError:  # gone in between, as old checkpoints of a run in training are
                continue
    return total
