"""What is read is what a viewer shows, and nothing is left out or numbered anew without a word."""

import os
import shutil
import zipfile

import numpy as np
import pytest
from PIL import Image, ImageCms

from jaxdiff.app import config as configs
from jaxdiff.app.data import check_classes, class_labels, read_data
from jaxdiff.app.models import Model
from jaxdiff.app.train import train
from jaxdiff.data import Dataset, load, parts
from jaxdiff.data.pictures import usual_range

NOISE = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)


@pytest.fixture
def put(tmp_path):
    """Write images into a folder that is all of the data; returns its path."""

    def write(*names, picture=NOISE[0], **options):
        for name in names:
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(path, **options)
        return tmp_path / "data"

    return write


def npz(folder, **arrays):
    np.savez(folder / "made.npz", **arrays)
    return folder / "made.npz"


# Folders and links


def test_links_to_folders_are_classes_and_loops_end(put, tmp_path):
    root = put("a/x.png", "c/x.png")
    for name in "bd":
        (root / name).symlink_to(put("../outside/y.png").parent / "outside")
    (root / "c" / "round").symlink_to(root / "a" / ".." / "c")
    (root / "c" / "twice").symlink_to(root / "d")
    (root / "c" / "thrice").symlink_to(root / "d")
    (root / "again").symlink_to(root)
    data = load(root)
    assert data.class_names == ("a", "b", "c", "d") and data.labels.tolist() == [0, 1, 2, 2, 3]
    assert data.skipped == (
        "links to a folder that holds them: 2 (again, c/round)",
        "links to a folder that was read already: 1 (c/twice)",
    )


@pytest.mark.parametrize("lost", ["empty", "dangling", "other suffix"])
def test_a_class_folder_without_images_is_an_error(put, lost):
    root = put("a/x.png", "c/x.png")
    if lost == "dangling":
        (root / "b").symlink_to(root / "nowhere")
    else:
        (root / "b").mkdir()
    if lost == "other suffix":
        (root / "b" / "x.heic").write_bytes(b"")
    with pytest.raises(ValueError, match=r"data: no images in the class folder b \("):
        load(root)
    assert len(load(root, labels="none")) == 2


def test_a_folder_that_cannot_be_read_is_an_error(put, monkeypatch):
    root, scan = put("a/x.png", "b/x.png"), os.scandir

    def locked(path):
        if str(path).endswith("b"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(ValueError, match=r"cannot read the folder .*data/b: Permission denied"):
        load(root)


def test_what_is_skipped_is_counted_by_reason(put):
    root = put("x.png", "y.JPG")
    (root / "notes.txt").write_text("")
    (root / ".hidden").write_text("")
    (root / "README").write_text("")
    (root / "z.png").symlink_to("nowhere.png")
    os.mkfifo(root / "pipe")
    assert sorted(load(root).skipped) == [
        ".txt: 1 (notes.txt)", "dangling links: 1 (z.png)", "hidden: 1 (.hidden)",
        "neither files nor folders: 1 (pipe)", "without suffix: 1 (README)",
    ]  # fmt: skip
    for name in ("x.png", "y.JPG"):
        (root / name).unlink()
    with pytest.raises(ValueError, match=r"holds no images \(.*skipped: .*dangling links: 1"):
        load(root)


SUFFIXES = ["jfif", "jpe", "tif", "tiff", "gif", "jp2", "ppm", "tga"]


def test_every_suffix_that_pil_reads(put):
    root = put(*(f"{suffix}/x.{suffix}" for suffix in SUFFIXES))
    data = load(root)
    assert data.class_names == tuple(sorted(SUFFIXES)) and data.skipped == ()
    for name in ("tif", "tiff", "ppm", "tga"):
        np.testing.assert_array_equal(data.images[sorted(SUFFIXES).index(name)], NOISE[0])


def test_numbers_sort_as_numbers(put):
    names = [str(i) for i in range(12)]
    data = load(put(*(f"{name}/x.png" for name in names)))
    assert data.class_names == tuple(names)
    assert any("numbered folders of equal size" in note for note in data.notes)
    assert load(put("b/x.png")).class_names == tuple(sorted([*names, "b"]))


def test_parts_are_no_classes(put):
    root = put(*(f"{p}/{c}/x.png" for p in ("train", "val") for c in ("cat", "dog")))
    put("val/ant/x.png")
    assert load(root).class_names == ("cat", "dog") and len(load(root)) == 2
    val = load(root, split="val")
    assert val.class_names == ("cat", "dog", "ant") and val.labels.tolist() == [2, 0, 1]
    assert "split test: the folder val/ (of train, val)" in load(root, split="test").notes
    assert parts(root) == ("train", "val", "test") and parts(root / "val") == ("train",)
    with pytest.raises(ValueError, match=r"train, val look like parts .* beside more"):
        load(put("more/x.png"))
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "more")
    with pytest.raises(ValueError, match="has no train part; its parts are val"):
        load(root)


def test_parts_by_other_names_and_inside_of_classes(put):
    root = put("coco/Train2017/x.png", "coco/val_images/x.png", "coco/val_images/y.png")
    assert [len(load(root, split=part)) for part in ("train", "val", "test")] == [1, 2, 2]
    assert load(put("train/x.png", "car/x.png") / "car").labels is None
    shutil.rmtree(root / "coco")
    assert load(root).class_names == ("car", "train")
    shutil.rmtree(root)
    put(*(f"{c}/{p}/x.png" for p in ("train", "test") for c in ("cat", "dog")))
    with pytest.raises(ValueError, match=r"have parts of their own, as cat/test/x.png"):
        load(root)
    assert load(root, labels="folders").class_names == ("cat", "dog")


@pytest.mark.parametrize("names", ["shard-0 shard-1", "data_batch_1", "00-49 50-99", "000 001"])
def test_folders_that_are_called_like_shards(put, names):
    with pytest.raises(ValueError, match="may be shards or classes"):
        load(put(*(f"{name}/x.png" for name in names.split())))


def test_shards_are_asked_about(put):
    root = put(*(f"{i // 2:05}/img{i}.png" for i in range(5)))
    with pytest.raises(ValueError, match="00000, 00001, 00002 may be shards or classes"):
        load(root)
    assert load(root, labels="none").labels is None
    assert load(root, labels="folders").class_names == ("00000", "00001", "00002")
    put("00002/img6.png", "00002/img7.png")  # more than in the others: no shard
    assert load(root).num_classes == 3


def test_a_dataset_json_is_used_or_said_to_be_unused(put):
    root = put("a/x.png", "b/x.png")
    (root / "dataset.json").write_text('{"labels": [["a/x.png", 7], ["b/x.png", 3]]}')
    assert load(root).class_names == ("3", "7") and load(root).labels.tolist() == [1, 0]
    folders = load(root, labels="folders")
    assert folders.class_names == ("a", "b") and "dataset.json is not used" in folders.notes
    (root / "dataset.json").unlink()
    with pytest.raises(ValueError, match="no dataset.json"):
        load(root, labels="json")


@pytest.mark.parametrize("top", ["", "photos/"])
def test_a_zip_of_class_folders_has_the_classes_of_the_folder(put, tmp_path, top):
    root = put("a/x.png", "a/y.png", "b/x.png")
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        for name in ("a/x.png", "a/y.png", "b/x.png"):
            archive.write(root / name, top + name)
        archive.writestr(f"{top}a/notes.txt", "")
        archive.writestr("__MACOSX/._x.png", "")
    data = load(tmp_path / "made.zip")
    assert data.class_names == ("a", "b") and data.labels.tolist() == [0, 0, 1]
    assert data.skipped == ("hidden: 1 (__MACOSX/._x.png)", f".txt: 1 ({top}a/notes.txt)")


# Pictures


def test_images_are_turned_as_their_exif_says(put):
    seen = np.zeros((4, 6, 3), np.uint8)
    seen[:2] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    data = load(put("x.png", picture=np.ascontiguousarray(np.rot90(seen)), exif=exif))
    np.testing.assert_array_equal(data.images[0], seen)
    assert "turned as their EXIF says: 1 (x.png)" in data.notes


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_is_white(tmp_path, mode):
    picture = Image.new(mode, (2, 2), {"RGBA": (0, 0, 0, 0), "LA": (0, 0)}.get(mode, 0))
    clear = {"P": {"transparency": 0}, "RGB": {"transparency": (0, 0, 0)}}.get(mode, {})
    picture.save(tmp_path / "x.png", **clear)
    data = load(tmp_path)
    assert data.images.shape == (1, 2, 2, 1 if mode == "LA" else 3) and data.images.min() == 255
    assert "transparent, laid on white: 1 (x.png)" in data.notes


def test_half_transparent_is_half_white(put):
    half = np.full((2, 2, 4), 128, np.uint8)
    assert load(put("x.png", picture=half)).images.tolist() == [[[[191] * 3] * 2] * 2]


def test_colours_are_converted_from_their_profile(put):
    profile = lambda kind: ImageCms.ImageCmsProfile(ImageCms.createProfile(kind)).tobytes()  # noqa: E731
    swapped = profile("sRGB").replace(b"rXYZ", b"tXYZ").replace(b"bXYZ", b"rXYZ")
    swapped = swapped.replace(b"tXYZ", b"bXYZ").replace(b"s\0R\0G\0B", b"s\0W\0A\0P")
    root = put("x.png", picture=NOISE[0], icc_profile=swapped)
    put("y.png", icc_profile=profile("sRGB"))
    data = load(root)
    assert np.abs(data.images[0, ..., ::-1].astype(int) - NOISE[0]).max() <= 2  # red is blue
    np.testing.assert_array_equal(data.images[1], NOISE[0])
    assert "of another colour profile, converted to sRGB: 1 (x.png)" in data.notes


def test_the_content_says_what_a_file_is_and_the_first_picture_is_read(put):
    root = put("a.jpg", format="png")
    others = [Image.fromarray(x) for x in NOISE[1:]]
    put("b.png", save_all=True, append_images=others)
    data = load(root)
    np.testing.assert_array_equal(data.images, NOISE[[0, 0]])
    assert data.notes[1:] == (
        "PNG, whatever the suffix says: 1 (a.jpg)",
        "animated or of several pages, of which the first is read: 1 (b.png)",
    )
    (root / "c.jpg").write_bytes(b"<html>")
    with pytest.raises(ValueError, match="cannot read c.jpg: .* begins with b'<html>'"):
        load(root)


def test_grey_of_16_bits_needs_a_range(put):
    root = put("x.png", picture=np.array([[0, 2000], [3000, 4000]], np.uint16))
    with pytest.raises(ValueError, match=r"cannot read x.png: .*0..4000; .*--data.range"):
        load(root)
    assert load(root, range=(0, 4000)).images.reshape(-1).tolist() == [0, 128, 191, 255]
    with pytest.raises(ValueError, match=r"x.png: its values 0..4000 are not in .* 0..255"):
        load(root, range=(0, 255))


def test_dark_images_are_said_to_be(put):
    root = put("x.png", picture=NOISE[0] // 128)
    assert any("nearly all black" in note for note in load(root).notes)
    np.testing.assert_array_equal(load(root, range=(0, 1)).images[0], NOISE[0] // 128 * 255)


# Arrays


@pytest.mark.parametrize("top, dtype", [(1, "u1"), (1, "<i8"), (15, "u1"), (16, "<i4")])
def test_integers_of_another_range_are_refused_or_read_by_it(tmp_path, top, dtype):
    values = (NOISE.astype(int) * top / 255).round()
    path = npz(tmp_path, images=values.astype(dtype))
    with pytest.raises(ValueError, match=rf"0..{top}; .*nearly all black.*--data.range 0 {top}"):
        load(path)
    data = load(path, range=(0, top))
    shown = data.images / 127.5 - 1 if data.images.dtype == np.uint8 else data.images
    np.testing.assert_allclose(shown, 2 * values / top - 1, atol=1e-6)
    assert load(path, range=(0, 255)).images.max() == top
    with pytest.raises(ValueError, match="not in the range"):
        load(path, range=(2, 255))


def test_floats_of_which_few_are_negative_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"-0.01..0.98.*; .*clip it.*--data.range -1 1"):
        load(npz(tmp_path, images=(NOISE / 257.0 - 0.01)))


def test_truth_values_are_black_and_white(tmp_path):
    data = load(npz(tmp_path, images=NOISE > 99))
    np.testing.assert_array_equal(data.images, np.where(NOISE > 99, 255, 0))


def test_classes_are_the_numbers_that_occur(tmp_path):
    labels = {"train_labels": np.array([1, 3, 10]), "test_labels": np.array([10, 2, 1])}
    path = npz(tmp_path, train_images=NOISE[:3], test_images=NOISE[3:], **labels)
    assert load(path).class_names == ("1", "3", "10") and load(path).labels.tolist() == [0, 1, 2]
    test = load(path, split="test")  # numbered as the train part
    assert test.class_names == ("1", "3", "10", "2") and test.labels.tolist() == [2, 3, 0]
    assert parts(path) == ("train", "test")


def test_samples_are_read_with_the_names_of_their_classes(tmp_path):
    labels, names = np.array([1, 1, 0, 1, 1, 0]), np.array(["cat", "dog", "fox"])
    data = load(npz(tmp_path, images=NOISE, labels=labels, class_names=names))
    assert data.class_names == ("cat", "dog", "fox") and data.labels.tolist() == labels.tolist()
    with pytest.raises(ValueError, match="label 1 of image 0 is not in 0..0"):
        load(npz(tmp_path, images=NOISE, labels=labels, class_names=names[:1]))
    with pytest.raises(ValueError, match="class_names must be texts"):
        load(npz(tmp_path, images=NOISE, labels=labels, class_names=labels))


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_no_channel_is_taken_for_transparency(tmp_path, channels):
    images = np.random.default_rng(1).integers(0, 256, (1, 6, 6, channels), dtype=np.uint8)
    images[..., -1] = 0
    made = load(npz(tmp_path, images=images), size=3).images
    for i in range(channels):
        one = Image.fromarray(np.ascontiguousarray(images[0, ..., i]))
        one = one.resize((3, 3), Image.Resampling.LANCZOS)
        np.testing.assert_array_equal(made[0, ..., i], np.asarray(one))


def test_floats_are_resized_and_stay_in_range(tmp_path):
    data = load(npz(tmp_path, images=NOISE / 255.0), size=2)
    assert data.images.dtype == np.float32 and np.abs(data.images).max() <= 1
    same = load(npz(tmp_path, images=NOISE), size=2).images / 127.5 - 1
    np.testing.assert_allclose(data.images, same, atol=0.01)


def test_images_of_the_right_size_are_left_alone(tmp_path, capsys):
    data = load(npz(tmp_path, images=NOISE), size=4, progress=True)
    np.testing.assert_array_equal(data.images, NOISE)
    assert "resiz" not in capsys.readouterr().err + data.describe()
    assert (
        "enlarged to 8 x 8: 6 (image 0, image 1, ...)" in load(tmp_path / "made.npz", size=8).notes
    )


# What is said


def test_one_line_says_what_was_read(put, tmp_path, capsys):
    root = put("cat/x.png", "cat/y.png", "dog/x.png")
    (root / "cat" / "a.txt").write_text("")
    read_data(configs.Data(str(root)))
    low, high = NOISE[0].min(), NOISE[0].max()
    assert f"""\
data data: 3 images of 4 x 4, 3 channels; values 8 bits, {low}..{high}; 2 classes: cat (2), \
dog (1); labels by folders; skipped: .txt: 1 (cat/a.txt)
""" in capsys.readouterr().out  # fmt: skip
    many = Dataset(NOISE[:, :1], np.arange(6) * 6, 40, "many").describe()
    odd = Dataset(NOISE, name="a\nb\udcff").describe()
    assert odd.startswith("a\\nb\\udcff: 6 images") and odd.isprintable()
    assert "40 classes: 0, 1, 2, ..., 39, of 0 to 1 images, 34 without images" in many


def test_a_model_takes_only_data_of_its_classes():
    data = Dataset(NOISE, np.array([0, 1, 1, 0, 1, 0]), 2, "made", class_names=("cat", "dog"))

    def model(*names):
        return Model(None, None, (4, 4, 3), len(names), False, {"class_names": names})

    for known in (("cat", "dog"), ("0", "1")):
        check_classes(data, model(*known))
    for other in (("dog", "cat"), ("cat",), ("0", "1", "2"), ()):
        with pytest.raises(
            ValueError, match="made has the classes cat, dog, the model was trained"
        ):
            check_classes(data, model(*other))


def test_a_class_that_nothing_is_left_of_is_not_trained(tmp_path):
    path = npz(tmp_path, images=NOISE, labels=np.arange(6))
    data = configs.Data(str(path), limit=4)
    with pytest.raises(ValueError, match=r"made-train: no images to train on of \d, \d;"):
        train(configs.Train(str(tmp_path / "run"), data))
    assert not (tmp_path / "run").exists()


def test_classes_have_names():
    data = Dataset(NOISE, np.array([0, 1, 1, 0, 1, 0]), 2, class_names=("cat", "dog"))
    assert data.take([0, 1]).class_names == ("cat", "dog")
    for wrong in (("cat",), ("cat", "cat")):
        with pytest.raises(ValueError, match="2 classes need as many different names"):
            Dataset(NOISE, data.labels, 2, class_names=wrong)


@pytest.mark.parametrize(
    "label, names, index",
    [("dog", ("cat", "dog"), 1), (1, ("cat", "dog"), 1), ("1", ("1", "2"), 0), (2, ("1", "2"), 1)],
)
def test_a_class_is_asked_for_by_name_or_number(label, names, index):
    assert class_labels(3, 2, label, names).tolist() == [index] * 3


@pytest.mark.parametrize("label, names", [("cow", ("cat", "dog")), (2, ("cat", "dog")), (0, "12")])
def test_a_class_that_there_is_not_is_refused(label, names):
    with pytest.raises(ValueError, match=f"label {label} is not one of {', '.join(names)}"):
        class_labels(3, 2, label, names)


@pytest.mark.parametrize(
    "found, usual",
    [((0, 254), (0, 255)), ((-128, 126), (-128, 127)), ((3, 1000), (0, 1023)),
     ((1322, 64551), (0, 65535)), ((0.01, 0.98), (0, 1)), ((0, 15), (0, 15)), ((-3, 3), (-3, 3))],
)  # fmt: skip
def test_the_range_that_is_suggested_is_that_of_a_usual_depth(found, usual):
    """It was that of the values: a set without white would have been read too bright."""
    assert usual_range(*found) == usual
