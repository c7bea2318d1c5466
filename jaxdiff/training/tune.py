"""Tuning a sampler: descent on a family's numbers, and the best table on held-out starts.

What is returned is never worse, on the held-out set, than the table it started from: every so often
the table of the moment is scored there and the best is kept, the start being the first. In a folder
the best table so far is always a file, whatever happens, and the same call goes on where it was.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.distance import Distance, squared
from jaxdiff.method import Method
from jaxdiff.prediction import as_partial
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.table import Table, load_table
from jaxdiff.training.loop import fit
from jaxdiff.typing import Array, Cond, Denoiser

Data = Callable[[int], Mapping[str, Any]]
Judge = Callable[[Table], float]
FILE = "table.json"


class Tuned(NamedTuple):
    """A tuned sampler.

    table: the best on the held-out set. score: its held-out score, lower is better. before: that of
    the table tuning started from. step: the update after which it was best, 0 for the start itself.
    """

    table: Table
    score: float
    before: float
    step: int


def tune(
    method: Method,
    data: Data,
    judge: Judge,
    start: Table,
    *,
    steps: int,
    every: int = 50,
    patience: int | None = None,
    folder: str | os.PathLike[str] | None = None,
    about: Mapping[str, Any] | None = None,
    **options: Any,
) -> Tuned:
    """Tune a sampler.

    Args:
        method: of :func:`jaxdiff.tuning.tuning`.
        data: ``data(step)``, batches for the method's objective.
        judge: the held-out score of a table, lower being better; :func:`held_out` makes one.
        start: the table to start from and to beat, usually the hand-made one that the family starts
            at.
        steps: updates at most. every: updates between two scores. patience: stop after so many
            updates without a better score; None for never.
        folder: where the best table (``table.json``) and the run's checkpoints are kept. A call
            that was stopped goes on there; one that has ended returns what it found.
        about: more for the table's file to say: model, solver, guidance weight, objective.
        options: of :func:`jaxdiff.training.loop.fit`: key, parallel, devices, progress, log.

    Raises:
        ValueError: if the start's own score is not finite, or the folder holds something else.
        FloatingPointError: for a loss that is not finite; the best table so far stays there.
    """
    said = {"steps": steps, **(about or {})}
    best = _first(judge, start, None if folder is None else Path(folder), said)
    if best.table.about.get("finished"):
        return best

    def keep(found: Tuned, finished: bool = False) -> Tuned:
        found = found._replace(table=_told(found, said, finished))
        if folder is not None:
            found.table.save(Path(folder) / FILE)
        return found

    def watch(step: int, state: Any) -> bool:
        nonlocal best
        table = method.sampler(state).table
        score = judge(table)
        if score < best.score:  # never true of NaN
            best = keep(Tuned(table, score, best.before, step))
        return patience is not None and step - best.step >= patience

    best = keep(best)
    checkpoint = None if folder is None else Path(folder) / "checkpoints"
    fit(
        method, data, steps=steps, checkpoint=checkpoint, watch=watch, watch_every=every,
        save_every=every, **options,
    )  # fmt: skip
    return keep(best, finished=True)


def held_out(
    denoiser: Denoiser,
    pairs: Mapping[str, np.ndarray],
    distance: Distance = squared,
    batch: int = 256,
) -> Judge:
    """The root of the mean distance of a table's samples to stored pairs' ends; lower is better.

    pairs: "start", "image" and perhaps "label", of :func:`jaxdiff.sampling.pairs.make_pairs`: other
    ones than are tuned on. Raises ValueError without any pairs.
    """
    count = len(pairs["start"])
    if not count:
        raise ValueError("held-out scores need at least one pair")
    D = as_partial(denoiser)
    chunks = [slice(i, min(i + batch, count)) for i in range(0, count, batch)]

    @jax.jit
    def total(D: Denoiser, table: Table, start: Array, image: Array, label: Cond) -> Array:
        return jnp.sum(distance(sample(D, table, start, label), image))

    def judge(table: Table) -> float:
        sums = [
            total(
                D, _in_float(table), *(_part(pairs.get(k), c) for k in ("start", "image", "label"))
            )
            for c in chunks
        ]
        return float(np.sqrt(sum(map(float, sums)) / count))

    return judge


def _part(values: np.ndarray | None, rows: slice) -> Array | None:
    return None if values is None else jnp.asarray(values[rows])


def _in_float(table: Table) -> Table:
    """The table's numbers as arrays of the current default precision: one program for all."""
    real = jnp.result_type(float)
    cast = lambda x: jnp.asarray(x, real if np.issubdtype(x.dtype, np.floating) else None)  # noqa: E731
    return jax.tree.map(cast, table)


def _first(judge: Judge, start: Table, folder: Path | None, said: Mapping[str, Any]) -> Tuned:
    """The start with its score, or the best table that an earlier call left in the folder."""
    if folder is not None and (folder / FILE).exists():
        table = load_table(folder / FILE)
        if {k: v for k, v in table.about.items() if k in said} != dict(said):
            raise ValueError(
                f"{folder / FILE} was tuned otherwise ({table.about}); another folder?"
            )
        known = table.about
        return Tuned(table, known["held_out"], known["before"], known["step"])
    score = judge(start)
    if not np.isfinite(score):
        raise ValueError(f"the table to start from, {start!r}, scores {score} on the held-out set")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    return Tuned(start, score, score, 0)


def _told(found: Tuned, said: Mapping[str, Any], finished: bool) -> Table:
    scores = {"held_out": found.score, "before": found.before, "step": found.step}
    return found.table.described(**said, **scores, finished=finished)
