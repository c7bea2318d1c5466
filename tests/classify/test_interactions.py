"""Drug-target prediction: each method against its formula, written out pair by pair."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import truncnorm

from jaxdiff.classify import interactions
from jaxdiff.classify.interactions import kbmf, kernels
from jaxdiff.classify.interactions.cmf import updated_rows
from jaxdiff.classify.interactions.inverse import inverse_factor, positive_inverse
from jaxdiff.classify.interactions.nrlmf import (
    fitted,
    laplacian,
    log_posterior,
    of_neighbours,
)
from jaxdiff.classify.interactions.pairwise_svm import pairwise_machine
from jaxdiff.classify.interactions.problem import Problem, zero_or_one

M, N = 6, 4


def similarity(rng, size):
    x = rng.normal(size=(size, 3))
    return np.exp(-0.3 * ((x[:, None] - x) ** 2).sum(-1))


@pytest.fixture(scope="module")
def small():
    """Six drugs and four targets; the last drug and the last target have no known interaction."""
    rng = np.random.default_rng(3)
    known = np.array(
        [[1, 0, 1, 0], [1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]], float
    )
    made = interactions.problem(known, similarity(rng, M), similarity(rng, N))
    return jax.tree.map(jnp.asarray, made)


def gip(Y):
    g = len(Y) / (Y**2).sum()
    return np.array([[np.exp(-g * ((a - b) ** 2).sum()) for b in Y] for a in Y])


def mixed(problem, alpha, known=None):
    Y = np.asarray(problem.known if known is None else known)
    d, t = np.asarray(problem.drugs), np.asarray(problem.targets)
    return alpha * d + (1 - alpha) * gip(Y), alpha * t + (1 - alpha) * gip(Y.T)


def on_all_pairs(Kd, Kt, Y, sigma=1.0):
    """RLS-Kron with the matrix of all pairs."""
    K = np.kron(Kd, Kt)
    return (K @ np.linalg.solve(K + sigma * np.eye(K.shape[0]), Y.ravel())).reshape(Y.shape)


def test_rls_kron_is_least_squares_over_all_pairs(small):
    ours = jax.jit(interactions.rls_kron)(small)
    expected = on_all_pairs(*mixed(small, 0.5), np.asarray(small.known))
    np.testing.assert_allclose(ours, expected, atol=1e-10)


def test_rls_avg_and_blm_join_two_sides_of_least_squares(small):
    Y = np.asarray(small.known)
    for method, alpha, join in (
        (interactions.rls_avg, 0.5, lambda a, b: (a + b) / 2),
        (interactions.blm, 0.7, np.maximum),
    ):
        Kd, Kt = mixed(small, alpha)
        drugs = Kd @ np.linalg.solve(Kd + np.eye(M), Y)
        targets = (Kt @ np.linalg.solve(Kt + np.eye(N), Y.T)).T
        np.testing.assert_allclose(jax.jit(method)(small), join(drugs, targets), atol=1e-10)


def test_inferred_profiles_are_neighbours_sums_scaled(small):
    Y, S = np.asarray(small.known), np.asarray(small.drugs)
    row = sum(S[5, j] * Y[j] for j in range(5))
    expected = np.vstack([Y[:5], (row - row.min()) / (row.max() - row.min())])
    np.testing.assert_allclose(kernels.inferred_profiles(small.known, small.drugs), expected)


def test_blm_nii_trains_a_new_drugs_own_model_and_the_toolbox_its_targets_models(small):
    rows = np.asarray(kernels.inferred_profiles(small.known, small.drugs))
    columns = np.asarray(kernels.inferred_profiles(small.known.T, small.targets)).T
    Kd, Kt = mixed(small, 0.7)
    own = (Kt @ np.linalg.solve(Kt + np.eye(N), rows.T)).T
    other = Kd @ np.linalg.solve(Kd + np.eye(M), columns)
    ours = jax.jit(
        lambda p: (
            interactions.blm_nii(p),
            interactions.blm_nii(p, reference=True),
            interactions.blm(p, reference=True),
        )
    )(small)
    np.testing.assert_allclose(ours[0], np.maximum(own, other), atol=1e-10)
    Kd[5], Kd[:, 5] = small.drugs[5], small.drugs[:, 5]
    Kt[3], Kt[:, 3] = small.targets[3], small.targets[:, 3]
    theirs = np.maximum(
        Kd @ np.linalg.solve(Kd + np.eye(M), rows),
        (Kt @ np.linalg.solve(Kt + np.eye(N), columns.T)).T,
    )
    np.testing.assert_allclose(ours[1], theirs, atol=1e-10)
    plain = np.maximum(
        Kd @ np.linalg.solve(Kd + np.eye(M), small.known),
        (Kt @ np.linalg.solve(Kt + np.eye(N), small.known.T)).T,
    )
    np.testing.assert_allclose(ours[2], plain, atol=1e-10)


def test_wnn_gip_fills_by_rank_and_pairs_eigenvalues_with_their_vectors(small):
    Y = np.asarray(small.known)
    A, B = np.eye(M), np.eye(N)
    order = [j for j in np.argsort(-np.asarray(small.drugs)[5]) if j != 5]
    A[5, order] = 0.5 * 0.8 ** np.arange(5)
    order = [j for j in np.argsort(-np.asarray(small.targets)[3]) if j != 3]
    B[3, order] = 0.5 * 0.8 ** np.arange(3)
    filled = A @ Y @ B.T
    expected = on_all_pairs(*mixed(small, 0.5, filled), filled)
    found = jax.jit(functools.partial(interactions.wnn_gip, first=0.5))(small)
    np.testing.assert_allclose(found, expected, atol=1e-10)


def test_netlaprls_is_its_first_form_where_that_exists(small):
    def side(Y, S, g, b):
        W = (S + g * Y @ Y.T) / (1 + g)
        np.fill_diagonal(W, 0)
        root = np.diag(W.sum(1) ** -0.5)
        L = np.eye(len(W)) - root @ W @ root
        return W @ np.linalg.solve(W + b * L @ W, Y)

    Y = np.asarray(small.known)
    for g, b in ((10.0, 1e-5), (0.01, 0.3)):
        both = side(Y, np.asarray(small.drugs), g, b) + side(Y.T, np.asarray(small.targets), g, b).T
        ours = interactions.netlaprls(small, gamma=g, beta=b)
        np.testing.assert_allclose(ours, both / 2, atol=1e-9)


def test_a_row_of_cmf_is_at_its_minimum(small, rng):
    U, V = jnp.asarray(rng.normal(size=(M, 2))), jnp.asarray(rng.normal(size=(N, 2)))
    observed = small.observed.at[0, 0].set(0.0)

    def objective(X):
        fit = jnp.sum(observed * (small.known - X @ V.T) ** 2)
        return fit + 0.5 * jnp.sum(X**2) + 0.2 * jnp.sum((small.drugs - X @ U.T) ** 2)

    slope = jax.jit(
        lambda: jax.grad(objective)(
            updated_rows(small.known, observed, small.drugs, U, V, 0.5, 0.2)
        )
    )()
    np.testing.assert_allclose(slope, 0, atol=1e-12)


def test_cmf_finds_a_held_out_pair_of_low_rank(rng, key):
    U, V = rng.normal(size=(M, 2)), rng.normal(size=(N, 2))
    observed = np.ones((M, N))
    observed[2, 1] = 0
    exact = Problem(*map(jnp.asarray, (U @ V.T * observed, observed, U @ U.T, V @ V.T)))
    fit = jax.jit(lambda p: interactions.cmf(p, key, rank=2, ridge=1e-6, num_updates=200))(exact)
    np.testing.assert_allclose(fit, U @ V.T, atol=1e-3)


def test_nrlmf_ascends_its_posterior_and_scores_new_drugs_by_neighbours(small, key):
    """Of the converged factors the gradient vanishes; a new drug's are its neighbours' mean."""

    @jax.jit
    def run(p):
        U, V = fitted(p, key, rank=2, max_updates=3000, tolerance=1e-13)
        penalties = [
            0.125 * jnp.eye(len(S)) + w * laplacian(S, 5)
            for S, w in zip(p[2:], (0.25, 0.125), strict=True)
        ]
        posterior = lambda U, V, a: log_posterior(  # noqa: E731
            p.known, U, V, *(a * x for x in penalties), 5.0
        )
        slopes = jax.grad(posterior, argnums=(0, 1))(U, V, 1.0)
        new = of_neighbours(U, p.drugs, kernels.is_new(p.known), 2)
        return U, V, slopes, posterior(U, V, 0.0), new

    U, V, slopes, flat, new = run(small)
    for slope in slopes:
        np.testing.assert_allclose(slope, 0, atol=2e-3)
    z = np.asarray(U @ V.T)  # the likelihood of c Y successes and 1 - Y failures
    Y, p = np.asarray(small.known), 1 / (1 + np.exp(-z))
    by_hand = (5 * Y * np.log(p) + (1 - Y) * np.log(1 - p)).sum()
    assert flat == pytest.approx(by_hand, rel=1e-10)
    nearest = np.argsort(-np.asarray(small.drugs)[5, :5])[:2]
    weights = np.asarray(small.drugs)[5, nearest]
    np.testing.assert_allclose(new[5], weights @ np.asarray(U)[nearest] / weights.sum())
    np.testing.assert_array_equal(new[:5], U[:5])


def test_the_laplacian_of_neighbours_measures_differences(small, rng):
    S, u = np.asarray(small.drugs), rng.normal(size=M)
    A = np.zeros((M, M))
    for i in range(M):
        for j in [j for j in np.argsort(-S[i]) if j != i][:2]:
            A[i, j] = S[i, j]
    apart = sum(A[i, j] * (u[i] - u[j]) ** 2 for i in range(M) for j in range(M)) / 2
    assert u @ laplacian(small.drugs, 2) @ u == pytest.approx(apart)


def test_the_truncated_mean_of_kbmf_is_scipys():
    mean, margin = np.array([[-2.0, 0.3, 4.0]]), 1.0
    above = truncnorm.mean(margin - mean, np.inf, loc=mean)
    below = truncnorm.mean(-np.inf, -margin - mean, loc=mean)
    for labels, expected in ((1.0, above), (-1.0, below)):
        ours = kbmf.truncated_mean(jnp.asarray(mean), jnp.full((1, 3), labels), margin)
        np.testing.assert_allclose(ours, expected, rtol=1e-10)


def test_an_update_of_kbmf_is_two_gaussian_posteriors(small, rng):
    """Those of a column of weights given the factors, then of a drug's factors given the scores."""
    size, s = 2, 0.4
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape))  # noqa: E731
    eye = jnp.eye(size)
    own = kbmf.Side(jnp.exp(draw(M, size)), draw(M, size), draw(M, size), eye)
    other, f = kbmf.Side(draw(N, size) ** 2, draw(N, size), draw(N, size), 0.3 * eye), draw(M, N)
    new = kbmf.updated(own, other, small.drugs, f, s)
    K = np.asarray(small.drugs)
    covariance = np.linalg.inv(np.diag(own.precision[:, 1]) + K @ K.T / s**2)
    column = covariance @ K @ np.asarray(own.factors)[:, 1] / s**2
    np.testing.assert_allclose(new.weights[:, 1], column, rtol=1e-9)
    expected = 1.5 / (1 + (column**2 + np.diag(covariance)) / 2)
    np.testing.assert_allclose(new.precision[:, 1], expected, rtol=1e-9)
    G = np.asarray(other.factors)
    precision = np.eye(size) / s**2 + sum(np.outer(g, g) + 0.3 * np.eye(size) for g in G)
    aim = K[3] @ np.asarray(new.weights) / s**2 + G.T @ np.asarray(f)[3]
    np.testing.assert_allclose(new.factors[3], np.linalg.solve(precision, aim), rtol=1e-9)
    np.testing.assert_allclose(new.covariance, np.linalg.inv(precision), rtol=1e-9)


@pytest.mark.slow
def test_kbmf_gives_probabilities_that_know_the_interactions(small, key):
    made = jax.jit(lambda p: interactions.kbmf2k(p, key, rank=3, num_updates=30))(small)
    known = np.asarray(small.known) == 1
    assert ((0 < made) & (made < 1)).all()
    assert made[known].mean() > 2 * made[~known].mean()


def test_the_pairwise_machine_solves_its_quadratic_programme(small):
    Kd, Kt = mixed(small, 0.5)
    z = 2 * np.asarray(small.known) - 1
    costs = np.where(z > 0, 2.0, 0.5)
    costs[0, 0] = 0
    K = np.kron(Kd, Kt) * np.outer(z, z)

    def negative_dual(a):
        return a @ K @ a / 2 - a @ (1 + z.ravel()), K @ a - (1 + z.ravel())

    bounds = [(0, c) for c in costs.ravel()]
    options = {"ftol": 1e-15, "gtol": 1e-10, "maxiter": 5000}
    best = minimize(negative_dual, 0 * z.ravel(), jac=True, bounds=bounds, options=options)
    solve = jax.jit(pairwise_machine, static_argnums=4)
    ours = solve(*map(jnp.asarray, (Kd, Kt, z, costs)), 2000)
    expected = Kd @ (best.x.reshape(M, N) * z) @ Kt - 1
    np.testing.assert_allclose(ours.scores, expected, atol=1e-4)
    assert 0 <= ours.gap < 1e-6
    assert ours.dual[0, 0] == 0


def test_inverses_by_blocks(rng):
    x = rng.normal(size=(2, 37, 40))
    matrix = x @ np.swapaxes(x, 1, 2)
    ours = jax.jit(positive_inverse)(jnp.asarray(matrix))
    np.testing.assert_allclose(ours, np.linalg.inv(matrix), rtol=1e-7, atol=1e-9)
    assert np.isnan(positive_inverse(-jnp.eye(2))).any()
    W = np.asarray(inverse_factor(jnp.asarray(matrix)))
    np.testing.assert_array_equal(W, np.tril(W))
    np.testing.assert_allclose(np.linalg.inv(W) @ np.linalg.inv(W).swapaxes(1, 2), matrix)


def test_no_method_looks_at_held_out_pairs(small, key):
    """Scores are the same whatever is true of the pairs that are hidden."""
    mask = np.zeros((M, N), bool)
    mask[0, 0] = mask[1, 3] = True
    flipped = small._replace(known=jnp.where(mask, 1 - small.known, small.known))
    one, other = (interactions.hide(p, mask) for p in (small, flipped))
    np.testing.assert_array_equal(one.known, other.known)
    np.testing.assert_array_equal(one.observed, ~mask)


@pytest.mark.parametrize("name", ["rls_kron", "pairwise_svm"])
def test_a_profile_alone_knows_nothing_of_a_new_drug(small, name):
    """The negative control: all new drugs have the same scores."""
    hidden = interactions.hide(small, np.arange(M)[:, None].repeat(N, 1) >= 4)
    scores = getattr(interactions, name)(jax.tree.map(jnp.asarray, hidden), alpha=0.0)
    np.testing.assert_allclose(scores[4], scores[5], atol=1e-9)
    scores = getattr(interactions, name)(jax.tree.map(jnp.asarray, hidden), alpha=0.5)
    assert np.abs(scores[4] - scores[5]).max() > 1e-3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rls_kron", {"alpha": 1.5}, "alpha must lie between 0 and 1"),
        ("rls_avg", {"sigma": 0.0}, "sigma must be positive"),
        ("wnn_gip", {"decay": -0.1}, "decay must lie between 0 and 1"),
        ("wnn_gip", {"first": 0.0}, "first must be positive"),
        ("netlaprls", {"beta": 0.0}, "beta must be positive"),
        ("pairwise_svm", {"cost": 0.0}, "cost must be positive"),
    ],
)
def test_options_out_of_range_are_refused(small, name, options, message):
    with pytest.raises(ValueError, match=message):
        getattr(interactions, name)(small, **options)


def test_options_of_factorisations_out_of_range_are_refused(small, key):
    for method, options in (
        (interactions.cmf, {"ridge": 0.0}),
        (interactions.kbmf2k, {"noise": 0.0}),
        (interactions.nrlmf, {"importance": 0.0}),
        (interactions.nrlmf, {"learning_rate": -0.5}),
    ):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be positive"):
            method(small, key, **options)
    with pytest.raises(ValueError, match="neighbourhood must not be negative"):
        interactions.nrlmf(small, key, ridge=(0.1, -0.1))
    with pytest.raises(ValueError, match="tolerance must not be negative"):  # NaN: no update
        interactions.nrlmf(small, key, tolerance=np.nan)


def test_methods_of_zero_and_one_refuse_affinities_known_or_traced(small, key):
    affinities = small._replace(known=3 * small.known)
    for name in ("nrlmf", "kbmf2k", "pairwise_svm"):
        arguments = (affinities,) if name == "pairwise_svm" else (affinities, key)
        with pytest.raises(ValueError, match=f"{name} takes interactions 0 and 1"):
            getattr(interactions, name)(*arguments)
    traced = jax.jit(lambda p: zero_or_one(p, "a method").known)
    assert np.isnan(traced(affinities)).all()
    np.testing.assert_array_equal(traced(small), small.known)
