"""The study of smaller denoisers: its page and its options."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.bridge import __main__ as study
from experiments.bridge.report import datasets, figure, page, summaries


def made(method, seed, distance, parameters, **more):
    return {
        "method": method, "seed": seed, "Frechet distance": distance, "agreement": 0.5,
        "seconds": 2.0, "nfe": 17, "parameters": parameters, "multiplications": 2e6, **more,
    }  # fmt: skip


def rows():
    return [
        made("digits: teacher", 1, 3.0, 900, real=1.5), made("digits: simkd-1 8", 1, 5.0, 300),
        made("digits: simkd-1 8", 2, 7.0, 300), made("digits: alone 8", 1, 9.0, 100),
        made("mnist: teacher", 1, 4.0, 800, real=2.5), made("mnist: alone 8", 1, 8.0, 100),
    ]  # fmt: skip


def test_the_page_has_means_by_size_of_each_data_set():
    numbers = {"settings": {"count": 500, "updates": 7}, "machine": "a machine", "rows": rows()}
    names = [r["method"] for r in summaries(rows(), "digits")]
    assert names == ["alone 8", "simkd-1 8", "teacher"] and datasets(numbers) == ["digits", "mnist"]
    text = page(numbers)
    assert "| simkd-1 8 | 300 | 2.00 | 6.00 ± 1.41 | 50.0 | 2 | 2 |" in text
    assert "| alone 8 | 100 | 2.00 | 9.00 | 50.0 | 1 | 2 |" in text
    assert "--data digits mnist --widths 8 --count 500 --updates 7 --seeds 1 2" in text
    assert text.index("have 1.50") < text.index("## mnist") < text.index("have 2.50")


def test_the_picture_has_a_curve_for_each_method_and_both_costs():
    axes = figure({"rows": rows()}).axes
    assert [a.get_xlabel() for a in axes[:2]] == [
        "parameters", "multiplications of one evaluation"
    ]  # fmt: skip
    assert len(axes) == 4 and [len(a.get_lines()) for a in axes] == [3, 3, 2, 2]


def test_students_have_the_levels_and_parts_of_the_teachers_that_come_with_the_package(tmp_path):
    image = np.full((2, 28, 28), 255, np.uint8)
    image[:, ::2] = 0
    np.savez(tmp_path / "mnist.npz", train_images=image, train_labels=np.arange(2),
             test_images=image, test_labels=np.arange(2))  # fmt: skip
    problem = study.read("mnist", tmp_path)
    module = study.student_of(problem, 4, 10).network.module
    large = problem.teacher.network
    assert (module.channels, module.multipliers) == (4, large.multipliers) == (4, (1, 2, 2))
    assert module.num_classes == 10 and problem.shape == (28, 28, 1)
    level = problem.levels.draw(jax.random.key(0), jnp.zeros((4000, 1, 1, 1)))
    np.testing.assert_allclose(jnp.mean(jnp.log(level)), -0.4, atol=0.1)


@pytest.mark.slow
def test_a_run_makes_its_rows_and_goes_on_where_it_was(tmp_path, monkeypatch):
    path = tmp_path / "bridge.json"
    given = ["--widths", "4", "--updates", "2", "--batch", "8", "--count", "40", "--num-steps", "2",
             "--json", str(path), "--method", "alone"]  # fmt: skip
    assert study.main(given) == 0
    first = json.loads(path.read_text())["rows"]
    assert [r["method"] for r in first] == ["digits: teacher", "digits: alone 4"]
    assert first[0]["parameters"] == 454_305 and first[0]["nfe"] == 3
    monkeypatch.setattr(study, "fit", None)  # nothing is trained again
    monkeypatch.setattr(study, "make_evaluator", lambda *given: None)
    assert study.main(given) == 0 and json.loads(path.read_text())["rows"] == first
    assert path.with_suffix(".md").exists() and path.with_suffix(".png").exists()


def test_unknown_methods_are_refused(capsys):
    options = study.arguments_of(["--method", "simkd-1", "--widths", "4"])
    assert options.method == ["simkd-1"] and options.widths == [4]
    assert len(study.arguments_of([]).method) == 9
    for given in (["--method", "nothing"], ["--updates", "0"]):
        with pytest.raises(SystemExit):
            study.arguments_of(given)
    said = capsys.readouterr().err
    assert "no method is called nothing" in said and "--updates must be at least 1" in said


def test_data_that_is_not_there_is_missed_before_anything_is_trained(tmp_path, capsys):
    given = ["--data", "digits", "mnist", "--folder", str(tmp_path), "--json"]
    assert study.main([*given, str(tmp_path / "bridge.json")]) == 2
    assert "mnist.npz" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        study.arguments_of(["--widths", "8", "0"])
    assert "--widths must be at least 1" in capsys.readouterr().err
