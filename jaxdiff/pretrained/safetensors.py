"""The safetensors format, read tensor by tensor into memory of the tensor's own.

A file is 8 bytes, the length of a header, little-endian; the header, JSON: by name the dtype, shape
and the two ends of the bytes of each tensor, and texts under "__metadata__"; then the bytes
(https://huggingface.co/docs/safetensors). The header is checked in full before anything is read:
tensors neither overlap nor leave bytes between them, and what they claim is what there is.
Numbers are read, not mapped, so that what is resident is what was requested.
"""

import collections
import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxdiff.files import check_file

LARGEST_HEADER = 10**8  # bytes, the format's own limit
MOST_AXES = 32
DTYPES: dict[str, np.dtype] = {
    name: np.dtype(kind)
    for name, kind in {
        "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16,
        "U32": np.uint32, "I32": np.int32, "U64": np.uint64, "I64": np.int64, "F16": np.float16,
        "F32": np.float32, "F64": np.float64, "C64": np.complex64, "BF16": ml_dtypes.bfloat16,
        "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
    }.items()
}  # fmt: skip
Entry = tuple[tuple[int, ...], np.dtype, int]


def read_header(path: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """Return shape, dtype and first byte of each tensor of a file, and its metadata.

    Raises OSError, and ValueError, naming the file, for a header that is none or does not fit it.
    """
    check_file(path)
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, LARGEST_HEADER):
            raise ValueError(
                f"{path} cannot be read: a header of {length} bytes in a file of {size}; the limit "
                f"is {LARGEST_HEADER}"
            )
        text = file.read(length)
    try:
        said = json.loads(text, object_pairs_hook=_once)
        if not isinstance(said, dict):
            raise ValueError("its header is not a dictionary")
        metadata = said.pop("__metadata__", None) or {}
        if not isinstance(metadata, dict) or any(type(v) is not str for v in metadata.values()):
            raise ValueError("its metadata are not texts")
        return _entries(said, 8 + length, size), metadata
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_tensor(path: Path, entry: Entry) -> np.ndarray:
    """Return a tensor's numbers. Raises OSError, and ValueError if the file has become shorter."""
    shape, dtype, first = entry
    made = np.empty(math.prod(shape) * dtype.itemsize, np.uint8)
    with open(path, "rb", buffering=0) as file:
        file.seek(first)
        view, done = made.data, 0
        while done < len(made):
            if not (count := file.readinto(view[done:])):
                raise ValueError(f"{path} is cut off, which it was not when it was opened")
            done += count
    return made.view(dtype).reshape(shape)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        left = collections.Counter(name for name, _ in pairs)
        twice = next(name for name, count in left.items() if count > 1)
        raise ValueError(f"its header has {twice!r:.60} twice")
    return made


def _entries(said: dict[str, Any], start: int, size: int) -> dict[str, Entry]:
    """Return the entries of a header, each checked, which fill the file without a gap."""
    found: dict[str, Entry] = {}
    ends: list[tuple[int, int, str]] = []
    for name, entry in said.items():
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"{name!r:.60} has other entries than dtype, shape and data_offsets")
        shape, offsets, kind = entry["shape"], entry["data_offsets"], entry["dtype"]
        if not isinstance(kind, str) or kind not in DTYPES:
            raise ValueError(
                f"{name!r:.60} is of {kind!r:.40}, which is not read; those that are: "
                f"{', '.join(DTYPES)}. Save it in one of them with the library that wrote it"
            )
        if not _counts(shape) or len(shape) > MOST_AXES or not _counts(offsets):
            raise ValueError(f"{name!r:.60} has a shape or offsets that are no lists of lengths")
        claimed = math.prod(shape) * DTYPES[kind].itemsize
        if len(offsets) != 2 or offsets[1] - offsets[0] != claimed:
            raise ValueError(f"{name!r:.60} claims {claimed} bytes and has other ends, {offsets}")
        found[name] = (tuple(shape), DTYPES[kind], start + offsets[0])
        ends.append((offsets[0], offsets[1], name))
    place = 0
    for first, last, name in sorted(ends):
        if first != place:
            raise ValueError(f"{name!r:.60} begins at {first}, where {place} is expected")
        place = last
    if start + place != size:
        raise ValueError(f"its tensors end at byte {start + place} of {size}")
    return found


def _counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 1 << 48 for n in values)
