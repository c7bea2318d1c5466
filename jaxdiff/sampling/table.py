"""The sampler table: a solver traced once into numbers.

A solver in textbook form is a generator ``solver(D, y, levels, **options)`` that adds states,
scales them, calls ``D(y, s)`` (and ``noise()`` if it is stochastic) and yields every accepted
state::

    def euler(D, y, levels):
        for s, r in pairwise(levels):
            y = y + (r - s) * (y - D(y, s)) / s
            yield y

:func:`jaxdiff.sampling.trace.table` runs it once on symbolic vectors. Whatever the solver adds up
between two evaluations or accepted states becomes a row of weights over the most recent states,
denoised outputs and noises,

    state_p = sum_k states[p, k] state_{p-1-k} + sum_k denoised[p, k] D_{last-k}
            + sum_k noises[p, k] z_{last-k},

and the whole solver becomes the arrays of a :class:`Table`. :func:`jaxdiff.sampling.sample.sample`
runs any of them in one scan. There are ``rows`` states per network evaluation, the last one being
the state that is evaluated; after the last evaluation come the final rows.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdiff import inline
from jaxdiff.files import read_json, real_array, write_text
from jaxdiff.typing import Array

FORMAT = "jaxdiff-table-1"


class Label:
    """A table's name, its solver's options, and its metadata. All labels compare
    equal, so that naming a table never compiles a program anew.
    """

    def __init__(
        self,
        name: str = "",
        options: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self.name, self.options, self.metadata = name, options or {}, metadata or {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Label)

    def __hash__(self) -> int:
        return hash(Label)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{k}={v!r}' for k, v in self.options.items())})"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Table:
    """A sampler as data: a pytree whose leaves are all real numbers, to be run, differentiated,
    trained and saved.

    With N network evaluations, R rows per evaluation and A accepted states:

    levels: (A + 1,) noise levels of the start and of the accepted states.
    nodes: (N,) noise levels handed to the denoiser.
    states: (N + 1, R, K) weights of the last K states, newest first.
    denoised: (N + 1, R, L) weights of the last L denoised outputs, newest first.
    noises: (N + 1, R, M) weights of the last M noises, newest first; M = 0 for a deterministic
        sampler.
    count: number of evaluations actually made, for a padded table (see :func:`pad`); None if all
        are.
    accepted: which rows, counted through all evaluations, are accepted states: where each is made,
        not where it is repeated.
    draws: noise slots, counted through all evaluations, in the order in which the solver draws
        them.
    slots: noise slots per evaluation.
    targets: (N,) levels that a map between two levels jumps to in each evaluation, for the solvers
        that call ``D(y, s, target)``; None for all others.
    """

    levels: Array | np.ndarray
    nodes: Array | np.ndarray
    states: Array | np.ndarray
    denoised: Array | np.ndarray
    noises: Array | np.ndarray
    count: Array | None = None
    targets: Array | np.ndarray | None = None
    accepted: tuple[int, ...] = dataclasses.field(default=(), metadata={"static": True})
    draws: tuple[int, ...] = dataclasses.field(default=(), metadata={"static": True})
    slots: int = dataclasses.field(default=0, metadata={"static": True})
    label: Label = dataclasses.field(default=Label(), metadata={"static": True})

    @property
    def nfe(self) -> int:
        """Number of network evaluations (an analytic first step costs none)."""
        return int(self.nodes.shape[0] if self.count is None else self.count)

    @property
    def stochastic(self) -> bool:
        """Return whether running the table needs noise."""
        return self.slots > 0

    @property
    def name(self) -> str:
        """Return the solver's name."""
        return self.label.name

    @property
    def metadata(self) -> dict[str, Any]:
        """Return where a tuned table comes from: its model, objective, scores; empty for a
        solver's.
        """
        return self.label.metadata

    def with_metadata(self, **metadata: Any) -> "Table":
        """Return the same table with more metadata, plain values that its file will hold."""
        label = Label(self.name, self.label.options, self.metadata | metadata)
        return dataclasses.replace(self, label=label)

    def __repr__(self) -> str:
        window = f"window={self.states.shape[2]}+{self.denoised.shape[2]}"
        said = [
            repr(self.label),
            *self._tuned(),
            f"nfe={self.nodes.shape[0]}",
            *self._span(),
            window,
        ]
        return f"Table({', '.join(said)}{', stochastic' if self.stochastic else ''})"

    def _tuned(self) -> list[str]:
        """Say that the numbers are no longer those of the solver that they began as."""
        trained = self.metadata.get("step") not in (None, 0)
        return ["tuned"] if self.metadata.get("tuned") is True or trained else []

    def _span(self) -> list[str]:
        """Return the first and the last level in words, nothing where they are not known."""
        levels = self._known_levels()
        return (
            [] if levels is None else [f"levels {float(levels[0]):.3g} to {float(levels[-1]):.3g}"]
        )

    def _known_levels(self) -> np.ndarray | None:
        """Return the levels of one table that can be looked at: not traced, mapped or padded."""
        levels = self.levels
        arrays = isinstance(levels, np.ndarray | jax.Array) and not isinstance(levels, Tracer)
        if not arrays or levels.ndim != 1 or not levels.size:
            return None
        if isinstance(levels, jax.Array):
            if levels.is_deleted() or not levels.is_fully_addressable:
                return None
        return np.asarray(levels, np.float64)

    def _repr_html_(self) -> str:
        """Show solver, evaluations and levels in a notebook, with a plot of the levels."""
        line = inline.paragraph(repr(self))
        levels = self._known_levels()
        if levels is None or not (np.isfinite(levels).all() and (levels > 0).any()):
            return line
        return line + inline.level_plot(levels)

    def to_dict(self) -> dict[str, Any]:
        """Return the table as plain values, everything needed to run it. ValueError if padded."""
        if self.count is not None:
            raise ValueError(
                "a padded table is a way to run a sampler, not a sampler: save the table it was "
                "made from"
            )
        names = _NUMBERS if self.targets is None else (*_NUMBERS, "targets")
        numbers = {k: np.asarray(getattr(self, k), np.float64).tolist() for k in names}
        shapes = {k: list(getattr(self, k).shape) for k in names}
        text = {"format": FORMAT, "name": self.name, "options": self.label.options, "nfe": self.nfe}
        text |= {"accepted": list(self.accepted), "draws": list(self.draws), "slots": self.slots}
        text |= {"metadata": self.metadata} if self.metadata else {}
        return text | {"shapes": shapes} | numbers

    def save(self, path: str | pathlib.Path) -> None:
        """Write the table as JSON, whole or not at all. The file states everything needed to run
        it.
        """
        write_text(path, json.dumps(self.to_dict(), indent=1, allow_nan=False))


_NUMBERS = ("levels", "nodes", "states", "denoised", "noises")


def load_table(path: str | pathlib.Path) -> Table:
    """Read a table written by :meth:`Table.save`.

    Args:
        path: of the file, JSON.

    Returns:
        The table, its numbers as they were saved.

    Raises:
        ValueError: if the file is not such a table, or its numbers do not fit together.
    """
    return table_of_dict(read_json(path), str(path))


def table_of_dict(text: Any, where: str = "this") -> Table:
    """Return the table that :meth:`Table.to_dict` described. ValueError, naming ``where``, if it
    is none or its numbers do not fit together.
    """
    if not isinstance(text, dict) or text.get("format") != FORMAT:
        raise ValueError(f"{where} is not a sampler table (its 'format' should be {FORMAT!r})")
    names = (*_NUMBERS, "targets") if "targets" in text else _NUMBERS
    try:
        numbers: dict[str, Any] = {k: real_array(text[k]) for k in names}
        label = label_of(text["name"], text["options"], text.get("metadata", {}))
        rows: dict[str, Any] = {k: _places(text[k]) for k in ("accepted", "draws")}
        made = Table(**numbers, **rows, slots=_whole(text["slots"]), label=label)
        stated = {k: tuple(text["shapes"][k]) for k in names}, _whole(text["nfe"])
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{where} is a damaged sampler table: {error!r}") from error
    if stated != (shapes := {k: a.shape for k, a in numbers.items()}, made.nodes.size):
        raise ValueError(
            f"{where} is a damaged sampler table: it states 'shapes' {stated[0]} and 'nfe' "
            f"{stated[1]}, and holds arrays of {shapes}"
        )
    _check_table(made, where)
    return made


def _whole(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r:.60} is not one of 0, 1, 2, ...")
    return value


def _places(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list):
        raise TypeError(f"{values!r:.60} is not a list of rows")
    return tuple(map(_whole, values))


def label_of(name: Any, options: Any, metadata: Any) -> Label:
    """Return a label from a file. TypeError or ValueError for another content."""
    if not (isinstance(name, str) and isinstance(options, dict) and isinstance(metadata, dict)):
        raise TypeError("'name' should be a word, 'options' and 'metadata' should be objects")
    json.dumps([options, metadata], allow_nan=False)  # what could not be saved again
    return Label(name, options, metadata)


def _check_table(t: Table, where: str) -> None:
    if t.nodes.ndim != 1 or any(a.ndim != 3 for a in (t.states, t.denoised, t.noises)):
        raise ValueError(f"{where}: nodes should have one dimension, weights three")
    n, rows = t.nodes.shape[0], t.states.shape[1]
    shapes = [a.shape[:2] for a in (t.states, t.denoised, t.noises)]
    if not rows or shapes != [(n + 1, rows)] * 3 or t.levels.shape != (len(t.accepted) + 1,):
        raise ValueError(
            f"{where}: the arrays' shapes do not fit together ({n} nodes, weights {shapes})"
        )
    if t.slots > len(t.draws) or (t.noises.size and not t.slots):
        raise ValueError(f"{where}: {t.slots} slots do not go with {len(t.draws)} draws of noise")
    for name, end in (("accepted", (n + 1) * rows), ("draws", (n + 1) * t.slots)):
        places = [-1, *getattr(t, name), end]
        if any(a >= b for a, b in pairwise(places)):
            raise ValueError(f"{where}: {name!r} should increase, and lie within 0..{end - 1}")
    if t.targets is not None and t.targets.shape != t.nodes.shape:
        raise ValueError(f"{where}: targets of shape {t.targets.shape} do not go with {n} nodes")
    for name in (*_NUMBERS, "targets"):
        numbers = np.zeros(0) if getattr(t, name) is None else np.asarray(getattr(t, name))
        if not np.isfinite(numbers).all():
            raise ValueError(f"{where}: {name!r} holds numbers that are not finite")
        if name not in ("states", "denoised", "noises") and (numbers < 0).any():
            raise ValueError(f"{where}: {name!r} holds levels below 0")


def pad(tables: Sequence[Table]) -> list[Table]:
    """Bring tables to common shapes, so that a few compiled programs run them all (forward only, no
    gradient).

    Arrays are filled up with zeros and ``count`` is the number of evaluations that are real. Tables
    that
    differ in rows per evaluation or in noise slots keep different shapes: a sweep compiles one
        program per such pair, three or four in all.

    Args:
        tables: of solvers for differential equations; a map between two levels cannot be padded.

    Returns:
        The tables in the same order, padded.

    Raises:
        ValueError: for a table of a map between two levels.
    """
    kinds: dict[tuple[int, int], list[Table]] = {}
    for t in tables:
        if t.targets is not None:
            raise ValueError(f"{t!r} samples a map between two levels; padding knows no targets")
        kinds.setdefault((t.states.shape[1], t.slots), []).append(t)
    sizes = {
        kind: {k: np.max([getattr(t, k).shape for t in group], axis=0) for k in _NUMBERS[1:]}
        for kind, group in kinds.items()
    }
    return [_pad_to(t, sizes[t.states.shape[1], t.slots]) for t in tables]


def _pad_to(t: Table, sizes: dict[str, np.ndarray]) -> Table:
    def grown(name: str, fill: float) -> Any:
        own, whole = np.asarray(getattr(t, name)), np.full(sizes[name], fill)
        whole[tuple(slice(n) for n in own.shape)] = own
        return whole

    blocks: dict[str, Any] = {k: grown(k, 0.0) for k in ("states", "denoised", "noises")}
    count = jnp.asarray(t.nodes.shape[0], jnp.int32)
    return Table(
        np.zeros(0), grown("nodes", 1.0), **blocks, count=count, slots=t.slots, label=t.label
    )
