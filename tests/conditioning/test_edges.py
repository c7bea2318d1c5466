"""Conditioning at its edges: level 0, nothing to divide by, numbers for each sample, other dtypes,
and equal objects that share a program.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import attention, blending, corrections, editing, guidance, posterior
from jaxdiff import operators as ops
from jaxdiff.conditioning.blending.rescale import rescale
from jaxdiff.conditioning.processes.ddrm import ddrm_start
from jaxdiff.denoisers import denoiser

Y = jnp.asarray([[0.5, -1.0], [1.0, 2.0]])  # as many samples as numbers of each
EACH = jnp.asarray([0.5, 2.0])  # a number for each sample
FIRST = ops.mask(np.array([True, False]))
EXACT = ops.Measurement(FIRST, jnp.asarray([0.3, 0.0]), 0.0)
NOISY = ops.Measurement(FIRST, jnp.asarray([0.3, 0.0]), 0.1)
LEVELS = (4.0, 1.0, 0.0)


def D(y, level, cond=None):
    return y / (1 + jd.expand(jnp.asarray(level, y.dtype), y) ** 2)


def squares(x):
    return jnp.sum(x.reshape(len(x), -1) ** 2, axis=1)


def test_at_level_0_nothing_is_divided_by_it():
    for method in (posterior.pigdm, posterior.mmps, posterior.annealed_langevin):
        np.testing.assert_allclose(method(D, NOISY)(Y, 0.0), Y)
    np.testing.assert_allclose(posterior.annealed_langevin(D, EXACT)(Y, 0.0), Y)
    np.testing.assert_allclose(posterior.diffpir(D, EXACT)(Y, 0.0)[:, 0], 0.3)
    np.testing.assert_allclose(posterior.pigdm(D, EXACT)(Y, 0.0)[:, 0], 0.3)


ROWS = {
    "dds": lambda a, m: posterior.dds(D, m, 2, a),
    "diffpir": lambda a, m: posterior.diffpir(D, m, a),
    "pigdm": lambda a, m: posterior.pigdm(D, m, a),
    "dps": lambda a, m: posterior.dps(D, m, LEVELS, a),
    "mcg": lambda a, m: posterior.mcg(D, m, LEVELS, a),
    "backward": lambda a, m: posterior.backward(D, squares, 2, 0.1 * a),
    "lgd_mc": lambda a, m: posterior.lgd_mc(D, squares, jax.random.key(0), 2, a),
    "energy": lambda a, m: posterior.energy(D, squares, a),
    "negative": lambda a, m: guidance.negative_prompt(LINEAR, 3.0, a / 4),
    "rescaled": lambda a, m: blending.rescaled(LINEAR, 3.0, 0.0, phi=a / 4),
}


def network(p, x, label, cond=None, /, **_):
    return x * jnp.cos(p + x * jnp.asarray(cond)[:, None])


LINEAR = denoiser(network, 0.3)
CONDS = jnp.asarray([1.0, -0.5]), jnp.asarray([0.2, 0.7])


@pytest.mark.parametrize("name", ROWS)
def test_a_number_for_each_sample_is_its_own(name):
    cond = guidance.Prompts(*CONDS) if name in ("negative", "rescaled") else None
    together = ROWS[name](EACH, NOISY)(Y, 1.0, cond)
    for i, a in enumerate(EACH):
        alone = ROWS[name](a, NOISY)(Y, 1.0, cond)[i]
        np.testing.assert_allclose(together[i], alone, rtol=1e-12)
    other = ROWS[name](EACH[::-1], NOISY)(Y, 1.0, cond)
    assert np.abs(together - other).max() > 1e-3


def test_projections_and_masks_of_edits_take_numbers_for_each_sample(key):
    keys = jax.random.split(key, 2)
    project = lambda w: corrections.projection(EXACT, w)(Y, jnp.asarray(1.0), keys)  # noqa: E731
    np.testing.assert_allclose(project(EACH / 2)[0], project(0.25)[0])
    np.testing.assert_allclose(project(EACH / 2)[1], project(1.0)[1])
    pull = lambda y, level, cond=None: y + 0.1 * jnp.tanh(y) * float(cond is not None)  # noqa: E731
    own = editing.difference_mask(pull, Y, EACH, CONDS[0], key=key, num_draws=2, axes=(1,))
    for i in range(2):
        one = editing.difference_mask(pull, Y, EACH[i], CONDS[0], key=key, num_draws=2, axes=(1,))
        np.testing.assert_array_equal(own[i], one[i])


def test_a_denoiser_of_few_digits_does_not_change_the_arithmetic():
    """Outputs in bfloat16 or float32 are brought to the dtype of the states."""
    y = Y.astype(jnp.float32)
    seen = ops.Measurement(
        ops.convolution((2,), np.array([0.5, 0.5])), jnp.asarray([0.1, 0.2]), 0.1
    )
    for few in (jnp.bfloat16, jnp.float64):
        rough = lambda y, level, cond=None, few=few: D(y, level).astype(few)  # noqa: E731
        for made in (
            posterior.mmps(rough, seen, 1), posterior.pigdm(rough, seen),
            posterior.diffpir(rough, seen), posterior.dds(rough, seen, 1),
            posterior.gaussian_covariance(rough, seen, 1.0), posterior.tmpd(rough, seen),
            posterior.annealed_langevin(rough, seen), posterior.mpgd(rough, squares),
            posterior.classifier(rough, lambda y, s, c: squares(y)),
            posterior.dps(rough, seen, LEVELS),
            corrections.ddnm(rough, ops.Measurement(FIRST, jnp.zeros(2), 0.0)),
        ):  # fmt: skip
            out = made(y, jnp.float32(1.0))
            assert out.dtype == jnp.float32
            assert np.isfinite(out).all()


def test_equal_objects_share_a_program():
    structure = jax.tree.structure
    cfg = [guidance.classifier_free(D, 2.0, 0, channels=1) for _ in range(2)]
    assert structure(cfg[0]) == structure(cfg[1])
    assert structure(cfg[0]) != structure(guidance.classifier_free(D, 2.0, 0, channels=2))
    low = [corrections.ilvr(jnp.ones((4,)), 2, axes=(1,)) for _ in range(2)]
    assert structure(low[0]) == structure(low[1])
    assert structure(low[0]) != structure(corrections.ilvr(jnp.ones((4,)), 4, axes=(1,)))


def test_constants_have_no_deviation():
    flat, other = jnp.zeros((2, 2)), Y
    np.testing.assert_allclose(rescale(flat, other, 0.7), 0.0)
    slopes = jax.grad(lambda x: jnp.sum(rescale(x, other, 0.7)))(flat)
    np.testing.assert_allclose(slopes, 0.3)
    latents = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 3, 2)))
    made = attention.adain(jnp.ones_like(latents), latents)
    np.testing.assert_allclose(
        made, jnp.broadcast_to(latents.mean((1, 2), keepdims=True), made.shape)
    )


def test_solvers_of_measurements_take_a_noise_for_each_sample_and_have_gradients(key):
    """Each row as if alone; resampling by gradient descent too."""
    solve = lambda solver, m, **more: jd.direct(  # noqa: E731
        D, solver, (4.0, 1.0, 0.3), 4 * Y, key=key, measurement=m, **more
    )
    own = ops.Measurement(FIRST, jnp.asarray([0.3, 0.0]), EACH[:, None])
    made = solve(posterior.daps, own, num_ode_steps=1)
    for i, noise in enumerate(EACH):
        one = ops.Measurement(FIRST, own.observation, noise)
        np.testing.assert_allclose(made[i], solve(posterior.daps, one, num_ode_steps=1)[i])

    def descended(u):
        seen = ops.Measurement(FIRST, jnp.stack([u, 0 * u]), 0.1)
        return jnp.sum(solve(posterior.resample, seen, every=1, num_iterations=2, step=0.1)[:, 0])

    slope = jax.grad(descended)(0.3)
    np.testing.assert_allclose(slope, descended(1.3) - descended(0.3), rtol=1e-9)  # linear
    assert slope > 0.1


def test_what_ddrm_sees_worse_than_the_level_starts_as_if_it_were_not_seen():
    seen = ops.Measurement(ops.separable((2,), {0: np.diag([1.0, 1e-3])}), jnp.ones(2), 0.1)
    start = ddrm_start(4.0 * Y, 4.0, seen)  # noise of 0.1 and of 100
    np.testing.assert_allclose(start[:, 1], 4.0 * Y[:, 1])
    np.testing.assert_allclose(start[:, 0], 1 + np.sqrt(16 - 0.01) * Y[:, 0])


def test_what_the_pseudo_inverse_leaves_out_keeps_the_noise_of_its_level(key):
    """A coordinate that is all but unseen goes DDIM's step, with eta and without."""
    seen = ops.Measurement(ops.separable((2,), {0: np.diag([1.0, 1e-7])}), jnp.ones(2), 0.1)
    zero = lambda y, level, cond=None: 0 * y  # noqa: E731
    step = lambda y: jd.direct(  # noqa: E731
        zero, corrections.ddnm_plus, (4.0, 1.0), y, key=key, measurement=seen, eta=0.6
    )
    apart = step(4 * Y) - step(4 * Y + 1)
    np.testing.assert_allclose(apart[:, 1], -0.8 / 4)  # sqrt(1 - eta^2) r/s


THREE = ops.Measurement(FIRST, jnp.zeros(2), jnp.full((3, 1), 0.1))
SHORT = jnp.asarray([[1.0], [2.0]])
REFUSED = {
    "noise of 3 samples": lambda: posterior.mmps(D, THREE)(Y[:1], 1.0),
    "noise of 3 samples for": lambda: posterior.pigdm(D, THREE)(Y, 1.0),
    "noise of 3 samples for a batch of 2": lambda: ddrm_start(Y, 4.0, THREE),
    "finite number": lambda: ops.scale(FIRST, np.ones(2)),
    "number for each": lambda: posterior.lgd_mc(D, jnp.sum, jax.random.key(0))(Y, 1.0),
    "number for each sample": lambda: posterior.tds(
        D, lambda x, s: jnp.sum(x), LEVELS, Y, jax.random.key(0)
    ),
    "one number a sample": lambda: blending.rescaled(D, 2.0)(SHORT, 1.0, CONDS[0]),
    "have one number": lambda: guidance.negative_prompt(LINEAR, 2.0, 0.5)(
        SHORT, 1.0, guidance.Prompts(*CONDS)
    ),
    "encode makes": lambda: posterior.psld(
        D, NOISY, lambda x: x[:, :1], lambda z: z, LEVELS
    )(Y, 1.0),
    "known must be finite": lambda: corrections.replacement(
        np.array([np.nan, 1.0]), np.array([0, 1])
    ),
    "rescale must": lambda: guidance.negative_prompt(LINEAR, 2.0, EACH),
    "data_std must": lambda: posterior.pigdm(D, NOISY, -EACH),
}  # fmt: skip


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_fit_is_said(said):
    with pytest.raises(ValueError, match=said):
        REFUSED[said]()
