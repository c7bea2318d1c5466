"""Numbers of the command line, as types of argparse: what has no meaning is refused by name."""

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

Number = TypeVar("Number", int, float)


def _ranged(
    read: Callable[[str], Number], fits: Callable[[Number], bool], kind: str
) -> Callable[[str], Number]:
    def parsed(text: str) -> Number:
        try:
            number = read(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be {kind}, not {text!r}") from None
        if not fits(number):
            raise argparse.ArgumentTypeError(f"must be {kind}, not {text}")
        return number

    return parsed


count = _ranged(int, lambda n: n >= 1, "a whole number, at least 1")
natural = _ranged(int, lambda n: n >= 0, "a whole number, not negative")
positive = _ranged(float, lambda x: 0 < x < math.inf, "positive and finite")
not_negative = _ranged(float, lambda x: 0 <= x < math.inf, "finite and not negative")
finite = _ranged(float, math.isfinite, "finite")
