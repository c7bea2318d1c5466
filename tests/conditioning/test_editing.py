"""Editing: closed forms on Gaussians, round trips, and edits that change nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import corrections, editing, grids, guidance, solvers
from jaxdiff.exact import Gaussian, GaussianMixture
from jaxdiff.sampling.inversion import fixed_point, inverse_table, invert

RNG = np.random.default_rng(0)
KEY = jax.random.key(4)
LEVELS = grids.karras(8, 0.05, 10.0)
MEANS = RNG.standard_normal((3, 2))
CLASSES = np.array([[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]])
D = GaussianMixture(CLASSES, MEANS, np.full((3, 2), 0.05)).denoiser
DATA = jnp.asarray(RNG.standard_normal((3, 2)))
OLD, NEW = jnp.array([0, 0, 1]), jnp.array([1, 1, 0])


@pytest.mark.slow
def test_sdedit_has_its_closed_form():
    """From g + s0 n: mean m + R (g - m) and deviation s0 R by the ODE, R^2 = C/(C + s0^2); mean
    m + R^2 (g - m) and variance s0^2 R^2 (1 + R^2) by DDPM.
    """
    C, m, g, s0 = 0.3, np.array([0.5]), 2.0, 1.5
    model = Gaussian(m, np.array([C])).denoiser
    R = np.sqrt(C / (C + s0**2))
    guide = jnp.full((4000, 1), g)
    start = editing.noised(guide, s0, KEY)
    np.testing.assert_allclose(start.std(), s0, rtol=0.05)
    levels = [*np.geomspace(s0, 0.01, 60), 0.0]
    x = jd.sample(model, jd.table(solvers.heun, levels), start)
    exact = m[0] + R * (start - m[0])
    np.testing.assert_allclose(x, exact, atol=2e-3)
    x = jd.sample(model, jd.table(solvers.ddpm, levels), start, key=jax.random.key(9))
    np.testing.assert_allclose(x.mean(), m[0] + R**2 * (g - m[0]), atol=0.04)
    np.testing.assert_allclose(x.var(), s0**2 * R**2 * (1 + R**2), rtol=0.1)


def test_starts_belong_to_samples():
    whole = editing.noised(DATA, jnp.array([1.0, 2.0, 3.0]), KEY)
    one = editing.noised(DATA[1:2], 2.0, KEY, jnp.array([1]))
    np.testing.assert_allclose(one, whole[1:2])


def test_translation_between_gaussians():
    """Two flows after each other: down a first one, up a second one."""
    source = Gaussian(np.array([1.0, -1.0]), np.array([0.3, 0.6]))
    target = Gaussian(np.array([-2.0, 0.0]), np.array([0.5, 0.1]))
    levels = np.geomspace(30.0, 0.05, 80)
    made = editing.translate(source.denoiser, target.denoiser, solvers.heun, levels, DATA)
    exact = target.flow(source.flow(DATA, 0.05, 30.0), 30.0, 0.05)
    np.testing.assert_allclose(made, exact, atol=5e-3)
    same = editing.translate(D, D, solvers.heun, levels, DATA, OLD, OLD)
    np.testing.assert_allclose(same, DATA, atol=5e-3)


SLOW = pytest.mark.slow


@pytest.mark.parametrize("correlated", [False, pytest.param(True, marks=SLOW)])
def test_recorded_noise_gives_the_data_back(correlated):
    grid = LEVELS[:-1]
    found = editing.record(D, grid, DATA, OLD, key=KEY, eta=0.8, correlated=correlated)
    table = jd.table(solvers.ddim, grid, eta=0.8)
    back = jd.trajectory(D, table, found.states[0], OLD, noise=found.noise)
    np.testing.assert_allclose(back.states[:-1], found.states, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(back.states[-1], DATA, rtol=1e-8, atol=1e-9)
    # from the middle on, and with another condition
    part = jd.table(solvers.ddim, grid[3:], eta=0.8)
    again = jd.sample(D, part, found.states[3], OLD, noise=found.noise[3:])
    np.testing.assert_allclose(again, DATA, rtol=1e-8, atol=1e-9)
    edit = jd.sample(D, table, found.states[0], NEW, noise=found.noise)
    assert np.abs(edit - DATA).max() > 0.1
    one = editing.record(
        D, grid, DATA[2:], OLD[2:], key=KEY, index=jnp.array([2]), eta=0.8, correlated=correlated
    )
    np.testing.assert_allclose(one.noise, found.noise[:, 2:], rtol=1e-8, atol=1e-9)


@pytest.mark.slow
def test_a_grid_to_0_ends_in_the_denoised_output():
    found = editing.record(D, LEVELS, DATA, OLD, key=KEY)
    back = jd.sample(D, jd.table(solvers.ddpm, LEVELS), found.states[0], OLD, noise=found.noise)
    np.testing.assert_allclose(back, D(found.states[-1], LEVELS[-2], OLD), rtol=1e-8, atol=1e-9)


@pytest.mark.slow
def test_recorded_states_have_the_laws_of_the_process():
    data = jnp.zeros((4000, 1))
    flat = lambda y, s, c=None: 0.0 * y  # noqa: E731
    for correlated, shared in ((False, 0.0), (True, 1.0)):
        states = editing.record(flat, [3.0, 2.0, 1.0], data, key=KEY, correlated=correlated).states[
            ..., 0
        ]
        np.testing.assert_allclose(states.std(axis=1), [3.0, 2.0], rtol=0.06)
        # of the backward process: cov(y_r, y_s) = r^2
        covariance = np.mean(states[0] * states[1])
        np.testing.assert_allclose(covariance, shared * 4.0, atol=0.4)


def embedded(y, level, cond=None):
    """A denoiser with an embedding (batch, 2) as its condition."""
    mean = 0.0 * y if cond is None else cond + 0.1 * jnp.tanh(cond)
    return mean + (y - mean) / (1 + 3 * jnp.asarray(level, y.dtype) ** 2)


@pytest.mark.slow
def test_null_text_inversion_returns_to_the_data():
    cond, null = jnp.asarray(RNG.standard_normal((3, 2))), jnp.zeros(2)
    levels, data = grids.karras(8, 0.05, 5.0), 0.5 * DATA
    table = jd.table(solvers.euler, levels)
    options = {"num_updates": 40, "learning_rate": 0.05}
    start, nulls = editing.null_text(embedded, levels, data, cond, null, 3.0, **options)
    fitted = editing.null_text_guidance(embedded, levels, nulls, 3.0)
    back = jd.sample(fitted, table, start, cond)
    plain = jd.sample(guidance.classifier_free(embedded, 3.0, null), table, start, cond)
    assert np.abs(plain - data).max() > 0.5
    assert np.abs(back - data).max() < 0.1 * np.abs(plain - data).max()
    assert nulls.shape == (8, 3, 2)
    _, one = editing.null_text(embedded, levels, data[1:2], cond[1:2], null, 3.0, **options)
    np.testing.assert_allclose(one, nulls[:, 1:2], rtol=1e-6, atol=1e-9)
    # the source's own condition as the negative one: guidance changes nothing
    both = guidance.Prompts(cond, cond)
    out = guidance.negative_prompt(embedded, 7.5)(data, 0.7, both)
    np.testing.assert_allclose(out, embedded(data, 0.7, cond), rtol=1e-12)


@pytest.mark.slow
def test_prompt_tuning_needs_no_prompt_to_return_to_the_data():
    levels, data, null = grids.karras(5, 0.05, 5.0), 0.5 * DATA, jnp.full(2, 0.3)
    table = jd.table(solvers.euler, levels)
    start, tuned = editing.prompt_tuning(
        embedded, levels, data, null, 3.0, num_updates=40, learning_rate=0.05
    )

    @jax.jit
    def run(share, cond):
        D = editing.prompt_tuning_guidance(embedded, levels, tuned, null, 3.0, share)
        return jd.sample(D, table, start, cond)

    target = jnp.asarray(RNG.standard_normal((3, 2)))
    plain = jd.sample(guidance.classifier_free(embedded, 3.0, null), table, start, target)
    assert tuned.shape == (5, 3, 2)
    back = np.abs(run(0.0, target) - data).max()
    assert back < 0.1 * np.abs(plain - data).max(), back
    np.testing.assert_allclose(run(1.0, target), plain, rtol=1e-9)  # the target's own sample
    # halfway: the guided step of a condition that is the mean of both, at each level
    own = lambda y, s, cond=None: embedded(y, s, 0.5 * cond + 0.5 * tuned[0])  # noqa: E731
    y, s = start, levels[0]
    expected = embedded(y, s, jnp.broadcast_to(null, (3, 2)))
    expected = expected + 3.0 * (own(y, s, target) - expected)
    made = editing.prompt_tuning_guidance(embedded, levels, tuned, null, 3.0)(y, s, target)
    np.testing.assert_allclose(made, expected, rtol=1e-9)


@pytest.mark.slow
def test_acceleration_beats_plain_fixed_points():
    grid, data = grids.karras(6, 0.05, 5.0)[:-1], MEANS[OLD] + 0.2 * DATA
    table = jd.table(solvers.euler, grid)

    def error(latent):
        return float(jnp.abs(jd.sample(D, table, latent * grid[0], OLD) - data).max())

    plain = error(invert(D, fixed_point, grid, data, OLD, iterations=6))
    fast = error(editing.anderson_invert(D, grid, data, OLD, iterations=6, memory=3))
    assert fast < 0.3 * plain, (fast, plain)
    exact = error(editing.anderson_invert(D, grid, data, OLD, iterations=25, memory=3))
    assert exact < 1e-8
    once = editing.anderson_invert(D, grid, data, OLD, iterations=1)
    y = data
    for s, r in zip(grid[::-1], grid[-2::-1], strict=False):
        y = y + (r - s) * (y - D(y, r, OLD)) / r
    np.testing.assert_allclose(once * grid[0], y, rtol=1e-9)
    single = editing.anderson_invert(D, grid, data[:1], OLD[:1], iterations=3)
    whole = editing.anderson_invert(D, grid, data, OLD, iterations=3)
    np.testing.assert_allclose(single, whole[:1], rtol=1e-9)


def test_controlled_flows_lead_where_they_are_led():
    noise, picture = jnp.asarray(RNG.standard_normal((3, 2))), DATA
    grid = LEVELS[:-1]
    up = editing.towards_noise(D, noise, 1.0)
    latent = invert(up, solvers.euler, grid, picture) * grid[0]
    # the straight path to y = x + s n, begun with the data at the lowest level
    np.testing.assert_allclose(latent, picture + (grid[0] - grid[-1]) * noise, rtol=1e-9)
    down = editing.towards_picture(D, picture, 1.0)
    back = jd.sample(down, jd.table(solvers.euler, LEVELS), latent)
    np.testing.assert_allclose(back, picture, rtol=1e-9)
    for made in (editing.towards_noise(D, noise, 0.0), editing.towards_picture(D, picture, 0.0)):
        np.testing.assert_allclose(made(latent, 10.0), D(latent, 10.0), rtol=1e-12)
    half = editing.towards_picture(D, picture, lambda s: 0.05 * s)(latent, 10.0)
    np.testing.assert_allclose(half, (picture + D(latent, 10.0)) / 2, rtol=1e-12)


@pytest.mark.slow
def test_flow_edit_between_gaussians():
    """Equal variances c: the difference of means times 1 - (1 - t) sqrt(c/(c (1 - t)^2 + t^2))."""
    c, t, apart = 0.4, 0.8, np.array([1.0, -2.0])
    source, target = (Gaussian(m, np.full(2, c)).denoiser for m in (np.zeros(2), apart))
    times = np.linspace(t, 0.0, 200)
    levels = times / (1 - times)
    made = editing.flow_edit(source, target, levels, DATA, key=KEY)
    share = 1 - (1 - t) * np.sqrt(c / (c * (1 - t) ** 2 + t**2))
    np.testing.assert_allclose(made - DATA, (share * apart)[None].repeat(3, 0), atol=2e-2)


@pytest.mark.slow
def test_flow_edit_of_one_into_itself_and_by_rows():
    levels = grids.karras(4, 0.05, 3.0)
    same = editing.flow_edit(D, D, levels, DATA, OLD, OLD, key=KEY)
    np.testing.assert_allclose(same, DATA, rtol=1e-9)
    run = lambda **o: editing.flow_edit(D, D, levels, DATA, OLD, NEW, key=KEY, **o)  # noqa: E731
    one = editing.flow_edit(
        D, D, levels, DATA[1:2], OLD[1:2], NEW[1:2], key=KEY, index=jnp.array([1])
    )
    np.testing.assert_allclose(one, run()[1:2], rtol=1e-9)
    assert np.abs(run(num_average=3) - run()).max() > 1e-4


@pytest.mark.slow
def test_masks_are_where_conditions_differ():
    where = np.zeros((1, 4, 4, 1))
    where[:, 1:3, 2:] = 1.0

    def local(y, level, cond=None):
        return y / 2 if cond is None else y / 2 + cond[:, None, None, None] * where

    data = jnp.asarray(RNG.standard_normal((2, 4, 4, 3)))
    cond = jnp.array([1.0, -2.0])
    mask = editing.difference_mask(local, data, 1.0, cond, key=KEY, num_draws=2)
    np.testing.assert_array_equal(mask, where.repeat(2, 0))
    none = editing.difference_mask(local, data, 1.0, 0 * cond, key=KEY, num_draws=2)
    np.testing.assert_array_equal(none, 0.0)
    lost = jnp.array([1.0, jnp.nan])  # as of a class that there is not: no mask of zeros
    mask = editing.difference_mask(local, data, 1.0, lost, key=KEY, num_draws=2)
    np.testing.assert_array_equal(
        mask, jnp.where(jnp.isnan(lost)[:, None, None, None], lost[1], where)
    )


def test_an_edit_outside_of_the_mask_keeps_the_data():
    """DiffEdit: inversion, then masked sampling against its states."""
    grid = LEVELS[:-1]
    up = jd.trajectory(D, inverse_table(solvers.euler, grid), DATA, OLD)
    mask = np.array([1.0, 0.0])
    correct = corrections.follow(up, 1 - mask)
    x = jd.sample(D, jd.table(solvers.euler, grid), up.states[-1], NEW, correct=correct)
    np.testing.assert_allclose(x[:, 1], DATA[:, 1], rtol=1e-12)
    assert np.abs(x[:, 0] - DATA[:, 0]).max() > 0.1


WRONG = {
    "positive level": lambda: editing.noised(DATA, 0.0, KEY),
    "a strength is in": lambda: editing.last_steps(LEVELS, 0.05),
    "a strength is in .0, 1.": lambda: editing.last_steps(LEVELS, float("nan")),
    "strictly decrease": lambda: editing.last_steps(LEVELS[::-1], 0.5),
    "use invert": lambda: editing.record(D, LEVELS, DATA, key=KEY, eta=0.0),
    "0 <= eta": lambda: editing.record(D, LEVELS, DATA, key=KEY, eta=2.0),
    "at least one update": lambda: editing.null_text(
        embedded, LEVELS, DATA, DATA, jnp.zeros(2), num_updates=0
    ),
    "learning_rate must": lambda: editing.null_text(
        embedded, LEVELS, DATA, DATA, jnp.zeros(2), learning_rate=-1.0
    ),
    "share is in": lambda: editing.prompt_tuning_guidance(
        embedded, LEVELS, jnp.zeros((8, 3, 2)), jnp.zeros(2), share=1.5
    ),
    "tuned need a first axis of 8": lambda: editing.prompt_tuning_guidance(
        embedded, LEVELS, jnp.zeros((3, 3, 2)), jnp.zeros(2)
    ),
    "prompt_tuning needs at least one": lambda: editing.prompt_tuning(
        embedded, LEVELS, DATA, jnp.zeros(2), num_updates=0
    ),
    "first axis of 8": lambda: editing.null_text_guidance(embedded, LEVELS, jnp.zeros((3, 3, 2))),
    "null has shape": lambda: editing.null_text(embedded, LEVELS, DATA, DATA, jnp.zeros(3)),
    "iterations and memory": lambda: editing.anderson_invert(D, LEVELS[:-1], DATA, iterations=0),
    "leave out the final 0": lambda: editing.anderson_invert(D, LEVELS, DATA),
    "at least one draw": lambda: editing.flow_edit(D, D, LEVELS, DATA, key=KEY, num_average=0),
    "threshold must": lambda: editing.difference_mask(D, DATA, 1.0, OLD, key=KEY, threshold=1.0),
    "must be draws": lambda: editing.difference_mask(D, DATA, 1.0, OLD, key=KEY),
    "a picture of shape": lambda: editing.towards_picture(D, np.ones(3), 0.5)(DATA, 1.0),
    "a noise of shape": lambda: editing.towards_noise(D, np.ones((3, 1)), 0.5)(DATA, 1.0),
}


@pytest.mark.parametrize(("strength", "num_steps"), [(0.58, 29), (0.57, 28), (0.579, 28)])
def test_a_strength_is_a_share_of_the_steps_whatever_its_rounding(strength, num_steps):
    levels = np.arange(50.0, -1.0, -1.0)
    assert len(editing.last_steps(levels, strength)) == num_steps + 1


@pytest.mark.parametrize("said", WRONG)
def test_what_does_not_fit_is_said(said):
    with pytest.raises(ValueError, match=said):
        WRONG[said]()


def test_classes_are_not_fitted():
    with pytest.raises(TypeError, match="floating"):
        editing.null_text(D, LEVELS, DATA, OLD, 2)


def test_integers_get_no_noise():
    with pytest.raises(TypeError, match="data get noise as floating numbers, not int"):
        editing.noised(jnp.ones((2, 2), int), 1.0, KEY)
