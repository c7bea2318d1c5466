"""Annotated shapes are checked in tests, and nowhere else.

What is checked are shapes, and classes of arguments. Which numbers and words a function takes is a
matter of its own errors, which tests provoke with wrong ones.
"""

from functools import cache
from typing import Any, Literal

import jax
import jax.export
import numpy as np
from beartype import BeartypeConf, FrozenDict, beartype
from jaxtyping import Float, install_import_hook

MODULES = ("distance", "exact", "grids", "noise", "prediction", "process")
SIZE = type(jax.export.symbolic_shape("n")[0])  # a size that an exported program leaves open
NUMBERS = int | float | np.number | SIZE
SPACING = Literal["leading", "linspace", "trailing"]


@cache
def _checker() -> Any:
    from jaxdiff.typing import AtTimes, PerSample, Points, States  # not before the hook is there

    hints = {int: NUMBERS, float: NUMBERS, jax.Array: jax.Array | np.ndarray, SPACING: str}
    for hint in (AtTimes, PerSample, Points, States):  # NumPy's arrays go where JAX's do
        hints[hint] = hint | Float[np.ndarray, hint.dim_str]
    return beartype(conf=BeartypeConf(hint_overrides=FrozenDict(hints)))


def check(function: Any) -> Any:
    """Check the arguments and results of a function: for the import hook."""
    return _checker()(function)


def check_shapes():
    """To be called before any of the modules is imported."""
    return install_import_hook([f"jaxdiff.{name}" for name in MODULES], f"{__name__}.check")
