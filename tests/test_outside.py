"""Whatever a file holds, its reader gives what was written or says, with its name, why not.

Files are written, damaged and invented by hypothesis. A reader may answer with the value, where the
damage left it whole or where the format has no checksum and the file says something else that makes
sense; with ValueError or OSError; and with nothing else. It never takes memory out of proportion,
follows no path out of an archive, and runs nothing.
"""

import contextlib
import copy
import dataclasses
import io
import json
import os
import pickle
import re
import shutil
import stat
import textwrap
import tracemalloc
import typing
import warnings
import zipfile
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, from_dtype
from PIL import Image

from jaxdiff import config as configs
from jaxdiff import files, grids, runs, solvers, students, tuned
from jaxdiff.data import load
from jaxdiff.networks import MLP, from_linen, init
from jaxdiff.prediction import denoiser
from jaxdiff.sampling import export
from jaxdiff.sampling.export import export_sampler, load_sampler
from jaxdiff.sampling.sample import Sampler
from jaxdiff.sampling.table import Label, Table, load_table
from jaxdiff.sampling.trace import table
from jaxdiff.training import checkpoint
from jaxdiff.training.history import HISTORY, read_history
from jaxdiff.tuning.pas import Corrections, load_corrections

REFUSED = object()


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
    """Whether two trees of arrays are the same to the bit."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(
        x.dtype == y.dtype
        and x.shape == y.shape
        and np.asarray(x).tobytes() == np.asarray(y).tobytes()
        for x, y in pairs
    )


# Images


SIDES = st.integers(1, 9)
PARTS = st.text(
    st.characters(exclude_characters="/\\:\0", exclude_categories=["Cs"]), min_size=1, max_size=12
).filter(lambda part: not part.startswith(".") and part != "__MACOSX")


@st.composite
def pictures(draw):
    """Images of awkward shapes, by awkward names, with classes or None."""
    count, h, w = draw(st.integers(1, 4)), draw(SIDES), draw(SIDES)
    shape = (count, h, w) if draw(st.booleans()) else (count, h, w, 3)
    images = draw(arrays(np.uint8, shape))
    names = draw(st.lists(PARTS, min_size=count, max_size=count, unique=True))
    suffix = draw(st.sampled_from([".png", ".PNG"] + [".bmp"] * (len(shape) == 4)))
    labels = draw(st.none() | st.lists(st.integers(0, 10**6), min_size=count, max_size=count))
    return images, [name + suffix for name in names], labels


def encoded(image, kind="png", **options):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, kind, **options)
    return stream.getvalue()


def write_zip(path, members, method=zipfile.ZIP_STORED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that there are twice
        for name, content in members:
            archive.writestr(name, content)
    return path


def whole(images, names, labels):
    """What a reader should make of pictures."""
    order = sorted(range(len(names)), key=names.__getitem__)
    images = images.reshape(*images.shape[:3], -1)[order]
    return images, None if labels is None else [labels[i] for i in order]


def is_of(dataset, images, labels):
    known = None if dataset.labels is None else dataset.labels.tolist()
    return np.array_equal(dataset.images, images) and known == labels


@depth(12, 60)
def test_a_zip_of_images_comes_back(tmp_path, count):
    methods = st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])

    @forall(count, pictures(), methods, st.lists(PARTS, max_size=2).map("/".join))
    def _(made, method, folder):
        images, names, labels = made
        prefix = f"{folder}/" if folder else ""
        kind = lambda name: name[-3:].lower()  # noqa: E731
        members = [(prefix + n, encoded(x, kind(n))) for n, x in zip(names, images, strict=True)]
        if labels is not None:
            index = json.dumps({"labels": list(zip(names, labels, strict=True))})
            members.append((f"{prefix}dataset.json", index))
        path = write_zip(tmp_path / "made.zip", members, method)
        assert is_of(load(path), *whole(images, names, labels))


@depth(10, 60)
def test_a_folder_of_images_comes_back(tmp_path, count):
    @forall(count, pictures())
    def _(made):
        images, names, labels = made
        root = tmp_path / "made"
        shutil.rmtree(root, ignore_errors=True)
        tops = [f"{label:07}" for label in labels] if labels else [""] * len(names)
        for name, top, image in zip(names, tops, images, strict=True):
            (root / top).mkdir(parents=True, exist_ok=True)
            (root / top / name).write_bytes(encoded(image, name[-3:].lower()))
        paths = [f"{top}/{name}".lstrip("/") for top, name in zip(tops, names, strict=True)]
        classes = np.unique(labels, return_inverse=True)[1].tolist() if labels else None
        assert is_of(load(root), *whole(images, paths, classes))


@depth(15, 80)
def test_an_npz_of_images_comes_back(tmp_path, count):
    shapes = st.one_of(
        array_shapes(min_dims=3, max_dims=3, max_side=6),
        st.tuples(SIDES, SIDES, SIDES, st.integers(1, 4)),
    )
    kinds = st.sampled_from(["u1", "<i2", ">i4", "<u8", "<f2", ">f4", "<f8"])
    images = st.tuples(shapes, kinds).flatmap(
        lambda a: arrays(a[1], a[0], elements=_values(np.dtype(a[1])))
    )

    label_kinds = st.sampled_from([None, "u1", ">i8", "<u8"])

    @forall(count, images, label_kinds, st.booleans(), st.booleans())
    def _(images, kind, pack, fortran):
        labels = {} if kind is None else {"labels": np.arange(len(images)).astype(kind)}
        given = np.asfortranarray(images) if fortran else images
        (np.savez_compressed if pack else np.savez)(tmp_path / "made.npz", images=given, **labels)
        made = load(tmp_path / "made.npz")
        expected = images.reshape(*images.shape[:3], -1)
        if images.dtype.kind == "f" and images.min() >= 0:
            expected = (expected * 2 - 1).astype(np.float32)
        np.testing.assert_array_equal(made.images, expected.astype(made.images.dtype))
        assert made.images.dtype == (np.float32 if images.dtype.kind == "f" else np.uint8)
        numbers = None if made.labels is None else made.labels.tolist()
        assert numbers == (None if kind is None else [*range(len(images))])


def _values(dtype):
    if dtype.kind in "iu":
        return st.integers(0, 255)
    return from_dtype(dtype, min_value=-1, max_value=1, allow_nan=False)


RNG = np.random.default_rng(0)
TWO = RNG.integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
INDEX = json.dumps({"labels": [["a.png", 1], ["b.png", 0]]})


@depth(100, 500)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_damaged_zip_is_right_or_refused(tmp_path, count, method):
    path = tmp_path / "two.zip"
    members = [("a.png", encoded(TWO[0])), ("b.png", encoded(TWO[1])), ("dataset.json", INDEX)]
    good = write_zip(path, members, method).read_bytes()

    @forall(count, damages(good))
    def _(data):
        path.write_bytes(data)
        made = answer(load, path)
        assert made is REFUSED or is_of(made, TWO, [1, 0])


@depth(80, 400)
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_is_right_or_refused(tmp_path, count, save):
    path = tmp_path / "two.npz"
    save(path, images=TWO, labels=np.array([1, 0]))
    good = path.read_bytes()

    @forall(count, damages(good))
    def _(data):
        path.write_bytes(data)
        made = answer(load, path)
        assert made is REFUSED or is_of(made, TWO, [1, 0])


@depth(80, 500)
def test_a_damaged_png_is_right_or_refused(tmp_path, count):
    """A PNG has checksums of its own, of which PIL does not look at those of the pixels: without
    them a few bytes that are cut out make rows black.
    """
    path, good = tmp_path / "folder" / "a.png", encoded(TWO[0])
    path.parent.mkdir()

    def check(data):
        path.write_bytes(data)
        made = answer(load, path.parent)
        assert made is REFUSED or is_of(made, TWO[:1], None)

    for at in range(len(good)):
        check(good[:at] + good[at + 18 :])
    forall(count, damages(good))(check)


@depth(40, 200)
@pytest.mark.parametrize("kind", ["jpeg", "webp", "bmp"])
def test_other_damaged_images_are_images_or_refused(tmp_path, count, kind):
    """These formats have no checksums, and cannot know of another pixel."""
    path = tmp_path / "folder" / f"a.{kind}"
    path.parent.mkdir()

    @forall(count, damages(encoded(TWO[0], kind)))
    def _(data):
        path.write_bytes(data)
        made = answer(load, path.parent)
        assert made is REFUSED or (len(made) == 1 and made.images.dtype == np.uint8)


@depth(30, 200)
def test_noise_is_never_images(tmp_path, count):
    (tmp_path / "folder").mkdir()

    @forall(count, noise(*MAGIC), st.sampled_from(["x.zip", "x.npz", "folder/x.png"]))
    def _(data, name):
        path = tmp_path / name
        path.write_bytes(data)
        assert answer(load, path.parent if name.endswith("png") else path) is REFUSED


@depth(40, 150)
def test_labels_are_those_of_the_file_or_refused(tmp_path, count):
    index = {"labels": [["a.png", 1], ["b.png", 0]]}
    for name, image in zip(("a", "b"), TWO, strict=True):
        (tmp_path / f"{name}.png").write_bytes(encoded(image))
    path = tmp_path / "dataset.json"

    @forall(count, changes(index) | st.sampled_from([[], {}, 0, "labels", None]))
    def _(given):
        path.write_text(text_of(given))
        made = answer(lambda _: load(tmp_path), path)
        if made is not REFUSED:
            known = given["labels"] and dict(map(tuple, given["labels"]))
            expected = known and [known["a.png"], known["b.png"]]
            assert is_of(made, TWO, expected) and made.num_classes < 1e7


@depth(40, 200)
def test_arrays_of_any_kind_are_images_or_refused(tmp_path, count):
    """Any dtype and shape as images and as labels, and any use of them."""
    kinds = st.sampled_from(["?", "u1", "<i8", "<u8", "<f2", "<f8", "<c8", "<U3", "S2", "<M8[s]"])
    kinds |= st.just([("a", "<f4"), ("b", "<i2")])
    shapes = array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=3)
    filled = st.tuples(kinds, shapes).flatmap(lambda a: arrays(np.dtype(a[0]), a[1]))
    sensible = st.sampled_from([TWO, TWO / 255, TWO[..., :2], np.concatenate([TWO, TWO], -1)])
    labels = st.none() | filled | arrays("<i8", (2,)) | arrays("<u8", (2,))
    options = st.fixed_dictionaries(
        {}, optional={"size": SIDES, "grayscale": st.just(True), "limit": st.integers(1, 3)}
    )

    @forall(count, filled | sensible, labels, options)
    def _(images, labels, options):
        more = {} if labels is None else {"labels": labels}
        np.savez(tmp_path / "any.npz", images=images, **more)
        made = answer(lambda path: load(path, **options), tmp_path / "any.npz")
        if made is not REFUSED and labels is not None and "limit" not in options:
            assert made.labels.tolist() == labels.reshape(-1).tolist()


# Archives that lie


def npy(descr, shape, data=b"", version=(1, 0), fortran=False):
    """An npy member with a header that may claim anything."""
    header = {"descr": descr, "fortran_order": fortran, "shape": shape}
    text = header if isinstance(header, bytes) else repr(header).encode()
    size = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + size + text + data


@depth(60, 250)
def test_headers_of_arrays_are_kept_to_or_refused(tmp_path, count):
    """Sizes out of all proportion, dtypes of all kinds, things that are no header: no array is made
    that is not in the file.
    """
    sizes = st.integers(-2, 4) | st.sampled_from([10**6, 10**12, 2**40, 2**63, 10**30, True])
    shape = st.sampled_from([(2, 2, 3), [2, 2], None, 7, "x"])
    shape |= st.lists(sizes, max_size=4).map(tuple)
    descr = st.sampled_from([
        "<f8", "|u1", "O", "|O", "<U4", "<U999999999", "V0", "?", "x", 7, None, "<M8[7s]",
        [("a", "<f8")], [("a", "O")], [("", "u1")], ("<f8", (3,)), ("<f8", (10**6, 10**6)), [], (),
    ])  # fmt: skip
    made = st.builds(
        npy, descr, shape, st.binary(max_size=40),
        st.sampled_from([(1, 0), (2, 0), (3, 0), (9, 9)]), st.sampled_from([False, True, 1]),
    )  # fmt: skip
    deep = [b"-" * 9000 + b"1", b"(" * 9000, b"{" * 150, b"[" * 99 + b"]" * 99]
    header = st.sampled_from([*deep, b"\xff", b"{}"])
    made |= header.map(lambda h: b"\x93NUMPY\x01\x00" + len(h).to_bytes(2, "little") + h)
    made |= noise(b"\x93NUMPY\x02\x00", b"\x93NUMPY\x02\x00\xff\xff\xff\xff", b"\x80\x04")

    def first(path):
        with warnings.catch_warnings(), files.open_archive(path) as archive:
            warnings.simplefilter("ignore")  # of headers by Python 2
            return files.read_array(archive, path, "images")

    @forall(count, made)
    def _(member):
        path = write_zip(tmp_path / "lies.npz", [("images.npy", member)])
        with memory_below(1 << 23):
            array = answer(first, path)
        if array is not REFUSED:
            with np.load(path) as file:
                np.testing.assert_array_equal(array, file["images"])
            assert array.nbytes <= len(member) and not array.dtype.hasobject
        assert answer(load, path) is REFUSED or array.dtype.kind in "iuf"


def declare(path, size):
    """Let the directory of a zip say that its first member has another size."""
    data = path.read_bytes()
    at = data.index(b"PK\x01\x02") + 24
    path.write_bytes(data[:at] + size.to_bytes(4, "little") + data[at + 4 :])
    return path


ZEROS = bytes(1 << 25)  # deflated to 32 kB


@pytest.mark.parametrize("size", [100, 1 << 20, (1 << 28) - 1, (1 << 28) + 1, (1 << 32) - 2])
@pytest.mark.parametrize("name", ["a.png", "images.npy"])
def test_zip_bombs_are_not_unpacked(tmp_path, size, name):
    """Whatever a member declares, and whatever it expands to, the smaller of the two is read."""
    path = tmp_path / ("bomb.zip" if name == "a.png" else "bomb.npz")
    content = npy("|u1", (1 << 25,), ZEROS)
    declare(write_zip(path, [(name, content)], zipfile.ZIP_DEFLATED), size)
    readers = [load] if name == "a.png" else [load, checkpoint.load_params, load_sampler]
    for reader in readers:
        with memory_below((1 << 22 if size < 1 << 22 else 1 << 27) + 4 * path.stat().st_size):
            assert answer(reader, path) is REFUSED


def test_bombs_that_tell_the_truth_are_refused(tmp_path, monkeypatch):
    """Each member is modest; all of them, from so small a file, are not."""
    monkeypatch.setattr(files, "MODEST", 1 << 22)
    members = [(f"{i}.png", bytes(1 << 20)) for i in range(5)]
    path = write_zip(tmp_path / "bomb.zip", members, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"bomb.zip: refusing to unpack 5242880 bytes from a file"):
        load(path)
    noise = [(f"{i}.png", RNG.bytes(1 << 20)) for i in range(5)]  # as large, and not so packed
    with pytest.raises(ValueError, match="cannot read"):
        load(write_zip(path, noise, zipfile.ZIP_DEFLATED))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressions_whose_bombs_cannot_be_stopped_are_refused(tmp_path, method):
    path = write_zip(tmp_path / "bomb.zip", [("a.png", bytes(1 << 23))], method)
    with memory_below(1 << 22), pytest.raises(ValueError, match="bomb.zip.*compressed by method"):
        load(path)


def test_more_pixels_than_fit_are_refused(tmp_path, monkeypatch):
    from jaxdiff.data import readers

    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(encoded(TWO[0]))
    monkeypatch.setattr(readers, "LARGEST_TOTAL", 3 * TWO[0].size - 1)
    with pytest.raises(ValueError, match=r"3 images of \(3, 4, 3\) are 108 bytes; .*pass size="):
        load(tmp_path)
    assert len(load(tmp_path, limit=2)) == 2


def test_files_of_absurd_size_are_not_read(tmp_path):
    """Files with holes: a terabyte that takes no room on the disk."""

    def hollow(name):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:
            file.truncate(1 << 40)
        return path

    (tmp_path / "labelled").mkdir()
    (tmp_path / "labelled" / "a.png").write_bytes(encoded(TWO[0]))
    labels, image = hollow("labelled/dataset.json"), hollow("images/a.png")
    cases = [
        (load_table, hollow("table.json")), (load_corrections, hollow("pas.json")),
        (lambda path: configs.load(path.parent), hollow("run/config.json")),
        (lambda path: load(path.parent), labels), (lambda path: load(path.parent), image),
    ]  # fmt: skip
    for reader, path in cases:
        with memory_below(1 << 22):
            assert answer(reader, path) is REFUSED


@depth(20, 60)
def test_names_that_lead_out_of_an_archive_are_refused(tmp_path, count):
    inside = tmp_path / "inside"
    inside.mkdir()
    bad = st.sampled_from(["..", "../..", "/", "//host", "C:", "c:\\", "..\\..", "\\"])
    slash = st.sampled_from(["/", "\\"])

    @forall(count, bad, slash, st.lists(PARTS, max_size=2), st.sampled_from([".png", ".npy"]))
    def _(bad, slash, parts, suffix):
        name = slash.join([bad, *parts, f"evil{suffix}"])
        if bad in ("..", "..\\.."):
            name = slash.join([*parts, bad, f"evil{suffix}"])
        members = [(n, encoded(TWO[0])) for n in (name, "a.png", "images.npy")]
        for ending in ("zip", "npz"):
            path = write_zip(inside / f"evil.{ending}", members)
            with pytest.raises(ValueError, match=rf"evil\.{ending}: refusing the unsafe member"):
                load(path)
        assert sorted(p.name for p in tmp_path.rglob("*")) == ["evil.npz", "evil.zip", "inside"]


def test_symbolic_links_in_archives_lead_nowhere(tmp_path):
    outside = tmp_path / "outside.png"
    outside.write_bytes(encoded(TWO[0]))
    link = zipfile.ZipInfo("a.png")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    path = write_zip(tmp_path / "links.zip", [(link, str(outside))])
    with pytest.raises(ValueError, match=r"links.zip: cannot read a.png"):
        load(path)


def test_links_in_folders_do_not_go_round(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(encoded(TWO[0]))
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    (tmp_path / "a" / "itself.png").symlink_to(tmp_path / "a" / "itself.png")
    (tmp_path / "a" / "nowhere.png").symlink_to(tmp_path / "nowhere.png")
    assert is_of(load(tmp_path), TWO[:1], [0])


@pytest.mark.parametrize("name", ["a.png", "dataset.json"])
def test_names_that_there_are_twice_are_refused(tmp_path, name):
    members = [("a.png", encoded(TWO[0])), ("b.png", encoded(TWO[1])), ("dataset.json", INDEX)]
    path = write_zip(tmp_path / "twice.zip", [*members, (name, encoded(TWO[1]))])
    with pytest.raises(ValueError, match=rf"twice.zip has two members with the name '{name}'"):
        load(path)
    np.savez(tmp_path / "twice.npz", images=TWO)
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / "twice.npz", "a") as archive:
        warnings.simplefilter("ignore")
        archive.writestr("images.npy", npy("|u1", (1, 1, 1), b"\0"))
    with pytest.raises(ValueError, match="two members"):
        load(tmp_path / "twice.npz")


def test_members_that_a_comment_hides_are_missed(tmp_path):
    """A few flipped bits, and the labels are the comment of an image: the directory has neither
    checksum nor end, but at the file's end there is a count.
    """
    members = [("a.png", encoded(TWO[0])), ("b.png", encoded(TWO[1])), ("dataset.json", INDEX)]
    path = write_zip(tmp_path / "hidden.zip", members)
    data = path.read_bytes()
    entries = [found.start() for found in re.finditer(b"PK\x01\x02", data)]
    length = (data.index(b"PK\x05\x06") - entries[2]).to_bytes(2, "little")
    path.write_bytes(data[: entries[1] + 32] + length + data[entries[1] + 34 :])
    assert zipfile.ZipFile(path).namelist() == ["a.png", "b.png"]
    with pytest.raises(ValueError, match="hidden.zip is damaged: .* the number of its 2 members"):
        load(path)


# Nothing runs


class Trap:
    """An object that makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.makedirs, (str(self.marker),)


def trapped(marker, kind):
    """A member that would run something, if anyone unpickled it."""
    stream = io.BytesIO()
    if kind == "array":
        np.save(stream, np.array([Trap(marker)]), allow_pickle=True)
    elif kind == "scalar":
        np.save(stream, np.array(Trap(marker), object), allow_pickle=True)
    elif kind == "field":
        record = np.array([(1.0, Trap(marker))], [("a", "f8"), ("b", "O")])
        np.save(stream, record, allow_pickle=True)
    else:
        pickle.dump(Trap(marker), stream)
    return stream.getvalue()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A small exported sampler."""
    path = tmp_path_factory.mktemp("exported") / "sampler.npz"
    with jax.enable_x64(False):
        export_sampler(path, small_sampler(np.float32), (2,), platforms=["cpu"])
    return path


def small_sampler(dtype):
    params = {"in": np.full((3, 2), 0.1, dtype), "out": np.full((2, 2), 0.2, dtype)}

    def network(params, x, label, cond=None):
        told, params = jnp.concatenate([x, label[:, None]], axis=1), jax.tree.map(_float, params)
        return jnp.tanh(told @ params["in"]) @ params["out"]

    return Sampler(denoiser(network, params), table(solvers.euler, grids.karras(1)))


def _float(x):
    return x.astype(jnp.float32)


def loaded_by_hand(path):
    """The lines that the module documents, as far as reading goes."""
    code = textwrap.dedent(re.search(r"anywhere::\n\n(.*?)\n\nAn older", export.__doc__, re.S)[1])
    lines = code.replace('"sampler.npz"', repr(str(path))).split("index = ")[0]
    known = {}
    try:
        exec(lines, known)
    except ValueError as error:  # NumPy's own, which does not know the file's name
        raise ValueError(f"{path}: {error}") from error
    finally:
        known["file"].close()


@pytest.mark.parametrize("kind", ["array", "scalar", "field", "bare"])
def test_nothing_is_unpickled(tmp_path, exported, kind):
    """A trap in place of every member of every kind of npz, and of the whole file."""
    marker = tmp_path / "marker"
    trap = trapped(marker, kind)
    np.savez(tmp_path / "images.npz", images=TWO, labels=np.array([1, 0]))
    checkpoint.save_params(tmp_path / "params.npz", {"w": jnp.ones(3)})
    shutil.copy(exported, tmp_path / "sampler.npz")
    readers = {"images": [load], "params": [checkpoint.load_params]}
    readers["sampler"] = [load_sampler] + [loaded_by_hand] * (kind != "bare")
    tried = 0
    for name, own in readers.items():
        path = tmp_path / f"{name}.npz"
        with zipfile.ZipFile(path) as archive:
            members = {n: archive.read(n) for n in archive.namelist()}
        for at in members:
            changed = [(n, trap if n == at else content) for n, content in members.items()]
            write_zip(tmp_path / "trap.npz", changed)
            for reader in own:
                if reader is loaded_by_hand and at == "about.npy":
                    continue  # these lines do not read it
                assert answer(reader, tmp_path / "trap.npz") is REFUSED
                tried += 1
        (tmp_path / "trap.npz").write_bytes(trap)
        assert answer(own[0], tmp_path / "trap.npz") is REFUSED
    assert tried > 8 and not marker.exists()
    with contextlib.suppress(Exception):  # what it would have done
        np.load(io.BytesIO(trap), allow_pickle=True)
    assert marker.exists()


def test_pictures_that_are_programs_are_not_run(tmp_path, monkeypatch):
    """PIL reads EPS by starting Ghostscript; here a program of that name leaves a mark."""
    marker, programs = tmp_path / "marker", tmp_path / "programs"
    programs.mkdir()
    (programs / "gs").write_text(f"#!/bin/sh\ntouch {marker}\n")
    (programs / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / "a.png"
    lines = ["%!PS-Adobe-3.0 EPSF-3.0", "%%BoundingBox: 0 0 4 4", "%%EndComments", "showpage"]
    path.write_text("\n".join([*lines, "%%EOF\n"]))
    with pytest.raises(ValueError, match=r"cannot read a.png"):
        load(path.parent)
    assert not marker.exists()
    with contextlib.suppress(Exception), Image.open(path) as image:  # what it would have done
        image.load()
    assert marker.exists()


def test_programs_that_call_python_are_refused(tmp_path):
    """jax exports none with a call back into Python unless told to; what was told is refused."""
    target = "xla_ffi_python_cpu_callback"
    call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct((2,), jnp.float32))
    allowed = [jax.export.DisabledSafetyCheck.custom_call(target)]
    shapes = [jax.ShapeDtypeStruct((), jnp.uint32), jax.ShapeDtypeStruct((2,), jnp.int32)]
    run = jax.jit(lambda weights, seed, index: call(index))
    program = jax.export.export(run, platforms=["cpu"], disabled_checks=allowed)([], *shapes)
    code, about = np.frombuffer(program.serialize(), np.uint8), {"classes": 0, "shape": []}
    np.savez(tmp_path / "s.npz", program=code, about=np.str_(json.dumps(about)))
    with pytest.raises(ValueError, match=rf"s.npz.*calls {target}"):
        load_sampler(tmp_path / "s.npz")


# Exported samplers


def test_parameters_of_a_dtype_that_npz_does_not_know_come_back(tmp_path):
    with jax.enable_x64(False):
        made = small_sampler(jnp.bfloat16)
        export_sampler(tmp_path / "s.npz", made, (2,), platforms=["cpu"])
        images = load_sampler(tmp_path / "s.npz").run(3, 2)
        np.testing.assert_allclose(images, made(jax.random.key(3), 2, (2,)), rtol=1e-5)


@depth(40, 120)
def test_a_damaged_sampler_is_right_or_refused(tmp_path, exported, count):
    path, good = tmp_path / "sampler.npz", exported.read_bytes()
    known = load_sampler(exported).about

    @forall(count, damages(good))
    def _(data):
        path.write_bytes(data)
        with jax.enable_x64(False):
            made = answer(load_sampler, path)
        assert made is REFUSED or made.about == known


@depth(20, 60)
def test_what_a_sampler_says_of_itself_is_checked(tmp_path, exported, count):
    """Changed text and other parameters under right checksums."""
    with np.load(exported) as file:
        arrays_of = {name: file[name] for name in file.files}
    about = json.loads(str(arrays_of["about"]))
    weights = st.one_of(
        st.just(arrays_of["1"].T[:1]), st.just(arrays_of["1"].astype("<U4")),
        st.just(np.zeros((0, 2), np.float32)), st.just(None),
    )  # fmt: skip

    @forall(count, changes(about).map(text_of), st.none() | weights.map(lambda w: (w,)))
    def _(text, weight):
        given = arrays_of | {"about": np.str_(text)} | ({} if weight is None else {"1": weight[0]})
        np.savez(tmp_path / "s.npz", **{k: v for k, v in given.items() if v is not None})
        made = answer(load_sampler, tmp_path / "s.npz")
        if made is not REFUSED:
            assert weight is None and json.dumps(made.about) == json.dumps(json.loads(text))
            assert (made.about["classes"], made.about["shape"]) == (0, [2])


# Tables


NAMES = st.text(max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | FINITE | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(NAMES, PLAIN, max_size=3)


@st.composite
def any_table(draw):
    """A table of any shape, its numbers anything finite."""
    n, rows = draw(st.integers(0, 4)), draw(st.integers(1, 3))
    reals = lambda *shape: draw(arrays(np.float64, shape, elements=FINITE))  # noqa: E731
    levels = lambda *shape: np.abs(reals(*shape))  # noqa: E731
    some = lambda end, least=0: st.sets(st.integers(0, end - 1), min_size=least)  # noqa: E731
    accepted, slots = tuple(sorted(draw(some((n + 1) * rows)))), draw(st.integers(0, 2))
    draws = tuple(sorted(draw(some((n + 1) * slots, slots)))) if slots else ()
    window = [draw(st.integers(0, 3)) for _ in range(3)]
    return Table(
        levels(len(accepted) + 1), levels(n),
        *(reals(n + 1, rows, k if i < 2 or slots else 0) for i, k in enumerate(window)),
        targets=draw(st.none() | st.just(levels(n))), accepted=accepted, draws=draws, slots=slots,
        label=Label(draw(NAMES), draw(OBJECTS), draw(OBJECTS)),
    )  # fmt: skip


@depth(30, 100)
def test_any_table_comes_back(tmp_path, count):
    @forall(count, any_table())
    def _(made):
        made.save(tmp_path / "t.json")
        again = load_table(tmp_path / "t.json")
        assert again.to_dict() == made.to_dict()
        for field in dataclasses.fields(Table):
            mine, own = getattr(made, field.name), getattr(again, field.name)
            if isinstance(mine, np.ndarray):  # to the bit: -0.0 is not 0.0
                assert mine.shape == own.shape and mine.tobytes() == own.tobytes()


NOISY = table(solvers.ddim, [3.0, 1.0, 0.5], eta=1.0).described(score=0.5, of=["x"]).to_dict()
TABLES = [NOISY, table(solvers.unipc, grids.karras(2), order=2).to_dict()]


def check_table(path, text):
    """Whether a text is a table, which then is what the text says."""
    path.write_text(text)
    made = answer(load_table, path)
    if made is REFUSED:
        return False
    told, again = (json.loads(t, parse_int=float) for t in (text, json.dumps(made.to_dict())))
    assert again.pop("about", {}) == told.get("about", {})
    assert again.pop("shapes").items() <= told["shapes"].items()
    assert again == {k: told[k] for k in again}
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(made))
    return True


@depth(100, 500)
@pytest.mark.parametrize("which", range(len(TABLES)))
def test_a_changed_table_is_what_it_says_or_refused(tmp_path, count, which):
    kept = []

    @forall(count, changes(TABLES[which]))
    def _(text):
        kept.append(check_table(tmp_path / "t.json", text_of(text)))

    assert 0 < sum(kept) < len(kept)  # a number may well be another


@depth(80, 300)
def test_a_damaged_table_file_is_what_it_says_or_refused(tmp_path, count):
    path, good = tmp_path / "t.json", json.dumps(NOISY).encode()

    @forall(count, damages(good) | noise(b"{", b'{"format": "jaxdiff-table-1"', b"\xff\xfe"))
    def _(data):
        path.write_bytes(data)
        made = answer(load_table, path)
        if made is not REFUSED:
            check_table(path, data.decode())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nodes": ["3.0", "1.0"]}, "not a number"),
        ({"nodes": [True, 1.0]}, "True is not a number"),
        ({"nodes": [10**400, 1.0]}, "damaged"),
        ({"nodes": [3.0, -1.0]}, "'nodes' holds levels below 0"),
        ({"slots": 1.0}, "not one of 0, 1, 2"),
        ({"slots": 10**12}, "do not go with 2 draws"),
        ({"accepted": [1, 0]}, "'accepted' should increase"),
        ({"accepted": [0, 1.5]}, "1.5 is not one of 0, 1, 2"),
        ({"nfe": 3}, "'nfe' 3"),
        ({"targets": [1.0, float("nan")], "shapes": NOISY["shapes"] | {"targets": [2]}}, "finite"),
        ({"shapes": NOISY["shapes"] | {"nodes": [-1]}}, "'shapes'"),
        ({"options": [["eta", 1.0]]}, "should be objects"),
        ({"about": {"score": float("inf")}}, "not JSON compliant"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(tmp_path, change, message):
    (tmp_path / "t.json").write_text(json.dumps(NOISY | change))
    with pytest.raises(ValueError, match=rf"t\.json.*{message}"):
        load_table(tmp_path / "t.json")


def test_absurd_windows_that_hold_no_numbers_are_refused(tmp_path):
    empty = {k: [[]] * 3 for k in ("states", "denoised", "noises")}
    shapes = NOISY["shapes"] | {k: [3, 0, 10**12] for k in empty} | {"nodes": [2]}
    (tmp_path / "t.json").write_text(json.dumps(NOISY | empty | {"shapes": shapes}))
    with pytest.raises(ValueError, match="t.json"):
        load_table(tmp_path / "t.json")


# Corrections


@st.composite
def any_corrections(draw):
    steps = draw(st.integers(1, 4))
    levels = sorted(draw(st.sets(st.floats(0, 1e300), min_size=steps + 1, max_size=steps + 1)))
    return Corrections(
        np.array(levels[::-1]), draw(arrays(np.float64, (steps, 4), elements=FINITE)),
        draw(arrays(bool, steps)),
        draw(st.none() | arrays(np.float64, (steps, 2), elements=FINITE)),
        draw(st.integers(1, 4)), draw(st.booleans()), draw(st.booleans()),
    )  # fmt: skip


@depth(20, 60)
def test_any_corrections_come_back(tmp_path, count):
    @forall(count, any_corrections())
    def _(made):
        made.save(tmp_path / "pas.json")
        again = load_corrections(tmp_path / "pas.json")
        assert same(again, made)


CORRECTIONS = Corrections(
    np.array([2.0, 1.0, 0.0]), np.arange(8.0).reshape(2, 4), np.array([True, False]),
    np.arange(4.0).reshape(2, 2), 2, False, True,
)  # fmt: skip


@depth(80, 400)
def test_changed_corrections_are_what_they_say_or_refused(tmp_path, count):
    path, other = tmp_path / "pas.json", tmp_path / "again.json"
    CORRECTIONS.save(path)
    good = path.read_bytes()
    texts = changes(json.loads(good)).map(lambda v: text_of(v).encode())

    @forall(count, texts | damages(good))
    def _(data):
        path.write_bytes(data)
        made = answer(load_corrections, path)
        if made is not REFUSED:
            made.save(other)
            told, again = (json.loads(t, parse_int=float) for t in (data, other.read_text()))
            assert again == {k: told[k] for k in again}


def test_words_and_truth_values_are_no_numbers_of_corrections(tmp_path):
    path = tmp_path / "pas.json"
    CORRECTIONS.save(path)
    text = json.loads(path.read_text())
    for change in ({"levels": ["2", "1", "0"]}, {"order": True}, {"losses": [[True, 1.0]] * 2}):
        path.write_text(json.dumps(text | change))
        with pytest.raises(ValueError, match=r"pas\.json holds damaged"):
            load_corrections(path)


# Configurations


RATES = st.floats(-1e300, 1e300)
COUNTS = st.integers(-(2**40), 2**40)


def of_fields(kind):
    """A configuration with anything of the right type in its fields."""

    def values(hint):
        of = typing.get_args(hint)
        if type(None) in of:
            return st.none() | values(of[0])
        if typing.get_origin(hint) is tuple:
            return st.lists(values(of[0]), max_size=3).map(tuple)
        if typing.get_origin(hint) is dict:
            return st.dictionaries(NAMES, RATES, max_size=3)
        if typing.get_origin(hint) is typing.Literal:
            return st.sampled_from(of)
        if dataclasses.is_dataclass(hint):
            return of_fields(hint)
        return {int: COUNTS, float: RATES | COUNTS, str: NAMES, bool: st.booleans()}[hint]

    return st.builds(kind, **{k: values(h) for k, h in typing.get_type_hints(kind).items()})


@depth(20, 80)
def test_any_configuration_comes_back(tmp_path, count):
    kinds = [configs.Train, configs.Distill]

    @forall(count, st.one_of(*map(of_fields, kinds)))
    def _(config):
        configs.save(config, tmp_path)
        assert configs.load(tmp_path) == config

    others = [configs.Sample, configs.Export, configs.Tune, configs.Evaluate, configs.Demo]

    @forall(count, st.one_of(*map(of_fields, others)))
    def _(config):
        text = json.loads(json.dumps(configs.to_dict(config)))
        assert configs.from_dict(type(config), text) == config


CONFIGS = [
    configs.Train("r", configs.Data("x", size=8), configs.UNet(16, (1, 2), attention=(4,))),
    configs.Distill("t", "r", choices={"q": 2.0}, devices=1),
]


def filled(told, whole):
    """What a text says, and of what it does not say what a configuration then is."""
    return whole | {
        k: filled(v, whole[k]) if isinstance(v, dict) and k != "choices" else v
        for k, v in told.items()
    }


@depth(100, 400)
def test_a_changed_configuration_is_what_it_says_or_refused(tmp_path, count):
    path, good = tmp_path / "config.json", [json.dumps(configs.to_dict(c)) for c in CONFIGS]
    texts = [changes(json.loads(g)).map(lambda v: text_of(v).encode()) for g in good]
    hurt = [damages(g.encode()) for g in good]

    @forall(count, st.one_of(*texts, *hurt, noise(b"{", b"\xff")))
    def _(data):
        path.write_bytes(data)
        made = answer(lambda path: configs.load(path.parent), path)
        if made is not REFUSED:
            told, again = json.loads(data), json.loads(json.dumps(configs.to_dict(made)))
            assert again == filled(told, again)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "3000"}, "config.json.steps should be of type int, not '3000'"),
        ({"steps": 3.5}, "steps should be of type int"),
        ({"steps": True}, "steps should be of type int"),
        ({"seed": 10**30}, "seed should be of type int"),
        ({"learning_rate": float("nan")}, "learning_rate should be of type float, not nan"),
        ({"learning_rate": None}, "learning_rate should be of type float"),
        ({"parallel": "both"}, r"parallel should be of type Literal\['jit', 'fsdp', 'pmap'\]"),
        ({"network": 3}, "network should be of type UNet"),
        ({"network": {"multipliers": [1, "2"]}}, r"network.multipliers\[1\] should be of type int"),
        ({"network": {"blocks": []}}, "network.blocks should be"),
        ({"data": {"flip": 1}}, "data.flip should be of type bool"),
        ({"kind": ["Train"]}, "damaged"),
    ],
)
def test_what_is_wrong_in_a_configuration_is_named(tmp_path, change, message):
    text = configs.to_dict(CONFIGS[0]) | change
    (tmp_path / "config.json").write_text(json.dumps(text))
    with pytest.raises(ValueError, match=message):
        configs.load(tmp_path)


@depth(40, 150)
def test_settings_of_a_tuning_are_the_same_or_refused(tmp_path, count):
    config = configs.Tune(problem="gaussian", out=str(tmp_path))
    tuned._begin(config)
    path = tmp_path / "tune.json"
    good = path.read_bytes()
    changed = changes(json.loads(good)).map(lambda v: text_of(v).encode())

    @forall(count, changed | damages(good) | st.sampled_from([b"[]", b"3", b'"x"', b"null"]))
    def _(data):
        path.write_bytes(data)
        begun = answer(lambda path: tuned._begin(config), tmp_path)
        if begun is not REFUSED:
            told, known = json.loads(data), json.loads(good)
            assert known == {k: told.get(k) for k in known}


# Parameters and checkpoints


DTYPES = [
    "float32", "float64", "float16", "int8", "int64", "uint32", "bool", "complex64",
    jnp.bfloat16, jnp.float8_e4m3fn,
]  # fmt: skip


@st.composite
def any_array(draw):
    """An array of any dtype and shape, of any bits."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = draw(array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))
    size = int(np.prod(shape)) * dtype.itemsize
    bits = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
    return (bits % 2 == 1).reshape(shape) if dtype.kind == "b" else bits.view(dtype).reshape(shape)


def trees(names):
    """Nested dictionaries of arrays."""
    return st.recursive(
        any_array(),
        lambda inner: st.dictionaries(names, inner, min_size=1, max_size=3),
        max_leaves=4,
    )


@depth(12, 40)
def test_any_parameters_come_back(tmp_path, count):
    path = tmp_path / "net.npz"
    odd = st.sampled_from(["x", "x.npy", "record", "..", "/", "C:", "a.b", "file", "\0"])
    odd |= st.text(max_size=8)

    @forall(count, trees(odd), OBJECTS)
    def _(params, meta):
        try:
            checkpoint.save_params(path, params, meta)
        except ValueError as error:  # two leaves of one path, or a name that no zip can hold
            assert "same path" in str(error) or "no file can hold" in str(error)
            return
        back, said = checkpoint.load_params(path, params)
        assert same(back, params) and said == meta

    plain = st.text(st.characters(exclude_characters=".\0", exclude_categories=["Cs"]), max_size=8)

    @forall(count, st.dictionaries(plain.filter(bool), trees(plain), min_size=1, max_size=2))
    def _(params):
        checkpoint.save_params(path, params)
        assert same(checkpoint.load_params(path)[0], params)


PARAMS = {"a": np.arange(6.0).reshape(2, 3), "b": {"c": np.ones(3, jnp.bfloat16)}}


@depth(80, 300)
@pytest.mark.parametrize("told", [True, False])
def test_damaged_parameters_are_right_or_refused(tmp_path, count, told):
    path = tmp_path / "net.npz"
    checkpoint.save_params(path, PARAMS, {"classes": 10})
    good = path.read_bytes()

    @forall(count, damages(good) | noise(*MAGIC))
    def _(data):
        path.write_bytes(data)
        made = answer(lambda path: checkpoint.load_params(path, PARAMS if told else None), path)
        assert made is REFUSED or (same(made[0], PARAMS) and made[1] == {"classes": 10})


@depth(40, 200)
def test_the_record_of_parameters_is_checked(tmp_path, count):
    """Names and dtypes that are changed under right checksums."""
    path = tmp_path / "net.npz"
    checkpoint.save_params(path, PARAMS, {"classes": 10})
    with np.load(path) as file:
        arrays_of = {name: file[name] for name in file.files}
    record = json.loads(str(arrays_of["record"]))
    dtypes = st.sampled_from([
        "object", "float32", "uint16", "float16", "<U2", "datetime64[s]", "V8", "complex128", "x",
        "int64", ">f8", "f8,f8", None, 7,
    ])  # fmt: skip
    other = st.tuples(st.sampled_from(["a", "b.c"]), dtypes).map(
        lambda new: record | {"dtypes": record["dtypes"] | {new[0]: new[1]}}
    )

    @forall(count, changes(record) | other)
    def _(told):
        np.savez(path, **arrays_of | {"record": np.str_(text_of(told))})
        made = answer(checkpoint.load_params, path)
        if made is not REFUSED:
            assert json.dumps(made[1]) == json.dumps(json.loads(text_of(told))["meta"])
            for path_, leaf in (("a", made[0]["a"]), ("b.c", made[0]["b"]["c"])):
                assert str(leaf.dtype) == told["dtypes"][path_]  # bits may be told as integers
                assert np.asarray(leaf).tobytes() == arrays_of[f"params.{path_}"].tobytes()


def test_arrays_inside_of_arrays_need_to_be_told(tmp_path):
    """Names with dots, which nested dictionaries cannot have."""
    for params in ({"a": np.ones(2), "a.b": np.zeros(2)}, {"a.b": np.ones(2), "a": np.zeros(2)}):
        checkpoint.save_params(tmp_path / "net.npz", params)
        assert same(checkpoint.load_params(tmp_path / "net.npz", params)[0], params)
        with pytest.raises(ValueError, match=r"net.npz.*read it with like="):
            checkpoint.load_params(tmp_path / "net.npz")
    empty = {"": np.ones(2), "a": np.zeros(2)}
    checkpoint.save_params(tmp_path / "net.npz", empty)
    assert same(checkpoint.load_params(tmp_path / "net.npz")[0], empty)


STATES = {
    1: {"w": RNG.normal(size=(8, 8)), "count": np.int32(1), "empty": np.zeros((0, 2))},
    2: {"w": RNG.normal(size=(8, 8)), "count": np.int32(2), "empty": np.zeros((0, 2))},
}
STATES = {step: jax.tree.map(jnp.asarray, state) for step, state in STATES.items()}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder with the checkpoints of steps 1 and 2."""
    folder = tmp_path_factory.mktemp("checkpoints") / "run"
    for step, state in STATES.items():
        checkpoint.save(folder, step, state, {"step": step})
    return folder


def check_checkpoint(folder):
    """The newest state, the one before it with a warning, or a refusal."""
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        made = answer(lambda path: checkpoint.restore(path, STATES[2]), folder)
    if made is REFUSED:
        return None
    assert same(made.state, STATES[made.step]) and made.meta == {"step": made.step}
    assert made.step == 2 or any(f"{folder.name}/2" in str(w.message) for w in noted)
    return made.step


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # orbax's threads
@depth(6, 60)
def test_a_damaged_checkpoint_is_right_or_passed_over(tmp_path, saved, count):
    """One file of the newest checkpoint, any of them, is damaged anywhere."""
    files = [p for p in sorted((saved / "2").rglob("*")) if p.is_file() and p.stat().st_size]
    hurt = lambda p: damages(p.read_bytes()).map(lambda data: (p.relative_to(saved), data))  # noqa: E731
    seen = []

    @forall(count, st.sampled_from(files).flatmap(hurt))
    def _(change):
        folder, (name, data) = tmp_path / "run", change
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(saved, folder)
        (folder / name).write_bytes(data)
        seen.append(check_checkpoint(folder))
        assert seen[-1] is not None  # the one of step 1 is whole

    assert set(seen) == {1, 2} or count < 20


@depth(5, 30)
def test_the_record_of_a_checkpoint_is_checked(tmp_path, saved, count):
    """What the record says is changed, under a right checksum."""
    folder = tmp_path / "run"
    shutil.copytree(saved, folder)
    file = folder / "2" / "record" / "metadata"
    body = json.loads(json.loads(file.read_text())["body"])

    @forall(count, changes(body).map(text_of))
    def _(text):
        file.write_text(json.dumps({"body": text, "crc": zlib.crc32(text.encode())}))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = answer(lambda path: checkpoint.restore(path, STATES[2]), folder)
        if made is not REFUSED:
            assert same(made.state, STATES[made.step])
            assert made.meta == ({"step": 1} if made.step == 1 else json.loads(text)["meta"])


# Histories and students


ROWS = [{"step": 1, "fit/loss": 0.5}, {"resumed": 1}, {"step": 2, "fit/loss": 0.25}]


@depth(20, 80)
def test_a_history_that_was_cut_short_keeps_its_whole_rows(tmp_path, count):
    path = tmp_path / HISTORY
    rows = st.lists(st.fixed_dictionaries({"step": st.integers(0, 9), "loss": FINITE, "x": PLAIN}))

    @forall(count, rows, st.integers(0, 10**6))
    def _(rows, cut):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_text(text)
        assert read_history(tmp_path) == rows
        path.write_text(text[: cut % (len(text) + 1)])
        kept = read_history(tmp_path)
        assert kept == rows[: len(kept)]
        assert len(kept) >= text[: cut % (len(text) + 1)].count("\n")


@depth(60, 300)
def test_a_damaged_history_is_rows_or_refused(tmp_path, count):
    path = tmp_path / HISTORY
    good = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    changed = changes(ROWS).map(lambda rows: "\n".join(map(text_of, rows)).encode())

    @forall(count, changed | damages(good) | noise(b"{", b'{"resumed": '))
    def _(data):
        path.write_bytes(data)
        made = answer(read_history, path.parent)
        assert made is REFUSED or all(type(row["step"]) is int for row in made)


MODULE = MLP(width=8, depth=1, embedding=8)


@pytest.fixture(scope="module")
def description():
    """Parameters, and what a student's file says of a denoiser that is told a number."""
    from jaxdiff.prediction import conditioned

    with jax.enable_x64(False):
        params = init(MODULE, jax.random.key(0), (2,), labels=2)
        D = conditioned(denoiser(from_linen(MODULE), params), extra=jnp.asarray(0.3))
        return params, json.loads(json.dumps(students.encode(D)))


def agrees(told, again):
    """Whether a description says what a text said, its numbers to single precision."""
    if isinstance(again, dict):
        return all(agrees(told[k], v) for k, v in again.items() if k in told)
    if isinstance(again, list):
        return len(told) == len(again) and all(map(agrees, told, again))
    return told == again or abs(told - again) < 1e-6 * abs(told) + 1e-30


@depth(40, 150)
def test_a_changed_description_of_a_student_is_what_it_says_or_refused(description, count):
    params, text = description

    @forall(count, changes(text))
    def _(changed):
        try:
            told = json.loads(text_of(changed))
        except (ValueError, RecursionError):
            return
        with jax.enable_x64(False):
            try:
                made = students.decode(told, MODULE, params)
            except ValueError:
                return
            assert agrees(told, students.encode(made))


@pytest.fixture(scope="module")
def models(description):
    """What the files of a teacher and of a student say."""
    params, text = description
    teacher = {
        "kind": "teacher", "network": {"channels": 8}, "shape": [8, 8, 1], "classes": 3,
        "sigma_data": 0.5, "data": {"path": "digits", "flip": True},
    }  # fmt: skip
    entry = {"table": table(solvers.euler, [2.0, 0.5, 0.0]).to_dict(), "denoiser": text}
    told = json.loads(json.dumps({"2": entry | {"weights": [text, text]}, "3": entry}))
    return params, [teacher, teacher | {"kind": "student", "method": "sfd_v", "samplers": told}]


@pytest.mark.parametrize("number", [0, 1])
@depth(30, 300)
def test_a_changed_model_is_loaded_and_sampled_or_refused(models, tmp_path, number, count):
    params, known = models[0], models[1][number]
    configs.save(configs.Train(run=str(tmp_path)), tmp_path)

    def used(told):
        """A sampler of every number of evaluations, or REFUSED."""
        checkpoint.save_params(tmp_path / "model.npz", params, told)
        model = answer(runs.load_model, tmp_path)
        if model is REFUSED or not model.student:
            return model
        for steps in (1, 2, 3):
            for weight in (None, 0.5):
                with contextlib.suppress(ValueError):
                    students.student_sampler(model, steps, weight)
        return model

    assert used(known) is not REFUSED

    @forall(count, changes(known))
    def _(changed):
        try:
            told = json.loads(text_of(changed))
        except (ValueError, RecursionError):
            return
        with jax.enable_x64(False):
            model = used(told)
        if model is not REFUSED:
            assert {"kind", "network", "shape", "classes", "sigma_data", "data"} <= {*model.about}
            assert np.prod(model.shape) >= 1 and type(model.classes) is int
