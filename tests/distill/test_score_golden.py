"""Distribution matching against golden numbers: losses and gradients of published code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import load

from jaxdiff.arrays import expand
from jaxdiff.distance import squared
from jaxdiff.distill.parts.critic import SOFTPLUS
from jaxdiff.distill.parts.generator import normaliser, push
from jaxdiff.distill.parts.levels import karras_level
from jaxdiff.distill.parts.primitives import perturb
from jaxdiff.distill.score.diff_instruct import score_difference
from jaxdiff.distill.score.f_distill import bin_means, divergence_weight, ratio
from jaxdiff.distill.score.score_identity import identity_loss
from jaxdiff.typing import Outputs

GOLDEN = load("losses_fastgen")
NAMES = {"kl": "kl", "js": "jensen-shannon", "sf": "softened-reverse-kl", "neyman": "neyman",
         "sh": "hellinger", "jf": "jeffreys"}  # fmt: skip


def cases(word):
    found = [c for c in GOLDEN.cases if word in c["peer"]]
    assert found
    return [pytest.param(c, id=c["id"]) for c in found]


def array(case, name):
    return jnp.asarray(GOLDEN.get(case, name), jnp.float64)


def toy(params, x, label, cond=None, *, full=False, key=None):
    """The golden toy network, its features the hidden layer."""
    flat = x.reshape(len(x), -1)
    hidden = flat @ params["W1"].T + params["b1"][None] + label[:, None] * params["u"][None]
    hidden = jnp.tanh(hidden)
    value = (hidden @ params["W2"].T + params["b2"][None]).reshape(x.shape)
    return Outputs(value, None, (hidden,)) if full else value


def toy_denoiser(params):
    """x0(x, t) = F(x/sqrt(1 + t^2), log(t)/4)."""

    def D(y, s, full=False):
        scaled = y / jnp.sqrt(1 + expand(s, y) ** 2)
        return toy(params, scaled, jnp.log(jnp.maximum(s, 1e-12)) / 4, full=full)

    return D


def toys(case, prefix):
    return {k: array(case, f"{prefix}:{k}") for k in ("W1", "b1", "u", "W2", "b2")}


def same_gradient(case, name, found):
    for k, value in found.items():
        expected = array(case, f"grad_{name}:{k}")
        np.testing.assert_allclose(
            value, expected, rtol=1e-6, atol=1e-6 * float(jnp.max(jnp.abs(expected)))
        )


@pytest.mark.parametrize("case", cases("variational_score"))
def test_golden_variational_score_distillation(case):
    x, recorded, fake_x = (array(case, k) for k in ("gen_data", "teacher_x0", "fake_score_x0"))
    scale = array(case, "additional_scale") if "additional_scale" in case["arrays"] else 1.0

    def loss(x):
        weight = normaliser(x, recorded) * scale
        direction = score_difference(lambda y, s: recorded, lambda y, s: fake_x, x, x, weight)
        return jnp.mean(push(x, direction))

    value, slope = jax.value_and_grad(loss)(x)
    np.testing.assert_allclose(value, array(case, "loss")[0], rtol=1e-6)
    np.testing.assert_allclose(slope, array(case, "grad_gen_data"), rtol=1e-5)


@pytest.mark.parametrize("case", cases("gan losses"))
def test_golden_game(case):
    made, real = array(case, "fake_logits"), array(case, "real_logits")
    value, slope = jax.value_and_grad(SOFTPLUS.student)(made)
    np.testing.assert_allclose(value, array(case, "gen_loss")[0], rtol=1e-9)
    np.testing.assert_allclose(slope, array(case, "grad_gen_fake"), rtol=1e-9)
    value, slopes = jax.value_and_grad(SOFTPLUS.critic, argnums=(0, 1))(real, made)
    np.testing.assert_allclose(value, array(case, "disc_loss")[0], rtol=1e-9)
    np.testing.assert_allclose(slopes[0], array(case, "grad_disc_real"), rtol=1e-9)
    np.testing.assert_allclose(slopes[1], array(case, "grad_disc_fake"), rtol=1e-9)


@pytest.mark.parametrize("case", cases("_get_f_div_weighting_h"))
def test_golden_divergence_weights(case):
    logits = array(case, "fake_logits")
    r = ratio(logits, case["ratio_lower"], case["ratio_upper"])
    if case["ratio_normalization"]:
        t, count = array(case, "t"), case["bin_num"]
        edges = (t - case["min_t"]) / (case["max_t"] - case["min_t"]) * count
        index = jnp.clip(jnp.floor(edges), 0, count - 1).astype(int)
        before = jnp.ones(count)
        after = before + (1 - case["ratio_ema_rate"]) * (bin_means(r, index, before) - before)
        r = r / (after[index] + 1e-6)
    h = divergence_weight(NAMES[case["f_div"]], r)
    np.testing.assert_allclose(h, array(case, "h"), rtol=1e-5)


@pytest.mark.parametrize("case", [*cases("DMD2Model"), *cases("FdistillModel")])
def test_golden_students_and_fake_scores(case):
    """Both updates of DMD2 and f-distill, the head on the teacher's features."""
    t, eps, real = array(case, "t"), array(case, "eps"), array(case, "real_data")
    recorded, head = (
        toy_denoiser(toys(case, "teacher")),
        (array(case, "disc:w"), array(case, "disc:b")),
    )
    logits = lambda y: recorded(y, t, full=True).features[0] @ head[0] + head[1][None]  # noqa: E731
    factor, name = case["gan_loss_weight_gen"], NAMES.get(case["f_div"])

    def make(params):
        return toy_denoiser(params)(array(case, "input_student"), array(case, "t_student"))

    def student_loss(params):
        x = make(params)
        y = perturb(x, t, eps)
        h = 1.0 if name is None else divergence_weight(name, ratio(logits(y), 0.1, 10.0))
        weight = normaliser(x, recorded(y, t)) * jax.lax.stop_gradient(h)
        direction = score_difference(recorded, toy_denoiser(toys(case, "fake_score")), y, t, weight)
        return jnp.mean(push(x, direction)) + factor * SOFTPLUS.student(logits(y))

    start = toys(case, "student")
    value, slope = jax.value_and_grad(student_loss)(start)
    np.testing.assert_allclose(value, array(case, "student_total_loss")[0], rtol=1e-5)
    same_gradient(case, "student", slope)
    x = make(start)
    own = lambda p: jnp.mean(squared(toy_denoiser(p)(perturb(x, t, eps), t), x))  # noqa: E731
    value, slope = jax.value_and_grad(own)(toys(case, "fake_score"))
    np.testing.assert_allclose(value, array(case, "fake_fake_score_loss")[0], rtol=1e-6)
    same_gradient(case, "fake_score", slope)
    if factor:
        discriminator_value = SOFTPLUS.critic(
            logits(perturb(real, t, eps)), logits(perturb(x, t, eps))
        )
        np.testing.assert_allclose(
            discriminator_value, array(case, "fake_gan_loss_disc")[0], rtol=1e-6
        )


@pytest.mark.parametrize("case", cases("SID_EDMLoss"))
def test_golden_score_identity(case):
    recorded, made = toy_denoiser(toys(case, "teacher")), toy_denoiser(toys(case, "fake_score"))
    u = 1.0 - array(case, "rnd_uniform").reshape(-1) * case["tmax"] / 1000
    s = karras_level(u, jnp.full_like(u, 2.0), 0.002, 80.0, 7.0)

    def loss(params):
        z = array(case, "z")
        x = toy_denoiser(params)(z, jnp.full(len(z), 80.0))
        y = perturb(x, s, array(case, "noise"))
        D_teacher = recorded(y, s)
        weight = normaliser(x, D_teacher, 0.0)
        return jnp.sum(identity_loss(D_teacher, made(y, s), x, case["alpha"], weight))

    value, slope = jax.value_and_grad(loss)(toys(case, "student"))
    np.testing.assert_allclose(value, array(case, "generator_loss_map").sum(), rtol=1e-5)
    same_gradient(case, "student", slope)
