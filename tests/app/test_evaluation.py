"""Scores of samples: which images they are compared with, with which labels, and what is kept."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxdiff.app import config as configs
from jaxdiff.app import config_file, evaluator, references
from jaxdiff.app import evaluate as command
from jaxdiff.app.data import read_data
from jaxdiff.app.models import Model
from jaxdiff.data import Dataset

pytestmark = pytest.mark.usefixtures("as_users")

CLASSES = ("ant", "bee", "cow")


def pictures(count, seed, shares=(0.8, 0.1, 0.1), names=CLASSES, name="toy"):
    """Images of 2 x 2 that are as bright as their class is late."""
    random = np.random.default_rng(seed)
    labels = random.permutation(
        np.repeat(np.arange(len(shares)), np.round(np.array(shares) * count).astype(int))
    )
    images = 100 * labels[:, None, None, None] + random.integers(0, 50, (len(labels), 2, 2, 1))
    return Dataset(images.astype(np.uint8), labels, len(names), name, class_names=names)


def saved(path, **parts):
    """An npz of data sets, "train" and "test"."""
    arrays = {}
    for part, data in parts.items():
        arrays |= {f"{part}_images": data.images, f"{part}_labels": data.labels}
    np.savez(path, class_names=np.array(CLASSES), **arrays)
    return configs.Data(str(path))


def model_of(data, names=CLASSES):
    """A finished run's model as far as references need it."""
    metadata = {"data": config_file.to_dict(data), "class_names": names}
    metadata["data"].pop("kind")
    return Model(None, None, (2, 2, 1), len(names), False, metadata)


def requested(**fields):
    return configs.Evaluate("r", **fields)


def found(own, **fields):
    return references.find(model_of(own), requested(**fields), progress=False)


# labels


def test_labels_are_shared_out_by_largest_remainders_and_spread_evenly():
    labels = evaluator.shared_out(np.array([900, 100, 0]), 1000)
    np.testing.assert_array_equal(np.bincount(labels, minlength=3), [900, 100, 0])
    for part in (labels[:100], labels[-100:]):
        assert abs(np.sum(part == 1) - 10) <= 1
    np.testing.assert_array_equal(
        evaluator.shared_out(np.array([5, 5, 5]), 7), [0] + [1, 2, 0, 1, 2, 0]
    )
    np.testing.assert_array_equal(
        np.bincount(evaluator.shared_out(np.array([1, 1, 4]), 10)), [2, 2, 6]
    )


def test_samples_have_the_labels_of_the_reference_in_the_models_numbers(tmp_path):
    data = saved(tmp_path / "d.npz", train=pictures(100, 0), test=pictures(50, 1))
    model, here = model_of(data), found(data)
    labels, said = references.labels_for(model, here, requested(count=20))
    np.testing.assert_array_equal(np.bincount(labels), [16, 2, 2])
    assert "as often as in the reference" in said
    labels, said = references.labels_for(model, here, requested(count=21, labels="uniform"))
    np.testing.assert_array_equal(np.bincount(labels), [7, 7, 7])
    assert "each of 3 classes" in said
    with pytest.raises(ValueError, match="this one has none"):
        references.labels_for(model._replace(classes=0), here, requested(labels="uniform"))


def test_classes_are_matched_by_name():
    other = pictures(40, 0, (0.5, 0.5), ("cow", "ant"))
    matched = references.in_classes(other, CLASSES)
    np.testing.assert_array_equal(matched.labels, np.where(other.labels == 0, 2, 0))
    assert matched.num_classes == 3 and matched.class_names == CLASSES
    with pytest.raises(ValueError, match="images of dog, which the model does not know.* ant, bee"):
        references.in_classes(pictures(40, 0, (0.5, 0.5), ("ant", "dog")), CLASSES)
    absent = Dataset(other.images, other.labels, 3, class_names=("cow", "ant", "dog"))
    assert references.in_classes(absent, CLASSES).num_classes == 3  # of which it has no image


# the reference


def test_the_reference_is_the_test_split_which_the_model_has_not_seen(tmp_path):
    train, test = pictures(100, 0), pictures(50, 1)
    here = found(saved(tmp_path / "d.npz", train=train, test=test))
    np.testing.assert_array_equal(here.reference.images, test.images)
    assert here.shown.endswith("none of which the model was trained on")
    leak = Dataset(np.concatenate([test.images[:47], train.images[:3]]), test.labels, 3)
    here = found(saved(tmp_path / "leak.npz", train=train, test=leak))
    assert "50 images" in here.shown and ", 3 of which the model was trained on" in here.shown
    here = found(saved(tmp_path / "d.npz", train=train, test=test), reference_count=20)
    assert len(here.reference) == 20 and "20 images" in here.shown


def test_data_that_were_moved_are_the_runs_own_and_changed_ones_are_not(tmp_path):
    train, test = pictures(90, 0), pictures(30, 1)
    own = saved(tmp_path / "d.npz", train=train, test=test)
    model = model_of(own)
    model.metadata["trained on"] = read_data(own, False).fingerprint()
    moved = (tmp_path / "d.npz").rename(tmp_path / "e.npz")
    with pytest.raises(FileNotFoundError, match="give them, or other real images, by --data.path"):
        references.find(model, requested(), False)
    there = requested(data=configs.OtherData(path=str(moved)))
    here = references.find(model, there, False)
    np.testing.assert_array_equal(here.reference.images, test.images)
    assert here.shown.endswith("none of which the model was trained on")
    saved(tmp_path / "d.npz", train=pictures(90, 2), test=test)
    with pytest.raises(ValueError, match="does not hold any more what the run was trained on"):
        references.find(model, requested(), False)
    assert references.find(model, there, False).shown == here.shown


def test_images_that_were_trained_on_are_never_said_to_be_others(tmp_path):
    data = saved(tmp_path / "d.npz", train=pictures(90, 0))
    here = found(data)
    assert len(here.reference) == 30 and len(here.others) == 60
    assert here.shown.endswith("all of which the model was trained on")
    here = found(data, data=data)  # the same images, named
    assert here.shown.endswith("all of which the model was trained on")
    fresh = saved(tmp_path / "e.npz", train=pictures(40, 7))
    here = found(data, data=fresh)
    assert len(here.reference) == 40 and "none of which" in here.shown
    assert len(here.others) == 90  # what it was trained on
    Path(data.path).unlink()
    assert "is not known" in found(data, data=fresh).shown
    with pytest.raises(FileNotFoundError, match="d.npz: the run's data; .*--data.path"):
        found(data)


def test_too_many_images_that_are_not_in_memory_are_not_looked_for(tmp_path, monkeypatch):
    np.save(tmp_path / "images.npy", pictures(60, 0).images)
    data = configs.Data(str(tmp_path / "images.npy"))
    assert "all of which the model was trained on" in found(data).shown
    monkeypatch.setattr(references, "LOOKED_FOR", 50)
    assert "too many to look for" in found(data).shown


# what real images score


@pytest.fixture
def taught(monkeypatch):
    """A classifier that is made at once, and what it has been shown."""
    seen = []

    def classifier(images, labels, seed):
        seen.append(images)
        layer = (np.eye(4, dtype=np.float32), np.zeros(4, np.float32))
        return evaluator.Classifier(
            [layer] * 3, np.zeros(4, np.float32), np.ones(4, np.float32)
        ), 1.0

    monkeypatch.setattr(evaluator, "classifier_features", classifier)
    return seen


def test_the_classifier_has_seen_neither_the_reference_nor_what_is_drawn(taught, monkeypatch):
    monkeypatch.setattr(evaluator, "_features", lambda c, x: x.reshape(len(x), -1))
    made = evaluator.make_evaluator(pictures(80, 0), pictures(40, 1))
    rows = {row.tobytes() for row in taught[0].reshape(len(taught[0]), -1)}
    for unseen in (made.real, made.reference):
        assert not rows & {row.tobytes() for row in unseen}
    assert len(taught[0]) + len(made.real) == 80


def test_real_data_scores_are_means_over_draws_with_their_spread_and_made_once(monkeypatch):
    made = evaluator.make_evaluator(pictures(80, 0), pictures(40, 1), "pixels")
    real_data = made.real_data_scores(20)
    for name, one in real_data.items():
        assert (one.samples, one.reference_samples) == (20, 40)
        each = [
            made.compare(made.real[np.random.default_rng([0, i]).permutation(80)[:20]], (name,))[
                name
            ]
            for i in range(evaluator.DRAWS)
        ]
        assert one.value == pytest.approx(np.mean(each))
        assert one.std == pytest.approx(np.std(each, ddof=1))
    assert real_data["Frechet distance"].std > 0
    assert made.real_data_scores(1000)["precision"].samples == 40  # draws of all would be one
    monkeypatch.setattr(evaluator.Evaluator, "compare", None)
    assert made.real_data_scores(20) == real_data


def test_what_is_dear_is_kept_by_content(tmp_path, monkeypatch, taught):
    kept = tmp_path / "reference.npz"
    make = lambda seed=1: evaluator.make_evaluator(pictures(60, 0), pictures(40, seed), kept=kept)  # noqa: E731
    first = make().real_data_scores(20)
    with monkeypatch.context() as patch:
        for name in ("classifier_features", "squared_radii", "mean_kernel"):
            patch.setattr(evaluator, name, None)
        again = make()
    assert again.real_data_scores(20) == first
    assert make(2).real_data_scores(20) != first  # of other images it is made anew
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.warns(UserWarning, match="made anew.*reference.npz"):
        assert make().real_data_scores(20) == first
    evaluator.make_evaluator(pictures(60, 0), pictures(40, 1), "pixels", kept=kept / "no" / "place")


# the command


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose samples are real images; its folder."""
    data = saved(tmp_path / "d.npz", train=pictures(100, 0), test=pictures(60, 1))
    metadata = model_of(data)
    sampler = type("", (), {"table": type("", (), {"name": "made up", "nfe": 3})})
    images = pictures(20, 5).images / np.float32(127.5) - np.float32(1)
    monkeypatch.setattr(command, "load_model", lambda *given: metadata)
    monkeypatch.setattr(command, "make_sampler", lambda *given: sampler)
    monkeypatch.setattr(command, "generate", lambda *given, **options: images)
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


def test_the_table_is_printed_and_saved_before_the_page(run, monkeypatch, capsys):
    def broken(*given, **options):
        raise ValueError("no such picture")

    config = configs.Evaluate(str(run), count=20, num_steps=(2, 3), features="pixels")
    with monkeypatch.context() as patch:
        patch.setattr(command, "_page", broken)
        with pytest.warns(UserWarning, match="page could not be made: no such picture"):
            command.evaluate(config, progress=False)
    out = capsys.readouterr().out
    assert "made up, 2 steps" in out and "+- over 5 draws" in out
    assert "reference: 60 images of d-test, none of which the model was trained on" in out
    numbers = json.loads((run / "evaluation.json").read_text())
    assert numbers["scores"]["made up, 3 steps"]["nfe"] == 3
    assert numbers["labels"] == "classes as often as in the reference"
    assert not (run / "evaluation.html").exists()
    command.evaluate(config, progress=False)
    assert "none of which the model was trained on" in (run / "evaluation.html").read_text()


def test_a_number_of_steps_whose_samples_are_not_finite_takes_no_other_with_it(
    run, monkeypatch, capsys
):
    whole, wrong = command.generate, []

    def some(*given, **options):
        wrong.append(len(wrong) != 1)
        if not wrong[-1]:
            raise FloatingPointError("samples that are not finite")
        return whole(*given, **options)

    monkeypatch.setattr(command, "generate", some)
    config = configs.Evaluate(str(run), count=20, num_steps=(2, 3), features="pixels")
    with pytest.warns(UserWarning, match="without scores, 3 steps: samples that are not finite"):
        command.evaluate(config, progress=False)
    assert "made up, 2 steps" in capsys.readouterr().out
    assert list(json.loads((run / "evaluation.json").read_text())["scores"]) == ["made up, 2 steps"]
    wrong[:] = [True]
    with pytest.raises(FloatingPointError):
        command.evaluate(configs.Evaluate(str(run), count=20, num_steps=(2,), features="pixels"))


def test_a_place_that_cannot_be_written_is_found_before_work(run, monkeypatch, capsys):
    (run / "evaluation.html").mkdir()  # as if the run could not be written
    config = configs.Evaluate(str(run), count=20, num_steps=(2,), features="pixels")
    with pytest.warns(UserWarning, match="printed and not saved.*--out"):
        command.evaluate(config, progress=False)
    assert "made up, 2 steps" in capsys.readouterr().out
    monkeypatch.setattr(references, "read_data", None)
    (run / "file").write_text("")
    for out in (run / "file" / "x.html", run / "evaluation.html"):
        with pytest.raises(OSError, match=f"cannot write {out}"):
            command.evaluate(configs.Evaluate(str(run), out=str(out)))
    with pytest.raises(ValueError, match="ends in .html"):
        command.evaluate(configs.Evaluate(str(run), out="x.txt"))
