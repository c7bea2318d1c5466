"""Metrics: closed forms, published implementations' numbers, invariances, protocol and refusals."""

import json
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import load
from scipy.spatial.distance import cdist

from jaxdiff import metrics
from jaxdiff.metrics import frechet, kernel, neighbours

CASES = [case["name"] for case in load("metrics").cases if "name" in case]


@pytest.fixture(params=CASES)
def golden(request):
    family = load("metrics")
    case = next(c for c in family.cases if c.get("name") == request.param)
    return lambda name: family.get(case, name)


@pytest.fixture
def pair(rng):
    return rng.standard_normal((70, 5)), 0.3 + 1.2 * rng.standard_normal((50, 5))


def rotation(d, rng):
    return np.linalg.qr(rng.standard_normal((d, d)))[0]


# closed forms


def test_frechet_in_one_dimension_is_the_difference_of_means_and_deviations():
    value = metrics.gaussian_w2_squared([1.0], [[4.0]], [-2.0], [[0.25]])
    assert value == pytest.approx(9.0 + (2.0 - 0.5) ** 2, rel=1e-14)


def test_frechet_of_commuting_covariances(rng):
    q, a, b = rotation(4, rng), np.array([4.0, 1.0, 0.5, 0.0]), np.array([1.0, 0.0, 2.0, 0.0])
    value = metrics.gaussian_w2_squared(np.zeros(4), q * a @ q.T, np.zeros(4), q * b @ q.T)
    assert value == pytest.approx(np.sum((np.sqrt(a) - np.sqrt(b)) ** 2), rel=1e-12)


def test_frechet_of_a_linear_map_of_singular_data(rng):
    # for a symmetric positive semi-definite map T of the data, W2^2 = E |x - T x|^2
    x = np.concatenate([rng.standard_normal((12, 20)), np.zeros((12, 4))], axis=1)
    x -= x.mean(axis=0)
    root = rng.standard_normal((24, 24))
    transport = root @ root.T / 24
    expected = np.sum((x - x @ transport) ** 2) / 11
    assert metrics.frechet_distance(x, x @ transport) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("n, m", [(12, 15), (12, 90), (90, 12), (2, 2), (60, 90), (150, 70)])
def test_frechet_of_samples_is_that_of_their_covariances(n, m, rng, monkeypatch):
    """Of fewer samples than dimensions, in one set or both, and of more."""
    monkeypatch.setattr(frechet, "ROWS", 40)  # in several blocks
    root = rng.standard_normal((60, 60)) / 8
    x, y = 3.0 + rng.standard_normal((n, 60)) @ root, rng.standard_normal((m, 60)) @ root
    x[-1] = x[0]  # of less than full rank even among the samples
    whole = metrics.frechet_distance(metrics.moments(x), metrics.moments(y))
    assert metrics.frechet_distance(x, y) == pytest.approx(whole, rel=1e-10)


def test_frechet_of_few_samples_forms_no_matrix_of_dimensions(rng):
    x, y = rng.standard_normal((2, 8, 3000)).astype(np.float32)
    tracemalloc.start()
    try:
        metrics.frechet_distance(x, y)
        assert tracemalloc.get_traced_memory()[1] < 3000**2  # of d^2 numbers an eighth
    finally:
        tracemalloc.stop()


def test_what_a_reference_needs_once_changes_no_number(pair):
    x, y = pair
    radii, mean = metrics.squared_radii(y, 3), metrics.mean_kernel(y)
    assert metrics.prdc(x, y, 3, radii=radii) == metrics.prdc(x, y, 3)
    assert metrics.mmd2(x, y, within=mean) == metrics.mmd2(x, y)
    np.testing.assert_allclose(radii, np.sort(cdist(y, y))[:, 3] ** 2, rtol=1e-10)


def test_moments_are_mean_and_unbiased_covariance_however_they_arrive(rng):
    x = 1e4 + rng.standard_normal((40, 3))
    whole = metrics.moments(x)
    streamed = metrics.streamed_moments(x[i : i + 7].astype(np.float64) for i in range(0, 40, 7))
    np.testing.assert_allclose(whole.covariance, np.cov(x.T), rtol=1e-10)
    np.testing.assert_allclose(streamed.mean, x.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(streamed.scatter, whole.scatter, rtol=1e-9, atol=1e-9)
    assert streamed.count == 40


def test_mmd_is_its_definition(pair):
    x, y = pair
    k = np.exp(-cdist(np.r_[x, y], np.r_[x, y], "sqeuclidean") / (2 * 1.5**2))
    n, xx, yy, xy = len(x), k[:70, :70], k[70:, 70:], k[:70, 70:]
    expected = (xx.sum() - n) / (n * (n - 1)) + (yy.sum() - 50) / (50 * 49) - 2 * xy.mean()
    assert metrics.mmd2(x, y, metrics.rbf(1.5)) == pytest.approx(expected, rel=1e-12)


def test_mmd_by_blocks_of_rows_is_the_same(pair, monkeypatch):
    whole = metrics.mmd2(*pair)
    monkeypatch.setattr(kernel, "ROWS", 16)
    assert metrics.mmd2(*pair) == pytest.approx(whole, rel=1e-12)


def test_mmd_with_the_linear_kernel_is_the_squared_distance_of_means_without_bias(rng):
    # (n, m) = (2, 2): k_xx = x1.x2, k_yy = y1.y2, cross = mean(x).mean(y)
    x, y = rng.standard_normal((2, 3)), rng.standard_normal((2, 3))
    linear = metrics.polynomial(degree=1, gamma=1.0, constant=0.0)
    expected = x[0] @ x[1] + y[0] @ y[1] - 2 * x.mean(0) @ y.mean(0)
    assert metrics.mmd2(x, y, linear) == pytest.approx(expected, rel=1e-12)


def test_mmd_of_equal_distributions_is_zero_on_average_and_not_of_different_ones(rng):
    x = rng.standard_normal((40, 60, 2))
    same = np.array(
        [metrics.mmd2(a, b, metrics.rbf(1.0)) for a, b in zip(x[:20], x[20:], strict=True)]
    )
    other = [metrics.mmd2(a, b + 1, metrics.rbf(1.0)) for a, b in zip(x[:20], x[20:], strict=True)]
    assert abs(same.mean()) < 4 * same.std() / np.sqrt(20)
    assert same.min() < 0 < 0.1 < min(other)


def test_median_bandwidth_of_three_points():
    assert metrics.median_bandwidth([[0.0], [1.0]], [[3.0], [3.0]]) == 2.0  # 0 1 2 2 3 3


def test_wasserstein_of_a_shift_is_the_shift(rng):
    x = rng.standard_normal((30, 3))
    shift = np.array([1.0, -2.0, 0.5])
    v = metrics.random_directions(3, 50, seed=4)
    for p in (1, 2, 3):
        along = np.abs(shift @ v)
        sliced = metrics.sliced_wasserstein(x, x + shift, p, directions=v)
        assert sliced == pytest.approx(np.mean(along**p) ** (1 / p), rel=1e-12)
        largest = metrics.max_sliced_wasserstein(x, x + shift, p, count=50, seed=4)
        assert largest == pytest.approx(along.max(), rel=1e-12)
        assert metrics.exact_wasserstein(x, x + shift, p) == pytest.approx(
            np.linalg.norm(shift), rel=1e-12
        )


def test_sliced_wasserstein_of_unequal_sizes_by_hand():
    # quantiles of {0, 3} and {0, 1, 2}: |0-0| on 1/3, |0-1| on 1/6, |3-1| on 1/6, |3-2| on 1/3
    x, y, line = [[0.0], [3.0]], [[2.0], [0.0], [1.0]], [[1.0]]
    first = metrics.sliced_wasserstein(x, y, 1, directions=line)
    second = metrics.sliced_wasserstein(x, y, 2, directions=line)
    assert first == pytest.approx(1 / 6 + 2 / 6 + 1 / 3)
    assert second == pytest.approx(np.sqrt(1 / 6 + 4 / 6 + 1 / 3))
    assert metrics.exact_wasserstein(x, y, 2) == pytest.approx(second)


def test_repeating_every_sample_changes_no_transport_distance(pair):
    x, y = pair[0][:12], pair[1][:8]
    twice = np.repeat(x, 2, axis=0)
    for distance in (metrics.sliced_wasserstein, metrics.exact_wasserstein):
        assert distance(twice, y) == pytest.approx(distance(x, y), rel=1e-12)


def test_prdc_by_hand():
    # k = 1: radii of y are 1, 1, 4 (open balls), of x 2, 2, 94
    y = np.array([[0.0], [1.0], [5.0]])
    x = np.array([[0.5], [2.5], [96.5]])
    precision, recall, density, coverage = metrics.prdc(x, y, k=1)
    # x0 lies in the balls of 0 and 1, x1 in that of 5; x0 and x1 reach 0 and 1, x2 reaches 5
    assert (precision, recall) == (pytest.approx(2 / 3), 1.0)
    assert (density, coverage) == (pytest.approx(3 / 3), 1.0)
    far = metrics.prdc(x + 1e3, y, k=1)
    assert far == (0.0, 0.0, 0.0, 0.0)


def test_nearest_distances_finds_copies_exactly(rng, monkeypatch):
    train = rng.integers(0, 256, (50, 4, 4, 3), dtype=np.uint8)
    samples = np.concatenate([train[[7, 31]], rng.integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)])
    monkeypatch.setattr(neighbours, "ROWS", 4)
    monkeypatch.setattr(neighbours, "COLUMNS", 16)
    distance, index = metrics.nearest_distances(samples, train)
    full = cdist(samples.reshape(11, -1).astype(float), train.reshape(50, -1).astype(float))
    np.testing.assert_array_equal(index, full.argmin(axis=1))
    np.testing.assert_allclose(distance, full.min(axis=1), rtol=1e-14)
    assert distance[0] == distance[1] == 0.0
    assert distance[2:].min() > 100


# published implementations' numbers


def test_golden_frechet(golden):
    x, y = golden("X"), golden("Y")
    m = metrics.moments(x)
    np.testing.assert_allclose(m.mean, golden("mu_X"), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(m.covariance, golden("sigma_X"), rtol=1e-5, atol=1e-6)
    value = metrics.frechet_distance(x, y)
    # the peer's square root of a singular product is good to half the digits
    assert value == pytest.approx(golden("fid_edm")[0], rel=1e-7, abs=1e-12)
    assert value == pytest.approx(golden("fid_torch_fidelity")[0], rel=1e-7, abs=1e-11)


def test_golden_kid(golden):
    indices = golden("kid_idx1"), golden("kid_idx2")
    result = metrics.kid(golden("X"), golden("Y"), indices=indices)
    np.testing.assert_allclose(result.per_subset, golden("kid_each"), rtol=1e-4, atol=1e-5)
    assert result.mean == pytest.approx(golden("kid_mean")[0], rel=1e-4)
    assert result.std == pytest.approx(golden("kid_std")[0], rel=1e-4)


def test_golden_mmd(golden):
    n = min(len(golden("X")), len(golden("Y")))
    x, y = golden("X")[:n], golden("Y")[:n]
    cubic = golden("mmd2_poly_unbiased_equaln")[0]
    gauss = golden("mmd2_rbf_unbiased_equaln_sigma2")[0]
    assert metrics.mmd2(x, y) == pytest.approx(cubic, rel=1e-10)
    assert metrics.mmd2(x, y, metrics.rbf(2.0)) == pytest.approx(gauss, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize("k", [3, 5])
def test_golden_prdc(golden, k, monkeypatch):
    monkeypatch.setattr(neighbours, "ROWS", 64)
    value = metrics.prdc(golden("X"), golden("Y"), k)
    for name in metrics.PRDC._fields:
        assert getattr(value, name) == pytest.approx(golden(f"prdc_k{k}_{name}")[0], rel=1e-12)


@pytest.mark.parametrize("p", [1, 2])
def test_golden_sliced(golden, p):
    x, y, v = golden("X"), golden("Y"), golden("projections")
    n = min(len(x), len(y))
    expected = {
        metrics.sliced_wasserstein(x[:n], y[:n], p, directions=v): f"sliced_w{p}",
        metrics.max_sliced_wasserstein(x[:n], y[:n], p, directions=v): f"max_sliced_w{p}",
        metrics.sliced_wasserstein(x, y, p, directions=v): f"sliced_w{p}_unequal_n",
    }
    for value, name in expected.items():
        assert value == pytest.approx(golden(name)[0], rel=1e-10, abs=1e-12), name


def test_golden_exact_transport(golden):
    x, y = golden("X")[:100], golden("Y")[:100]
    squared = golden("w2sq_exact_first100")[0]
    assert metrics.exact_wasserstein(x, y, 2) ** 2 == pytest.approx(squared, rel=1e-10)
    # with cost sqrt(float32-rounded squares) on the peer's side
    assert metrics.exact_wasserstein(x, y, 1) == pytest.approx(
        golden("w1_exact_first100")[0], rel=1e-8
    )


# behaviour

SYMMETRIC = {
    "frechet": metrics.frechet_distance,
    "rbf": lambda x, y: metrics.mmd2(x, y, metrics.rbf(1.5)),
    "exact": lambda x, y: metrics.exact_wasserstein(x[:50], y),
}


@pytest.mark.parametrize("name", SYMMETRIC)
def test_rigid_motions_and_exchange_leave_the_distance(name, pair, rng):
    metric, (x, y) = SYMMETRIC[name], pair
    q = rotation(5, rng)
    value = metric(x, y)
    assert metric(x @ q + 30.0, y @ q + 30.0) == pytest.approx(value, rel=1e-8)
    assert metric(y, x[:50]) == pytest.approx(metric(x[:50], y), rel=1e-10)
    assert metric(rng.permutation(x[:50]), y) == pytest.approx(metric(x[:50], y), rel=1e-10)


def test_rigid_motions_leave_prdc_and_exchange_swaps_precision_and_recall(pair, rng):
    x, y = pair
    value = metrics.prdc(x, y, 3)
    q = rotation(5, rng)
    assert metrics.prdc(x @ q + 1e3, y @ q + 1e3, 3) == pytest.approx(value)
    swapped = metrics.prdc(y, x, 3)
    assert (swapped.precision, swapped.recall) == (value.recall, value.precision)


def test_prdc_of_duplicates_is_not_decided_by_rounding(rng):
    # six copies of each point: the balls to the third neighbour have radius 0 and hold nothing
    y = np.repeat(1e3 * rng.standard_normal((8, 16)), 6, axis=0)
    assert metrics.prdc(y, y, 3) == (0.0, 0.0, 0.0, 0.0)


def test_kid_subsets_come_from_the_seed(pair):
    x, y = pair
    first = metrics.kid(x, y, subsets=4, size=20, seed=3)
    again = metrics.kid(x, y, indices=metrics.kid_indices(70, 50, 4, 20, 3))
    other = metrics.kid(x, y, subsets=4, size=20, seed=4)
    np.testing.assert_array_equal(first.per_subset, again.per_subset)
    assert first.mean == first.per_subset.mean() != other.mean
    rows = metrics.kid_indices(70, 50, 4, 50, 3)[1]
    assert all(len(set(row)) == 50 for row in rows.tolist())


@pytest.mark.parametrize("result", [
    metrics.frechet_distance, metrics.mmd2, metrics.sliced_wasserstein,
    metrics.max_sliced_wasserstein, lambda x, y: metrics.prdc(x, y, 3).density,
])  # fmt: skip
def test_jax_arrays_in_python_floats_out(result, pair):
    x, y = (jnp.asarray(v, jnp.float32) for v in pair)
    assert type(result(x, y)) is float


# features


def test_batched_features_are_the_features_of_all(rng):
    images = rng.standard_normal((11, 2, 2, 3)).astype(np.float32)
    shapes = []

    def features(x):
        shapes.append(x.shape)
        return jnp.sum(jnp.asarray(x), axis=3).reshape(len(x), -1)

    gathered = metrics.batched(features, 4)(images)
    np.testing.assert_array_equal(gathered, images.sum(3).reshape(11, -1))
    assert set(shapes) == {(4, 2, 2, 3)}
    assert metrics.pixels(images).shape == (11, 12)


@pytest.fixture(scope="module")
def clouds():
    """Three classes of 4 x 4 grey images that a linear map can separate."""
    rng = np.random.default_rng(5)
    labels = np.arange(150) % 3
    noise = 0.2 * rng.standard_normal((150, 4, 4, 1))
    return (noise + rng.standard_normal((3, 4, 4, 1))[labels]).astype(np.float32), labels


def train(clouds, seed=0, **options):
    return metrics.classifier_features(
        *clouds, seed, widths=(16, 8), num_updates=60, learning_rate=1e-2, **options
    )


def test_classifier_learns_and_its_features_are_standardised(clouds):
    classifier, accuracy = train(clouds)
    features = classifier.features(jnp.asarray(clouds[0]))
    assert accuracy == 1.0
    assert features.shape == (150, 8) and features.dtype == jnp.float32
    np.testing.assert_allclose(np.mean(features, 0), 0, atol=0.3)
    np.testing.assert_allclose(np.std(features, 0), 1, atol=0.3)
    assert classifier.logits(jnp.asarray(clouds[0])).shape == (150, 3)


def test_classifier_is_a_function_of_its_seed(clouds):
    first, again, other = (train(clouds, seed)[0] for seed in (0, 0, 1))
    same = jax.tree.map(lambda a, b: bool(jnp.array_equal(a, b)), first, again)
    assert all(jax.tree.leaves(same))
    assert not jnp.array_equal(first.params[0][0], other.params[0][0])


def test_classifier_trains_on_batches_too(clouds):
    assert train(clouds, batch_size=32)[1] == 1.0


def test_classifier_features_tell_data_from_its_corruption(clouds):
    classifier, _ = train(clouds)
    features = classifier.features(jnp.asarray(clouds[0]))
    noisy = classifier.features(jnp.asarray(clouds[0][:, ::-1]))
    real_data = metrics.real_data_score(metrics.frechet_distance, features)
    assert metrics.frechet_distance(noisy, features) > 5 * real_data.value


# protocol


def test_score_states_its_protocol_and_survives_json(pair):
    x, y = pair
    score = metrics.score(
        metrics.frechet_distance, x, y,
        name="frechet", features="pixels", reference_name="toy test set", seed=7, real=y,
    )  # fmt: skip
    assert score.value == metrics.frechet_distance(x, y)
    assert score.real_data is not None and (score.samples, score.reference_samples) == (70, 50)
    text = str(score)
    for part in (
        "frechet",
        "pixels",
        "toy test set",
        "70 samples",
        "50 of",
        "seed 7",
        "29 against 21",
    ):
        assert part in text
    assert "\n" not in text
    assert json.loads(json.dumps(score.to_dict()))["real_data"]["samples"] == 29
    assert "real data not scored" in str(score._replace(real_data=None))


@pytest.mark.parametrize(
    "sizes, expected",
    [(None, (50, 51)), ((20, 60), (20, 60)), ((101, 101), (50, 51)), ((1000, 10), (100, 1))],
)
def test_real_data_are_scored_with_the_sizes_of_the_score_where_it_can(sizes, expected):
    seen = []

    def metric(a, b):
        seen.append((a, b))
        return 1.0

    real_data = metrics.real_data_score(metric, np.arange(101.0)[:, None], 0, sizes)
    a, b = seen[0]
    assert (len(a), len(b)) == expected == (real_data.samples, real_data.reference_samples)
    assert not set(a[:, 0]) & set(b[:, 0])


# refusals

PAIRED = {
    "frechet": metrics.frechet_distance,
    "mmd": metrics.mmd2,
    "kid": lambda x, y: metrics.kid(x, y, 2, 5),
    "prdc": lambda x, y: metrics.prdc(x, y, 3),
    "nearest": metrics.nearest_distances,
    "sliced": metrics.sliced_wasserstein,
    "max sliced": metrics.max_sliced_wasserstein,
    "exact": metrics.exact_wasserstein,
}


@pytest.mark.parametrize("name", PAIRED)
def test_unusable_features_are_refused(name, pair):
    x, y = pair[0][:50], pair[1].copy()
    with pytest.raises(ValueError, match="dimension|size"):
        PAIRED[name](x[:, :4], y)
    y[17, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        PAIRED[name](x, y)
    with pytest.raises(ValueError, match="samples"):
        PAIRED[name](x[:0], x)


def test_features_with_nan_say_which_row(pair):
    x, y = pair
    y[17, 2] = np.inf
    with pytest.raises(ValueError, match="reference features .* row 17"):
        metrics.mmd2(x, y)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x, y: metrics.prdc(x[:5], y, 5), "k=5 .* more than 5 .* 5 generated and 50"),
        (lambda x, y: metrics.prdc(x, y, 0), "k must be"),
        (lambda x, y: metrics.prdc(x, y, radii=np.ones(70)), "50 reference samples have 50 radii"),
        (lambda x, y: metrics.squared_radii(x[:5], 5), "at least 6"),
        (lambda x, y: metrics.kid(x, y), "2 to 50 samples .got 1000"),
        (lambda x, y: metrics.frechet_distance(x[:1], y), "at least 2"),
        (lambda x, y: metrics.frechet_distance(x[0], y), "shape"),
        (lambda x, y: metrics.sliced_wasserstein(x, y, 0.5), "order"),
        (lambda x, y: metrics.sliced_wasserstein(x, y, directions=np.ones((4, 3))), "directions"),
        (lambda x, y: metrics.exact_wasserstein(np.ones((4001, 1)), np.ones((2, 1))), "multiple"),
        (lambda x, y: metrics.rbf(0.0), "bandwidth"),
        (lambda x, y: metrics.merge(metrics.moments(x), metrics.moments(y[:, :2])), "merge"),
        (lambda x, y: metrics.streamed_moments([]), "no batches"),
        (lambda x, y: metrics.gaussian_w2_squared([0.0], [[-1.0]], [0.0], [[1.0]]), "negative"),
        (lambda x, y: metrics.gaussian_w2_squared([0, 0], np.ones((2, 3)), [0], [[1]]), "of one"),
        (lambda x, y: metrics.gaussian_w2_squared([0, 0], np.eye(2), [0, 0], np.tri(2)), "symm"),
        (lambda x, y: metrics.nearest_distances(x, y.astype(np.uint8)), "one scale"),
        (lambda x, y: metrics.real_data_score(metrics.mmd2, x[:1]), "cannot split"),
        (lambda x, y: metrics.batched(metrics.pixels, 0), "batch_size"),
        (lambda x, y: metrics.batched(metrics.pixels)(x[:0]), "no images"),
        (lambda x, y: metrics.classifier_features(x, np.zeros(3, int)), "labels must be 70"),
        (lambda x, y: metrics.classifier_features(x, np.zeros(70, int), held_out=0.0), "empty"),
        (lambda x, y: metrics.classifier_features(x * np.nan, np.zeros(70, int)), "finite"),
        (lambda x, y: metrics.classifier_features(x, np.zeros(70, int), num_updates=0), "updates"),
        (lambda x, y: metrics.batched(lambda images: images[:1], 2)(x), "features of 2 images"),
        (lambda x, y: metrics.mmd2(x + 1j, y), "real numbers"),
        (lambda x, y: metrics.polynomial(0), "degree"),
        (lambda x, y: metrics.polynomial(3, -1.0), "gamma"),
        (lambda x, y: metrics.exact_wasserstein(x, y, np.nan), "p >= 1"),
        (lambda x, y: metrics.psnr(np.zeros((1, 2), np.uint8), np.ones((1, 2))), "span=255"),
        (lambda x, y: metrics.ssim(np.zeros((1, 3, 8, 8)), np.ones((1, 3, 8, 8))), "channels"),
    ],
)  # fmt: skip
def test_unusable_arguments_are_refused(call, message, pair):
    with pytest.raises(ValueError, match=message):
        call(*pair)


def test_integer_images_are_refused(clouds):
    classifier, _ = train(clouds)
    with pytest.raises(TypeError, match="floats in"):
        classifier.features(jnp.zeros((1, 4, 4, 1), jnp.uint8))
    with pytest.raises(TypeError, match="floats in"):
        metrics.classifier_features(np.zeros((4, 8), np.uint8), np.zeros(4, int))
    with pytest.raises(TypeError, match="floats in"):
        metrics.pixels(np.zeros((4, 8), np.uint8))
