"""Stand-ins for the objects of a pickle: tensors, arrays, records, and constructors by name."""

import collections
import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import ml_dtypes
import numpy as np

STORAGES = {
    "DoubleStorage": np.float64, "FloatStorage": np.float32, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
    "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8,
    "BoolStorage": np.bool_, "UntypedStorage": np.uint8,
}  # fmt: skip
KINDS = re.compile(r"[<>=|]?[biufc?][0-9]{0,2}")
MOST_AXES = 32
LARGEST_KEY = 1 << 60  # of integers, whose hash is then their value


def refused(*_: Any, **__: Any) -> Any:
    """Raise ValueError: a name that is not called."""
    raise ValueError("it calls a name that is none of a function")


@dataclasses.dataclass(frozen=True, eq=False)
class Name:
    """The stand-in for a name: a function that makes data, and for storages their dtype."""

    make: Callable[..., Any] = refused
    dtype: Any = None


class Storage:
    """The numbers of one or more tensors: what they are of, how many, and, once known, their bytes,
    mapped or held.
    """

    __slots__ = ("count", "data", "dtype")

    def __init__(self, dtype: np.dtype, count: int) -> None:
        """Take the dtype and the number of elements."""
        self.dtype, self.count, self.data = dtype, count, memoryview(b"")


class Tensor:
    """A tensor of a file: ``shape`` and ``dtype`` are known, the numbers are read by NumPy."""

    __slots__ = ("_offset", "_storage", "_strides", "dtype", "shape")

    def __init__(self, storage: Storage, offset: int, shape: tuple[int, ...], strides: Any) -> None:
        """Take a view of ``storage``: an offset and strides in elements."""
        if not all(isinstance(x, (tuple, list)) and len(x) <= MOST_AXES for x in (shape, strides)):
            raise ValueError(f"a tensor whose shape is not one of at most {MOST_AXES} axes")
        shape, strides = tuple(shape), tuple(strides)
        numbers = (offset, *shape, *strides)
        if any(type(n) is not int for n in numbers):
            raise ValueError("a tensor whose shape, strides or offset are no integers")
        if any(not 0 <= n < 1 << 48 for n in numbers) or len(shape) != len(strides):
            raise ValueError(f"a tensor of shape {shape}, strides {strides} and offset {offset}")
        if math.prod(max(n, 1) for n in shape) >= 1 << 48:
            raise ValueError(f"a tensor of shape {shape}")
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        size = math.prod(shape)
        if size and (last >= storage.count or size > storage.count):
            raise ValueError(f"a tensor of shape {shape} does not fit into {storage.count} numbers")
        self._storage, self._offset, self._strides = storage, offset, strides
        self.shape, self.dtype = shape, storage.dtype

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Return the numbers: a view of the file, to be read and not written."""
        kind = self.dtype
        if math.prod(self.shape) == 0:
            return np.zeros(self.shape, dtype or kind)
        flat = np.frombuffer(self._storage.data, kind, self._storage.count)[self._offset :]
        steps = [s * kind.itemsize for s in self._strides]
        made = np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)
        made = made if dtype is None else made.astype(dtype, copy=False)
        return np.array(made) if copy else made

    def __repr__(self) -> str:
        return f"Tensor({self.dtype}{list(self.shape)})"


class Record:
    """An object of a known class as data: the name of the class and the state it was saved with."""

    __slots__ = ("name", "state")

    def __init__(self, name: str = "", state: Any = None) -> None:
        """Take the class's name and its state."""
        self.name, self.state = name, {} if state is None else state

    def __repr__(self) -> str:
        return f"Record({self.name:.60})"


class Attributes(dict):
    """A dictionary whose state are more entries: EasyDict and the like."""

    __slots__ = ()


class Stored:
    """An array that a pickle makes empty and fills."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        """Make it empty."""
        self.array = np.zeros(0)


class Dtype:
    """A NumPy dtype of numbers, with its byte order set by the state."""

    __slots__ = ("text",)

    def __init__(self, text: Any, *_: Any) -> None:
        """Take its text, as "f4"."""
        if type(text) is not str or not KINDS.fullmatch(text):
            raise ValueError(f"it holds arrays of {shown(text)}; only numbers are read")
        self.text = text


def shown(made: Any) -> str:
    """Return a text as it is written, short, and the kind of anything else."""
    return repr(made[:40]) if type(made) is str else f"a {type(made).__name__}"


def checked_key(key: Any) -> Any:
    """Return a key of a dictionary, or a member of a set. ValueError for one that is neither a text
    nor a small integer nor a few of them: hashing others may take for ever.
    """
    if type(key) is tuple and len(key) <= MOST_AXES and not any(type(k) is tuple for k in key):
        return tuple(checked_key(k) for k in key)
    small = type(key) is int and abs(key) < LARGEST_KEY
    if key is not None and not small and type(key) not in (str, bytes, bool):
        raise ValueError(f"it has a key that is a {type(key).__name__}, or a large number")
    return key


def build(target: Any, state: Any) -> None:
    """Give an object of a pickle its state. ValueError for one that has none."""
    if isinstance(target, Record):
        halves = state if type(state) is tuple and len(state) == 2 else ()
        parts = [half or {} for half in halves]
        both = len(parts) == 2 and all(isinstance(part, dict) for part in parts)
        target.state = {**parts[0], **parts[1]} if both else state
    elif isinstance(target, Attributes) and isinstance(state, dict | None):
        target.update(state or {})
    elif isinstance(target, Stored) and isinstance(state, tuple) and len(state) == 5:
        target.array = _array(*state[1:])
    elif isinstance(target, Dtype) and isinstance(state, tuple) and len(state) > 1:
        if state[1] in ("<", ">") and target.text[0] not in "<>":
            target.text = state[1] + target.text.lstrip("=|")
    elif not isinstance(target, collections.OrderedDict):  # whose attributes are left out
        raise ValueError(f"it gives a {type(target).__name__} a state")


def _array(shape: Any, dtype: Any, fortran: Any, data: Any) -> np.ndarray:
    if not isinstance(shape, tuple) or len(shape) > MOST_AXES:
        raise ValueError(f"an array whose shape is not one of at most {MOST_AXES} axes")
    if not all(type(n) is int and 0 <= n < 1 << 48 for n in shape):
        raise ValueError("an array with a length that is none")
    made = np.frombuffer(bytes_of(data), dtype_of(dtype))
    return made.reshape(shape, order="F" if fortran else "C")


def dtype_of(given: Any) -> np.dtype:
    """Return NumPy's dtype."""
    if not isinstance(given, Dtype):
        raise ValueError(f"an array of a {type(given).__name__}")
    return np.dtype(given.text)


def bytes_of(data: Any) -> bytes | memoryview:
    """Return the bytes that a text or bytes are."""
    if isinstance(data, str):
        return data.encode("latin1")
    if not isinstance(data, (bytes, memoryview)):
        raise ValueError(f"a {type(data).__name__} in the place of bytes")
    return data


def _scalar(dtype: Any, data: Any = b"") -> Any:
    return np.frombuffer(bytes_of(data), dtype_of(dtype))[0].item()


def _tensor(storage: Any, offset: int, shape: Any, strides: Any, *_: Any, **__: Any) -> Tensor:
    if not isinstance(storage, Storage):
        raise ValueError(f"a tensor of a {type(storage).__name__}, not of a storage")
    return Tensor(storage, offset, shape, strides)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    if type(text) is not str or encoding not in ("latin1", "utf-8", "utf8", "ascii"):
        raise ValueError(f"{shown(text)} as a text in {shown(encoding)}")
    return text.encode(encoding)


def _persistent(meta: Any) -> Record:
    """EDM's and EDM2's objects: the class's name and the state; its source text is dropped."""
    name = meta.get("class_name") if isinstance(meta, dict) else None
    if type(name) is not str or meta.get("type") != "class":
        raise ValueError("a persistent object that is not one of a class")
    return Record(name, meta.get("state"))


def _listed(given: Any) -> list[Any] | tuple[Any, ...]:
    if not isinstance(given, (list, tuple)):
        raise ValueError(f"a {type(given).__name__} in the place of a list")
    return given


def _pairs(make: Callable[[Iterable[Any]], Any]) -> Callable[..., Any]:
    def made(given: Any = (), *_: Any) -> Any:
        given = list(given.items()) if isinstance(given, dict) else _listed(given)
        if not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in given):
            raise ValueError("a dictionary of something else than pairs")
        return make((checked_key(key), value) for key, value in given)

    return made


def record(name: str) -> Name:
    """Return what the name of a known class stands for."""
    return Name(lambda *_, **__: Record(name))


def known_names() -> dict[tuple[str, str], Name]:
    """Return what names stand for; none of it is what the name means in Python."""
    a_set = Name(lambda given=(): set(map(checked_key, _listed(given))))
    tensor, attributes = Name(_tensor), Name(lambda given=(), *_: Attributes())
    known = {
        ("collections", "OrderedDict"): Name(_pairs(collections.OrderedDict)),
        ("collections", "defaultdict"): attributes,
        ("builtins", "set"): a_set,
        ("__builtin__", "set"): a_set,
        ("_codecs", "encode"): Name(_encode),
        ("torch", "Size"): Name(lambda given=(): tuple(_listed(given))),
        ("torch._utils", "_rebuild_tensor"): tensor,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_parameter"): Name(lambda data, *_: data),
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): Name(_persistent),
        ("numpy", "dtype"): Name(Dtype),
        ("numpy", "ndarray"): Name(),
        ("argparse", "Namespace"): record("Namespace"),
        ("torch.jit._pickle", "restore_type_tag"): Name(lambda made, _: made),
    }
    for core in ("numpy.core.multiarray", "numpy._core.multiarray"):
        known[core, "scalar"] = Name(_scalar)
        known[core, "_reconstruct"] = Name(lambda *_: Stored())
    for name, dtype in STORAGES.items():
        known["torch", name] = known["torch.storage", name] = Name(dtype=np.dtype(dtype))
    for module in ("dnnlib.util", "dnnlib"):
        known[module, "EasyDict"] = Name(_pairs(Attributes))
    for kind in ("int", "double", "bool", "tensor"):
        known["torch.jit._pickle", f"build_{kind}list"] = Name(lambda given: list(_listed(given)))
    return known
