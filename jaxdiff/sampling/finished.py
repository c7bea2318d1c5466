"""Solves that choose their steps: which samples reached the end, and errors about the others."""

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from jaxdiff.arrays import check
from jaxdiff.typing import Array

if TYPE_CHECKING:
    import diffrax


def finite_rows(tree: PyTree) -> Array:
    """Return which samples are finite, (batch,), of arrays with the batch first."""
    rows = [jnp.isfinite(x).reshape(x.shape[0], -1).all(axis=1) for x in jax.tree.leaves(tree)]
    return jnp.stack(rows).all(axis=0)


def check_finished(states: Array, finished: Array, num_steps: Array, most: int, goal: str) -> Array:
    """Return the states, or raise RuntimeError naming the samples that are not finished.

    A sample that gave up before its ``most`` steps met a number that is not finite. Under
    ``jax.jit`` the program raises when it is run.
    """
    if isinstance(finished, Tracer):
        import equinox

        text = f"a sample did not reach {goal}: it ran out of its {most} steps, or met NaN"
        return equinox.error_if(states, ~finished, text)
    if bool(finished.all()):
        return states
    over, made = ~np.asarray(finished), np.asarray(num_steps)
    parts = []
    if (rows := np.flatnonzero(over & (made < most))).size:
        parts.append(
            f"samples {_listed(rows)} met a number that is not finite: look at what the denoiser "
            "returns for them (a class that there is not, an overflow in low precision)"
        )
    if (rows := np.flatnonzero(over & (made >= most))).size:
        parts.append(
            f"samples {_listed(rows)} ran out of {most} steps: raise max_steps or the tolerances"
        )
    raise RuntimeError(
        f"{int(over.sum())} of {len(over)} samples did not reach {goal}: {'; '.join(parts)}. With "
        "throw=False look at finished"
    )


def _listed(rows: np.ndarray) -> str:
    more = f", ... ({len(rows)} in all)" if len(rows) > 5 else ""
    return ", ".join(map(str, rows[:5])) + more


def check_max_steps(max_steps: int | None) -> None:
    """Raise ValueError for no steps."""
    if max_steps is not None and max_steps < 1:
        raise ValueError(f"max_steps is at least 1, not {max_steps}")


def pid_controller(solver: "diffrax.AbstractSolver", **options: Any) -> Any:
    """Return a PID controller of diffrax that for explicit solvers ends the solve at the first
    error estimate that is not finite (NaN comes as infinity): the plain one would shorten the steps
    until none is left. In implicit solvers it means a step whose equations were not solved.
    """
    import diffrax

    check(
        "rtol and atol must not be negative, nor both 0",
        lambda r, a: (r >= 0).all() and (a >= 0).all() and (r + a > 0).all(),
        options["rtol"], options["atol"],
    )  # fmt: skip
    implicit = isinstance(solver, diffrax.AbstractImplicitSolver)
    return (diffrax.PIDController if implicit else _controller())(**options)


@functools.cache
def _controller() -> Any:
    import diffrax

    class EndsAtNaN(diffrax.PIDController):
        def adapt_step_size(self, *args: Any, **kwargs: Any) -> Any:
            *step, result = super().adapt_step_size(*args, **kwargs)
            error = kwargs["y_error"] if "y_error" in kwargs else args[5]
            wrong = jnp.stack([~jnp.isfinite(e).all() for e in jax.tree.leaves(error)]).any()
            results = diffrax.RESULTS
            return *step, results.where(wrong, results.internal_error, result)

    return EndsAtNaN
