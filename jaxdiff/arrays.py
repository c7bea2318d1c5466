"""Arrays: checks of numbers, pytree dataclasses, products at full precision, rows of a batch.

What belongs to a sample travels with its row. A function that splits a batch into blocks or spreads
it over devices cannot carry numbers per sample that the denoiser itself holds (guidance weights
(batch,), labels in a closure): those it refuses, as every block would be given the same ones.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import PyTree

from jaxdiff.brief import short
from jaxdiff.typing import Array, Cond, Denoiser, Values

C = TypeVar("C", bound=type)

ALIGNED = 64  # bytes
# Random draws are cheap to run and slow to optimise: unoptimised, they compile three times faster.
QUICK = {"xla_backend_optimization_level": 0}

einsum = functools.partial(jnp.einsum, precision="highest")  # not TF32


@dataclass_transform(frozen_default=True, eq_default=False)
def pytree_dataclass(cls: C) -> C:
    """Make a frozen dataclass a pytree; fields with metadata ``static`` are part of its structure.

    Unlike ``jax.tree_util.register_dataclass``, rebuilding it from leaves does not run
    ``__init__``: a check made there sees what the user passed, never a tracer, a gradient or a
    placeholder. Instances compare and hash by identity.
    """
    cls = dataclasses.dataclass(frozen=True, eq=False)(cls)
    cls.__repr__ = short  # pyright: ignore[reportAttributeAccessIssue]
    fields = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
    static = tuple(f.name for f in fields if f.metadata.get("static", False))
    data = tuple(f.name for f in fields if f.name not in static)

    def flatten(record: object) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        return tuple(getattr(record, n) for n in data), tuple(getattr(record, n) for n in static)

    def flatten_with_keys(record: object) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        keys = tuple(jax.tree_util.GetAttrKey(n) for n in data)
        leaves, structure = flatten(record)
        return tuple(zip(keys, leaves, strict=True)), structure

    def unflatten(structure: tuple[Any, ...], leaves: Iterable[Any]) -> Any:
        record = object.__new__(cls)
        for name, value in zip(data + static, (*leaves, *structure), strict=True):
            object.__setattr__(record, name, value)
        return record

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls


@functools.cache
def fixed(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Return a function with options that are part of a program, the same object for equal ones, so
    that a ``Partial`` of it equals another and shares its compiled programs.
    """
    return functools.partial(function, **options)


def check(message: str, condition: Callable[..., Any], *values: ArrayLike) -> None:
    """Raise ValueError unless the condition of the numbers holds; traced ones are trusted."""
    traced = any(isinstance(v, Tracer) for v in values)
    if not traced and not condition(*map(np.asarray, values)):
        raise ValueError(f"{message}; got {', '.join(str(v) for v in values)}")


def quick(*values: PyTree) -> dict[str, Any]:
    """Return compiler options for what runs once, such as a draw of parameters; none where a value
    is traced, as options are for the outermost jit only.
    """
    return {} if any(isinstance(x, Tracer) for x in jax.tree.leaves(values)) else QUICK


def on_device(values: Values) -> Array:
    """Return numbers as a JAX array, which shares no memory with an array of NumPy's.

    One copy of that is made, aligned so that the CPU's arrays can be it: jnp.asarray holds another
    meanwhile, gigabytes of large data.
    """
    if not isinstance(values, np.ndarray) or values.dtype.hasobject:
        return jnp.asarray(values)
    dtype = jax.dtypes.canonicalize_dtype(values.dtype)
    room = np.empty(values.size * dtype.itemsize + ALIGNED, np.uint8)
    begin = -room.ctypes.data % ALIGNED
    copy = room[begin : begin + values.size * dtype.itemsize].view(dtype).reshape(values.shape)
    copy[...] = values
    return jax.device_put(copy)


def expand(numbers: ArrayLike, like: Array) -> Array:
    """Return numbers shaped to multiply ``like``.

    Args:
        numbers: a scalar, a number per sample (batch,), or what has as many axes as ``like``, each
            of length 1 or that of ``like``.
        like: (batch, *shape).

    Returns:
        The numbers in the dtype of ``like``, of shape () or (batch, 1, ...).

    Raises:
        ValueError: for numbers of another batch, or of a shape that would meet other axes.
    """
    numbers = jnp.asarray(numbers, like.dtype)
    if numbers.ndim == 0:
        return numbers
    if numbers.ndim != 1:
        fits = numbers.ndim == like.ndim and all(
            a in (1, b) for a, b in zip(numbers.shape, like.shape, strict=True)
        )
        if not fits:
            raise ValueError(
                f"numbers of shape {numbers.shape} for a batch of shape {like.shape}: give one, or "
                f"one per sample ({like.shape[0]},)"
            )
        return numbers
    if numbers.shape != like.shape[:1]:
        raise ValueError(
            f"{numbers.shape[0]} numbers, one per sample, for a batch of shape {like.shape}: they "
            "stay with their samples where the batch is split or spread if they are given in cond"
        )
    return numbers.reshape((-1,) + (1,) * (like.ndim - 1))


def take(tree: PyTree, rows: slice | int | np.ndarray | Array) -> PyTree:
    """Return the rows of every leaf, its dtype kept; None stays None."""
    return jax.tree.map(lambda x: (x if hasattr(x, "dtype") else np.asarray(x))[rows], tree)


def pick(rows: Array, index: ArrayLike) -> Array:
    """Return the number of each row (batch, count) at its index (batch,); NaN for an index that is
    not 0 to count - 1, never another's number. Raises TypeError for an index that is no integer.
    """
    if not jnp.issubdtype(jnp.result_type(index), jnp.integer):
        raise TypeError(f"classes are whole numbers, not {jnp.result_type(index)}")
    index = jnp.asarray(index).astype(jnp.int32)
    index = jnp.where(index < 0, rows.shape[1], index)  # JAX counts -1 from the end
    return jnp.take_along_axis(rows, index[:, None], axis=1)[:, 0]


def check_rows(tree: PyTree, count: int, name: str) -> None:
    """Raise ValueError, naming the leaf, unless every leaf has ``count`` rows."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if np.ndim(leaf) == 0 or np.shape(leaf)[0] != count:
            raise ValueError(
                f"{name}{jax.tree_util.keystr(path)} has shape {np.shape(leaf)}; its first axis is "
                f"the batch, of {count} samples here"
            )


def rows_of(tree: PyTree, name: str) -> int:
    """Return how many rows there are in every leaf. Raises ValueError, naming the leaf, for one
    without such an axis, or with another number of rows.
    """
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(tree)]
    count = next((shape[0] for shape in shapes if shape), 0)
    check_rows(tree, count, name)
    return count


def check_fields(batch: Mapping[str, PyTree], method: str, *names: str) -> None:
    """Raise ValueError, naming the method, unless a batch has these arrays, and a row for every
    sample in each of its leaves.
    """
    if lacking := [name for name in names if name not in batch]:
        raise ValueError(
            f"{method} needs {lacking[0]!r} in every batch; these have {sorted(batch)}"
        )
    if names:
        check_rows(dict(batch), len(batch[names[0]]), f"batch of {method}: ")


def check_same_shape(batch: Mapping[str, ArrayLike], method: str, first: str, second: str) -> None:
    """Raise ValueError, naming the method, unless two arrays of a batch have one shape."""
    shapes = np.shape(batch[first]), np.shape(batch[second])
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{method}: batch {second!r} has shape {shapes[1]}, {first!r} has {shapes[0]}; they "
            "should be the same"
        )


def check_cond(cond: Cond, count: int) -> None:
    """Raise ValueError unless every leaf of a condition is a number for all, or batch first."""
    check_rows(jax.tree.map(lambda x: None if np.ndim(x) == 0 else x, cond), count, "cond")


def per_sample(cond: Cond, count: int) -> Cond:
    """Return a condition with a row for every sample: numbers repeated, arrays checked."""
    check_cond(cond, count)
    return jax.tree.map(lambda x: jnp.full(count, x) if np.ndim(x) == 0 else x, cond)


def one_by_one(denoiser: Denoiser, start: Array, cond: Cond, name: str, remedy: str = "") -> Cond:
    """Return the condition, a row for every sample, for a solver that hands the denoiser one sample
    at a time. Raises ValueError for a denoiser that holds numbers per sample.
    """
    cond = per_sample(cond, start.shape[0])
    if start.shape[0] > 1:
        level = jnp.ones((), start.dtype)
        answer = lambda D, batch: D(batch[0], level, batch[1])  # noqa: E731
        check_any_rows(answer, denoiser, (start, cond), name, 1, remedy)
    return cond


def check_any_rows(
    f: Callable[..., Any], given: PyTree, batch: PyTree, name: str, rows: int | None = None,
    remedy: str = "",
) -> None:  # fmt: skip
    """Raise ValueError for ``f(given, batch)`` that works for this number of rows and no other.

    It is looked at with the shapes of ``rows`` rows (twice as many by default), and nothing is
    computed. Raises ValueError if that fails, or gives something else than so many rows; where it
    fails for the batch itself, that error.
    """
    count = rows_of(batch, "batch")
    other = 2 * count if rows is None else rows
    try:
        made = jax.eval_shape(f, given, jax.tree.map(lambda x: _shape(x, other), batch))
        check_rows(made, other, "the result")
    except Exception as error:
        jax.eval_shape(f, given, jax.tree.map(lambda x: _shape(x, count), batch))
        raise ValueError(
            f"{name} takes the batch apart, and the denoiser works for {count} rows only: numbers "
            "per sample that it holds (guidance weights (batch,), labels in a closure) do not go "
            f"with their rows. Give them in cond, a row for every sample{remedy}"
        ) from error


def _shape(x: PyTree, count: int) -> jax.ShapeDtypeStruct:
    dtype = x.dtype if hasattr(x, "dtype") else np.asarray(x).dtype
    dtype = dtype if isinstance(x, jax.Array) else jax.dtypes.canonicalize_dtype(dtype)
    return jax.ShapeDtypeStruct((count, *np.shape(x)[1:]), dtype)


def kind(x: ArrayLike) -> int:
    """Return what numbers these are: 0 for booleans, 1 for integers, 2 for all others."""
    dtype = jnp.result_type(x)
    if jnp.issubdtype(dtype, jnp.bool_):
        return 0
    return 1 if jnp.issubdtype(dtype, jnp.integer) else 2


def check_null(cond: Cond, null: Cond) -> None:
    """Raise ValueError for a null that does not go with a condition: of another structure or
    shape, or of numbers that its dtype does not hold.
    """
    if null is None:
        raise ValueError(
            "dropping or guiding a condition needs its null: classes= (the index that stands for "
            "no class) for class indices, or null=, one sample's value"
        )
    if jax.tree.structure(cond) != jax.tree.structure(null):
        raise ValueError(
            f"null has the structure {jax.tree.structure(null)}, the condition "
            f"{jax.tree.structure(cond)}: they must be the same"
        )
    conds = jax.tree_util.tree_flatten_with_path(cond)[0]
    for (path, x), n in zip(conds, jax.tree.leaves(null), strict=True):
        name = f"null{jax.tree_util.keystr(path)}"
        if jnp.shape(n) not in ((), jnp.shape(x)[1:]):
            raise ValueError(f"{name} has shape {jnp.shape(n)}; a sample's is {jnp.shape(x)[1:]}")
        if kind(n) > kind(x):
            raise ValueError(
                f"{name} is {jnp.result_type(n)}, which the condition's {jnp.result_type(x)} does "
                "not hold"
            )


def null_condition(cond: Cond, null: Cond) -> Cond:
    """Return the null condition of every sample, of the structure, shapes and dtypes of ``cond``.

    Raises ValueError for a null that does not go with it (:func:`check_null`).
    """
    check_null(cond, null)

    def one(x: ArrayLike, n: ArrayLike) -> jax.Array:
        return jnp.broadcast_to(jnp.asarray(n, jnp.result_type(x)), jnp.shape(x))

    return jax.tree.map(one, cond, null)


def has_condition(cond: Cond, null: Cond) -> jax.Array:
    """Return which samples have a condition, not its null: (batch,) booleans."""
    nulls = null_condition(cond, null)
    differs = jax.tree.map(lambda x, n: (x != n).reshape(len(x), -1).any(axis=1), cond, nulls)
    return jnp.stack(jax.tree.leaves(differs)).any(axis=0)
