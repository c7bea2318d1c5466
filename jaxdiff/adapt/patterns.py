"""Parameters chosen by the paths of their leaves: shell patterns and regular expressions."""

import fnmatch
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from jaxdiff.typing import Params

Pattern: TypeAlias = str | re.Pattern[str] | Sequence[str | re.Pattern[str]]
"""Which parameters: a shell pattern of their paths ("*/attention/*/kernel"), a compiled regular
expression that fits the whole path, or several of these."""
KERNELS = ("*kernel", "*weight")


def matching(params: Params, pattern: Pattern) -> Any:
    """Return for each parameter whether its path fits the pattern.

    Args:
        params: a tree.
        pattern: of paths as :func:`paths` gives them.

    Returns:
        A tree of bools of the same structure.

    Raises:
        ValueError: naming some paths, if none fits.
    """
    named = paths(params)
    found = [fits(name, pattern) for name in named]
    if not any(found):
        shown = ", ".join(named[:3]) + (", ..." if len(named) > 3 else "")
        raise ValueError(f"no parameter fits {pattern!r}; there are {shown}")
    return jax.tree.unflatten(jax.tree.structure(params), found)


def chosen_kernels(params: Params, pattern: Pattern) -> dict[str, Any]:
    """Return the parameters of two axes or more whose paths fit, by their paths.

    Args:
        params: a tree.
        pattern: of paths.

    Returns:
        Arrays by path, in the order of the leaves.

    Raises:
        ValueError: if nothing fits, or nothing that does has two axes.
    """
    free = jax.tree.leaves(matching(params, pattern))
    named = zip(paths(params), jax.tree.leaves(params), free, strict=True)
    chosen = {name: w for name, w, fit in named if fit and jnp.ndim(w) >= 2}
    if not chosen:
        raise ValueError(
            f"what fits {pattern!r} has fewer than two axes: there is no kernel to adapt"
        )
    return chosen


def paths(params: Params) -> list[str]:
    """Return the path of each leaf, "up_0/block_1/conv/kernel", in the order of the leaves.

    Args:
        params: a tree.

    Returns:
        Keys, indices or names of attributes, with "/" between them.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def fits(name: str, pattern: Pattern) -> bool:
    """Return whether a path fits a pattern, or one of several.

    Args:
        name: the path.
        pattern: shell pattern, in which "*" stands for any characters, "/" too; or expression.

    Returns:
        True if it does.
    """
    if isinstance(pattern, str):
        return fnmatch.fnmatchcase(name, pattern)
    if isinstance(pattern, re.Pattern):
        return pattern.fullmatch(name) is not None
    return any(fits(name, one) for one in pattern)
