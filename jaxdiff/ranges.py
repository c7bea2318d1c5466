"""Ranges of numbers, declared beside the field or argument they are of: ``steps: Count = 3000``."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeVar, get_args

F = TypeVar("F", bound=Callable[..., Any])


class Range(NamedTuple):
    """Numbers from low to high. above, below: without the end itself. every: multiples of it."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    every: int = 1

    def holds(self, value: float) -> bool:
        """Return whether a number lies in it. None that is not finite does."""
        if not math.isfinite(value) or (self.every > 1 and value % self.every):
            return False
        low = self.low < value if self.above else self.low <= value
        return low and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        parts = [f"a multiple of {self.every}"] if self.every > 1 else []
        if self.low > -math.inf:
            parts.append(f"{'above' if self.above else 'at least'} {self.low:g}")
        if self.high < math.inf:
            parts.append(f"{'below' if self.below else 'at most'} {self.high:.10g}")
        return " and ".join(parts) or "a finite number"


Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Several = Annotated[int, Range(2)]
Scored = Annotated[int, Range(6)]  # samples of which each has five nearest others
Seed = Annotated[int, Range(0, 2**32 - 1)]
Number = Annotated[float, Range()]
Positive = Annotated[float, Range(0.0, above=True)]
NotNegative = Annotated[float, Range(0.0)]
Fraction = Annotated[float, Range(0.0, 1.0)]
PositiveFraction = Annotated[float, Range(0.0, 1.0, above=True)]
PositiveBelow1 = Annotated[float, Range(0.0, 1.0, above=True, below=True)]
Below1 = Annotated[float, Range(0.0, 1.0, below=True)]
Width = Annotated[float, Range(0.0, 0.2886, above=True)]  # of a power-function average


def in_range(function: F) -> F:
    """Check the numbers given as keywords against the ranges they are declared with, in each call.

    It raises ValueError, naming function and argument, for a number outside; what is no number
    (None, a function, an array) is the function's to judge.
    """
    parameters = inspect.signature(function).parameters.values()
    ranges = {p.name: found for p in parameters if (found := range_of(p.annotation)) is not None}

    @functools.wraps(function)
    def checked(*args: Any, **options: Any) -> Any:
        for name, allowed in ranges.items():
            value = options.get(name)
            if isinstance(value, int | float) and not allowed.holds(value):
                raise ValueError(f"{function.__name__}: {name} must be {allowed}, not {value}")
        return function(*args, **options)

    return checked  # type: ignore[return-value]


def range_of(annotation: Any) -> Range | None:
    """Return the range that an annotation declares, of a union that of its first part with one."""
    of = get_args(annotation)
    own = getattr(annotation, "__metadata__", ())
    found = [r for r in own if isinstance(r, Range)] or [r for a in of if (r := range_of(a))]
    return found[0] if found else None
