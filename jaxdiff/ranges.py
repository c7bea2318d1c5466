"""Ranges of numbers, declared beside the field or argument they are of: ``steps: Count = 3000``."""

import math
from typing import Annotated, NamedTuple


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
