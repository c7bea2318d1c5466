"""The study of drug-target prediction: what it predicts of files, what it refuses, its page."""

import json
import pickle

import numpy as np
import pytest

from experiments.classification.scores import calibration_error, scores
from experiments.drug_target.__main__ import main
from experiments.drug_target.data import davis
from experiments.drug_target.methods import plain_rls_kron
from experiments.drug_target.page import page
from jaxdiff.classify import interactions


def written(folder, known, names=("a", "b", "c")):
    """Three files: drugs a, b, c by targets t, u; b and c are alike, and so are t and u."""
    drugs = np.array([[1, 0.1, 0.1], [0.1, 1, 0.9], [0.1, 0.9, 1]])
    tables = {
        "known": ("\tt\tu", names, np.asarray(known)),
        "drugs": ("\ta\tb\tc", ("a", "b", "c"), drugs),
        "targets": ("\tt\tu", ("t", "u"), np.array([[1, 0.3], [0.3, 1]])),
    }
    given = ["predict"]
    for name, (head, rows, values) in tables.items():
        lines = ["\t".join([r, *map(str, v)]) for r, v in zip(rows, values, strict=True)]
        (folder / name).write_text("\n".join([head, *lines]) + "\n")
        given += [f"--{name}", str(folder / name)]
    return given


def test_predict_names_the_pair_that_neighbours_suggest(tmp_path, capsys):
    main([*written(tmp_path, [[0, 1], [1, 0], [0, 0]]), "--count", "2"])
    head, first, _ = capsys.readouterr().out.splitlines()
    assert head.split("\t") == ["drug", "target", "score"]
    assert first.split("\t")[:2] == ["c", "t"]


@pytest.mark.parametrize(
    ("known", "options", "message"),
    [
        ([[0, 2], [1, 0], [0, 0]], [], "interactions must be 0 or 1"),
        ([[0, "nan"], [1, 0], [0, 0]], [], "no finite number"),
        ([[0, 1], [1, 0], [0, 0]], ["--transpose"], "drugs must have shape"),
        ([[0, 1], [1, 0], [0, 0]], ["--count", "9"], "count must be 1 to 4"),
    ],
)
def test_predict_says_what_is_wrong_with_the_files(tmp_path, capsys, known, options, message):
    given = written(tmp_path, known) + options
    with pytest.raises(SystemExit):
        main(given)
    assert message in capsys.readouterr().err


def test_predict_says_in_a_line_that_similarities_were_no_kernel(tmp_path, capsys):
    given = written(tmp_path, [[0, 1], [1, 0], [0, 0]])
    (tmp_path / "targets").write_text("\tt\tu\nt\t1\t0.4\nu\t0.2\t1\n")
    main([*given, "--count", "1"])
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("warning: targets") and "no kernel" in said


def test_a_folder_without_the_data_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["--data", str(tmp_path), "--sets", "nr"])
    assert "nr_admat_dgc.txt" in capsys.readouterr().err


def test_predict_refuses_drugs_in_another_order(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(written(tmp_path, [[0, 1], [1, 0], [0, 0]], ("b", "a", "c")))
    assert "same drugs in different orders" in capsys.readouterr().err


def test_predict_refuses_similarities_with_columns_in_another_order(tmp_path, capsys):
    given = written(tmp_path, [[0, 1], [1, 0], [0, 0]])
    (tmp_path / "drugs").write_text("\tb\ta\tc\na\t.1\t1\t.1\nb\t1\t.1\t.9\nc\t.9\t.1\t1\n")
    with pytest.raises(SystemExit):
        main(given)
    assert "same drugs in different orders" in capsys.readouterr().err


def test_the_pickled_affinities_may_hold_nothing_but_an_array(tmp_path):
    (tmp_path / "davis").mkdir()
    (tmp_path / "davis" / "Y").write_bytes(pickle.dumps(print))
    with pytest.raises(pickle.UnpicklingError, match="should hold an array"):
        davis(tmp_path, binary=True)


def test_the_loop_in_numpy_is_rls_kron(rng):
    known = (rng.random((5, 4)) < 0.5).astype(float)
    whole = interactions.problem(known, np.eye(5) + 0.1, np.eye(4) + 0.2)
    folds = interactions.held_out((5, 4), "pairs", seeds=(0,), num_folds=2)
    for mask, scores_of_fold in zip(folds, plain_rls_kron(whole, folds), strict=True):
        ours = interactions.rls_kron(interactions.hide(whole, mask))
        np.testing.assert_allclose(ours, scores_of_fold, atol=1e-10)


def test_rows_of_other_folds_are_made_anew_and_the_page_says_how_many(tmp_path, capsys, rng):
    known = (rng.random((20, 22)) < 0.4).astype(float)
    sizes = {"nr_admat_dgc": known, "nr_simmat_dc": np.eye(22), "nr_simmat_dg": np.eye(20)}
    for name, values in sizes.items():
        np.savetxt(tmp_path / f"{name}.txt", values)
    table = tmp_path / "table.json"
    given = ["--data", str(tmp_path), "--sets", "nr", "--settings", "pairs", "--methods"]
    given += ["rls_avg", "--speed", "--json", str(table)]
    pages = []
    for more in (["--folds", "2"], ["--folds", "2"], []):
        main([*given, *more])
        pages.append(capsys.readouterr().out)
    key = "nr/pairs/binding/rls_avg"
    assert [key in p for p in pages] == [True, False, True]
    assert "Of NR by the first 2 folds of 50 only: RLS-avg (pairs)." in pages[1]
    assert "folds of 50" not in pages[2]
    assert json.loads(table.read_text())["rows"][key]["folds"] == 50
    with pytest.raises(SystemExit):
        main([*given, "--folds", "0"])


def test_the_page_stars_what_agrees():
    row = {"auc": [0.9, 0.02], "aupr": [0.7, 0.01], "folds": 50, "processor_seconds": 1.0}
    text = page({"nr/pairs/binding/rls_kron": row})
    assert "| RLS-Kron | 0.900 ± 0.020* | 0.700 ± 0.010 |" in text


def test_scores_of_probabilities_that_can_be_counted():
    labels = np.array([0, 0, 1, 1])
    found = scores(labels, np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]]))
    assert found["accuracy"] == 0.75
    assert found["precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert found["recall"] == pytest.approx((1 / 2 + 1) / 2)
    assert found["ROC-AUC"] == 1.0
    assert found["Brier"] == pytest.approx(2 * (0.01 + 0.36 + 0.09 + 0.04) / 4)
    # bins of 0.6, 0.7, 0.8 and 0.9, one sample each, the first wrong
    assert calibration_error(
        labels, np.array([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7], [0.2, 0.8]])
    ) == (pytest.approx((0.6 + 0.3 + 0.2 + 0.1) / 4))
