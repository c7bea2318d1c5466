"""Images and archives of them, from outside: the requirements on readers, fuzz_readers says."""

import io
import json
import re
import shutil
import stat
import warnings
import zipfile

import numpy as np
import pytest
from helpers.fuzz_readers import (
    MAGIC,
    REFUSED,
    RNG,
    TWO,
    answer,
    changes,
    damages,
    depth,
    forall,
    memory_below,
    noise,
    text_of,
    write_zip,
)
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, from_dtype
from PIL import Image

from jaxdiff import files
from jaxdiff.app import config_file
from jaxdiff.data import load
from jaxdiff.sampling.export import load_sampler
from jaxdiff.sampling.table import load_table
from jaxdiff.training import checkpoint
from jaxdiff.tuning.learned.pas import load_corrections

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


def whole(images, names, labels):
    """What a reader should make of pictures."""
    order = sorted(range(len(names)), key=names.__getitem__)
    images = images.reshape(*images.shape[:3], -1)[order]
    return images, None if labels is None else [labels[i] for i in order]


def is_of(dataset, images, labels):
    return np.array_equal(dataset.images, images) and stated(dataset) == labels


def stated(dataset):
    """The numbers of a file that labels stand for."""
    return dataset.labels if dataset.labels is None else [
        int(dataset.class_names[label]) for label in dataset.labels
    ]  # fmt: skip


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
        made = load(root, labels="folders" if labels else "auto")
        assert is_of(made, *whole(images, paths, labels))


@depth(15, 80)
def test_an_npz_of_images_comes_back(tmp_path, count):
    shapes = st.one_of(
        array_shapes(min_dims=3, max_dims=3, max_side=6).filter(
            lambda shape: shape[2] not in (3, 4) or min(shape[:2]) < 5  # might be one image
        ),
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
        shown = (0, 255) if images.dtype.kind in "iu" else (min(0, np.sign(images.min())), 1)
        made = load(tmp_path / "made.npz", range=shown)
        expected = images.reshape(*images.shape[:3], -1)
        if images.dtype.kind == "f" and images.min() >= 0:
            expected = (expected * 2 - 1).astype(np.float32)
        np.testing.assert_array_equal(made.images, expected.astype(made.images.dtype))
        assert made.images.dtype == (np.float32 if images.dtype.kind == "f" else np.uint8)
        assert stated(made) == (None if kind is None else [*range(len(images))])


def _values(dtype):
    if dtype.kind in "iu":
        return st.integers(0, 255)
    return from_dtype(dtype, min_value=-1, max_value=1, allow_nan=False)


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
            assert stated(made) == labels.reshape(-1).tolist()


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
        assert answer(load, path) is REFUSED or array.dtype.kind in "iufb"


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
        (lambda path: config_file.load(path.parent), hollow("run/config.json")),
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
    made = load(tmp_path)
    assert np.array_equal(made.images, TWO[:1]) and made.class_names == ("a",)
    assert made.skipped == (
        "dangling links: 2 (a/itself.png, a/nowhere.png)",
        "links to a folder that holds them: 1 (a/again)",
    )


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
