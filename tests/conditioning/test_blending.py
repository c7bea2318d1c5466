"""Noise blending: published numbers, closed forms, and blends that are known to change nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import load

import jaxdiff as jd
from jaxdiff import blending, grids, guidance, solvers
from jaxdiff.conditioning.blending import cfg_zero_star as zero_star
from jaxdiff.conditioning.blending import frequency, magnitude, pairs, projected, rescale
from jaxdiff.conditioning.blending import tangential_damping as tangential
from jaxdiff.tuning.search.align import align_costs
from jaxdiff.tuning.search.elbo import elbo_costs

RNG = np.random.default_rng(0)
Y = jnp.asarray(RNG.standard_normal((3, 4, 4, 2)))
COND = jnp.asarray(RNG.standard_normal(3))
SHIFT = jnp.asarray(RNG.standard_normal((1, 4, 4, 2)))


def D(y, level, cond=None):
    """Not linear in y, and different with a condition."""
    base = y / (1 + jnp.asarray(level).reshape(-1, 1, 1, 1) ** 2) + 0.2 * jnp.tanh(y)
    return base if cond is None else base + SHIFT * jnp.sin(cond)[:, None, None, None]


def by_hand(weight, y=Y, level=0.7):
    plain, towards = D(y, level), D(y, level, COND)
    return plain + weight * (towards - plain)


ONE_WEIGHT = {
    "rescaled": blending.rescaled,
    "projected": blending.adaptive_projected,
    "zero_star": blending.zero_star,
    "tangential": blending.tangential,
    "magnitude": blending.magnitude_aware,
}
PLAIN = {  # options that leave plain guidance
    "rescaled": {"phi": 0.0},
    "projected": {"eta": 1.0, "largest": np.inf},
    "magnitude": {"alpha": 0.0},
}


@functools.cache
def guiders():
    family = load("conditioning", full=True)
    kept = [c for c in family.cases if c["what"].startswith("guider")]
    assert len(kept) > 40
    return family, kept


def always(output):
    return lambda y, level, cond=None: output


def of(name):
    family, cases = guiders()
    for case in cases:
        if case["guider"].startswith(name):
            yield case, functools.partial(family.get, case)


def test_published_rescaling_and_intervals():
    seen = 0
    for case, get in of("ClassifierFreeGuidance"):
        towards, plain, out = get("pred_cond"), get("pred_uncond"), get("out")
        w = case["guidance_scale"] + case.get("use_original_formulation", False)
        guided = plain + w * (towards - plain)
        if "start" in case:
            levels = jnp.linspace(1.0, 0.1, 10)
            first, last = levels[int(10 * case["start"])], levels[int(10 * case["stop"])]
            weights = blending.interval(w, last, first)(levels)
            expected = plain + np.asarray(weights)[:, None, None, None, None] * (towards - plain)
            outside = np.r_[0:2, 6:10]  # where published guiders return the conditional output
            np.testing.assert_allclose(expected[outside], towards[None].repeat(6, 0), rtol=1e-12)
            np.testing.assert_allclose(expected, out, rtol=1e-10, atol=1e-12)
        else:
            made = rescale.rescale(jnp.asarray(guided), towards, case["guidance_rescale"])
            np.testing.assert_allclose(made, out, rtol=1e-12)
        seen += 1
    assert seen == 14


def test_published_classifier_free_guidance():
    family, _ = guiders()
    found = [c for c in family.cases if c["what"].startswith("azula CFGDenoiser")]
    assert len(found) == 12
    for case in found:
        towards, plain, out = (family.get(case, n) for n in ("D_pos", "D_neg", "out"))
        D = guidance.autoguidance(always(towards), always(plain), 1 + case["guidance"])
        np.testing.assert_allclose(D(jnp.asarray(out), 1.0), out, rtol=1e-10)


def test_published_adaptive_projection():
    for case, get in of("AdaptiveProjected"):
        average = 0.0
        for towards, plain, out in zip(
            get("pred_cond_seq"), get("pred_uncond_seq"), get("out_seq"), strict=True
        ):
            average = towards - plain + (case["momentum"] or 0.0) * average
            largest = case["norm_threshold"] or np.inf
            update = projected.projected_update(average, towards, case["eta"], largest)
            # published code adds the whole weight to the plain output
            np.testing.assert_allclose(plain + case["guidance_scale"] * update, out, rtol=1e-9)


def test_published_guiders_of_one_pair():
    for case, get in of("ClassifierFreeZeroStar"):
        towards, plain = get("pred_cond"), get("pred_uncond")
        if case["step"] == 0:
            np.testing.assert_array_equal(get("out"), 0.0)
        else:
            made = zero_star._zero_star(towards, plain, case["guidance_scale"])
            np.testing.assert_allclose(made, get("out"), atol=1e-5)
    for case, get in of("Tangential"):
        made = tangential._tangential(get("pred_cond"), get("pred_uncond"), case["guidance_scale"])
        np.testing.assert_allclose(made, get("out"), atol=3e-5)
    for case, get in of("MagnitudeAware"):
        towards, plain, alpha = get("pred_cond"), get("pred_uncond"), case["alpha"]
        made = magnitude._aware(towards, plain, case["guidance_scale"], alpha)
        if case["use_original_formulation"]:  # cond + w e^(-a r) (cond - plain)
            shrunk = magnitude._aware(towards, plain, 1 + case["guidance_scale"], alpha) - plain
            made = towards + shrunk - (towards - plain)
        np.testing.assert_allclose(made, get("out"), rtol=1e-10)
    for case, get in of("SkipLayer"):  # classifier-free, then autoguidance by the skipped network
        towards, plain, skipped = get("pred_cond"), get("pred_uncond"), get("pred_cond_skip")
        skip, w = case["skip_layer_guidance_scale"], case["guidance_scale"]
        by_skipped = functools.partial(guidance.autoguidance, always(towards), always(skipped))
        made = guidance.autoguidance(always(towards), always(plain), w)(Y, 1.0)
        if w == 1.0:
            made = by_skipped(skip)(Y, 1.0)
        elif case["step"] < 0.2 * case["num_inference_steps"]:
            made = made + by_skipped(1 + skip)(Y, 1.0) - towards
        np.testing.assert_allclose(made, get("out"), rtol=1e-12)


@pytest.mark.parametrize(
    "name", [n if n == "projected" else pytest.param(n, marks=pytest.mark.slow) for n in ONE_WEIGHT]
)
def test_weight_1_is_the_conditional_model_and_prompts_stand_for_conditions(name):
    options = PLAIN.get(name, {})
    made = ONE_WEIGHT[name](D, 1.0, **options)(Y, 0.7, COND)
    np.testing.assert_allclose(made, D(Y, 0.7, COND), rtol=1e-10, atol=1e-12)
    guided = ONE_WEIGHT[name](D, jnp.asarray([0.5, 2.0, 4.0]), **options)
    if name in PLAIN:
        expected = by_hand(jnp.asarray([0.5, 2.0, 4.0])[:, None, None, None])
        np.testing.assert_allclose(guided(Y, 0.7, COND), expected, rtol=1e-10, atol=1e-12)
    whole = ONE_WEIGHT[name](D, 3.0)(Y, 0.7, guidance.Prompts(COND, 0.3 * COND))
    null = ONE_WEIGHT[name](D, 3.0, null=0.0)(Y, 0.7, COND)
    zeros = guidance.Prompts(COND, 0.0 * COND)
    np.testing.assert_allclose(ONE_WEIGHT[name](D, 3.0)(Y, 0.7, zeros), null, rtol=1e-12)
    assert jnp.abs(whole - null).max() > 1e-3
    assert jnp.abs(ONE_WEIGHT[name](D, 3.0)(Y, 0.7, COND) - by_hand(3.0)).max() > 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_WEIGHT)
def test_a_sample_does_not_depend_on_its_batch_and_levels_may_be_its_own(name):
    made = jax.jit(ONE_WEIGHT[name](D, lambda s: 2.0 + s))
    levels = jnp.asarray([0.3, 0.9, 2.0])
    whole = made(Y, levels, COND)
    for i in range(3):
        one = made(Y[i : i + 1], levels[i], COND[i : i + 1])
        np.testing.assert_allclose(one[0], whole[i], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", pairs.PREDICTIONS)
def test_predictions_are_those_of_the_process(name):
    s, y = jnp.asarray([0.2, 3.0, 40.0]), Y
    out, eps = D(y, s, COND), (y - D(y, s, COND)) / s[:, None, None, None]
    p, q = pairs.prediction_weights(name, s, y)
    root = jnp.sqrt(1 + s**2)[:, None, None, None]
    expected = {
        "x0": out, "eps": eps, "flow": eps - out, "v": (eps - s[:, None, None, None] * out) / root
    }  # fmt: skip
    np.testing.assert_allclose(p * y + q * out, expected[name], rtol=1e-9, atol=1e-12)


def test_rescaled_and_projected_by_their_properties():
    made = blending.rescaled(D, 6.0, phi=1.0, prediction="eps")(Y, 0.7, COND)
    std = lambda x: np.std((Y - x) / 0.7, axis=(1, 2, 3))  # noqa: E731
    np.testing.assert_allclose(std(made), std(D(Y, 0.7, COND)), rtol=1e-10)
    made = blending.adaptive_projected(D, 6.0, largest=0.1)(Y, 0.7, COND)
    added, towards = (made - D(Y, 0.7, COND)) / 5.0, D(Y, 0.7, COND)
    np.testing.assert_allclose(pairs.inner(added, towards), 0.0, atol=1e-12)
    assert jnp.all(pairs.norm(added) <= 0.1 + 1e-12)


def test_magnitude_and_tangent_by_hand():
    towards, plain = jnp.asarray([[3.0, 0.0]]), jnp.asarray([[0.0, 1.0]])
    np.testing.assert_allclose(tangential.damped(towards, plain), 0.0, atol=1e-12)
    np.testing.assert_allclose(tangential.damped(towards, 0.5 * towards), 0.5 * towards)
    shrunk = 1 + 2.0 * np.exp(-0.5 * np.sqrt(10.0))
    expected = plain + shrunk * (towards - plain)
    np.testing.assert_allclose(
        magnitude._aware(towards, plain, jnp.asarray(3.0), jnp.asarray(0.5)), expected
    )


def test_zero_star_stands_still_at_first():
    made = blending.zero_star(D, 3.0, still_above=2.0)
    np.testing.assert_allclose(made(Y, 4.0, COND), Y / 5.0)
    np.testing.assert_allclose(made(Y, 2.0, COND), blending.zero_star(D, 3.0)(Y, 2.0, COND))
    # a flow's step under it leaves x = y/(1 + s) where it is
    y = jd.direct(made, solvers.euler, [9.0, 4.0], 9.0 * Y, COND)
    np.testing.assert_allclose(y / 5.0, 0.9 * Y)


@pytest.mark.slow
def test_momentum_of_projected_guidance():
    levels = [3.0, 1.0, 0.0]
    run = lambda **o: jd.direct(  # noqa: E731
        blending.both_outputs(D), blending.adaptive_projected_ddim, levels, Y, COND,
        **{"weight": 4.0, "eta": 0.2, "largest": 3.0, **o},
    )  # fmt: skip
    D_apg = blending.adaptive_projected(D, 4.0, eta=0.2, largest=3.0)
    np.testing.assert_allclose(
        run(momentum=0.0), jd.direct(D_apg, solvers.euler, levels, Y, COND), rtol=1e-9
    )
    assert jnp.abs(run(momentum=0.0) - run()).max() > 1e-3
    with pytest.raises(ValueError, match="momentum must be within"):
        run(momentum=1.0)


def test_cfg_plus_plus_is_its_algorithm():
    levels, y = grids.karras(3, 0.1, 5.0), 5.0 * Y
    made = guidance.classifier_free(D, blending.plus_plus(levels, 0.6))
    got = jd.sample(made, jd.table(solvers.euler, levels), y, COND)
    for s, r in zip(levels, levels[1:], strict=False):
        plain, towards = D(y, s), D(y, s, COND)
        y = plain + 0.6 * (towards - plain) + r * (y - plain) / s
    np.testing.assert_allclose(got, y, rtol=1e-10, atol=1e-11)


@pytest.mark.slow
def test_guidance_between_gaussians_has_its_closed_form():
    """Equal variances c, means mu and 0: x = R x_T + w mu (1 - R), R^2 = (c + s^2)/(c + s_T^2)."""
    mu, c, w = jnp.asarray([[1.0, -2.0]]), 0.3, 2.5

    def gaussian(y, level, cond=None):
        mean = 0.0 * mu if cond is None else mu
        return mean + c / (c + level**2) * (y - mean)

    def flow(y, s, r, weight):
        R = np.sqrt((c + r**2) / (c + s**2))
        return R * y + weight * mu * (1 - R)

    start = jnp.asarray([[3.0, 1.0], [-2.0, 2.0]])
    cond, levels = jnp.ones(2), np.geomspace(3.0, 0.5, 40)
    table = jd.table(solvers.dpmpp, levels, order=3)
    made = jd.sample(guidance.classifier_free(gaussian, w), table, start, cond)
    np.testing.assert_allclose(made, flow(start, 3.0, 0.5, w), atol=1e-3)
    limited = guidance.classifier_free(gaussian, blending.interval(w, 0.8, 1.5))
    inside = flow(flow(flow(start, 3.0, 1.5, 1.0), 1.5, 0.8, w), 0.8, 0.5, 1.0)
    table = jd.table(solvers.heun, np.geomspace(3.0, 0.5, 400))
    y = jd.sample(limited, table, start, cond)
    np.testing.assert_allclose(y, inside, atol=0.02)
    assert np.abs(flow(start, 3.0, 0.5, w) - inside).max() > 0.3


@pytest.mark.slow
def test_several_conditions():
    conds = (COND, 0.5 * COND)
    plain, one, two = D(Y, 0.7), D(Y, 0.7, COND), D(Y, 0.7, 0.5 * COND)
    made = blending.composed(D, (2.0, lambda s: -s))(Y, 0.7, conds)
    np.testing.assert_allclose(made, plain + 2.0 * (one - plain) - 0.7 * (two - plain), rtol=1e-10)
    single = blending.composed(D, (3.0,), null=0.0)(Y, 0.7, (COND,))
    np.testing.assert_allclose(single, guidance.classifier_free(D, 3.0, 0.0)(Y, 0.7, COND))
    # an unwanted condition that is the wanted one has nothing perpendicular to it
    made = blending.perpendicular_negative(D, 3.0, (2.0,))(Y, 0.7, (COND, COND))
    np.testing.assert_allclose(made, by_hand(3.0), rtol=1e-9, atol=1e-12)
    other = lambda y, s, c=None: D(y, s) if c is None else D(y, s) + c  # noqa: E731
    wanted, away = Y[:, ::-1], Y
    made = blending.perpendicular_negative(other, 1.0, (1.0,))(Y, 0.7, (wanted, away)) - plain
    np.testing.assert_allclose(pairs.inner(made, wanted), pairs.inner(wanted, wanted), rtol=1e-9)
    share = pairs.inner(away, wanted) / pairs.inner(wanted, wanted)
    np.testing.assert_allclose(made, wanted - (away - share * wanted), rtol=1e-9)


@pytest.mark.slow
def test_two_weights():
    def pair(y, level, cond=None):
        assert cond is not None
        first, second = cond
        y = D(y, level, first)
        return y if second is None else y + 0.1 * second[:, None, None, None] * y**2

    conds = COND, COND + 1.0
    got = blending.two_weights(pair, 1.5, 7.5)(Y, 0.7, conds)
    parts = [pair(Y, 0.7, c) for c in ((None, None), (COND, None), conds)]
    expected = parts[0] + 1.5 * (parts[1] - parts[0]) + 7.5 * (parts[2] - parts[1])
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    got = blending.two_weights(pair, 1.0, 1.0, nulls=(0.0, 0.0))(Y, 0.7, conds)
    np.testing.assert_allclose(got, parts[2], rtol=1e-12)


@pytest.mark.slow
def test_sine_and_mixtures():
    tuned = lambda y, s, c=None: 0.5 * D(y, s, c)  # noqa: E731
    made = blending.sine(D, tuned, 3.0, share=0.6, above=1.0)
    plain = D(Y, 2.0)
    both = 0.6 * D(Y, 2.0, COND) + 0.4 * tuned(Y, 2.0, 2 * COND)
    np.testing.assert_allclose(
        made(Y, 2.0, (COND, 2 * COND)), plain + 3.0 * (both - plain), rtol=1e-10
    )
    np.testing.assert_allclose(made(Y, 0.7, (COND, 2 * COND)), by_hand(3.0), rtol=1e-10)
    mix = blending.mixed((D, tuned), (3.0, -2.0))(Y, 0.7, COND)
    np.testing.assert_allclose(mix, 2.0 * D(Y, 0.7, COND), rtol=1e-12)
    auto = guidance.autoguidance(D, tuned, 3.0)(Y, 0.7, COND)
    np.testing.assert_allclose(mix, auto, rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "axes"), [((2, 7, 6, 1), (1, 2)), ((2, 9), (1,))])
def test_bands_sum_to_the_whole_and_constants_are_low(shape, axes):
    x = jnp.asarray(RNG.standard_normal(shape))
    parts = frequency.bands(x, 3, axes)
    assert len(parts) == 3
    # bands are brought to the full size one level at a time, so that they add up to the whole
    np.testing.assert_allclose(sum(parts), x, rtol=1e-12, atol=1e-12)
    low, *high = frequency.bands(jnp.ones_like(x), 3, axes)
    np.testing.assert_allclose(low, 1.0, rtol=1e-12)
    np.testing.assert_allclose(high, 0.0, atol=1e-12)


def test_frequency_decoupled():
    made = blending.frequency_decoupled(D, (3.0, 3.0))(Y, 0.7, COND)
    np.testing.assert_allclose(made, by_hand(3.0), rtol=1e-9, atol=1e-12)
    low, high = frequency.bands(D(Y, 0.7, COND) - D(Y, 0.7), 2, (1, 2))
    made = blending.frequency_decoupled(D, (1.0, lambda s: 10 * s))(Y, 0.7, COND)
    np.testing.assert_allclose(made, D(Y, 0.7) + low + 7.0 * high, rtol=1e-10)


@pytest.mark.slow
def test_magic_fusion():
    same = blending.magic_fusion(D, D, (3.0, 3.0))(Y, 0.7, COND)
    np.testing.assert_allclose(same, by_hand(3.0), rtol=1e-10)
    # the second model cares for the left half alone
    half = jnp.where(jnp.arange(4)[:, None] < 2, 5.0, 0.01)[None, None]
    second = lambda y, s, c=None: D(y, s) if c is None else D(y, s) + half  # noqa: E731
    flat = lambda y, s, c=None: D(y, s) if c is None else D(y, s) + 1.0  # noqa: E731
    made = blending.magic_fusion(flat, second, (1.0, 1.0))(Y, 0.7, COND)
    np.testing.assert_allclose(made[:, :, 0], second(Y, 0.7, COND)[:, :, 0], rtol=1e-10)
    np.testing.assert_allclose(made[:, :, 3], flat(Y, 0.7, COND)[:, :, 3], rtol=1e-10)
    lost = lambda y, s, c=None: D(y, s) if c is None else D(y, s) + jnp.nan  # noqa: E731
    for pair in ((lost, flat), (flat, lost)):  # not the other model's alone
        assert np.isnan(blending.magic_fusion(*pair, (1.0, 1.0))(Y, 0.7, COND)).all()


@pytest.mark.slow
def test_windows_that_agree_change_nothing_whatever_their_weights():
    local = lambda y, s, c: y / (1 + s.reshape(-1, 1, 1, 1)) + 0.0 * c[:, None, None, None]  # noqa: E731
    y = jnp.asarray(RNG.standard_normal((2, 7, 5, 1)))
    cond = jnp.asarray([1.0, 2.0])
    weights = 0.1 + RNG.random((4, 3))
    made = blending.windows(local, (4, 3), (3, 2), weights)(y, 1.0, cond)
    np.testing.assert_allclose(made, y / 2.0, rtol=1e-12)
    again = blending.windows(D, (4, 4), (2, 2))(Y, 0.7, COND)
    np.testing.assert_allclose(again, D(Y, 0.7, COND), rtol=1e-12)


def test_windows_are_the_least_squares_solution():
    mean = lambda y, s, c: 0.0 * y + y.mean(axis=1, keepdims=True) * c[:, None]  # noqa: E731
    y, cond, weights = (
        jnp.asarray(RNG.standard_normal((2, 5))),
        jnp.asarray([1.0, -2.0]),
        np.array([1.0, 3.0, 1.0]),
    )
    made = blending.windows(mean, (3,), (2,), weights)(y, jnp.asarray([0.1, 0.2]), cond)
    first, last = (y[:, :3].mean(1) * cond, y[:, 2:].mean(1) * cond)
    expected = np.stack([first, first, (first + last) / 2, last, last], axis=1)
    np.testing.assert_allclose(made, expected, rtol=1e-12)


def test_regions():
    masks = np.zeros((2, 4, 4, 1))
    masks[0, :2], masks[1, 1:] = 1.0, 2.0
    conds = (COND, -COND)
    made = blending.regions(D, masks)(Y, 0.7, conds)
    one, two = (D(Y, 0.7, c) for c in conds)
    np.testing.assert_allclose(made[:, 0], one[:, 0], rtol=1e-12)
    np.testing.assert_allclose(made[:, 1], ((one + 2 * two) / 3)[:, 1], rtol=1e-10)
    np.testing.assert_allclose(made[:, 2:], two[:, 2:], rtol=1e-12)
    same = blending.regions(D, masks)(Y, 0.7, (COND, COND))
    np.testing.assert_allclose(same, D(Y, 0.7, COND), rtol=1e-10)


def test_within_evaluates_one():
    outside = lambda y, s, c=None: jnp.full_like(y, 7.0)  # noqa: E731
    made = blending.within(0.5, 1.0, D, outside)
    for level, expected in ((0.5, 7.0), (1.0, D(Y, 1.0, COND)), (1.1, 7.0)):
        np.testing.assert_allclose(made(Y, level, COND), expected + 0.0 * Y, rtol=1e-12)
    levels = jnp.asarray([0.5, 1.0, 1.1])
    np.testing.assert_allclose(made(Y, levels, COND)[1], D(Y, 1.0, COND)[1], rtol=1e-12)
    np.testing.assert_allclose(made(Y, levels, COND)[::2], 7.0)


@pytest.mark.slow
def test_gradients_reach_weights_and_guidance_samples():
    table = jd.table(solvers.euler, [2.0, 0.5])

    def end(w):
        made = blending.adaptive_projected(D, w, largest=2.0)
        return jnp.sum(jd.sample(made, table, Y, COND) ** 2)

    slope, h = jax.jit(jax.grad(end))(3.0), 1e-5
    np.testing.assert_allclose(slope, (end(3.0 + h) - end(3.0 - h)) / (2 * h), rtol=1e-6)
    equal = jax.grad(lambda y: jnp.sum(blending.adaptive_projected(D, 3.0)(y, 1.0) ** 2))(Y)
    assert jnp.isfinite(equal).all()  # both outputs are the same: norms of 0


@pytest.mark.slow
def test_single_precision_stays():
    y, cond = Y.astype("float32"), COND.astype("float32")
    own = lambda y, s, c=None: y / 2 if c is None else y / 3 + c[:, None, None, None]  # noqa: E731
    for make in (*ONE_WEIGHT.values(), lambda D, w: blending.frequency_decoupled(D, (w, w))):
        assert make(own, 3.0)(y, 0.7, cond).dtype == jnp.float32
    assert blending.windows(own, (2, 2), (2, 2))(y, 0.7, cond).dtype == jnp.float32
    assert blending.composed(own, (2.0,))(y, 0.7, (cond,)).dtype == jnp.float32


WRONG = {
    "phi must be": lambda: blending.rescaled(D, 2.0, phi=1.5),
    "blended as one of": lambda: blending.rescaled(D, 2.0, prediction="edm"),
    "largest norm": lambda: blending.adaptive_projected(D, 2.0, largest=0.0),
    "alpha must not": lambda: blending.magnitude_aware(D, 2.0, alpha=-1.0),
    "needs prediction='flow'": lambda: blending.zero_star(
        D, 2.0, still_above=1.0, prediction="eps"
    ),
    "0 <= low < high": lambda: blending.interval(2.0, 1.0, 1.0),
    "CFG\\+\\+ must be": lambda: blending.plus_plus([2.0, 1.0], 7.5),
    "a weight for each condition": lambda: blending.composed(D, ()),
    "sequence of 2 conditions, one a weight, not 1": lambda: blending.composed(D, (1.0, 1.0))(
        Y, 1.0, (COND,)
    ),
    "each negative": lambda: blending.perpendicular_negative(D, 1.0, ()),
    "nulls are two": lambda: blending.two_weights(D, nulls=(None,)),
    "must sum to 1": lambda: blending.mixed((D, D), (1.0, 1.0)),
    "give one each": lambda: blending.mixed((D,), (0.5, 0.5)),
    "share must be": lambda: blending.sine(D, D, 2.0, share=2.0),
    "for each band": lambda: blending.frequency_decoupled(D, ()),
    "not among": lambda: blending.frequency_decoupled(D, (1.0, 2.0), axes=(4,))(Y, 1.0, COND),
    "shorter than 8": lambda: blending.frequency_decoupled(D, (1.0,) * 4)(Y, 1.0, COND),
    "sharpness": lambda: blending.magic_fusion(D, D, (1.0, 1.0), sharpness=(1.0, -1.0)),
    "from 1 to the windows": lambda: blending.windows(D, (4, 4), (5, 1)),
    "weights have shape": lambda: blending.windows(D, (4,), (2,), np.ones(3)),
    "weights of a window": lambda: blending.windows(D, (2,), (2,), np.zeros(2)),
    "do not fit into": lambda: blending.windows(D, (5, 4), (1, 1))(Y, 1.0, COND),
    "must not be negative": lambda: blending.regions(D, -np.ones((1, 4, 4, 2))),
    "must be covered": lambda: blending.regions(D, np.zeros((1, 4, 4, 2))),
    "one for each mask": lambda: blending.regions(D, np.ones((1, 4, 4, 2)))(Y, 1.0, COND),
    "do not go with": lambda: blending.regions(D, np.ones((1, 4, 3, 2)))(Y, 1.0, (COND,)),
    "structure": lambda: blending.rescaled(D, 2.0, null={"a": 0.0})(Y, 1.0, COND),
    "one per sample": lambda: blending.rescaled(D, jnp.ones(2))(Y, 1.0, COND),
}


@pytest.mark.parametrize("said", WRONG)
def test_what_does_not_fit_is_said(said):
    with pytest.raises(ValueError, match=said):
        WRONG[said]()


def test_pairs_are_asked_for():
    for made in (blending.two_weights(D), blending.sine(D, D, 2.0)):
        with pytest.raises(TypeError, match="takes a pair"):
            made(Y, 1.0, COND)


def test_sums_over_outputs_of_low_precision_are_made_in_that_of_the_states():
    """As if the denoiser had returned the same numbers in single precision."""
    with jax.numpy_dtype_promotion("standard"):
        y = jnp.asarray(np.random.default_rng(0).normal(size=(2, 64)), jnp.float32)
        conds = jnp.array([0.3, -0.4], jnp.float32), jnp.array([-1.0, 0.7], jnp.float32)

        def half(y, level, cond=None):
            return jnp.tanh(y if cond is None else y + cond[:, None]).astype(jnp.bfloat16)

        wide = lambda *given: half(*given).astype(jnp.float32)  # noqa: E731
        data = y[:, :4], np.array([2.0, 1.0, 0.5]), jax.random.key(0), conds[0]
        for make in (
            lambda D: blending.perpendicular_negative(D, 2.0, (1.0,))(y, 1.0, conds),
            lambda D: blending.frequency_decoupled(D, (1.0, 3.0), axes=(1,))(y, 1.0, conds[0]),
            lambda D: blending.both_outputs(D)(y, 1.0, conds[0])[0],
            lambda D: align_costs(D, *data),
            lambda D: elbo_costs(D, *data),
        ):
            np.testing.assert_array_equal(make(half), make(wide), strict=True)
