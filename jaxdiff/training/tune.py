"""Tuning a sampler: descent on a family's numbers, and the best table on held-out starts.

What is returned is never worse, on the held-out set, than the table it started from: every so often
the table of the moment is scored there and the best is kept, the start being the first. In a folder
the best table so far is always a file, whatever happens, and the same call goes on where it was.
"""

import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.arrays import check_any_rows, check_rows, take
from jaxdiff.denoisers import as_partial
from jaxdiff.distance import Distance, squared
from jaxdiff.method import Method
from jaxdiff.sampling.sampler import sample_any
from jaxdiff.sampling.table import Label, Table
from jaxdiff.training import hosts
from jaxdiff.training.checkpoint import fingerprint
from jaxdiff.training.devices import over_batch
from jaxdiff.training.loop import fit
from jaxdiff.tuning.learned.steps import Learned, load_steps
from jaxdiff.typing import Array, Denoiser

Data = Callable[[int], Mapping[str, Any]]
Scorer = Callable[[Any], float]  # of a table, or of what takes its place
FILE = "table.json"


class Tuned(NamedTuple):
    """A tuned sampler.

    table: the best on the held-out set. score: its held-out score, lower is better. before: that of
    the table tuning started from. step: the update after which it was best, 0 for the start itself.
    """

    table: Table | Learned
    score: float
    before: float
    step: int


def tune(
    method: Method,
    data: Data,
    score: Scorer,
    start: Table | Learned,
    *,
    num_updates: int,
    every: int = 50,
    patience: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    **options: Any,
) -> Tuned:
    """Tune a sampler.

    Args:
        method: of :func:`jaxdiff.tuning.tuning`.
        data: ``data(step)``, batches for the method's objective.
        score: the held-out score of a table, lower being better; :func:`held_out` makes one.
        start: the table to start from and to beat, usually the one that the family starts at: a
            baseline's, or one that was tuned before.
        num_updates: updates at most.
        every: updates between two scores; the last is scored, too.
        patience: stop after so many updates without a better score; None for never.
        folder: where the best table (``table.json``) and the run's checkpoints are kept. A call
            that was stopped goes on there; one that has ended returns what it found.
        metadata: more metadata of the table's file, plain values: model, guidance weight,
            objective. A folder that holds a table with other metadata is refused.
        options: of :func:`jaxdiff.training.loop.fit`: key, parallel, devices, progress, log.

    Returns:
        The best table, its held-out score, that of the start, and the update after which it was
        best.

    Raises:
        ValueError: if the start's own score is not finite, or the folder holds something else; for
            numbers below 1.
        FloatingPointError: for a loss that is not finite; the best table so far stays there.
    """
    if min(num_updates, every, 1 if patience is None else patience) < 1:
        raise ValueError(
            f"num_updates, every and patience are at least 1: {num_updates}, {every}, {patience}"
        )
    record = {
        "updates": num_updates,
        "every": every,
        "patience": patience,
        "start": _digest(start.to_dict()),
        "frozen": fingerprint(method.frozen),
        **json.loads(json.dumps(dict(metadata or {}))),
    }
    place = None if folder is None else Path(folder)
    found = None if place is None else _kept(place, record)
    if found is not None and found.table.metadata["finished"]:
        return found
    best = found or _scored(score, start)

    def keep(found: Tuned, finished: bool = False) -> Tuned:
        scores = {"held_out": found.score, "before": found.before, "step": found.step}
        label = Label(found.table.name, found.table.label.options)  # nothing of what it was before
        table = dataclasses.replace(found.table, label=label)
        found = found._replace(table=table.with_metadata(**record, **scores, finished=finished))
        if place is not None and hosts.is_main_process():
            place.mkdir(parents=True, exist_ok=True)
            found.table.save(place / FILE)
        return found

    def watch(step: int, state: Any) -> bool:
        nonlocal best
        table = method.sampler(state).table
        value = score(table)
        if value < best.score:  # never true of NaN
            best = keep(Tuned(table, value, best.before, step))
        return patience is not None and step - best.step >= patience

    best = keep(best)
    checkpoint = None if place is None else place / "checkpoints"
    fit(
        method,
        data,
        num_updates=num_updates,
        checkpoint=checkpoint,
        watch=watch,
        watch_every=every,
        save_every=every,
        **options,
    )
    return keep(best, finished=True)


def held_out(
    denoiser: Denoiser,
    pairs: Mapping[str, Any],
    distance: Distance = squared,
    batch: int = 256,
    **placing: Any,
) -> Scorer:
    """Return the root of the mean distance of a table's samples to stored pairs' ends; lower is
    better.

    Args:
        denoiser: ``D(y, level, cond)``.
        pairs: "start", "image" and perhaps "label", of :func:`jaxdiff.sampling.pairs.make_pairs`:
            other ones than are tuned on.
        distance: of samples to the stored ends, per sample.
        batch: of them at a time.
        placing: ``parallel`` and ``devices`` of :func:`jaxdiff.training.devices.over_batch`. Raises
            ValueError without any pairs.

    Returns:
        ``score(table)``, a number; lower is better.
    """
    count = len(pairs["start"])
    if not count or batch < 1:
        raise ValueError(f"held-out scores need at least one pair, and at a time: {count}, {batch}")
    known = {k: pairs[k] for k in ("start", "image", "label") if k in pairs}
    check_rows(known, count, "pairs")
    chunks = [take(known, slice(i, i + batch)) for i in range(0, count, batch)]

    def score(table: Table | Learned) -> float:
        given = (as_partial(denoiser), _in_float(table))
        if count > batch:
            distances = functools.partial(_distances, distance=distance)
            check_any_rows(distances, given, chunks[0], "held_out")
        run = over_batch(_distances, given, distance=distance, **placing)
        found = [np.asarray(run(chunk), np.float64) for chunk in chunks]
        return float(np.sqrt(np.sum(np.concatenate(found)) / count))

    return score


def _distances(given: Any, pairs: Mapping[str, Array], *, distance: Distance) -> Array:
    """Return the distance of each pair's end to a table's sample from its start."""
    D, table = given
    return distance(sample_any(D, table, pairs["start"], pairs.get("label")), pairs["image"])


def _in_float(table: Table | Learned) -> Table | Learned:
    """Return the table's numbers as arrays of the current default precision: one program for
    all.
    """
    real = jnp.result_type(float)
    cast = lambda x: jnp.asarray(x, real if np.issubdtype(x.dtype, np.floating) else None)  # noqa: E731
    return jax.tree.map(cast, table)


def _scored(score: Scorer, start: Table | Learned) -> Tuned:
    value = score(start)
    if not np.isfinite(value):
        raise ValueError(f"the table to start from, {start!r}, scores {value} on the held-out set")
    return Tuned(start, value, value, 0)


def _kept(folder: Path, record: Mapping[str, Any]) -> Tuned | None:
    """Return the best table that an earlier call left in the folder; ValueError if it was another
    call.
    """
    if not (folder / FILE).exists():
        return None
    table = load_steps(folder / FILE)
    other = {k: table.metadata.get(k) for k in record if table.metadata.get(k) != record[k]}
    if other:
        listed = "; ".join(f"{k}: {v!r} there, {record[k]!r} here" for k, v in other.items())
        raise ValueError(f"{folder / FILE} was tuned otherwise ({listed}). Give another folder.")
    known = table.metadata
    if lacking := {"held_out", "before", "step", "finished"} - set(known):
        raise ValueError(f"{folder / FILE} is not of a tuning: it lacks {sorted(lacking)}")
    return Tuned(table, known["held_out"], known["before"], known["step"])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]
