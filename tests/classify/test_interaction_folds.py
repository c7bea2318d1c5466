"""Matrices, folds, scores and new interactions: what is refused, and what can be counted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.classify import interactions
from jaxdiff.classify.interactions.new_interactions import check_names
from jaxdiff.classify.interactions.scores import auc, aupr, concordance, interval

KNOWN = np.array([[1.0, 0, 0], [0, 1, 0], [0, 1, 1], [1, 0, 0]])
D, T = np.eye(4) * 0.5 + 0.5, np.eye(3) * 0.5 + 0.5


def test_similarities_become_the_nearest_kernels_and_the_user_is_told():
    skew = D.copy()
    skew[0, 1] += 0.2
    indefinite = np.array([[1.0, 0.9, 0], [0.9, 1, 0.9], [0, 0.9, 1]])
    with pytest.warns(UserWarning, match="no kernel") as said:
        made = interactions.problem(KNOWN, skew, indefinite)
    text = [str(w.message) for w in said]
    assert "drugs is no kernel: symmetrised (entries differed by up to 0.2)" in text[0]
    assert (
        "targets is no kernel: its negative eigenvalues, down to -0.273, were set to 0" in text[1]
    )
    assert np.asarray(made.drugs)[0, 1] == pytest.approx(0.6)
    values, vectors = np.linalg.eigh(indefinite)
    expected = vectors @ np.diag(values.clip(0)) @ vectors.T
    np.testing.assert_allclose(made.targets, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((KNOWN[0], D, T), r"known must be a matrix"),
        ((KNOWN.T, D, T), r"drugs must have shape \(3, 3\).*transpose it"),
        ((KNOWN, D, D), r"targets must have shape \(3, 3\)"),
        ((KNOWN + 1, D, T), r"must be 0 or 1, and known\[0, 0\] is 2.0"),
        ((np.where(KNOWN, np.nan, 0), D, T), r"known\[0, 0\] is nan"),
        (
            (KNOWN, D, np.full((3, 3), np.inf)),
            r"targets must be finite, and targets\[0, 0\] is inf",
        ),
        ((KNOWN * 0, D, T), r"no interaction"),
        ((KNOWN, D * 0, T), r"drugs is 0 throughout"),
        ((KNOWN.astype(str), D, T), r"known must be real numbers"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        interactions.problem(*given)


def test_affinities_are_taken_where_asked_for():
    assert interactions.problem(KNOWN * 2.5, D, T, binary=False).known[0, 0] == 2.5


def test_matrices_keep_their_precision_from_single_on():
    for given, kept in (("float16", "float32"), ("float32", "float32"), ("int8", "float64")):
        made = interactions.problem(*(np.round(m).astype(given) for m in (KNOWN, D, T)))
        assert {a.dtype for a in made} == {np.dtype(kept)}


def test_hiding_takes_a_mask_of_the_interactions():
    whole = interactions.problem(KNOWN, D, T)
    with pytest.raises(TypeError, match="held_out must be booleans"):
        interactions.hide(whole, np.zeros((4, 3)))
    with pytest.raises(ValueError, match="held_out has shape"):
        interactions.hide(whole, np.zeros((3, 4), bool))


@pytest.mark.parametrize(("setting", "axis"), [("pairs", None), ("drugs", 2), ("targets", 1)])
def test_folds_of_a_seed_partition_the_pairs_in_the_order_of_its_permutation(setting, axis):
    m, n = 7, 5
    masks = interactions.held_out((m, n), setting, seeds=(22, 1812), num_folds=3)
    assert masks.shape == (6, m, n)
    np.testing.assert_array_equal(masks.reshape(2, 3, m, n).sum(axis=1), 1)
    size = {"pairs": m * n, "drugs": m, "targets": n}[setting]
    order = np.random.RandomState(22).permutation(size)
    first = {"pairs": masks[0].ravel(), "drugs": masks[0][:, 0], "targets": masks[0][0]}[setting]
    np.testing.assert_array_equal(np.flatnonzero(first), np.sort(order[: size // 3]))
    if axis is not None:
        assert (masks.all(axis=axis) == masks.any(axis=axis)).all()


def test_folds_that_cannot_be_made_are_refused():
    with pytest.raises(ValueError, match="setting must be one of pairs, drugs, targets"):
        interactions.held_out((7, 5), "rows")
    with pytest.raises(ValueError, match="num_folds must be 2 to 5"):
        interactions.held_out((7, 5), "targets", num_folds=6)
    for seeds in ((), (1, 2, 1)):
        with pytest.raises(ValueError, match="a permutation counts once"):
            interactions.held_out((7, 5), "targets", seeds=seeds, num_folds=2)


def test_scores_that_can_be_counted():
    labels, scores = np.array([1, 0, 1, 0]), np.array([0.9, 0.8, 0.7, 0.1])
    assert auc(labels, scores) == 0.75  # three of four pairs in order
    # (recall, precision): (0, 1), (1/2, 1), (1/2, 1/2), (1, 2/3), so 1/2 + 1/2 * (1/2 + 2/3)/2
    assert aupr(labels, scores) == pytest.approx(0.5 + 7 / 24)
    affinities, guesses = np.array([1.0, 2.0, 2.0, 3.0]), np.array([0.0, 0.0, 1.0, 0.5])
    # five pairs differ: (1,2) tie, (1,2') right, (1,3) right, (2,3) right, (2',3) wrong
    assert concordance(affinities, guesses) == pytest.approx(3.5 / 5)
    assert interval(np.array([1.0, 3.0])) == pytest.approx((2.0, 12.706204736432095))


def test_scores_refuse_what_has_none():
    with pytest.raises(ValueError, match="labels must be 0 and 1, some of each"):
        auc(np.zeros(3), np.arange(3.0))
    with pytest.raises(ValueError, match="one shape"):
        aupr(np.array([0, 1]), np.arange(3.0))
    with pytest.raises(ValueError, match="finite"):
        aupr(np.array([0, 1]), np.array([np.nan, 1]))
    with pytest.raises(ValueError, match="all affinities are equal"):
        concordance(np.ones(3), np.arange(3.0))
    with pytest.raises(ValueError, match="at least two folds"):
        interval(np.ones(1))


def test_cross_validation_is_every_fold_by_itself(rng):
    known = (rng.random((8, 6)) < 0.4).astype(float)
    x, z = rng.normal(size=(8, 3)), rng.normal(size=(6, 3))
    whole = interactions.problem(known, x @ x.T + np.eye(8), z @ z.T + np.eye(6))
    masks = interactions.held_out(known.shape, "pairs", seeds=(1,), num_folds=3)
    method = lambda problem, key: interactions.rls_avg(problem)  # noqa: E731
    found = interactions.cross_validate(method, whole, masks, jax.random.key(0), dtype=jnp.float64)
    for scores, mask, area in zip(found.scores, masks, found.auc, strict=True):
        alone = interactions.hide(whole, mask)
        np.testing.assert_allclose(scores, interactions.rls_avg(alone), atol=1e-12)
        assert area == auc(known[mask], scores[mask])
    assert found.intervals[1].mean == pytest.approx(found.aupr.mean())
    with jax.enable_x64(False):  # as for users: float64 is had by asking for it
        found = interactions.predict_folds(
            lambda p, key: p.known + 1e-12, whole, masks, jax.random.key(0), dtype=jnp.float64
        )
        best = interactions.new_interactions(
            lambda p, key: p.drugs[:, :6] * (1 + 1e-12), whole, jax.random.key(0), 1
        )
    assert found.dtype == np.float64 and found.min() == 1e-12
    assert best[0].score == (whole.drugs[:, :6] * (1 + 1e-12))[best[0].drug, best[0].target]
    lonely = np.zeros((1, 8, 6), bool)
    lonely[0, 0, 0] = True
    with pytest.raises(ValueError, match="fold 0 holds out pairs of one class only"):
        interactions.cross_validate(method, whole, lonely, jax.random.key(0))


def test_folds_that_do_not_go_with_the_interactions_are_refused_before_they_run():
    whole = interactions.problem(np.eye(4), np.eye(4), np.eye(4))
    masks = interactions.held_out((4, 4), "drugs", seeds=(1,), num_folds=2)
    method, key = pytest.fail, jax.random.key(0)
    for run in (interactions.cross_validate, interactions.predict_folds):
        for wrong in (masks[0], masks[:, :3], masks[:0]):
            with pytest.raises(ValueError, match=r"must be \(folds, m, n\), \(folds, 4, 4\)"):
                run(method, whole, wrong, key)
        with pytest.raises(TypeError, match="booleans, not int"):
            run(method, whole, masks.astype(int), key)
        for number in (0, -1):
            with pytest.raises(ValueError, match="folds_at_once must be at least 1"):
                run(method, whole, masks, key, folds_at_once=number)
        with pytest.raises(TypeError, match="dtype must be floating"):
            run(method, whole, masks, key, dtype=jnp.int32)
    everything = np.concatenate([masks, np.ones((1, 4, 4), bool)])
    with pytest.raises(ValueError, match="fold 2 holds out everything that is known"):
        interactions.predict_folds(method, whole, everything, key)
    affinities = interactions.problem(3 * np.eye(4), np.eye(4), np.eye(4), binary=False)
    with pytest.raises(ValueError, match="interactions 0 or 1"):
        interactions.cross_validate(method, affinities, masks, key)


def test_new_interactions_are_the_highest_of_the_unknown():
    whole = interactions.problem(KNOWN, D, T)
    table = jnp.arange(12.0).reshape(4, 3)
    found = interactions.new_interactions(lambda p, key: table, whole, jax.random.key(0), 3)
    assert found == [(3, 2, 11.0), (3, 1, 10.0), (2, 0, 6.0)]  # those of 7 and 8 are known
    with pytest.raises(ValueError, match="count must be 1 to 7"):
        interactions.new_interactions(lambda p, key: table, whole, jax.random.key(0), 8)
    with pytest.raises(ValueError, match="must be finite"):
        interactions.new_interactions(lambda p, key: table * jnp.nan, whole, jax.random.key(0), 1)
    full = whole._replace(known=np.ones_like(whole.known))
    with pytest.raises(ValueError, match="every pair is known"):
        interactions.new_interactions(lambda p, key: table, full, jax.random.key(0), 1)


def test_matrices_are_read_with_and_without_names(tmp_path):
    named, plain = tmp_path / "named.txt", tmp_path / "plain.csv"
    named.write_text("\tt1\tt2\nd1\t1\t0\nd2\t0.5\t1\n")
    plain.write_text("1,0\n0.5,1\n")
    values, rows, columns = interactions.read_matrix(named)
    assert (rows, columns) == (("d1", "d2"), ("t1", "t2"))
    np.testing.assert_array_equal(values, interactions.read_matrix(plain).values)
    assert interactions.read_matrix(plain)[1:] == (None, None)
    named.write_text("\t7\t8\n101\t1\t0\n102\t0.5\t1\n")  # numbers of a data base as names
    values, rows, columns = interactions.read_matrix(named)
    assert (rows, columns) == (("101", "102"), ("7", "8")) and values[1, 0] == 0.5
    plain.write_bytes(b"\xef\xbb\xbf1,0\n0.5,1\n")  # as spreadsheets mark UTF-8
    values, rows, _ = interactions.read_matrix(plain)
    assert rows is None and values.tolist() == [[1, 0], [0.5, 1]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no numbers"),
        ("1 2\n3\n", "line 2 has 1"),
        ("1 2\n3 nan\n", "line 2: entry 2, 'nan', is no finite number"),
        ("\ta\tb\nx\t1\tq\n", "line 2: entry 2, 'q', is no finite number"),
        ("\ta\tb\tc\nx\t1\t2\n", "names 3 columns and has 2 numbers"),
        ("1,,0\n0,1,1\n", "line 1: entry 2 is missing, ''"),
        ("1 0 NA\n0 1 1\n", "line 1: entry 3 is missing, 'NA'"),
        ("1;0\n0;1\n", "has names and no numbers"),
        ("\ta\tb\n", "every row must have as many numbers; there are none"),
    ],
)
def test_files_that_are_no_matrices_are_refused(tmp_path, text, message):
    path = tmp_path / "bad.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as raised:
        interactions.read_matrix(path)
    assert "bad.txt" in str(raised.value)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "bad.txt").write_bytes(b"\x80\xff")
    with pytest.raises(ValueError, match="bad.txt is no text file"):
        interactions.read_matrix(tmp_path / "bad.txt")


def test_files_that_name_things_differently_are_refused():
    check_names("drugs", ("a", "b"), ("a", "b"))
    check_names("drugs", None, ("a", "b"))
    with pytest.raises(ValueError, match="same drugs in different orders"):
        check_names("drugs", ("a", "b"), ("b", "a"))
    with pytest.raises(ValueError, match="different drugs: 'b' and 'c'"):
        check_names("drugs", ("a", "b"), ("a", "c"))
    with pytest.raises(ValueError, match="two drugs are called 'a' in one file"):
        check_names("drugs", ("a", "b", "a"), None)
