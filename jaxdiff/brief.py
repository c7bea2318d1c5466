"""One short line about a record: what it holds, arrays by dtype and shape, trees by their size."""

import dataclasses
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.core import Tracer
from jax.tree_util import Partial

LONGEST = 300


def public_names(namespace: Mapping[str, Any]) -> list[str]:
    """Return the names that a package offers: its functions, classes and constants, and none of the
    modules that they come from.
    """
    return sorted(
        name
        for name, item in namespace.items()
        if not name.startswith("_") and not isinstance(item, types.ModuleType)
    )


def short(self: Any) -> str:
    """Return the ``__repr__`` of records (NamedTuple or dataclass): ``Name(field=..., ...)``, one
    line.
    """
    named = getattr(self, "_fields", None) or [f.name for f in dataclasses.fields(self)]
    text = ", ".join(f"{name}={brief(getattr(self, name))}" for name in named)
    text = f"{type(self).__name__}({text})"
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]}...)"


def brief(x: Any) -> str:
    """Return one value, in a few words."""
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return _array(x)
    if x is None or isinstance(x, bool | int | float | str):
        return repr(x) if len(repr(x)) <= 60 else f"{repr(x)[:56]}...{repr(x)[-1]}"
    if isinstance(x, types.FunctionType | type):
        return x.__name__
    name = getattr(getattr(x, "func", x), "__name__", None) or type(getattr(x, "func", x)).__name__
    own = type(x).__dict__.get("__repr__")
    if own is not None and own is not short and len(text := repr(x)) <= 120 and "\n" not in text:
        return text
    arrays = [leaf for leaf in jax.tree.leaves(x) if hasattr(leaf, "shape")]
    if not arrays:
        plain = isinstance(x, tuple | list | dict) and not hasattr(x, "_fields")
        return repr(x) if plain and len(repr(x)) <= 60 else name
    total = sum(int(np.prod(a.shape)) for a in arrays)
    return f"<{name}: {len(arrays)} arrays, {total:,} numbers>"


def _array(x: Any) -> str:
    key = jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
    if x.shape == () and not isinstance(x, Tracer | jax.ShapeDtypeStruct) and not key:
        return f"{np.asarray(x).item():.6g}"
    return f"{x.dtype}{list(x.shape)}"


class Changed(Partial):
    """A denoiser made of others by a function, such as guidance: a Partial that shows itself in one
    line, by the function's name and what it holds, in brief.
    """

    def __repr__(self) -> str:
        """Say the function and the denoisers, weights and measurements that it has."""
        func = getattr(self.func, "func", self.func)
        func = getattr(func, "combine", func)  # of a blend of two outputs
        name = getattr(func, "__name__", type(func).__name__).lstrip("_")
        return f"{name}({', '.join(brief(part) for part in self.args if part is not None)})"


jax.tree_util.register_pytree_node(
    Changed,
    lambda D: ((D.args, D.keywords), D.func),
    lambda func, parts: Changed(func, *parts[0], **parts[1]),
)
