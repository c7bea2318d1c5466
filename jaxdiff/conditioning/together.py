"""One denoiser under several conditions of the same samples: one call of as many times the batch.

    D(y, s, c_1), ..., D(y, s, c_n)  =  vmap over c of D(y, s, c)

The states, their levels and what the denoiser holds are not mapped: numbers per sample stay with
their rows, all conditions have one dropout, and what a network computes before it reads its
condition is computed once.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

from jaxdiff.denoisers import check_network_cond, description
from jaxdiff.typing import Array, Cond, Denoiser


def together(
    denoiser: Denoiser, y: Array, level: Array, conds: Sequence[Cond], options: dict[str, Any],
    batched: bool | None = None,
) -> list[Any]:  # fmt: skip
    """Return a denoiser's outputs for several conditions of every sample.

    They are one call where the conditions have one structure, shapes and dtypes, and a call each
    otherwise, or where a plain function is among the options: it may keep what it sees. Entries
    that all have, the same object, are not repeated; where all are, nor is the call.

    Args:
        denoiser: ``D(y, level, cond, **options)``.
        y: states (batch, *shape).
        level: scalar or (batch,).
        conds: the conditions.
        options: handed to the denoiser.
        batched: None for the above, False for a call each, True for one call or an error.

    Returns:
        An output for each condition.

    Raises:
        ValueError: for ``batched=True`` where the conditions are not alike.
    """
    found = _columns(conds)
    keeps = any(callable(x) and not isinstance(x, Partial) for x in options.values())
    if batched and found is None:
        raise ValueError(
            "batched=True needs a null, or negative, of the condition's structure, shapes and "
            "dtypes, with nothing left out"
        )
    if batched is False or found is None or (keeps and not batched):
        return [denoiser(y, level, cond, **options) for cond in conds]
    for cond in conds:  # while its numbers are known
        check_network_cond(denoiser, cond)
    tree, columns = found
    shared = [all(x is column[0] for x in column) for column in columns]
    if all(shared):
        return [denoiser(y, level, conds[0], **options)] * len(conds)
    leaves = [c[0] if same else jnp.stack(c) for c, same in zip(columns, shared, strict=True)]
    axes = [None if same else 0 for same in shared]
    one = lambda leaves: denoiser(y, level, jax.tree.unflatten(tree, leaves), **options)  # noqa: E731
    made = jax.vmap(one, in_axes=(axes,))(leaves)
    return [jax.tree.map(lambda x, i=i: x[i], made) for i in range(len(conds))]


def _columns(conds: Sequence[Cond]) -> tuple[Any, list[tuple[Any, ...]]] | None:
    """Return the structure of conditions, and of each leaf what they have; None unless alike."""
    number = lambda x: jnp.asarray(x) if isinstance(x, (bool, int, float)) else x  # noqa: E731
    split = [jax.tree.flatten(jax.tree.map(number, cond)) for cond in conds]
    tree = split[0][1]
    if any(other != tree for _, other in split):
        return None
    columns = list(zip(*(leaves for leaves, _ in split), strict=True))
    kinds = lambda column: {(np.shape(x), getattr(x, "dtype", type(x))) for x in column}  # noqa: E731
    arrays = all(hasattr(column[0], "dtype") for column in columns)
    return (tree, columns) if arrays and all(len(kinds(c)) == 1 for c in columns) else None


def null_class(denoiser: Denoiser, cond: Cond) -> int | None:
    """Return the class that stands for no condition, for which a network takes None, too: of the
    package's own networks with one, where the condition is class indices (batch,). None otherwise.
    """
    made = description(denoiser)
    null = None if made is None else getattr(made["network"], "null", None)
    indices = hasattr(cond, "dtype") and jnp.issubdtype(cond.dtype, jnp.integer)  # type: ignore[union-attr]
    return null if indices and np.ndim(cond) == 1 else None
