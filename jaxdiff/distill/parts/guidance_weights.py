"""Guidance weights that a student is trained for, as samplers of such students take them."""

from collections.abc import Callable
from typing import Any, TypeVar

Sampling = TypeVar("Sampling", bound=Callable[..., Any])
RANGE = "guidance_range"  # the name of an attribute of samplers


def check_guidance_weight(weight: float, low: float, high: float) -> None:
    """Raise ValueError for a guidance weight outside of those that a network was trained for."""
    if not low <= weight <= high:
        raise ValueError(
            f"the network knows guidance weights from {low:g} to {high:g}, not {weight}"
        )


def with_range(sampler: Sampling, low: float, high: float) -> Sampling:
    """Return a method's sampler, which says which guidance weights it takes."""
    setattr(sampler, RANGE, (float(low), float(high)))
    return sampler


def range_of(sampler: Callable[..., Any]) -> tuple[float, float] | None:
    """Return the guidance weights that a sampler, or a partial one, says it takes; None if it says
    nothing.
    """
    return getattr(getattr(sampler, "func", sampler), RANGE, None)
