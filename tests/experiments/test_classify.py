"""The study of distilled classifiers: its data, its table, and a run of it."""

import json

import numpy as np
import pytest

from experiments.classify import __main__ as study
from experiments.classify.problem import Batches, Problem, augmented, pairs, read
from experiments.classify.report import differences, page, summaries


@pytest.fixture
def folder(tmp_path):
    """Fashion-MNIST's file with few images: stripes, of a direction for every class."""
    rng = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.uint8) % 10
    images = rng.integers(0, 50, (40, 28, 28), dtype=np.uint8)
    images[:, ::3] += 100 + 10 * labels[:, None, None]
    np.savez(
        tmp_path / "fashion_mnist.npz", train_images=images, train_labels=labels,
        test_images=images[:20], test_labels=labels[:20],
    )  # fmt: skip
    return tmp_path


def test_images_are_normalised_and_averaged_over_squares(folder):
    problem = read(folder, "fashion", 2, None)
    assert problem.images.shape == (40, 14, 14, 1) and problem.classes == 10
    np.testing.assert_allclose(problem.images.mean(), 0, atol=1e-5)
    np.testing.assert_allclose(problem.images.std(), 1, rtol=1e-5)
    whole = read(folder, "fashion", 1, None).images
    pooled = whole.reshape(40, 14, 2, 14, 2, 1).mean((2, 4))
    np.testing.assert_allclose(problem.images, (pooled - pooled.mean()) / pooled.std(), atol=1e-4)
    with pytest.raises(ValueError, match="squares of 3 pixels do not divide"):
        read(folder, "fashion", 3, None)


def test_batches_are_of_the_step_alone_and_an_epoch_has_every_image_once():
    images = np.arange(12, dtype=np.float32).reshape(12, 1, 1, 1) * np.ones((1, 8, 8, 1), "f4")
    labels = np.arange(12) % 3
    problem = Problem(images, labels, images, labels, 3, True)
    batches = Batches(problem, 4, 5)
    three = [batches(step) for step in (3, 4, 5)]  # the second epoch
    assert sorted(np.concatenate([b["index"] for b in three])) == list(range(12))
    again = Batches(problem, 4, 5)(4)
    assert all(np.array_equal(again[k], three[1][k]) for k in again)
    assert np.array_equal(again["label"], labels[again["index"]])
    inner = again["image"][:, 3:5, 3:5, 0]  # zeros come in by one pixel at most
    assert np.array_equal(inner, again["index"][:, None, None] * np.ones((1, 2, 2)))
    with pytest.raises(ValueError, match="batches of 13 of 12"):
        Batches(problem, 13, 0)


def test_a_mirrored_image_is_one_and_a_shift_is_the_same_for_all_its_pixels():
    x = np.arange(1, 65, dtype=np.float32).reshape(1, 8, 8, 1).repeat(200, 0)
    moved = augmented(x, np.random.default_rng(0), True)
    steps = moved[:, 4, 4] - moved[:, 4, 3]
    assert set(steps.ravel()) == {-1.0, 1.0} and abs(steps.mean()) < 0.3
    still = augmented(x, np.random.default_rng(0), False)
    assert set((still[:, 4, 4] - still[:, 4, 3]).ravel()) == {1.0}
    assert {-9, -8, -7, -1, 0, 1, 7, 8, 9} == set((still[:, 4, 4] - x[:, 4, 4]).ravel())


def test_pairs_have_the_classes():
    for teacher, student in pairs(7).values():
        assert teacher.num_classes == student.num_classes == 7


def rows():
    common = {"seconds": 2.0, "updates": 5, "parameters": 10, "multiply_adds": 2_000_000}
    return [
        {"method": "teacher", "seed": 1, "accuracy": 0.9, **common},
        {"method": "vanilla", "seed": 1, "accuracy": 0.5, **common},
        {"method": "kd", "seed": 1, "accuracy": 0.6, **common},
        {"method": "kd", "seed": 2, "accuracy": 0.8, **common},
        {"method": "one", "seed": 1, "accuracy": 0.4, "ensemble": 0.45, **common},
        {"method": "fsp", "seed": 1, "not_for": "other widths"},
        {"method": "semckd", "seed": 1, "diverged": "nan in step 233"},
        {"method": "kd", "seed": 3, "diverged": "nan in step 9"},
    ]


def test_the_table_has_means_deviations_and_what_a_pair_is_not_for():
    by_name = {s["method"]: s for s in summaries(rows())}
    np.testing.assert_allclose(by_name["kd"]["mean"], 0.7)
    np.testing.assert_allclose(by_name["kd"]["spread"], np.sqrt(0.02))
    assert np.isnan(by_name["one"]["spread"])
    made = page({"settings": {"pair": "tiny", "rate": None}, "machine": "m", "rows": rows()})
    assert "| kd | 70.00 ± 14.14 | 2 | 10 | 2.00 | 2 | 1 more diverged |" in made
    assert "its ensemble 45.00" in made and "| fsp | | | | | | other widths |" in made
    assert "| semckd | | | | | | nan in step 233 |" in made
    assert "The teacher is 40.00 above" in made and "kd (70.00), one (40.00)" in made


def test_claims_are_differences_of_means_with_their_errors():
    made = [
        {"method": name, "seeds": seeds, "mean": mean, "spread": spread}
        for name, seeds, mean, spread in (
            ("kd", 4, 0.7, 0.03), ("simkd", 4, 0.6, 0.01), ("simkd-4", 4, 0.8, 0.04),
            ("fitnet", 1, 0.9, np.nan), ("fsp", 0, 0.0, 0.0),
        )
    ]  # fmt: skip
    (line,) = [x for x in differences(made) if "above" in x]  # fitnet has one seed
    assert line == "| SimKD above KD | simkd-4 less kd | +10.00 ± 2.50 |"


def test_online_methods_stand_beside_the_network_alone_by_their_recipe():
    assert study.rows_of(["okddip-networks"]) == ["vanilla-online", "okddip-networks"]
    wanted = ["teacher", "vanilla", "vanilla-online", "kd", "one"]
    assert study.rows_of(["kd", "one", "kd"]) == wanted  # twice would be another seed
    assert study.rows_of(["simkd-weight-30"]) == ["teacher", "vanilla", "simkd-weight-30"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--rate", "-1"], "--rate must be positive"),
        (["--teacher-updates", "0"], "--teacher-updates must be at least 1"),
        (["--method", "simkd-9"], "no method is called simkd-9"),
    ],
)
def test_options_out_of_range_are_refused_and_are_no_row_of_the_table(capsys, given, message):
    with pytest.raises(SystemExit):
        study.arguments_of(given)
    assert message in capsys.readouterr().err


def test_rows_of_other_settings_are_not_joined(tmp_path):
    kept = study.Kept(tmp_path / "a.json", {"pair": "tiny"})
    kept({"method": "kd", "seed": 1})
    again = study.Kept(tmp_path / "a.json", {"pair": "tiny"})
    assert again.has("kd", 1) and not again.has("kd", 2)
    with pytest.raises(ValueError, match="other settings"):
        study.Kept(tmp_path / "a.json", {"pair": "same-widths"})


def test_what_there_is_not_enough_of_is_refused(folder, capsys):
    for given, message in (
        (["--images", "41"], "has 40 images to train on, not 41"),
        (["--test-images", "21"], "there are 20 test images, not 21"),
        (["--data", "mnist"], "mnist.npz"),
    ):
        path = folder / "classify.json"
        assert study.main(["--folder", str(folder), "--json", str(path), *given]) == 2
        assert message in capsys.readouterr().err and not path.exists()


def test_a_stored_teacher_is_not_taken_for_that_of_other_data(tmp_path):
    stored = tmp_path / "teachers" / "teacher-1"
    for _ in range(2):
        study.check_stored(stored, {"data": "mnist", "updates": 5})
    with pytest.raises(ValueError, match="a teacher of other settings, .*mnist"):
        study.check_stored(stored, {"data": "fashion", "updates": 5})


@pytest.mark.slow
def test_a_run_makes_a_table_and_goes_on_where_it_was(folder, monkeypatch):
    path = folder / "classify.json"
    given = ["--folder", str(folder), "--pool", "2", "--seeds", "1", "--updates", "2",
             "--teacher-updates", "2", "--batch", "8", "--json", str(path)]  # fmt: skip
    assert study.main([*given, "--method", "kd"]) == 0
    first = json.loads(path.read_text())["rows"]
    assert [r["method"] for r in first] == ["teacher", "vanilla", "kd"]
    assert study.main([*given, "--method", "kd", "fsp"]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert rows[:3] == first and "channels one by one" in rows[3]["not_for"]
    assert path.with_suffix(".md").read_text().startswith("# Distilled classifiers")
