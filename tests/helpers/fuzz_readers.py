"""Requirements on everything that reads files: it gives what was written or says, with the file's
name, why not.

Files are written, damaged and invented by hypothesis. A reader may answer with the value, where the
damage left it whole or where the format has no checksum and the file says something else that makes
sense; with ValueError or OSError; and with nothing else. It never takes memory out of proportion,
follows no path out of an archive, and runs nothing. The tests are those called
test_fuzzed_... of data, app and sampling.
"""

import contextlib
import copy
import json
import re
import tracemalloc
import warnings
import zipfile

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

REFUSED = object()
RNG = np.random.default_rng(0)
TWO = RNG.integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)


def depth(quick, deep):
    """Few examples, and in the slow part many."""
    return pytest.mark.parametrize("count", [quick, pytest.param(deep, marks=pytest.mark.slow)])


def forall(count, *strategies):
    """Run the decorated function on ``count`` examples, the same ones every time."""
    chosen = settings(
        max_examples=count, derandomize=True, deadline=None, database=None,
        report_multiple_bugs=False, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    return lambda body: chosen(given(*strategies)(body))()


def answer(reader, path):
    """What a reader makes of a file; REFUSED if it says why not, and of which file."""
    try:
        return reader(path)
    except (ValueError, OSError) as error:
        assert path.name in str(error), f"does not name the file: {error!r}"
        return REFUSED


@contextlib.contextmanager
def memory_below(limit):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


# How files are damaged


@st.composite
def damages(draw, whole):
    """Bytes cut short, changed, cut out, put in, repeated, or with another beginning."""
    at = draw(st.integers(0, len(whole) - 1))
    some = st.binary(min_size=1, max_size=8)
    end = draw(st.integers(at + 1, len(whole)))
    return draw(
        st.one_of(
            st.just(whole[:at]),
            (st.integers(1, 255) | st.sampled_from([1 << b for b in range(8)])).map(
                lambda x: whole[:at] + bytes([whole[at] ^ x]) + whole[at + 1 :]
            ),
            some.map(lambda new: new + whole[len(new) :]),
            some.map(lambda new: whole[:at] + new + whole[at:]),
            st.just(whole[:at] + whole[end:]),
            st.just(whole[:end] + whole[at:]),
            some.map(lambda new: whole + new),
        )
    )


def noise(*beginnings):
    """Random bytes, often behind the right beginning of a format."""
    return st.builds(lambda a, b: a + b, st.sampled_from([b"", *beginnings]), st.binary())


MAGIC = [b"PK\3\4", b"PK\5\6", b"\x93NUMPY\1\0", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"]

# What JSON can say and Python's own writer would not, or that stands where it does not belong.
RAW = ["1e999", "-1e999", "NaN", "Infinity", "9" * 400, "9" * 5000, "[" * 5000 + "]" * 5000]
ODD = st.one_of(
    st.sampled_from(RAW).map(lambda raw: f"<<{raw}>>"),
    st.sampled_from([None, True, False, "", "1.0", [], {}, [[]], [None], [1.0, "x"], {"a": 1}]),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([-1, 0, 1, 2, 2**31, 2**53 + 1, 10**12, 0.5, -1e-3, 1e308]),
    st.text(max_size=3),
)


def places(value, path=()):
    """The paths to everything in a tree of plain values."""
    yield path
    if isinstance(value, dict | list):
        for k, v in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(v, (*path, k))


@st.composite
def changes(draw, value):
    """The same plain values but for one place: another value, none, the same twice, one more."""
    value = copy.deepcopy(value)
    *parents, last = draw(st.sampled_from([p for p in places(value) if p]))
    node = value
    for key in parents:
        node = node[key]
    action = draw(st.sampled_from(["put", "put", "drop", "twice", "more"]))
    if action == "put":
        node[last] = draw(ODD)
    elif action == "drop":
        del node[last]
    elif action == "twice" and isinstance(node, list):
        node.insert(last, copy.deepcopy(node[last]))
    elif isinstance(node[last], list):
        node[last].append(draw(ODD))
    elif isinstance(node[last], dict):
        node[last][draw(st.text(max_size=3))] = draw(ODD)
    else:
        node[last] = [node[last]]
    return value


def text_of(value):
    """As JSON, what stands in << >> as it is."""
    return re.sub(r'"<<(.*?)>>"', r"\1", json.dumps(value))


def same(a, b):
    """Return whether two trees of arrays are the same to the bit."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(
        x.dtype == y.dtype
        and x.shape == y.shape
        and np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in pairs
    )


# What is written

NAMES = st.text(max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | FINITE | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(NAMES, PLAIN, max_size=3)


def write_zip(path, members, method=zipfile.ZIP_STORED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that there are twice
        for name, content in members:
            archive.writestr(name, content)
    return path
