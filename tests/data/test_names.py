"""Names that look alike are one, a name has one caption, and shapes and values of arrays are those
of images, whichever tool wrote the file.
"""

import io
import json
import unicodedata
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxdiff.app.data import class_labels
from jaxdiff.data import Dataset, batches, load, to_float
from jaxdiff.data.samples import load_samples

NOISE = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def png(picture=NOISE[0]):
    data = io.BytesIO()
    Image.fromarray(picture).save(data, "PNG")
    return data.getvalue()


def zipped(path, names, **files):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            info = zipfile.ZipInfo()
            info.filename = name  # as it is: ZipInfo(name) would change it
            archive.writestr(info, png())
        for name, text in files.items():
            archive.writestr(name, text)
    return path


@pytest.mark.parametrize("form", ["{}\\{}.png", "./{}/{}.png", "set\\{}\\{}.png"])
def test_a_zip_has_its_classes_however_its_tool_writes_names(tmp_path, form):
    data = load(zipped(tmp_path / "a.zip", [form.format(*name) for name in ("b1", "a2", "a3")]))
    assert data.class_names == ("a", "b") and data.labels.tolist() == [0, 0, 1]
    with pytest.raises(ValueError, match=r"two members with one name, 'a/1.png' and '\./a/1.png'"):
        load(zipped(tmp_path / "b.zip", ["a/1.png", "./a/1.png"]))


def test_a_class_is_known_by_its_name_in_either_form_of_unicode(tmp_path):
    names = [f"train/{NFC}/1.png", "train/b/1.png", f"test/{NFD}/1.png", "test/b/1.png"]
    data = load(zipped(tmp_path / "a.zip", names), split="test")
    assert data.class_names == ("b", NFC) and sorted(data.labels.tolist()) == [0, 1]
    for typed in (NFC, NFD):
        assert class_labels(1, 2, typed, ("b", NFD)).tolist() == [1]


def test_an_image_has_one_caption(tmp_path):
    def index(*captions):
        return json.dumps({"labels": None, "captions": captions})

    twice = index(["a.png", "x"], ["a.png", "y"])
    with pytest.raises(ValueError, match=r"dataset\.json: 'captions' has a\.png twice"):
        load(zipped(tmp_path / "a.zip", ["a.png"], **{"dataset.json": twice}), captions=True)
    more = index(["a.png", "x"], ["b.png", "y"])
    made = load(zipped(tmp_path / "b.zip", ["a.png"], **{"dataset.json": more}), captions=True)
    assert "captions by dataset.json, 1 of no image" in made.notes
    files = {
        "metadata.jsonl": '{"file_name": "s/a.png", "text": "x"}',
        "s/metadata.jsonl": '{"file_name": "a.png", "text": "y"}',
    }
    with pytest.raises(ValueError, match=r"s/metadata\.jsonl has s/a\.png, which another"):
        load(zipped(tmp_path / "c.zip", ["s/a.png"], **files), captions=True)


def test_what_was_done_to_the_pictures_of_pairs_is_said(tmp_path):
    for folder in ("images", "pairs"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(png())
    clear = np.zeros((16, 16, 4), np.uint8)
    (tmp_path / "pairs" / "a.png").write_bytes(png(clear))
    (tmp_path / "pairs" / ".b.png").write_bytes(png())
    said = load(tmp_path / "images", pairs=tmp_path / "pairs", size=8).notes[-1]
    for part in ("transparent, laid on white: 1 (a.png)", "resized to 8 x 8: 1", "hidden: 1"):
        assert part in said
    lazy = load(tmp_path / "pairs", size=8, lazy=True).notes
    assert "of the first image: transparent, laid on white: 1 (a.png)" in lazy


def test_an_npy_is_looked_at_as_an_npz_is(tmp_path):
    def saved(images):
        np.save(tmp_path / "made.npy", images)
        return tmp_path / "made.npy"

    with pytest.raises(ValueError, match=r"\(6, 3, 8, 8\) have channels first"):
        load(saved(np.moveaxis(NOISE, -1, 1)))
    with pytest.raises(ValueError, match=r"\(8, 8, 3\) is one image with channels"):
        load(saved(NOISE[0]))
    masks = (NOISE > 127).astype(np.uint8)
    with pytest.raises(ValueError, match=r"nearly all black.*--data\.range 0 1"):
        load(saved(masks))
    assert load(saved(masks), range=(0, 1)).images[0].max() == 1
    assert load(saved(masks), range=(0, 255)).images[0].max() < -0.99


def test_samples_have_the_classes_of_the_train_part_and_what_is_not_read_is_said(tmp_path):
    points, path = NOISE[:, 0, :, 0] / 255, tmp_path / "made.npz"
    np.savez(path, x_train=points, y_train=[1, 2, 1, 2, 1, 2], x_test=points[:2], y_test=[2, 2])
    test = load_samples(path, "test")
    assert test.class_names == ("1", "2") and test.labels.tolist() == [1, 1]
    np.savez(path, samples=points, label=[0] * 6, class_names=["a", "b"])
    assert load_samples(path).notes == (
        "labels none: there is no array labels", "other arrays are not read: label",
    )  # fmt: skip
    np.savez(path, samples=points, labels=[0, 1] * 3, class_names=["a", "b"])
    assert load_samples(path).class_names == ("a", "b")
    np.savez(path, images=NOISE, train_images=NOISE)
    assert "other arrays are not read: images" in load(path).notes


def test_whole_numbers_that_do_not_say_what_is_white_are_no_pictures():
    with pytest.raises(TypeError, match=r"uint8 in 0\.\.255 or floats in \[-1, 1\], not int32"):
        to_float(NOISE.astype(np.int32))
    with pytest.raises(TypeError, match="'depth' is pictures of int64: give uint8"):
        Dataset(NOISE, conditions={"depth": NOISE.astype(np.int64)})
    with pytest.raises(ValueError, match="batch_size must be a whole number"):
        batches(Dataset(NOISE), 2.5)
