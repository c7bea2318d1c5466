"""Captions, numbers and pictures that lie beside images."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from jaxdiff.data import load

NOISE = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
NAMES = ["a.png", "b.png", "c.png", "d.png"]
TEXTS = ["a red fox", "ein Fuß", "", "a cat"]


@pytest.fixture
def folder(tmp_path):
    """A folder of four images; others may be put into it, or into another beside it."""
    where = tmp_path / "data"
    where.mkdir()
    for name, picture in zip(NAMES, NOISE, strict=True):
        Image.fromarray(picture).save(where / name)
    return where


def put(folder, **files):
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")


def lines(rows):
    return "\n".join(json.dumps({"file_name": n} | row) for n, row in zip(NAMES, rows, strict=True))


def test_texts_beside_images(folder):
    put(folder, **{f"{n[0]}__txt": t + "\n" for n, t in zip(NAMES, TEXTS, strict=True)})
    data = load(folder, captions=True)
    assert data.conditions["text"].tolist() == TEXTS and data.labels is None
    assert data.skipped == () and "captions by the files beside the images" in data.notes
    np.testing.assert_array_equal(data.images, NOISE)
    plain = load(folder)
    assert not plain.conditions and plain.skipped == (".txt: 4 (a.txt, b.txt, ...)",)
    some = load(folder, captions=True, limit=2)
    for image, text in zip(some.images, some.conditions["text"], strict=True):
        assert text == TEXTS[next(i for i in range(4) if (NOISE[i] == image).all())]
    assert load(folder, captions=True, lazy=True).conditions["text"].tolist() == TEXTS


def test_lines_of_metadata_with_classes_and_numbers(folder):
    rows = [
        {"caption": t, "label": f"k{i % 2}", "size": [i, 2 * i], "weight": i / 2, "by": "me"}
        for i, t in enumerate(TEXTS)
    ]
    put(folder, metadata__jsonl=lines(rows) + "\n\n")
    data = load(folder, captions=True)
    assert {*data.conditions} == {"text", "size", "weight"}
    assert data.conditions["text"].tolist() == TEXTS
    np.testing.assert_array_equal(data.conditions["size"], [[i, 2 * i] for i in range(4)])
    np.testing.assert_array_equal(data.conditions["weight"], [0, 0.5, 1, 1.5])
    assert data.class_names == ("k0", "k1") and data.labels.tolist() == [0, 1, 0, 1]
    assert "by is not read: it is not numbers of one shape for every image" in data.notes
    assert load(folder, captions=True, labels="none").labels is None


def test_images_have_several_boxes_and_texts_each(folder):
    left, right = [0, 0, 0.5, 1], [0.5, 0, 1, 1]
    of = [([left, right], ["fox", "hen"]), ([right], ["cat"]), ([], []), ([left], ["dog"])]
    rows = [
        {"text": t, "boxes": b, "box_texts": own} for t, (b, own) in zip(TEXTS, of, strict=True)
    ]
    put(folder, metadata__jsonl=lines(rows))
    data = load(folder, captions=True)
    nothing = [0.0] * 4
    boxes = [[left, right], [right, nothing], [nothing, nothing], [left, nothing]]
    np.testing.assert_array_equal(data.conditions["boxes"], boxes)
    listed = [["fox", "hen"], ["cat", ""], ["", ""], ["dog", ""]]
    assert data.conditions["box_texts"].tolist() == listed
    assert "box_texts: 5 different texts, 2 of each image, as 'fox'" in data.describe()
    ids = data.tokenized(lambda texts: np.array([[len(t), 0, 1] for t in texts]))
    np.testing.assert_array_equal(ids.conditions["box_texts"][1], [[3, 0, 1], [0, 0, 1]])
    assert ids.conditions["text"].shape == (4, 3)
    assert data.fingerprint() != dataclasses.replace(
        data, conditions=data.conditions | {"box_texts": np.array(listed, object)[:, ::-1]}
    ).fingerprint()  # fmt: skip


def test_numbers_that_are_no_condition_are_notes(folder):
    # what tables of the web have: keys of a data base, gaps, rows of images that are elsewhere
    rows = [{"text": t, "id": 10**12 + i, "score": float("nan"), "classes": i}
            for i, t in enumerate(TEXTS)]  # fmt: skip
    more = [json.dumps({"file_name": "./sub/../e.png", "text": "of none"})]
    put(folder, metadata__jsonl="\n".join([lines(rows), *more]).replace('"a.png"', '"./a.png"'))
    data = load(folder, captions=True)
    assert {*data.conditions} == {"text"} and data.conditions["text"].tolist() == TEXTS
    said = " ".join(data.notes)
    for part in ("metadata.jsonl, 1 of no image", "id is not read: its whole numbers are beyond",
                 "score is not read: not all", "classes is not read: classes are"):  # fmt: skip
        assert part in said


def test_the_index_of_a_zip(folder, tmp_path):
    index = {
        "labels": [[n, i % 2] for i, n in enumerate(NAMES)],
        "captions": [[n, t] for n, t in zip(NAMES, TEXTS, strict=True)],
        "vector": [[n, [0.5, i]] for i, n in enumerate(NAMES)],
    }
    with zipfile.ZipFile(tmp_path / "made.zip", "w") as archive:
        for name in NAMES:
            archive.write(folder / name, name)
        archive.writestr("dataset.json", json.dumps(index))
    data = load(tmp_path / "made.zip", captions=True)
    assert data.labels.tolist() == [0, 1, 0, 1] and data.conditions["text"].tolist() == TEXTS
    np.testing.assert_array_equal(data.conditions["vector"], [[0.5, i] for i in range(4)])


def test_json_beside_images(folder):
    put(folder, **{f"{n[0]}__json": json.dumps({"prompt": t}) for n, t in zip(NAMES, TEXTS)})  # noqa: B905
    assert load(folder, captions=True).conditions["text"].tolist() == TEXTS


def test_further_arrays_of_an_npz(tmp_path):
    texts = np.array(TEXTS)
    np.savez(tmp_path / "a.npz", images=NOISE, text=texts, vector=np.eye(4), labels=np.arange(4))
    data = load(tmp_path / "a.npz", captions=True)
    assert data.labels.tolist() == [0, 1, 2, 3] == load(tmp_path / "a.npz").labels.tolist()
    assert data.conditions["text"].tolist() == TEXTS
    np.testing.assert_array_equal(data.conditions["vector"], np.eye(4))
    assert not load(tmp_path / "a.npz").conditions
    np.savez(tmp_path / "b.npz", train_images=NOISE, train_text=texts, test_text=texts[:1])
    data = load(tmp_path / "b.npz", captions=True)
    assert {*data.conditions} == {"text"}
    assert "other arrays are not read: test_text" in data.notes
    np.savez(tmp_path / "c.npz", images=NOISE, text=texts[:3])
    with pytest.raises(ValueError, match="'text' has 3 rows for 4 samples"):
        load(tmp_path / "c.npz", captions=True)
    np.savez(tmp_path / "d.npz", images=NOISE)
    with pytest.raises(ValueError, match="no other arrays than images and labels"):
        load(tmp_path / "d.npz", captions=True)


def test_pictures_of_a_second_folder(folder, tmp_path):
    second = tmp_path / "edges" / "below"
    second.mkdir(parents=True)
    for name, picture in zip([*NAMES, "more.png"], [*NOISE[::-1], NOISE[0]], strict=True):
        Image.fromarray(picture).resize((2, 2)).save(second / name.replace("png", "bmp"))
    data = load(folder, pairs=second.parent)
    assert data.conditions["beside"].shape == (4, 2, 2, 3)
    resized = [np.asarray(Image.fromarray(p).resize((2, 2))) for p in NOISE[::-1]]
    np.testing.assert_array_equal(data.conditions["beside"], resized)
    assert data.notes[-1].endswith("edges, 1 of none")
    assert load(folder, pairs=second, size=3).conditions["beside"].shape == (4, 3, 3, 3)
    (second / "b.bmp").unlink()
    with pytest.raises(ValueError, match="edges has no picture for b.png"):
        load(folder, pairs=second.parent)
    with pytest.raises(ValueError, match="lazy"):
        load(folder, pairs=second, lazy=True)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(folder, pairs=tmp_path / "nowhere")


@pytest.mark.parametrize(
    "files, message",
    [
        ({}, "has no captions: neither a metadata.jsonl"),
        ({"a__txt": "one"}, "b.png, c.png, d.png has nothing beside it"),
        ({"metadata__jsonl": '{"text": "a"}'}, 'metadata.jsonl, line 1 has no "file_name"'),
        ({"metadata__jsonl": lines([{}] * 4)}, r"neither a caption nor a number among \[\]"),
        ({"metadata__jsonl": lines([{"text": 1}] * 4)}, "a.png.* has no text as its 'text'"),
        ({"metadata__jsonl": lines([{"text": "a"}] * 4) + '\n{"file_name": "a.png"}'}, "twice"),
        ({"metadata__jsonl": "{"}, "line 1, is not JSON"),
        ({"a__json": "[1]"}, "a.json must be a dictionary"),
    ],
)
def test_what_lies_beside_is_refused_by_name(folder, files, message):
    put(folder, **files)
    with pytest.raises(ValueError, match=message):
        load(folder, captions=True)


def test_a_text_of_another_encoding(folder):
    (folder / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match=r"a.txt is not a text in UTF-8"):
        load(folder, captions=True)
