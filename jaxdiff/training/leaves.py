"""Leaves of a tree on disk: by path, with a record of shape, dtype and CRC-32 for each.

A leaf that no process holds whole has a CRC for every piece. Typed keys are stored as their data.
"""

import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.files import storable
from jaxdiff.training import hosts
from jaxdiff.typing import Params


class Leaf(NamedTuple):
    """The record of a leaf. crc: of the whole, or of pieces: (starts, stops, CRC) of each."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    crc: Any = None


def check_fits(params: Params, like: Params, where: str) -> None:
    """Raise ValueError, naming a leaf, for parameters of another structure, shape or dtype."""
    check_same([leaf_record(name, x) for name, x in by_path(params).items()], like, where)


def by_path(tree: Any) -> dict[str, Any]:
    """Leaves by path, "params.student.Dense_0.kernel"."""
    pairs, _ = jax.tree_util.tree_flatten_with_path(tree)
    leaves = {jax.tree_util.keystr(p, simple=True, separator="."): x for p, x in pairs}
    if len(leaves) < len(pairs):
        raise ValueError("two leaves of the tree have the same path; do not use dots in its names")
    return leaves


def is_key(x: Any) -> bool:
    """Return whether a leaf is a typed key."""
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def data_of(x: Any) -> Any:
    """Return a leaf as numbers: a typed key's data, other leaves as they are."""
    return jax.random.key_data(x) if is_key(x) else x


def leaf_record(path: str, x: Any) -> Leaf:
    """Return the record of a leaf, without CRC for a shape."""
    leaf = Leaf(path, tuple(x.shape), str(x.dtype))
    if isinstance(x, jax.ShapeDtypeStruct):
        return leaf
    data = data_of(x)
    whole = np.shape(data) == np.shape(host := on_host(data))
    return leaf._replace(crc=crc32_of(host)) if whole else leaf


def on_host(x: Any) -> np.ndarray:
    """Return an array's values, or a piece of it where several processes share it."""
    shared = isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated)
    return np.asarray(x.addressable_data(0) if shared else x)


def crc32_of(x: np.ndarray) -> int:
    """Return the CRC-32 of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)


def with_pieces(records: list[Leaf], leaves: dict[str, Any]) -> list[Leaf]:
    """Return the records, leaves that several processes share with the CRCs of all their pieces."""
    shared = [r.path for r in records if r.crc is None]
    if not shared:
        return records
    pieces: dict[str, list[Any]] = {path: [] for path in shared}
    for of_one in hosts.gather({path: pieces_of(data_of(leaves[path])) for path in shared}):
        for path, found in of_one.items():
            pieces[path] += found
    return [r._replace(crc=pieces[r.path]) if r.path in pieces else r for r in records]


def pieces_of(x: jax.Array) -> list[tuple[list[int], list[int], int]]:
    """Return the pieces of an array in this process; of copies in several the first alone."""
    found = []
    for shard in x.addressable_shards:
        if shard.replica_id == 0:
            ends = [at.indices(n)[:2] for at, n in zip(shard.index, x.shape, strict=True)]
            starts, stops = ([end[i] for end in ends] for i in (0, 1))
            found.append((starts, stops, crc32_of(np.asarray(shard.data))))
    return found


def is_sound(leaf: Leaf, x: np.ndarray) -> bool:
    """Return whether an array has the CRCs that were noted."""
    if isinstance(leaf.crc, int):
        return crc32_of(x) == leaf.crc
    at = lambda starts, stops: tuple(slice(a, b) for a, b in zip(starts, stops, strict=True))  # noqa: E731
    covered = sum(int(np.prod(np.subtract(b, a), dtype=int)) for a, b, _ in leaf.crc)
    return covered == x.size and all(crc32_of(x[at(a, b)]) == crc for a, b, crc in leaf.crc)


def storable_data(x: Any) -> Any:
    """Return what orbax takes: arrays of all processes as they are, those of this one alone as
    NumPy's.
    """
    data = data_of(x)
    alone = hosts.several() and isinstance(data, jax.Array) and data.is_fully_addressable
    return np.asarray(data) if alone else data


def typed(data: np.ndarray, like: Any) -> jax.Array:
    """Return a jax array with a buffer of its own, wrapped as a key where ``like`` is one."""
    array = jnp.array(data, copy=True)
    if not is_key(like):
        return array
    names: list[Any] = []  # only arrays and tracers have the implementation's name
    jax.eval_shape(lambda key: names.append(jax.random.key_impl(key)), like)
    return jax.random.wrap_key_data(array, impl=names[0])


def check_same(saved: list[Leaf], like: Any, where: str | Path) -> None:
    """Raise ValueError, naming a leaf, unless the saved leaves are those of ``like``, CRCs
    aside.
    """
    there = {leaf.path: leaf._replace(crc=None) for leaf in saved}
    here = {path: leaf_record(path, x)._replace(crc=None) for path, x in by_path(like).items()}
    for path in {**here, **there}:
        a, b = there.get(path), here.get(path)
        if a != b:
            raise ValueError(
                f"{where} is of another network or method: {path} is {_shown(a)} there and "
                f"{_shown(b)} here"
            )


def _shown(leaf: Leaf | None) -> str:
    return "absent" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"


def restored(x: np.ndarray, dtype: str) -> np.ndarray:
    """Return the array that :func:`storable` was given. ValueError if it gave another one."""
    if not isinstance(dtype, str):
        raise TypeError(f"{dtype!r:.60} is no dtype")
    whole = jnp.dtype(dtype)
    if x.dtype != storable(np.zeros(0, whole)).dtype:
        raise ValueError(f"it is noted as {dtype} and stored as {x.dtype}")
    return x.view(whole)


def nested(leaves: dict[str, Any]) -> Any:
    """Return a tree of dictionaries of leaves by path; ValueError for paths inside of one
    another.
    """
    if list(leaves) == [""]:  # the tree is a leaf
        return leaves[""]
    tree: dict[str, Any] = {}
    for path, x in leaves.items():
        *parents, name = path.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"{path} lies inside of another array; read it with like=")
        if name in node:
            raise ValueError(f"{path} holds other arrays; read it with like=")
        node[name] = x
    return tree
