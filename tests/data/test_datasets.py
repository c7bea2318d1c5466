"""Data sets: construction, splits, batches as functions of the step, and the three readers."""

import json
import pathlib
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxdiff.app import config as configs
from jaxdiff.app.data import read_data
from jaxdiff.data import Dataset, batches, load, load_digits, readers, split, to_float, to_uint8

REAL = pathlib.Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def toy():
    """Ten 1 x 2 grey images that show their own number, in two classes of seven and three."""
    images = np.arange(20, dtype=np.uint8).reshape(10, 1, 2, 1)
    return Dataset(images, np.array([0] * 7 + [1] * 3), 2, "toy")


@pytest.fixture
def pictures(rng):
    return rng.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


def png(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def numbers(batch):
    """Which images of ``toy`` are in a batch."""
    return np.rint((batch["image"].min(axis=(1, 2, 3)) + 1) * 127.5).astype(int) // 2


# values


def test_uint8_and_float_are_inverse_to_each_other():
    every = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    values = to_float(every)
    assert values.dtype == np.float32 and (values.min(), values.max()) == (-1.0, 1.0)
    np.testing.assert_allclose(values.reshape(-1), np.arange(256) / 127.5 - 1, atol=1e-7)
    np.testing.assert_array_equal(to_uint8(values), every)
    np.testing.assert_array_equal(to_uint8(np.array([-7.0, 7.0])), [0, 255])
    with pytest.raises(ValueError, match="finite"):
        to_uint8(np.array([np.nan]))


GREY = np.zeros((3, 2, 2, 1), np.float32)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ((GREY.astype(np.float64),), TypeError, "float64"),
        (([GREY[0], GREY[1, :1]],), TypeError, "list"),
        ((GREY[0],), ValueError, "n, h, w, c"),
        ((GREY[:0],), ValueError, "none of them 0"),
        ((GREY + np.array([0, np.nan, 0], np.float32).reshape(3, 1, 1, 1),), ValueError, "image 1"),
        ((GREY + np.float32(1.5),), ValueError, "image 0 .* outside"),
        ((GREY, np.array([0, 1, 2]), 2), ValueError, "label 2 of image 2 .* 0..1"),
        ((GREY, np.array([0, -1, 0]), 2), ValueError, "label -1 of image 1"),
        ((GREY, np.array([0.0, 1.0, 1.0]), 2), ValueError, "integers, got float64"),
        ((GREY, np.array([0, 1]), 2), ValueError, "3 images need labels"),
    ],
)
def test_inconsistent_data_sets_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Dataset(*arguments, name="faces")


def test_take_keeps_images_and_labels_together(toy):
    part = toy.take([8, 2])
    assert len(part) == 2 and part.shape == (1, 2, 1)
    assert part.images[:, 0, 0, 0].tolist() == [16, 4]
    assert part.labels.tolist() == [1, 0] and part.labels.dtype == np.int32
    assert part.num_classes == 2


def test_split_is_disjoint_complete_stratified_and_repeatable(toy):
    rest, aside = split(toy, 0.3, seed=1)
    shown = [set(d.images[:, 0, 0, 0].tolist()) for d in (rest, aside)]
    assert shown[0] | shown[1] == set(range(0, 20, 2)) and not shown[0] & shown[1]
    assert np.bincount(aside.labels).tolist() == [2, 1]
    again = split(toy, 0.3, seed=1)[1]
    np.testing.assert_array_equal(again.images, aside.images)
    unlabelled = split(Dataset(toy.images), 0.5)
    assert [len(d) for d in unlabelled] == [5, 5]


@pytest.mark.parametrize("fraction", [0.0, 1.0, 0.01])
def test_split_refuses_an_empty_part(toy, fraction):
    with pytest.raises(ValueError, match="empty"):
        split(toy, fraction)


# batches


def test_every_image_is_seen_once_per_epoch_across_batch_borders(toy):
    batch = batches(toy, 4, seed=3)
    seen = np.concatenate([numbers(batch(step)) for step in range(10)]).reshape(4, 10)
    for epoch in seen:
        assert sorted(epoch) == list(range(10))
    assert len({tuple(epoch) for epoch in seen}) == 4
    np.testing.assert_array_equal(seen[1], np.random.default_rng((3, 1)).permutation(10))


def test_a_batch_depends_on_the_step_only(toy):
    forward = [batches(toy, 4, 3, flip=True)(step) for step in range(6)]
    resumed = batches(toy, 4, 3, flip=True)
    for step in (5, 0, 3, 3):
        for name, value in resumed(step).items():
            np.testing.assert_array_equal(value, forward[step][name])
    assert not np.array_equal(numbers(batches(toy, 10, 4)(0)), numbers(batches(toy, 10, 3)(0)))


def test_batches_are_scaled_and_labelled(toy):
    batch = batches(toy, 3)(7)
    assert {k: (v.dtype.name, v.shape) for k, v in batch.items()} == {
        "image": ("float32", (3, 1, 2, 1)),
        "label": ("int32", (3,)),
    }
    np.testing.assert_array_equal(batch["label"], toy.labels[numbers(batch)])
    assert set(batches(Dataset(toy.images), 3)(0)) == {"image"}


def test_a_batch_may_exceed_the_data(toy):
    assert np.bincount(numbers(batches(toy, 25)(1))).tolist().count(2) == 5


def test_flip_mirrors_about_half_of_the_images_and_nothing_else(toy):
    plain, flipped = (batches(toy, 1000, 0, flip)(0)["image"] for flip in (False, True))
    mirrored = flipped[:, 0, 0, 0] > flipped[:, 0, 1, 0]
    assert 430 < mirrored.sum() < 570
    np.testing.assert_array_equal(flipped[~mirrored], plain[~mirrored])
    np.testing.assert_array_equal(flipped[mirrored], plain[mirrored][:, :, ::-1])


def test_unusable_batches_are_refused(toy):
    with pytest.raises(ValueError, match="batch_size"):
        batches(toy, 0)
    with pytest.raises(ValueError, match="negative"):
        batches(toy, 2)(-1)
    with pytest.raises(ValueError):
        batches(toy, 2, seed=-1)


# folders


def test_folder_with_class_folders(tmp_path, pictures):
    for name, picture in zip(["zebra/b", "ant/x/y", "zebra/a", "ant/c"], pictures, strict=True):
        png(tmp_path / f"{name}.png", picture)
    (tmp_path / "ant" / "notes.txt").write_text("not an image")
    png(tmp_path / ".cache" / "hidden.png", pictures[0])
    data = load(tmp_path)
    np.testing.assert_array_equal(data.images, pictures[[3, 1, 2, 0]])
    assert data.labels.tolist() == [0, 0, 1, 1] and data.num_classes == 2
    assert load(tmp_path, labels="none").labels is None
    assert data.class_names == ("ant", "zebra")


def test_folder_without_classes_and_other_formats(tmp_path, pictures):
    for suffix, picture in zip(["png", "BMP", "webp", "jpeg"], pictures, strict=True):
        Image.fromarray(picture).save(tmp_path / f"{suffix.lower()}.{suffix}")
    data = load(tmp_path)
    assert data.images.shape == (4, 6, 5, 3) and data.labels is None
    np.testing.assert_array_equal(data.images[0], pictures[1])
    np.testing.assert_array_equal(data.images[2], pictures[0])


def test_folder_of_the_edm_tools(tmp_path, pictures):
    png(tmp_path / "00000" / "img0.png", pictures[0])
    png(tmp_path / "00001" / "img1.png", pictures[1])
    table = [["00001/img1.png", 0], ["00000/img0.png", 4]]
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": table}))
    data = load(tmp_path)
    assert data.labels.tolist() == [1, 0] and data.class_names == ("0", "4")


def test_grey_and_coloured_images(tmp_path, pictures):
    png(tmp_path / "a.png", pictures[0, ..., 0])
    assert load(tmp_path).images.shape == (1, 6, 5, 1)
    png(tmp_path / "b.png", pictures[1])
    both = load(tmp_path).images
    np.testing.assert_array_equal(both[0], np.repeat(pictures[0, ..., :1], 3, axis=2))
    np.testing.assert_array_equal(both[1], pictures[1])
    assert load(tmp_path, grayscale=True).images.shape == (2, 6, 5, 1)


def test_limit_is_a_fixed_choice_that_grows_and_size_crops_and_resizes(tmp_path):
    for i in range(60):
        png(tmp_path / f"{i % 3}/{i:02}.png", np.full((4, 5), i, np.uint8))
    shown = [load(tmp_path, limit=n).images[:, 0, 0, 0].tolist() for n in (20, 20, 30, 99)]
    assert shown[0] == shown[1] and set(shown[0]) < set(shown[2]) < set(shown[3])
    assert [len(s) for s in shown] == [20, 20, 30, 60]
    data = load(tmp_path, limit=20, size=3)
    assert data.images.shape == (20, 3, 3, 1) and np.bincount(data.labels).min() >= 3
    np.testing.assert_array_equal(data.labels, data.images[:, 0, 0, 0] % 3)


def test_mixed_sizes_name_the_image(tmp_path, pictures):
    png(tmp_path / "a.png", pictures[0])
    png(tmp_path / "b.png", pictures[1, :4])
    with pytest.raises(ValueError, match=r"b.png is 4 x 5, a.png is 6 x 5; pass size="):
        load(tmp_path)
    assert load(tmp_path, size=4).shape == (4, 4, 3)


def test_folders_that_cannot_be_read(tmp_path, pictures):
    with pytest.raises(ValueError, match="no images"):
        load(tmp_path)
    png(tmp_path / "a.png", pictures[0])
    png(tmp_path / "cats" / "b.png", pictures[1])
    with pytest.raises(ValueError, match=r"a.png lies beside class folders"):
        load(tmp_path)
    assert load(tmp_path, labels="none").labels is None
    (tmp_path / "a.png").unlink()
    broken = (tmp_path / "cats" / "b.png").read_bytes()[:60]
    (tmp_path / "cats" / "c.png").write_bytes(broken)
    with pytest.raises(ValueError, match=r"cannot read cats/c.png"):
        load(tmp_path)
    Image.fromarray(np.zeros((6, 5), np.uint16)).save(tmp_path / "cats" / "c.png")
    with pytest.raises(ValueError, match=r"cats/c.png.*8 bits"):
        load(tmp_path)


def test_decompression_bombs_are_refused(tmp_path, monkeypatch, pictures):
    png(tmp_path / "a.png", pictures[0])
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ValueError, match=r"cannot read a.png.*exceeds limit.*--data.size"):
        load(tmp_path)
    assert load(tmp_path, size=4).shape == (4, 4, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match=r"cannot read a.png.*exceeds limit.*smaller"):
        load(tmp_path, size=4)


# zips


@pytest.fixture
def archive(tmp_path, pictures):
    """Write a zip of the four pictures with a given ``dataset.json``; returns its path."""

    def write(table=None, prefix="", names=("0/a", "0/b", "1/c", "d"), **more):
        path = tmp_path / "faces.zip"
        with zipfile.ZipFile(path, "w") as file:
            for name, picture in zip(names, pictures, strict=True):
                with file.open(f"{prefix}{name}.png", "w") as stream:
                    Image.fromarray(picture).save(stream, "png")
            if table is not None:
                file.writestr(f"{prefix}dataset.json", json.dumps(table))
            for name, content in more.items():
                file.writestr(name, content)
        return path

    return write


LABELS = [["d.png", 3], ["0/a.png", 1], ["1/c.png", 0], ["0/b.png", 1]]


@pytest.mark.parametrize("prefix", ["", "faces/64/"])
def test_zip_labels_are_matched_by_name(archive, pictures, prefix):
    data = load(archive({"labels": LABELS}, prefix))
    np.testing.assert_array_equal(data.images, pictures)
    assert data.labels.tolist() == [1, 1, 0, 2] and data.class_names == ("0", "1", "3")
    some = load(archive({"labels": LABELS}, prefix), limit=2)
    assert len(some) == 2 and some.class_names == data.class_names
    for image, label in zip(some.images, some.labels, strict=True):
        at = [i for i in range(4) if np.array_equal(pictures[i], image)]
        assert data.labels[at].tolist() == [label]


@pytest.mark.parametrize("table, names", [(None, "abcd"), ({"labels": None}, "abcd"), (None, None)])
def test_zip_without_labels(archive, table, names):
    mode = "auto" if names else "none"
    data = load(archive(table, **({"names": names} if names else {})), labels=mode)
    assert data.labels is None and data.num_classes == 0 and len(data) == 4


@pytest.mark.parametrize(
    "table, message",
    [
        ({"labels": LABELS[:3]}, "no label for 0/b.png"),
        ({"labels": [*LABELS, ["e.png", 0]]}, "1 absent images, as e.png"),
        ({"labels": [*LABELS, LABELS[0]]}, "1 names more than once"),
        ({"labels": [*LABELS[:3], ["0/b.png", -1]]}, "0/b.png must be 0, 1"),
        ({"labels": [*LABELS[:3], ["0/b.png", 1.5]]}, "0/b.png must be 0, 1"),
        ({"labels": [1, 2, 3, 4]}, "must be .*labels"),
        ({"classes": LABELS}, "must be .*labels"),
        ([1], "must be .*labels"),
    ],
)
def test_zip_with_wrong_labels(archive, table, message):
    with pytest.raises(ValueError, match=message):
        load(archive(table))


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "C:/evil", "..\\evil"])
def test_zip_with_unsafe_names_is_refused(archive, name):
    with pytest.raises(ValueError, match="unsafe member name"):
        load(archive(names=(name, "b", "c", "d")))


def test_zip_sizes_are_checked_before_reading(archive, monkeypatch):
    path = archive(**{"z.png": b"0" * 5000})
    monkeypatch.setattr(readers, "LARGEST_FILE", 4000)
    with pytest.raises(ValueError, match=r"refusing 'z.png', declared as 5000 bytes"):
        load(path)
    monkeypatch.setattr(readers, "LARGEST_FILE", 10000)
    monkeypatch.setattr(readers, "LARGEST_TOTAL", 4500)
    with pytest.raises(ValueError, match="refusing"):
        load(path)


def test_damaged_zips_are_refused(archive):
    path = archive({"labels": LABELS})
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    with pytest.raises(ValueError, match=r"faces.zip is not a complete zip"):
        load(path)
    path.write_bytes(whole[:80] + bytes([whole[80] ^ 255]) + whole[81:])
    with pytest.raises(ValueError, match=r"cannot read 0/a.png"):
        load(path)
    with pytest.raises(ValueError, match="more than one dataset.json"):
        load(archive({"labels": LABELS}, **{"old/dataset.json": "{}"}))


# arrays


def npz(tmp_path, **arrays):
    np.savez(tmp_path / "toy.npz", **arrays)
    return tmp_path / "toy.npz"


def test_npz_with_parts(tmp_path, pictures):
    grey = pictures[..., 0]
    path = npz(tmp_path, train_images=grey, train_labels=np.arange(4, dtype=np.uint8),
               test_images=grey[:2], test_labels=np.array([[1], [0]]))  # fmt: skip
    data, test = load(path), load(path, split="test")
    np.testing.assert_array_equal(data.images, grey[..., None])
    assert data.num_classes == 4 and data.labels.dtype == np.int32
    assert test.labels.tolist() == [1, 0] and test.name == "toy-test"
    some = load(path, limit=2)
    np.testing.assert_array_equal(some.images, data.images[some.labels])


def test_npz_of_other_tools(tmp_path, pictures):
    keras = npz(tmp_path, x_train=pictures, y_train=np.ones((4, 1), int))
    assert load(keras).labels.tolist() == [0, 0, 0, 0] and load(keras).class_names == ("1",)
    samples = npz(tmp_path, arr_0=pictures.astype(np.int64))
    assert load(samples).images.dtype == np.uint8 and load(samples).labels is None


@pytest.mark.parametrize("low, stated", [(0.0, "read as 0..1"), (-1.0, "read as -1..1")])
def test_npz_of_floats_states_its_range(tmp_path, rng, low, stated):
    values = rng.uniform(low, 1, (3, 4, 4, 1))
    data = load(npz(tmp_path, images=values))
    expected = values if low < 0 else 2 * values - 1
    np.testing.assert_allclose(data.images, expected, atol=1e-6)
    assert data.images.dtype == np.float32
    assert stated in data.source and "float64" in data.values


def test_npz_resized_and_grey(tmp_path, pictures):
    path = npz(tmp_path, images=pictures)
    assert load(path, size=3).images.shape == (4, 3, 3, 3)
    grey = load(path, grayscale=True).images
    for made, picture in zip(grey, pictures, strict=True):
        pil = np.asarray(Image.fromarray(picture).convert("L"), int)
        assert np.abs(made[..., 0] - pil).max() <= 1
    assert load(path, grayscale=True, size=4).images.shape == (4, 4, 4, 1)
    flat = load(npz(tmp_path, images=np.full((2, 3, 3, 3), 0.25)), grayscale=True)
    np.testing.assert_allclose(flat.images, -0.5, atol=1e-6)


@pytest.mark.parametrize(
    "arrays, options, message",
    [
        ({"images": GREY}, {"split": "test"}, "no test images: its arrays are images"),
        ({"pictures": GREY}, {}, "its arrays are pictures, expected one of train_images"),
        ({"images": GREY + 1.5}, {}, r"float32 1.5..1.5; expected .*--data.range 0 1.5"),
        ({"images": GREY.astype(int) - 1}, {}, "integers in 0..255"),
        ({"images": np.where([[[0]], [[1]], [[0]]], np.nan, GREY[..., 0])}, {}, "image 1 has NaN"),
        ({"images": GREY - 1, "labels": np.zeros(4, int)}, {}, "3 images need labels"),
        ({"images": GREY - 1, "labels": np.zeros(3)}, {}, "labels must be integers"),
        ({"images": GREY - 1, "labels": np.eye(3, dtype=int)}, {}, "one-hot"),
        ({"images": GREY - 1, "labels": np.array([0, -2, 1])}, {}, "label -2 of image 1"),
        ({"images": np.zeros((2, 3, 8, 8), np.uint8)}, {}, "channels first.*moveaxis"),
        ({"images": np.zeros((2, 8), np.uint8)}, {}, "n, h, w, c"),
        ({"images": np.zeros((0, 8, 8), np.uint8)}, {}, "none of them 0"),
        ({"images": GREY + 1j}, {}, "integers or floats, got complex"),
        ({"images": GREY > 0}, {"range": (0, 1)}, "true and false have no range"),
        ({"images": GREY}, {}, "float32 0..0; .* nearly all black.*--data.range"),
        ({"images": np.ones((5, 6, 3), np.uint8)}, {}, "one image with channels"),
        ({"images": GREY[..., [0] * 4] - 1}, {"grayscale": True}, "3 channels, these have 4"),
        ({"images": GREY}, {"labels": "folders"}, "folders is for folders and zips"),
        ({"images": np.array([None, 1])}, {}, "cannot read images.*pickle"),
    ],
)
def test_npz_that_cannot_be_read(tmp_path, arrays, options, message):
    with pytest.raises(ValueError, match=message):
        load(npz(tmp_path, **arrays), **options)


def test_damaged_npz_is_refused(tmp_path):
    path = npz(tmp_path, images=np.zeros((8, 8, 8), np.uint8))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(ValueError, match="not a complete .npz"):
        load(path)


def test_paths_and_options_that_do_not_fit(tmp_path):
    (tmp_path / "images.rar").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere.zip")
    with pytest.raises(ValueError, match="neither a folder"):
        load(tmp_path / "images.rar")
    for options in ({"split": "validation"}, {"labels": "names"}, {"range": (1, 0)}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
            load(tmp_path, **options)
    with pytest.raises(ValueError, match="no parts"):
        load(tmp_path, split="test")
    with pytest.raises(ValueError, match="limit must be"):
        load(tmp_path, limit=0)


# real data


def test_digits(capsys):
    whole, train, test = (load_digits(part) for part in ("all", "train", "test"))
    assert (len(whole), len(train), len(test)) == (1797, 1438, 359)
    assert whole.shape == (8, 8, 1) and whole.num_classes == 10
    levels = np.unique(whole.images)
    np.testing.assert_array_equal(levels, np.arange(17) / 8 - 1)
    assert np.bincount(test.labels).min() >= 35
    joined = np.concatenate([train.images, test.images]).reshape(1797, -1)
    assert sorted(map(tuple, joined)) == sorted(map(tuple, whole.images.reshape(1797, -1)))
    with pytest.raises(ValueError, match="part must be"):
        load_digits("validation")
    some = read_data(configs.Data("digits", limit=30, size=12, labels="none"))
    assert some.images.shape == (30, 12, 12, 1) and some.labels is None
    assert "data digits: 30 images of 12 x 12, 1 channel; values 0..16" in capsys.readouterr().out
    for nothing in ({"grayscale": True}, {"range": (0, 16)}, {"labels": "folders"}):
        with pytest.raises(ValueError, match=next(iter(nothing))):
            load_digits("train", **nothing)


@pytest.mark.parametrize(
    "name, shape",
    [
        ("cifar10-train-32x32.zip", (32, 32, 3)),
        ("mnist.npz", (28, 28, 1)),
        ("fashion_mnist.npz", (28, 28, 1)),
    ],
)
def test_real_files(name, shape):
    if not (REAL / name).exists():
        pytest.skip(
            f"{name}, which is not committed, is not beside this checkout; others are read above"
        )
    data = load(REAL / name, limit=500)
    assert data.images.shape == (500, *shape) and data.num_classes == 10
    assert np.bincount(data.labels, minlength=10).min() > 20
    assert data.images.min() == 0 and data.images.max() == 255
