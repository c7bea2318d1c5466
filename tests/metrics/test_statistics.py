"""Statistics in files, and the Inception score."""

import numpy as np
import pytest
from helpers.golden_numbers import load

from jaxdiff import metrics
from jaxdiff.metrics.statistics import is_statistics


@pytest.fixture
def features(rng):
    return rng.standard_normal((40, 5)).astype(np.float32)


def test_what_is_written_is_read(tmp_path, features):
    found = metrics.statistics(features, "some")
    metrics.write_statistics(tmp_path / "a.npz", found)
    read = metrics.read_statistics(tmp_path / "a.npz")
    assert read.count == 40 and read.name == "a.npz" and is_statistics(tmp_path / "a.npz")
    np.testing.assert_array_equal(read.features, features)
    np.testing.assert_array_equal(read.mean, features.astype(np.float64).mean(0))
    np.testing.assert_allclose(read.covariance, np.cov(features.astype(np.float64).T))
    metrics.write_statistics(tmp_path / "b.npz", found, features=False)
    assert metrics.read_statistics(tmp_path / "b.npz").features is None


def test_files_of_others_have_mu_and_sigma_alone(tmp_path, features, rng):
    other = rng.standard_normal((30, 5))
    np.savez(tmp_path / "fid.npz", mu=features.mean(0), sigma=np.cov(features.T), arr_0=np.ones(3))
    read = metrics.read_statistics(tmp_path / "fid.npz")
    assert read.count is None
    expected = metrics.frechet_distance(other, features)
    assert metrics.frechet_to(read, other) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="dimension 4 do not compare .* dimension 5"):
        metrics.frechet_to(read, other[:, :4])
    np.savez(tmp_path / "images.npz", images=np.ones(3))
    assert not is_statistics(tmp_path / "images.npz") and not is_statistics(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"mu": None}, "has no mu"),
        ({"sigma": np.eye(4)}, r"shapes \(d,\) and \(d, d\)"),
        ({"mu": np.arange(5)}, "must be floats"),
        ({"mu": np.array([1.0, np.nan, 0, 0, 0])}, "not finite"),
        ({"sigma": np.tri(5)}, "not a covariance"),
        ({"sigma": -np.eye(5)}, "not a covariance"),
        ({"features": np.ones((7, 4))}, "dimension 4, mu of dimension 5"),
        ({"count": np.float64(3)}, "count must be"),
        ({"mu": np.array([None] * 5)}, "pickled"),
    ],
)
def test_what_are_no_statistics_is_refused(tmp_path, changed, message):
    arrays = {"mu": np.zeros(5), "sigma": np.eye(5), **changed}
    np.savez(tmp_path / "x.npz", **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(ValueError, match=f"x.npz.*{message}"):
        metrics.read_statistics(tmp_path / "x.npz")


def test_statistics_are_written_to_an_npz(tmp_path, features):
    with pytest.raises(ValueError, match="to an .npz"):
        metrics.write_statistics(tmp_path / "x.txt", metrics.statistics(features))


def test_the_inception_score_has_its_extremes(rng):
    sure = 100 * np.eye(6)[np.arange(60) % 6]
    assert metrics.inception_score(sure, 5).value == pytest.approx(6)
    assert metrics.inception_score(np.ones((60, 6)), 5) == pytest.approx((1, 0))
    assert metrics.inception_score(100 * np.eye(6)[np.zeros(60, int)]).value == pytest.approx(1)
    logits = rng.standard_normal((50, 6))
    shifted = metrics.inception_score(logits + rng.standard_normal((50, 1)))
    assert shifted == pytest.approx(metrics.inception_score(logits))


def test_the_inception_score_is_torch_fidelity_s():
    golden = load("metrics", full=True)
    case = next(case for case in golden.cases if "splits" in case)
    made = metrics.inception_score(golden.get(case, "logits"), case["splits"])
    assert made.value == pytest.approx(golden.get(case, "isc_mean")[0], rel=1e-6)
    assert made.std == pytest.approx(golden.get(case, "isc_std")[0], rel=1e-5)


def test_too_few_samples_for_a_score_are_refused():
    with pytest.raises(ValueError, match="at least 10"):
        metrics.inception_score(np.ones((9, 3)))
    with pytest.raises(ValueError, match="splits must be"):
        metrics.inception_score(np.ones((9, 3)), 0)
