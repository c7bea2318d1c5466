"""Parallel sampling: the sequential sampler is its fixed point, reached sample by sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import exact, grids, solvers
from jaxdiff.sampling.picard import picard
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.table import pad
from jaxdiff.sampling.trace import table

MIXTURE = exact.GaussianMixture(
    [[0.7, 0.3], [0.2, 0.8]], [[0.9, -0.3], [-0.6, 0.5]], [[0.05, 0.1], [0.1, 0.02]]
)
LABELS = jnp.array([0, 1, 1, 0, 1], jnp.int32)


@pytest.fixture(scope="module")
def start():
    return 80.0 * jax.random.normal(jax.random.key(3), (5, 2))


EULER = table(solvers.euler, grids.karras(8))
CHURN = table(solvers.churn, grids.karras(4), amount=10.0)  # of Heun: two states per output
DDPM = table(solvers.ddpm, grids.karras(100))
UNIPC = table(solvers.unipc, grids.karras(8, zero=False))  # a window of four outputs


@pytest.mark.parametrize("t", [UNIPC, CHURN], ids=lambda t: t.name)
def test_without_tolerance_it_is_the_sequential_sampler(key, start, t):
    """Any table, any gain: equal to rounding, in no more rounds than evaluations."""
    own = key if t.stochastic else None
    expected = sample(MIXTURE.denoiser, t, start, LABELS, key=own)
    for data_std in (0.0, 0.7, np.inf):
        out = picard(
            MIXTURE.denoiser, t, start, LABELS, key=own, window=3, tolerance=0.0, data_std=data_std
        )
        np.testing.assert_allclose(out.states, expected, rtol=1e-9, atol=1e-9)
        assert (out.rounds <= t.nfe).all() and (out.nfe >= t.nfe).all()


def test_a_window_of_one_is_the_sequential_sampler(start):
    t = EULER
    out = picard(MIXTURE.denoiser, t, start, LABELS, window=1, tolerance=0.1)
    np.testing.assert_allclose(out.states, sample(MIXTURE.denoiser, t, start, LABELS), rtol=1e-12)
    assert (out.rounds == t.nfe).all() and (out.nfe == t.nfe).all()


@pytest.mark.parametrize("window", [3, 100])
def test_on_an_isotropic_gaussian_nothing_is_iterated(start, window):
    """There the gain is all of D: the first guess is right, and every window final at once."""
    t = EULER
    truth = exact.Gaussian(np.zeros(2), np.full(2, 0.49))
    out = picard(truth.denoiser, t, start, window=window, tolerance=1e-9, data_std=0.7)
    np.testing.assert_allclose(out.states, sample(truth.denoiser, t, start), rtol=1e-12)
    assert (out.rounds == -(-t.nfe // window)).all() and (out.nfe == t.nfe).all()


def in_numpy(label):
    """The mixture's denoiser of one class in NumPy, for states (n, 2) and levels (n,)."""
    weights, means, variances = (
        np.asarray(a) for a in (MIXTURE.weights, MIXTURE.means, MIXTURE.variances)
    )

    def D(y, s):
        spread, apart = variances + s[:, None, None] ** 2, y[:, None] - means
        logits = np.log(weights[label]) - 0.5 * (apart**2 / spread + np.log(spread)).sum(-1)
        share = np.exp(logits - logits.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        return (share[..., None] * (means + variances / spread * apart)).sum(1)

    return D


def paradigms(D, y, levels, tolerance):
    """Algorithm 1 of the paper for Euler steps and one window over all of them, for one sample."""
    steps = len(levels) - 1
    path, first, rounds, nfe = np.tile(y, (steps + 1, 1)), 0, 0, 0
    variances = [levels[i] ** 2 * (1 - (levels[i] / levels[i - 1]) ** 2) for i in range(1, steps)]
    while first < steps:
        s, r = np.array(levels[first:-1])[:, None], np.array(levels[first + 1 :])[:, None]
        drift = (r - s) * (path[first:-1] - D(path[first:-1], s[:, 0])) / s
        new = path[first] + np.cumsum(drift, axis=0)
        change = np.mean((new - path[first + 1 :]) ** 2, axis=1)[:-1]
        path[first + 1 :], rounds, nfe = new, rounds + 1, nfe + steps - first
        late = np.flatnonzero(change > tolerance**2 * np.array(variances[first:]))
        first = first + late[0] + 1 if len(late) else steps
    return path[-1], rounds, nfe


def test_the_papers_iteration_is_a_limit_of_the_gain(start):
    t = table(solvers.euler, grids.karras(40))
    for tolerance in (0.5, 0.1, 0.02):
        options = {"window": 40, "tolerance": tolerance, "data_std": np.inf}
        out = picard(MIXTURE.denoiser, t, start, LABELS, **options)
        for i, label in enumerate(LABELS):
            state, *counts = paradigms(
                in_numpy(label), np.asarray(start[i]), list(t.levels), tolerance
            )
            assert counts == [int(out.rounds[i]), int(out.nfe[i])]
            np.testing.assert_allclose(out.states[i], state, rtol=1e-9, atol=1e-9)


def test_only_what_comes_before_the_first_late_state_is_final():
    """Short steps first, whose tolerance is small: later states are within theirs earlier.

    With data_std 0 and D not zero at levels above 1.9 only, against the iteration in closed form,
    y_n/s_n = y_0/s_0 + sum (1/s_{m+1} - 1/s_m) D_m.
    """
    levels = np.concatenate([np.geomspace(2.0, 1.9, 31)[:-1], np.geomspace(1.9, 0.1, 10)])

    def D(y, s, cond=None, np=jnp):
        return np.where(np.reshape(s, (-1, 1)) > 1.9, 3 * np.sin(8 * y), 0.0)

    start = 2.0 * jax.random.normal(jax.random.key(3), (5, 2))
    options = {"window": 39, "tolerance": 0.1, "data_std": 0.0}
    out = picard(D, table(solvers.euler, levels), start, **options)
    s, inverse = levels[:, None], np.diff(1 / levels)[:, None]
    bounds = 0.1**2 * levels[1:-1] ** 2 * (1 - (levels[1:-1] / levels[:-2]) ** 2)
    prefixes = []
    for i, y in enumerate(np.asarray(start)):
        path, first, rounds = y * s / s[0], 0, 0
        while first < 39:
            terms = inverse[first:] * D(path[first:-1], levels[first:-1], np=np)
            new = s[first + 1 :] * (path[first] / s[first] + np.cumsum(terms, axis=0))
            change = np.mean((new - path[first + 1 :]) ** 2, axis=1)[:-1]
            path[first + 1 :], rounds = new, rounds + 1
            late = change > bounds[first:]
            prefixes.append((np.diff(late.astype(int)) >= 0).all())
            first = first + np.flatnonzero(late)[0] + 1 if late.any() else 39
        assert rounds == out.rounds[i]
        np.testing.assert_allclose(out.states[i], path[-1], rtol=1e-9, atol=1e-9)
    assert not all(prefixes)


@pytest.mark.slow
def test_it_needs_few_rounds_and_errs_within_the_tolerance(key, start):
    """A hundred steps of DDPM, with noise fixed before: the same samples in a fifth of the time."""
    expected = sample(MIXTURE.denoiser, DDPM, start, LABELS, key=key)
    rounds, errors = [], []
    for tolerance in (0.1, 0.01, 0.001):
        out = picard(MIXTURE.denoiser, DDPM, start, LABELS, key=key, tolerance=tolerance)
        rounds.append(int(out.rounds.max()))
        errors.append(float(jnp.sqrt(jnp.mean((out.states - expected) ** 2))))
    assert rounds[0] < rounds[1] < rounds[2] <= 20
    assert errors[0] > errors[1] > errors[2]
    assert errors[1] < 0.01 and errors[2] < 0.001


def test_no_sample_depends_on_its_neighbours(key, start):
    """Sample 2 alone among others, who start elsewhere and are of another class."""
    one = picard(MIXTURE.denoiser, DDPM, start, LABELS, key=key)
    others = jnp.where(jnp.arange(5).reshape(5, 1) == 2, start, start[::-1])
    labels = jnp.where(jnp.arange(5) == 2, LABELS, 1 - LABELS)
    two = picard(MIXTURE.denoiser, DDPM, others, labels, key=key)
    assert not np.array_equal(one.rounds, two.rounds)
    for ours, theirs in zip(one, two, strict=True):
        np.testing.assert_allclose(ours[2], theirs[2], rtol=1e-12)


def test_recorded_noise_and_float32(rng, start):
    t = table(solvers.sde_dpmpp_2s, grids.karras(2))
    noise = jnp.asarray(rng.normal(size=(len(t.draws), *start.shape)))
    y, noise = start.astype(jnp.float32), noise.astype(jnp.float32)
    expected = sample(MIXTURE.denoiser, t, y, LABELS, noise=noise)
    out = picard(MIXTURE.denoiser, t, y, LABELS, noise=noise, window=2, tolerance=0.0)
    assert out.states.dtype == jnp.float32 and out.rounds.dtype == out.nfe.dtype == jnp.int32
    np.testing.assert_allclose(out.states, expected, rtol=1e-4, atol=1e-5)


def test_what_it_is_given_is_checked(key, start):
    D, t = MIXTURE.denoiser, EULER
    with pytest.raises(ValueError, match="at least one evaluation, not 0"):
        picard(D, t, start, window=0)
    with pytest.raises(ValueError, match="must not be negative"):
        picard(D, t, start, tolerance=-1.0)
    with pytest.raises(ValueError, match="padded table"):
        picard(D, pad([t])[0], start)
    with pytest.raises(ValueError, match="draws noise"):
        picard(D, CHURN, start)
    with pytest.raises(TypeError, match="needs a table"):
        picard(D, solvers.euler, start)
