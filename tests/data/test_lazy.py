"""Data beyond memory: read as they are needed, in an order that needs no list."""

import gc
import io
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxdiff.data import batches, batches_of_items, load, parts, split, to_float
from jaxdiff.data.lazy import LazyImages
from jaxdiff.data.order import _listed, epoch_order, permuted

COLOURS = np.random.default_rng(0).integers(0, 256, (12, 4, 5, 3), np.uint8)


def png(image):
    out = io.BytesIO()
    Image.fromarray(image.squeeze()).save(out, "PNG")
    return out.getvalue()


def files(count=12):
    """Images in three class folders, and a note that is no image."""
    named = {f"{'abc'[i % 3]}/{i:02}.png": png(COLOURS[i]) for i in range(count)}
    return {**named, "note.txt": b"x"}


def folder(path, named):
    for name, data in named.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def zipped(path, named):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in named.items():
            archive.writestr(name, data)
    return path


def tar(path, named, kind=tarfile.REGTYPE):
    with tarfile.open(path, "w") as archive:
        for name, data in named.items():
            info = tarfile.TarInfo(name)
            info.size, info.type = len(data), kind
            archive.addfile(info, io.BytesIO(data))
    return path


def shards(path, named, size=5):
    path.mkdir()
    items = list(named.items())
    for i in range(0, len(items), size):
        tar(path / f"part-{i:04}.tar", dict(items[i : i + size]))
    return path


KINDS = {
    "folder": lambda tmp: folder(tmp / "images", files()),
    "zip": lambda tmp: zipped(tmp / "images.zip", files()),
    "tar": lambda tmp: tar(tmp / "images.tar", files()),
    "shards": lambda tmp: shards(tmp / "images", files()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_lazily_is_what_is_read_at_once(kind, tmp_path):
    path = KINDS[kind](tmp_path)
    now, later = load(path), load(path, lazy=True)
    assert isinstance(later.images, LazyImages) and later.images.shape == now.images.shape
    np.testing.assert_array_equal(np.asarray(later.images), now.images)
    np.testing.assert_array_equal(later.labels, now.labels)
    assert later.class_names == ("a", "b", "c") and later.skipped == now.skipped
    assert later.fingerprint() == now.fingerprint() and "as they are needed" in later.describe()
    for step in (0, 3, 7):
        a, b = (batches(d, 5, seed=1, flip=True)(step) for d in (now, later))
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["label"], b["label"])
    part = batches(later, 5, seed=1)(3, slice(2, 4))
    np.testing.assert_array_equal(part["image"], batches(now, 5, seed=1)(3)["image"][2:4])
    few, rest = split(later, 0.5)[1], load(path, lazy=True, limit=4)
    assert isinstance(few.images, LazyImages) and len(few) == 6 and len(rest) == 4
    np.testing.assert_array_equal(np.asarray(few.images), split(now, 0.5)[1].images)
    np.testing.assert_array_equal(to_float(rest.images), to_float(load(path, limit=4).images))


def test_a_zip_stays_open_while_its_images_are_used_and_no_longer(tmp_path, recwarn):
    data = load(zipped(tmp_path / "a.zip", files()), lazy=True)
    gc.collect()
    np.testing.assert_array_equal(data.take([3]).images[0], load(tmp_path / "a.zip").images[3])
    del data
    gc.collect()
    assert not list(recwarn)


def test_nothing_is_read_before_it_is_needed(tmp_path, monkeypatch):
    from jaxdiff.data import unread

    seen, decode = [], unread.decode
    monkeypatch.setattr(
        unread,
        "decode",
        lambda data, name, *a, **k: (seen.append(name), decode(data, name, *a, **k))[1],
    )
    data = load(folder(tmp_path / "a", files()), lazy=True)
    assert len(seen) == 1  # for the shape
    batches(data, 4)(0)
    assert len(seen) == 5


def test_pictures_that_do_not_fit_are_named_when_they_are_read(tmp_path):
    named = files(4) | {"a/90.png": png(np.zeros((3, 3, 3), np.uint8))}
    data = load(folder(tmp_path / "sizes", named), lazy=True)
    with pytest.raises(ValueError, match="a/90.png is 3 x 3, a/00.png is 4 x 5; pass size="):
        data.images[:]
    assert load(tmp_path / "sizes", lazy=True, size=4).images[:].shape == (5, 4, 4, 3)
    grey = {"00.png": png(np.zeros((4, 5), np.uint8)), "01.png": png(COLOURS[0])}
    with pytest.raises(ValueError, match="01.png has colours and the first, 00.png, has none"):
        load(folder(tmp_path / "grey", grey), lazy=True).images[:]
    assert load(tmp_path / "grey", lazy=True, grayscale=True).images[:].shape == (2, 4, 5, 1)
    other = {"00.png": png(COLOURS[0]), "01.png": png(np.full((4, 5), 7, np.uint8))}
    assert (load(folder(tmp_path / "mixed", other), lazy=True).images[1] == 7).all()
    (tmp_path / "mixed" / "01.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="cannot read 01.png"):
        load(tmp_path / "mixed", lazy=True).images[1]


# arrays


def test_an_npy_is_mapped_and_its_labels_lie_beside_it(tmp_path):
    np.save(tmp_path / "images.npy", COLOURS)
    np.save(tmp_path / "labels.npy", np.arange(12) % 2 + 5)
    data = load(tmp_path / "images.npy")
    assert isinstance(data.images, LazyImages) and data.class_names == ("5", "6")
    np.testing.assert_array_equal(data.images[3:5], COLOURS[3:5])
    np.testing.assert_array_equal(data.images[-1], COLOURS[-1])
    assert batches(data, 4)(0)["image"].shape == (4, 4, 5, 3)
    assert load(tmp_path / "images.npy", labels="none").labels is None
    assert len(load(tmp_path / "images.npy", limit=3)) == 3
    assert parts(tmp_path / "images.npy") == ("train",)
    data.images[0][:] = 0  # of a copy
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy"), COLOURS)


def test_floats_in_an_npy_have_a_range(tmp_path):
    values = np.linspace(0, 2, 24, dtype=np.float16).reshape(4, 2, 3)
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(ValueError, match="which white, --data.range"):
        load(tmp_path / "a.npy")
    data = load(tmp_path / "a.npy", range=(0, 2))
    np.testing.assert_allclose(data.images[:][..., 0], values.astype(np.float32) - 1)
    assert data.images.dtype == np.float32 and data.shape == (2, 3, 1)
    with pytest.raises(ValueError, match="image 2 is not in the range 0..1"):
        load(tmp_path / "a.npy", range=(0, 1)).images[[0, 2]]


def test_damaged_arrays_are_refused_by_name(tmp_path):
    np.save(tmp_path / "a.npy", COLOURS)
    whole = (tmp_path / "a.npy").read_bytes()
    for name, data, message in (
        ("short", whole[:-1], "bytes with it, of"),
        ("header", whole[:20], "its header"),
        ("empty", b"", "its header"),
    ):
        (tmp_path / f"{name}.npy").write_bytes(data)
        with pytest.raises(ValueError, match=f"{name}.npy.*{message}"):
            load(tmp_path / f"{name}.npy")
    np.save(tmp_path / "objects.npy", np.array([{}] * 3), allow_pickle=True)
    with pytest.raises(ValueError, match="pickled"):
        load(tmp_path / "objects.npy")
    np.save(tmp_path / "flat.npy", np.zeros((3, 4), np.uint8))
    for options, message in (
        ({}, r"must be \(n, h, w\)"), ({"size": 4}, "size is for files"),
        ({"split": "test"}, "no parts"), ({"labels": "json"}, "labels json is for folders"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            load(tmp_path / "flat.npy", **options)
    np.savez(tmp_path / "a.npz", images=COLOURS)
    with pytest.raises(ValueError, match="save its images as an .npy"):
        load(tmp_path / "a.npz", lazy=True)


def test_more_than_fits_into_memory_is_never_made_one_array():
    shape = (256, 256, 3)
    huge = LazyImages(lambda rows: np.zeros((len(rows), *shape), "u1"), (10**9, *shape), "u1")
    with pytest.raises(ValueError, match=r"1000000000 images .* pass limit="):
        np.asarray(huge)
    assert huge.take(np.arange(3) * 10**8)[:].shape == (3, 256, 256, 3)
    with pytest.raises(IndexError):
        huge[[10**9]]


# tar


def test_classes_may_lie_beside_the_images_of_a_tar(tmp_path):
    named = {}
    for i in range(6):
        named |= {f"{i:03}.png": png(COLOURS[i]), f"{i:03}.cls": str(i % 2 + 3).encode()}
    data = load(shards(tmp_path / "web", named | {"x.cls": b"3"}), lazy=True)
    assert data.class_names == ("3", "4") and data.labels.tolist() == [0, 1] * 3
    assert data.skipped == (".cls: 1 (x.cls)",)  # of no image; the others are read
    assert load(tmp_path / "web", labels="none", lazy=True).labels is None
    del named["003.cls"]
    with pytest.raises(ValueError, match="003.png has no class beside it"):
        load(tar(tmp_path / "lone.tar", named))


def test_tars_that_are_not_safe_or_whole_are_refused(tmp_path):
    image = png(COLOURS[0])
    for name in ("../a.png", "/a.png", "b/../../a.png", "C:/a.png"):
        with pytest.raises(ValueError, match="unsafe member name"):
            load(tar(tmp_path / "bad.tar", {"ok.png": image, name: image}))
    linked = tar(tmp_path / "links.tar", {"a.png": b""}, tarfile.SYMTYPE)
    with pytest.raises(ValueError, match="holds no images.*neither files nor folders"):
        load(linked)
    whole = tar(tmp_path / "whole.tar", {"a.png": image, "b.png": image}).read_bytes()
    for end in (100, 512 + len(image) // 2, 1024, 1200, 2048):
        (tmp_path / "cut.tar").write_bytes(whole[:end])
        with pytest.raises(ValueError, match="cut.tar"):
            load(tmp_path / "cut.tar")
    with tarfile.open(tmp_path / "small.tar", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(ValueError, match="compressed archives"):
        load(tmp_path / "small.tar")
    (tmp_path / "twice").mkdir()
    for shard in ("1.tar", "2.tar"):
        tar(tmp_path / "twice" / shard, {"a.png": image})
    with pytest.raises(ValueError, match="has 'a.png', which 1.tar has, too"):
        load(tmp_path / "twice")


# order


@pytest.mark.parametrize("count", [1, 2, 3, 17, 64, 1000])
def test_a_keyed_permutation_is_one(count):
    found = permuted(np.arange(count), count, 7)
    assert sorted(found.tolist()) == list(range(count))
    np.testing.assert_array_equal(permuted(np.arange(count)[::-1], count, 7), found[::-1])
    if count > 60:
        others = [permuted(np.arange(count), count, key) for key in (8, 9)]
        assert all((found != other).mean() > 0.9 for other in others)


def test_a_keyed_permutation_is_as_scattered_as_a_random_one():
    count = 4096
    each = np.stack([permuted(np.arange(64), count, key) for key in range(400)])
    assert abs(each.mean() / (count - 1) - 0.5) < 0.01  # standard error 0.002
    neighbours = abs(np.diff(each, axis=1)).mean() / count  # 1/3 of independent places
    assert abs(neighbours - 1 / 3) < 0.01
    assert abs(np.corrcoef(each[:, 0], each[:, 1])[0, 1]) < 0.2


def test_the_order_of_many_samples_needs_no_list():
    count = 10**11
    places = np.array([0, 1, count - 1])
    chosen, coins = epoch_order(3, 2, count, places)
    assert len(set(chosen.tolist())) == 3 and chosen.max() < count and coins.dtype == bool
    np.testing.assert_array_equal(epoch_order(3, 2, count, places[1:])[0], chosen[1:])
    assert (epoch_order(3, 3, count, places)[0] != chosen).all()
    assert 0.4 < epoch_order(3, 2, count, np.arange(1000))[1].mean() < 0.6
    order, _ = _listed(3, 2, 10)  # few samples are listed, as they were before
    np.testing.assert_array_equal(epoch_order(3, 2, 10, np.arange(10))[0], order)


# anything with a length and an index


def test_samples_of_a_source_make_batches_that_resume_anywhere():
    source = [{"image": image, "label": i, "weight": i / 2} for i, image in enumerate(COLOURS)]
    data = batches_of_items(source, 5, seed=3)
    step = data(4)
    assert step["image"].dtype == np.float32 and step["label"].dtype == np.int32
    assert step["weight"].dtype == np.float32
    np.testing.assert_array_equal(step["image"], to_float(COLOURS[step["label"]]))
    for rows in (slice(0, 2), slice(2, 5)):  # of one process and of another
        np.testing.assert_array_equal(data(4, rows)["label"], step["label"][rows])
    seen = np.concatenate([data(i)["label"] for i in range(12)])[:60]
    assert (np.bincount(seen) == 5).all()
    assert set(batches_of_items(COLOURS, 5)(0)) == {"image"}


def test_sources_that_make_no_batches_are_refused():
    with pytest.raises(ValueError, match="no samples"):
        batches_of_items([], 3)
    with pytest.raises(ValueError, match="at least 1"):
        batches_of_items([1], 0)
    uneven = [np.zeros(3), np.zeros(4)]
    with pytest.raises(ValueError, match=r"do not fit together: 'image' has the shapes"):
        batches_of_items(uneven, 2)(0)
    with pytest.raises(ValueError, match=r"'label' has the shapes .*None"):
        batches_of_items([{"image": np.zeros(3)}, {"image": np.zeros(3), "label": 1}], 2)(0)


def test_grain_s_data_sets_are_sources():
    grain = pytest.importorskip("grain")
    source = grain.MapDataset.source(COLOURS).map(lambda image: {"image": image})
    assert batches_of_items(source, 4)(0)["image"].shape == (4, 4, 5, 3)


def test_a_flipped_bit_of_a_tar_is_found_or_changes_nothing(tmp_path):
    path = tar(tmp_path / "whole.tar", files(4))
    whole, expected = path.read_bytes(), load(path)
    rng, refused = np.random.default_rng(0), 0
    for _ in range(150):
        damaged = bytearray(whole[: 10 * 512])
        damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(damaged) + whole[10 * 512 :])
        try:
            found = load(path)
        except ValueError as error:
            assert "whole.tar" in str(error)
            refused += 1
        else:
            np.testing.assert_array_equal(found.images, expected.images)
            np.testing.assert_array_equal(found.labels, expected.labels)
    assert refused > 30
