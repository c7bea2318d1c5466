"""Solvers and their options, checked before they run: on symbolic vectors, or on arrays."""

import inspect
import math
from typing import Any

from jaxdiff.typing import Solver


def check_solver(solver: Solver) -> None:
    """Raise TypeError for what is no solver: a name, a table, or anything else but a function."""
    if callable(solver):
        return
    if isinstance(solver, str):
        raise TypeError(
            f"a solver is a function, not its name: give jaxdiff.solvers.{solver}, not {solver!r}"
        )
    raise TypeError(
        f"a solver is a function solver(D, y, levels, **options), such as those of "
        f"jaxdiff.solvers; this is {type(solver).__name__}"
    )


def check_options(solver: Solver, options: dict[str, Any]) -> bool:
    """Return whether the solver takes noise. Raises TypeError for options that it does not have."""
    known = inspect.signature(solver).parameters
    free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values())
    own = [k for k in list(known)[3:] if k != "noise"]  # denoiser, state and levels are by position
    for option in options:
        if option not in known and not free:
            raise TypeError(
                f"{solver_name(solver)} has no option {option!r}; "
                f"it has: {', '.join(own) or 'none'}"
            )
        _check_number(solver, option, options[option], known.get(option))
    required = [k for k in own if known[k].default is known[k].empty and k not in options]
    if required and not free:
        raise TypeError(f"{solver_name(solver)} needs the option {required[0]!r}")
    return "noise" in known


def _check_number(solver: Solver, name: str, given: Any, known: inspect.Parameter | None) -> None:
    """Raise for nan, and for a text in place of a number."""
    if isinstance(given, float) and math.isnan(given):
        raise ValueError(f"{solver_name(solver)}: {name} is a number, not nan")
    default = None if known is None else known.default
    if isinstance(given, str) and isinstance(default, (int, float)):
        raise TypeError(f"{solver_name(solver)}: {name} is like {default!r}, not {given!r}")


def solver_name(solver: Solver) -> str:
    """Return what to call a solver."""
    return getattr(solver, "__name__", None) or getattr(
        getattr(solver, "func", None), "__name__", "solver"
    )
