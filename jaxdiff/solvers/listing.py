"""Entries of the list of solvers, :data:`jaxdiff.solvers.SOLVERS`."""

import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

Options = dict[str, Any]
ANY_ORDER = range(1, sys.maxsize)


class KnownOrder(NamedTuple):
    """An order of convergence that is known, and how to see it.

    options: of the solver.
    order: of the error in the state or, of a stochastic solver, in the distribution (weak).
    history: steps that need past outputs before the solver has its full order.
    grid: "karras", "log SNR" or "VP time".
    finer: factor of the numbers of steps, where the asymptotic regime begins later.
    refined: options instead, where those above hold back what does not shrink with the steps.
    """

    options: Options
    order: int
    history: int = 0
    grid: str = "karras"
    finer: int = 1
    refined: Options | None = None


class SolverEntry(NamedTuple):
    """A solver, and where it is used without being named.

    solver: the function.
    evaluations: of the network in a step to a positive level, run as the first of ``checked``.
    orders: those its option ``order`` takes; None if it has no such option.
    stochastic: takes ``noise``.
    direct: not linear in its states, so that there is no table of it.
    command_line: has a name there. Not what needs a model's own numbers, or a student.
    demo: options in the sweep of ``jaxdiff demo``, if it is in it.
    baselines: options in the baselines that tuned samplers are compared with and start from.
    sweep: options in the benchmark that compiles and runs a sweep of samplers.
    checked: options in the tests that every table passes.
    measured: the orders of convergence in the table of all samplers.
    """

    solver: Callable[..., Iterator[Any]]
    evaluations: int
    orders: range | None = None
    stochastic: bool = False
    direct: bool = False
    command_line: bool = True
    demo: Options | None = None
    baselines: tuple[Options, ...] = ()
    sweep: tuple[Options, ...] = ()
    checked: tuple[Options, ...] = ({},)
    measured: tuple[KnownOrder, ...] = ()

    @property
    def name(self) -> str:
        """As it is called, here and on the command line."""
        return self.solver.__name__


def each_order(*orders: int, **options: Any) -> tuple[Options, ...]:
    """Return the options with each of these orders.

    Args:
        orders: the orders, one entry each.
        options: further options, the same in every entry.

    Returns:
        Options of a solver, a mapping for every order.
    """
    return tuple({"order": k, **options} for k in orders)
