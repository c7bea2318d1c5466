"""Tracing: a textbook solver run once on symbolic vectors becomes a table.

A vector is a linear combination of basis vectors: the start, each state that is evaluated or
accepted, each denoised output and each noise. Whatever the solver adds up between two such events
becomes a row of weights.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import jax.numpy as jnp
import numpy as np

from jaxdiff.sampling.solver_options import check_options, check_solver, solver_name
from jaxdiff.sampling.table import Label, Table
from jaxdiff.solvers.scalar import Scalar, check_levels, is_traced, is_zero
from jaxdiff.typing import Array, Solver

_NOT_LINEAR = (
    "a solver that is not linear has no table: of states and of what the denoiser returns it makes "
    "sums and multiples by numbers only; jaxdiff.direct runs any"
)


class Vector:
    """A linear combination of basis vectors, known by number."""

    __array_ufunc__ = None  # NumPy scalars hand multiplication over to us
    __slots__ = ("terms",)
    terms: dict[int, Scalar]

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
            raise TypeError(_NOT_LINEAR)
        return Vector({i: scale * w for i, w in self.terms.items()})

    __rmul__ = __mul__

    def __neg__(self) -> "Vector":
        return self * -1.0

    def __sub__(self, other: "Vector") -> "Vector":
        return self + -other if isinstance(other, Vector) else NotImplemented

    def __truediv__(self, scale: Scalar) -> "Vector":
        return self * (1.0 / scale)

    def __iter__(self) -> NoReturn:
        raise TypeError(_NOT_LINEAR)

    def __getattr__(self, name: str) -> NoReturn:
        """Refuse what arrays have: shape, dtype, ..."""
        if name.startswith("__"):
            raise AttributeError(name)
        raise TypeError(_NOT_LINEAR)

    def is_basis(self) -> int | None:
        """Return the basis vector that this is, if it is one."""
        (number, weight), *rest = self.terms.items() or [(None, 0.0)]
        return number if not rest and not is_traced(weight) and weight == 1.0 else None


@dataclasses.dataclass
class _Segment:
    """Events up to one evaluation: noises drawn, states made, and the level of the
    evaluation.
    """

    noises: list[int]
    rows: list[tuple[int, dict[int, Scalar]]]
    level: Scalar | None = None
    target: Scalar | None = None


class _Tape:
    """Records a solver as it runs on vectors."""

    def __init__(self, first: Callable | None) -> None:
        self.first, self.size = first, 1
        self.states, self.accepted = {0}, []
        self.evaluated: set[int] = set()
        self.denoised: list[int] = []
        self.segments = [_Segment([], [])]

    def new(self) -> int:
        self.size += 1
        return self.size - 1

    def settle(self, y: Vector, newest: bool, copy: bool = False) -> int:
        """Make ``y`` a basis vector: a state that is evaluated or accepted. Its holder sees the
        change.
        """
        segment, number = self.segments[-1], y.is_basis()
        known = number if number in self.states and number != 0 else None
        if known is not None and not copy and not (newest and self.latest() != known):
            return known
        made = self.new()
        segment.rows.append((made, y.terms))
        self.states.add(made)
        y.terms = {made: 1.0}
        return made

    def latest(self) -> int:
        return next((segment.rows[-1][0] for segment in reversed(self.segments) if segment.rows), 0)

    def evaluate(self, y: Vector, level: Scalar, target: Scalar | None = None) -> Vector:
        if self.first is not None:
            first, self.first = self.first, None
            return first(y, level)
        if y.is_basis() != 0 or self.latest() != 0:
            self.evaluated.add(self.settle(y, newest=True))
        self.segments[-1].level, self.segments[-1].target = level, target
        self.segments.append(_Segment([], []))
        self.denoised.append(self.new())
        return Vector({self.denoised[-1]: 1.0})

    def noise(self) -> Vector:
        number = self.new()
        self.segments[-1].noises.append(number)
        return Vector({number: 1.0})

    def accept(self, y: Vector) -> None:
        number = y.is_basis()  # a copy: what was made of the state does not see its correction
        copy = number in self.evaluated or number in self.accepted
        self.accepted.append(self.settle(y, newest=False, copy=copy))


def table(
    solver: Solver,
    levels: Sequence[Scalar] | np.ndarray | Array,
    *,
    first: Callable[[Any, Scalar], Any] | None = None,
    denoise: bool = False,
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
            form (linear in y) and costs no evaluation; :func:`jaxdiff.solvers.steps.unit_first`
            takes the data for N(0, I).
        denoise: return D at the last level, which must not be 0, instead of the state there: one
            more evaluation, and one more accepted state at level 0.
        name: what to call the table; the solver's own name by default.
        options: handed to the solver.

    Returns:
        The table: levels and weights of the evaluations, its accepted states, name and grid.

    Raises:
        ValueError: levels that do not strictly decrease, are negative or not finite; options that
            give no finite weights, or evaluations at no positive level.
        TypeError: an option that the solver does not have, or a solver that is no function or not
            linear in its states.

    >>> from jaxdiff import grids, solvers
    >>> table(solvers.heun, grids.karras(4)).nfe  # the step to level 0 is one evaluation
    7
    """
    check_solver(solver)
    knots = check_levels(levels)
    if denoise and is_zero(knots[-1]):
        raise ValueError("a grid that ends in 0 returns the denoised output already")
    stochastic = check_options(solver, options)
    tape = _Tape(first)
    extra = {"noise": tape.noise} if stochastic else {}
    for y in solver(tape.evaluate, Vector({0: 1.0}), knots, **extra, **options):
        tape.accept(y)
    if len(tape.accepted) != len(knots) - 1:
        raise ValueError(
            f"{solver_name(solver)} yielded {len(tape.accepted)} states on a grid of "
            f"{len(knots) - 1} steps: a solver yields one per step"
        )
    if denoise:
        tape.accept(tape.evaluate(Vector({tape.accepted[-1]: 1.0}), knots[-1]))
        knots = [*knots, 0.0]
    final = Vector({tape.accepted[-1]: 1.0})
    tape.accepted[-1] = tape.settle(final, newest=True)
    recorded = {k: _plain(v) for k, v in options.items()}
    if first is not None:
        recorded["first"] = getattr(first, "__name__", str(first))
    if denoise:
        recorded["denoise"] = True
    made = _assemble(tape, knots, Label(name or solver_name(solver), recorded))
    _check_weights(made)
    return made


def _check_weights(made: Table) -> None:
    """Raise ValueError for known weights that are not finite, or nodes that are no levels."""
    known = [w for w in (made.states, made.denoised, made.noises) if isinstance(w, np.ndarray)]
    nodes = made.nodes if isinstance(made.nodes, np.ndarray) else np.ones(1)
    if not all(np.isfinite(w).all() for w in known) or not ((nodes > 0) & (nodes < np.inf)).all():
        raise ValueError(
            f"{made.label.name} has no table with these levels and options {made.label.options}: "
            "its weights are not finite, or it evaluates the denoiser at no positive level"
        )


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
    newest, first = 0, {}
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
            first.setdefault(number, place[number])
            lines.append(lags)
            newest = number
    shape = (len(segments), rows)
    return Table(
        levels=_array(knots, (len(knots),)),
        nodes=_array([s.level for s in segments if s.level is not None], (len(segments) - 1,)),
        targets=_targets([segment.target for segment in segments[:-1]], label.name),
        states=_weights([line[0] for line in lines], shape),
        denoised=_weights([line[1] for line in lines], shape),
        noises=_weights([line[2] for line in lines], shape),
        accepted=tuple(first[i] for i in tape.accepted),
        draws=tuple(drawn.values()),
        slots=slots,
        label=label,
    )


def _targets(targets: list[Scalar | None], name: str) -> Array | np.ndarray | None:
    if all(r is None for r in targets):
        return None
    known = [r for r in targets if r is not None]
    if len(known) != len(targets):
        raise TypeError(f"{name} gives some evaluations a target and some none")
    return _array(known, (len(known),))


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


def _plain(option: Any) -> Any:
    """Return an option as a file of the table can hold it: a number, a text, or lists of these."""
    if isinstance(option, (list, tuple, np.ndarray)):
        return [_plain(v) for v in option]
    if option is None or isinstance(option, (bool, int, str)):
        return option
    if isinstance(option, (float, np.floating)) and math.isfinite(option):
        return float(option)
    return getattr(option, "__name__", None) or str(option)
