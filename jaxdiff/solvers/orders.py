"""Orders of solvers: which there are, and which one each step of a multistep solver has."""

import operator


def check_order(solver: str, order: int, highest: int | None = 3) -> None:
    """Raise ValueError for an order that a solver does not have; ``highest`` None: it has all."""
    try:
        whole = operator.index(order)
    except TypeError:  # 1.5, or "2": looking for it among all numbers would never end
        whole = 0
    if whole < 1 or (highest is not None and whole > highest):
        known = "1, 2, ..." if highest is None else f"1 to {highest}"
        raise ValueError(f"{solver} has orders {known}, not {order!r}")


def step_order(i: int, num_steps: int, order: int, lower_final: bool) -> int:
    """Return the order of step i: as many as there is history for, lower towards the end with
    ``lower_final``.
    """
    return min(order, i + 1, num_steps - i if lower_final else order)
