"""A run's folder: one command at a time works in it, and goes on with what it was begun with.

Beside the configuration, ``config.json`` keeps what is known of the run: a fingerprint of its data
and of the parameters it starts from, and what describes its model. A run that goes on is compared
by these, not by the spelling of paths: data may have been moved, and must not have been changed.
"""

import contextlib
import datetime
import errno
import json
import os
import shutil
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.files import read_json, write_text
from jaxdiff.training import checkpoint as checkpoints
from jaxdiff.training import hosts

FREE = (
    "save_every",
    "snapshot_every",
    "log",
    "log_every",
    "sample_every",
    "parallel",
    "devices",
    "nonfinite",
    "run",
    "kind",
)  # may change in between
CONTENT = {"teacher": "teacher", "checkpoint": "teacher", "init": "init"}  # known by fingerprints
HOLDER = "lock.json"


@contextlib.contextmanager
def opened(
    config: configs.Train | configs.Distill,
    known: dict[str, Any],
    stages: int = 1,
    progress: bool = False,
) -> Iterator[Path]:
    """Provide the folder of a run that begins or goes on, for this command alone.

    known: what :func:`jaxdiff.app.config_file.load_known` gives later; "data", "teacher" and "init"
    are fingerprints. stages: of the run. Raises OSError if the folder is in use or cannot be
    written, ValueError if it holds a run with another configuration, other data or other parameters
    to start from. A configuration without a checkpoint is no run: it is replaced. With ``progress``
    one line says that a run is lengthened.
    """
    folder = Path(config.run)
    with held(folder):
        if begun(folder):
            before = check_same(folder, config, known, stages)
            if progress and hosts.is_main_process() and config.updates > before:
                print(
                    f"lengthened from {before} updates to {config.updates}: the learning rate is "
                    "from here on that of a run of so many updates",
                    flush=True,
                )
        hosts.wait_for_all("configuration read")
        if hosts.is_main_process():
            if (folder / "config.json").exists() and not begun(folder):
                for made in ("checkpoints", "quality"):  # of no step
                    shutil.rmtree(folder / made, ignore_errors=True)
                if not _same(folder, config, known):  # of another first try
                    shutil.rmtree(folder / "autoencoder", ignore_errors=True)
                    (folder / "autoencoder.safetensors").unlink(missing_ok=True)
            config_file.save(config, folder, known)
        yield folder


def _same(folder: Path, config: configs.Train | configs.Distill, known: dict[str, Any]) -> bool:
    """Return whether a folder was begun with this configuration, and of these data."""
    try:
        old, there = config_file.load_known(folder)
    except ValueError:  # damaged
        return False
    return not _changed(old, config, there) and not difference(there.get("data"), known.get("data"))


def begun(folder: Path) -> bool:
    """Return whether there is anything that was trained."""
    return (folder / "model.npz").exists() or any(made for _, made in stage_checkpoints(folder))


def stage_checkpoints(run: str | os.PathLike[str]) -> list[tuple[Path, list[int]]]:
    """Folders of checkpoints of a run, of one stage or of each in turn, with their steps."""
    folder = Path(run) / "checkpoints"
    if own := checkpoints.all_steps(folder):
        return [(folder, own)]
    named = [p for p in folder.glob("*-*") if p.name.split("-")[0].isdecimal() and p.is_dir()]
    return [(p, checkpoints.all_steps(p)) for p in sorted(named, key=_number)]


def _number(stage: Path) -> int:
    return int(stage.name.split("-")[0])


def check_same(
    folder: Path, config: configs.Train | configs.Distill, known: dict[str, Any], stages: int
) -> int:
    """Return the updates that a run was to make. Raises ValueError if it is not the one that a
    configuration is to continue.
    """
    old, known_there = config_file.load_known(folder)
    if changed := _changed(old, config, known_there):
        raise ValueError(
            f"{folder} holds a run with another configuration ({'; '.join(changed)}). Give another "
            "folder."
        )
    for name in ("data", "teacher", "init"):
        if name in known_there and (why := difference(known_there[name], known.get(name))):
            what = "data" if name == "data" else f"parameters of its --{name}"
            raise ValueError(
                f"{folder} was begun with other {what} ({why}). Give those, or another folder."
            )
    if config.updates > old.updates and stages > 1:
        raise ValueError(
            f"{folder} holds a run of {old.updates} updates in {stages} stages, which were divided "
            "by them: it cannot be lengthened. Give another folder."
        )
    if not any(made for _, made in stage_checkpoints(folder)):
        raise ValueError(
            f"{folder} holds a finished model without its checkpoints: it can be sampled and "
            "cannot go on. Give another folder (jaxdiff train --init starts from this one)."
        )
    return old.updates


def _changed(old: Any, new: Any, known_there: dict[str, Any]) -> list[str]:
    """Fields that differ and matter. Those that fingerprints identify do not, if there are any."""
    if type(old) is not type(new):
        return [f"kind: {type(old).__name__} there, {type(new).__name__} here"]
    there, here = config_file.to_dict(old), config_file.to_dict(new)
    if new.updates > old.updates:
        del here["updates"]  # lengthened
    if "data" in known_there:  # mirroring alone is not in the images
        there["data"], here["data"] = ({"flip": v["data"].get("flip")} for v in (there, here))
    return [
        f"{k}: {there.get(k)!r} there, {v!r} here"
        for k, v in here.items()
        if k not in FREE and CONTENT.get(k) not in known_there and there.get(k) != v
    ]


def difference(there: Any, here: Any) -> str:
    """Return, in words, how two fingerprints differ; nothing if they do not."""
    if there == here:
        return ""
    if not (isinstance(there, dict) and isinstance(here, dict)):
        return f"{there} there, {here} here"
    name = next(k for k in {**there, **here} if there.get(k) != here.get(k))
    return f"{name}: {there.get(name)} there, {here.get(name)} here"


@contextlib.contextmanager
def held(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Keep a folder, which is made if need be, from other commands that write into it.

    Raises OSError that says who holds it, in every process. The lock is the system's: it ends with
    the process, however that ends.
    """
    folder = Path(folder)
    lock = filelock.FileLock(folder / ".lock")
    trouble = _take(lock, folder) if hosts.is_main_process() else None
    problem = next((t for t in hosts.gather(trouble) if t is not None), None)
    if problem is not None:
        raise OSError(problem[0], problem[1], str(folder))
    try:
        yield
    finally:
        if hosts.is_main_process():
            (folder / HOLDER).unlink(missing_ok=True)
            lock.release()


def _take(lock: filelock.BaseFileLock, folder: Path) -> tuple[int | None, str] | None:
    """Take a lock and say who has it; return what is wrong if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        now = datetime.datetime.now().isoformat(" ", "seconds")
        metadata = {"process": os.getpid(), "machine": socket.gethostname(), "since": now}
        write_text(folder / HOLDER, json.dumps(metadata))
    except filelock.Timeout:
        who = _holder(folder)
        return errno.EBUSY, f"{who} is working in this folder; wait for it, or give another folder"
    except NotImplementedError:  # a file system that has none
        warnings.warn(
            f"{folder} cannot be locked: let one command at a time work there", stacklevel=4
        )
    except OSError as error:
        return error.errno, f"the folder cannot be written: {error.strerror or error}"
    return None


def _holder(folder: Path) -> str:
    try:
        holder = read_json(folder / HOLDER)
        return f"process {holder['process']} on {holder['machine']} (since {holder['since']})"
    except (OSError, ValueError, KeyError, TypeError):  # not written yet
        return "another process"
