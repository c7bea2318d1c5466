"""The sampler table: a solver traced once into numbers.

A solver in textbook form is a generator ``solver(D, y, levels, **options)`` that adds states,
scales them, calls ``D(y, s)`` (and ``noise()`` if it is stochastic) and yields every accepted
state::

    def euler(D, y, levels):
        for s, r in pairwise(levels):
            y = y + (r - s) * (y - D(y, s)) / s
            yield y

:func:`table` runs it once on symbolic vectors. A vector is a linear combination of basis vectors:
the start, each state that is evaluated or accepted, each denoised output and each noise. Whatever
the solver adds up between two such events becomes a row of weights over the most recent basis
vectors,

    state_p = sum_k states[p, k] state_{p-1-k} + sum_k denoised[p, k] D_{last-k} + sum_k noises[p,
    k] z_{last-k},

and the whole solver becomes the arrays of a :class:`Table`. :func:`jaxdiff.sampling.sample.sample`
runs any of them in one scan. There are ``rows`` states per network evaluation, the last one being
the state that is evaluated; after the last evaluation come the final rows.
"""

import dataclasses
import inspect
import json
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxdiff.sampling.scalar import Scalar, is_traced, is_zero
from jaxdiff.typing import Array, Solver

FORMAT = "jaxdiff-table-1"


class Label:
    """What a table is called. All labels compare equal, so that naming a table never compiles a
    program anew.
    """

    def __init__(self, name: str = "", options: dict[str, Any] | None = None) -> None:
        self.name, self.options = name, options or {}

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
    accepted: which rows, counted through all evaluations, are accepted states.
    draws: which noise slots, counted through all evaluations, the solver asked for, in its order.
    slots: noise slots per evaluation.
    """

    levels: Array | np.ndarray
    nodes: Array | np.ndarray
    states: Array | np.ndarray
    denoised: Array | np.ndarray
    noises: Array | np.ndarray
    count: Array | None = None
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
        """Whether running the table needs noise."""
        return self.slots > 0

    @property
    def name(self) -> str:
        """The solver's name."""
        return self.label.name

    def __repr__(self) -> str:
        shape = f"nfe={self.nodes.shape[0]}, window={self.states.shape[2]}+{self.denoised.shape[2]}"
        return f"Table({self.label!r}, {shape}{', stochastic' if self.stochastic else ''})"

    def save(self, path: str | pathlib.Path) -> None:
        """Write the table as JSON. The file states everything needed to run it."""
        if self.count is not None:
            raise ValueError(
                "a padded table is a way to run a sampler, not a sampler: save the table it was "
                "made from"
            )
        numbers = {k: np.asarray(getattr(self, k), np.float64).tolist() for k in _NUMBERS}
        shapes = {k: list(getattr(self, k).shape) for k in _NUMBERS}
        text = {"format": FORMAT, "name": self.name, "options": self.label.options, "nfe": self.nfe}
        text |= {"accepted": list(self.accepted), "draws": list(self.draws), "slots": self.slots}
        pathlib.Path(path).write_text(
            json.dumps(text | {"shapes": shapes} | numbers, indent=1, allow_nan=False)
        )


_NUMBERS = ("levels", "nodes", "states", "denoised", "noises")


def load_table(path: str | pathlib.Path) -> Table:
    """Read a table written by :meth:`Table.save`.

    Raises:
        ValueError: if the file is not such a table, or its numbers do not fit together.
    """
    try:
        text = json.loads(pathlib.Path(path).read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(text, dict) or text.get("format") != FORMAT:
        raise ValueError(f"{path} is not a sampler table (its 'format' should be {FORMAT!r})")
    try:
        numbers: dict[str, Any] = {
            k: np.array(text[k], np.float64).reshape(text["shapes"][k]) for k in _NUMBERS
        }
        label = Label(str(text["name"]), dict(text["options"]))
        ints: dict[str, Any] = {k: tuple(int(i) for i in text[k]) for k in ("accepted", "draws")}
        made = Table(**numbers, **ints, slots=int(text["slots"]), label=label)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is a damaged sampler table: {error!r}") from error
    _check_table(made, str(path))
    return made


def _check_table(t: Table, where: str) -> None:
    n, rows = t.nodes.shape[0], t.states.shape[1]
    shapes = [a.shape[:2] for a in (t.states, t.denoised, t.noises)]
    if shapes != [(n + 1, rows)] * 3 or t.levels.shape != (len(t.accepted) + 1,):
        raise ValueError(
            f"{where}: the arrays' shapes do not fit together ({n} nodes, weights {shapes})"
        )
    if any(not 0 <= i < (n + 1) * rows for i in t.accepted) or any(
        not 0 <= i < (n + 1) * t.slots for i in t.draws
    ):
        raise ValueError(f"{where}: 'accepted' or 'draws' point outside the table")
    if not all(np.isfinite(np.asarray(getattr(t, k))).all() for k in _NUMBERS):
        raise ValueError(f"{where}: the table holds numbers that are not finite")


class Vector:
    """A linear combination of basis vectors, known by number."""

    __array_ufunc__ = None  # NumPy scalars hand multiplication over to us
    __slots__ = ("terms",)

    def __init__(self, terms: dict[int, Scalar]) -> None:
        self.terms = terms

    def __add__(self, other: "Vector | int") -> "Vector":
        if isinstance(other, int) and other == 0:  # where sum() starts
            return self
        if not isinstance(other, Vector):
            return NotImplemented
        mine, others = self.terms, other.terms
        return Vector({i: mine.get(i, 0.0) + others.get(i, 0.0) for i in mine | others})

    __radd__ = __add__

    def __mul__(self, scale: Scalar) -> "Vector":
        if isinstance(scale, Vector) or np.ndim(scale) != 0:
            raise TypeError(
                "a solver may only multiply a state by a number: what is not linear has no table"
            )
        return Vector({i: scale * w for i, w in self.terms.items()})

    __rmul__ = __mul__

    def __neg__(self) -> "Vector":
        return self * -1.0

    def __sub__(self, other: "Vector") -> "Vector":
        return self + -other if isinstance(other, Vector) else NotImplemented

    def __truediv__(self, scale: Scalar) -> "Vector":
        return self * (1.0 / scale)

    def is_basis(self) -> int | None:
        """The basis vector that this is, if it is one."""
        (number, weight), *rest = self.terms.items() or [(None, 0.0)]
        return number if not rest and not is_traced(weight) and weight == 1.0 else None


@dataclasses.dataclass
class _Segment:
    """What happens up to one evaluation: noises drawn, states made, and the level of the
    evaluation.
    """

    noises: list[int]
    rows: list[tuple[int, dict[int, Scalar]]]
    level: Scalar = None


class _Tape:
    """Records a solver as it runs on vectors."""

    def __init__(self, first: Callable | None) -> None:
        self.first, self.size = first, 1
        self.states, self.accepted = {0}, []
        self.denoised: list[int] = []
        self.segments = [_Segment([], [])]

    def new(self) -> int:
        self.size += 1
        return self.size - 1

    def settle(self, y: Vector, newest: bool) -> int:
        """Make ``y`` a basis vector: a state that is evaluated or accepted. Its holder sees the
        change.
        """
        segment, number = self.segments[-1], y.is_basis()
        known = number in self.states and number != 0
        if not known or (newest and self.latest() != number):
            number = self.new()
            segment.rows.append((number, y.terms))
            self.states.add(number)
            y.terms = {number: 1.0}
        return number  # type: ignore[return-value]

    def latest(self) -> int:
        return next((segment.rows[-1][0] for segment in reversed(self.segments) if segment.rows), 0)

    def evaluate(self, y: Vector, level: Scalar) -> Vector:
        if self.first is not None:
            first, self.first = self.first, None
            return first(y, level)
        if y.is_basis() != 0 or self.latest() != 0:
            self.settle(y, newest=True)
        self.segments[-1].level = level
        self.segments.append(_Segment([], []))
        self.denoised.append(self.new())
        return Vector({self.denoised[-1]: 1.0})

    def noise(self) -> Vector:
        number = self.new()
        self.segments[-1].noises.append(number)
        return Vector({number: 1.0})

    def accept(self, y: Vector) -> None:
        self.accepted.append(self.settle(y, newest=False))


def table(
    solver: Solver,
    levels: Sequence[Scalar] | np.ndarray | Array,
    *,
    first: Callable[[Any, Scalar], Any] | None = None,
    name: str | None = None,
    **options: Any,
) -> Table:
    """Trace a textbook solver on a grid.

    Args:
        solver: generator function ``solver(D, y, levels, **options)``; a stochastic one also takes
            ``noise``.
        levels: strictly decreasing noise levels, start first; only the last may be 0. Concrete
            levels give float64 weights made on the host; a traced array gives weights that are
            differentiable with respect to it. Levels that are traced but end in zero are given as a
            sequence: ``table(solver, [*levels, 0.0])``.
        first: an analytic first step: ``first(y, level)`` answers the first call of D in closed
            form (linear in y) and costs no evaluation. :func:`jaxdiff.sampling.ode.unit_first` is
            the usual one.
        name: what to call the table; the solver's own name by default.
        options: handed to the solver.

    Raises:
        ValueError: levels that do not strictly decrease, are negative or not finite.
        TypeError: an option that the solver does not have, or a solver that is not linear in its
            states.
    """
    knots = check_levels(levels)
    stochastic = _check_options(solver, options)
    tape = _Tape(first)
    extra = {"noise": tape.noise} if stochastic else {}
    for y in solver(tape.evaluate, Vector({0: 1.0}), knots, **extra, **options):
        tape.accept(y)
    if len(tape.accepted) != len(knots) - 1:
        raise ValueError(
            f"{_name(solver)} yielded {len(tape.accepted)} states on a grid of {len(knots) - 1} "
            "steps: a solver yields one per step"
        )
    final = Vector({tape.accepted[-1]: 1.0})
    tape.accepted[-1] = tape.settle(final, newest=True)
    described = {k: getattr(v, "__name__", v) for k, v in options.items()}
    if first is not None:
        described["first"] = getattr(first, "__name__", str(first))
    return _assemble(tape, knots, Label(name or _name(solver), described))


def _assemble(tape: _Tape, knots: list[Scalar], label: Label) -> Table:
    segments = tape.segments
    rows = max(1, *(len(segment.rows) for segment in segments))
    slots = max(len(segment.noises) for segment in segments)
    place, lines = (
        {0: -1},
        [],
    )  # where in the sequence of rows each state stands; the rows as (position, lag -> weight)
    drawn = {
        z: n * slots + q for n, segment in enumerate(segments) for q, z in enumerate(segment.noises)
    }
    denoised = {d: n for n, d in enumerate(tape.denoised)}
    newest = 0
    for n, segment in enumerate(segments):
        padding = [(newest, {newest: 1.0})] * (
            rows - len(segment.rows)
        )  # rows that repeat the newest state
        for m, (number, terms) in enumerate(padding + segment.rows):
            lags = ({}, {}, {})
            for i, weight in terms.items():
                if i in place:
                    lags[0][n * rows + m - 1 - place[i]] = weight
                elif i in denoised:
                    lags[1][n - 1 - denoised[i]] = weight
                else:
                    lags[2][(n + 1) * slots - 1 - drawn[i]] = weight
            place[number] = n * rows + m
            lines.append(lags)
            newest = number
    shape = (len(segments), rows)
    return Table(
        levels=_array(knots, (len(knots),)),
        nodes=_array([segment.level for segment in segments[:-1]], (len(segments) - 1,)),
        states=_weights([line[0] for line in lines], shape),
        denoised=_weights([line[1] for line in lines], shape),
        noises=_weights([line[2] for line in lines], shape),
        accepted=tuple(place[i] for i in tape.accepted),
        draws=tuple(drawn.values()),
        slots=slots,
        label=label,
    )


def _weights(lines: list[dict[int, Scalar]], shape: tuple[int, int]) -> Array | np.ndarray:
    window = max(
        (lag + 1 for line in lines for lag, w in line.items() if is_traced(w) or w != 0), default=0
    )
    return _array([line.get(lag, 0.0) for line in lines for lag in range(window)], (*shape, window))


def _array(numbers: list[Scalar], shape: tuple[int, ...]) -> Array | np.ndarray:
    traced = [x for x in numbers if is_traced(x)]
    if not traced:
        return np.array(numbers, np.float64).reshape(shape)
    return jnp.stack([jnp.asarray(x, traced[0].dtype) for x in numbers]).reshape(shape)


def check_levels(levels: Sequence[Scalar] | np.ndarray | Array) -> list[Scalar]:
    """The levels as Python floats or traced scalars, after checking what can be checked."""
    if hasattr(levels, "ndim") and levels.ndim != 1:  # type: ignore[union-attr]
        raise ValueError(f"levels must be one-dimensional; these have shape {levels.shape}")  # type: ignore[union-attr]
    traced = isinstance(levels, Tracer)
    knots = [x if isinstance(x, Tracer) else float(x) for x in (list(levels) if traced else levels)]
    if len(knots) < 2:
        raise ValueError(f"a grid needs at least two levels (one step); this one has {len(knots)}")
    known = [(i, s) for i, s in enumerate(knots) if not is_traced(s)]
    for i, s in known:
        if not math.isfinite(s) or s < 0:
            raise ValueError(f"levels must be finite and not negative; levels[{i}] is {s}")
    for (i, s), (j, r) in zip(known, known[1:], strict=False):
        if not r < s:
            raise ValueError(
                f"levels must strictly decrease; levels[{i}] = {s} comes before levels[{j}] = {r}"
            )
    if any(is_zero(s) for s in knots[:-1]):
        raise ValueError("only the last level may be zero")
    return knots


def _check_options(solver: Solver, options: dict[str, Any]) -> bool:
    """Whether the solver takes noise; complain about options it does not have."""
    known = inspect.signature(solver).parameters
    free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    own = [k for k in known if k not in ("D", "y", "levels", "noise")]
    for option in options:
        if option not in known and not free:
            raise TypeError(
                f"{_name(solver)} has no option {option!r}; it has: {', '.join(own) or 'none'}"
            )
    return "noise" in known


def _name(solver: Solver) -> str:
    return getattr(solver, "__name__", None) or getattr(
        getattr(solver, "func", None), "__name__", "solver"
    )


def pad(tables: Sequence[Table]) -> list[Table]:
    """Bring tables to common shapes, so that a few compiled programs run them all (forward only, no
    gradient).

    Arrays are filled up with zeros and ``count`` tells how many evaluations are real. Tables that
    differ in rows per evaluation or in noise slots keep different shapes: a sweep compiles one
        program per such pair, three or four in all.
    """
    kinds: dict[tuple[int, int], list[Table]] = {}
    for t in tables:
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
