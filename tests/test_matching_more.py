"""Score distillation into scenes, adversarial methods, corrections by a discriminator."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_matching import (
    COUNT,
    FLAT,
    HEAD,
    KEY,
    LEVEL,
    MEAN,
    STD,
    TEACHER,
    THETA,
    check,
    fake,
    fixed,
    kl,
    tiny,
    tiny_batch,
    tiny_network,
    tiny_params,
)

from jaxdiff.conditioning.correction import discriminator_guidance
from jaxdiff.distill.adversarial import HINGE, Critic
from jaxdiff.distill.adversarial_distillation import add, ladd
from jaxdiff.distill.denoising_gan import ddgan, neighbours, ufogen
from jaxdiff.distill.discriminator import discriminator
from jaxdiff.distill.score_distillation import (
    score_distillation,
    variance,
    variational_score_distillation,
)
from jaxdiff.distill.student import Student
from jaxdiff.distill.truncated_diffusion import truncated_diffusion
from jaxdiff.distill.two_players import Opponent
from jaxdiff.method import Context
from jaxdiff.prediction import denoiser
from jaxdiff.training.loop import fit, init_state, update


def gradient(method, batch):
    others = method.init(KEY)
    context = Context(jnp.asarray(0), others, {}, method.frozen)
    loss = lambda p: method.players["student"].loss(p, context, batch, KEY)[0]  # noqa: E731
    return jax.jit(jax.grad(loss))(others["student"])


def test_score_distillation_pulls_a_scene_to_the_mean():
    """For a Gaussian teacher the gradient is w s/(v + s^2) (x - mean), in the mean over noise."""
    render = lambda scene, key: jnp.broadcast_to(scene["x"][None], (COUNT, 1))  # noqa: E731
    scene = {"x": jnp.asarray([1.5])}
    method = score_distillation(TEACHER.denoiser, render, scene, levels=fixed)
    expected = variance(LEVEL) * LEVEL / (STD**2 + LEVEL**2) * (1.5 - MEAN)
    check({"x": gradient(method, {})["x"][0]}, {"x": expected})
    state = init_state(method, KEY)
    assert method.sampler(state)(KEY).shape == (COUNT, 1)


def test_variational_score_distillation_is_the_gradient_of_the_divergence():
    """Where the fake score is right, with w/s = s^-2."""

    def render(scene, key):
        return scene["mean"] + scene["std"] * jax.random.normal(key, (COUNT, 1))

    method = variational_score_distillation(
        TEACHER.denoiser, render, THETA, fake(), rank=0, levels=fixed, weight=lambda s: 1.0 / s
    )
    check(gradient(method, {}), jax.grad(kl)(THETA))


def test_a_discriminator_mends_a_wrong_model():
    """With log p/q of the noisy densities the model's denoiser becomes the data's."""
    model = fake().denoiser(THETA)

    def logits(y, s, cond=None):
        v, w = THETA["std"] ** 2 + s**2, STD**2 + s**2
        log_p = -0.5 * ((y[:, 0] - MEAN) ** 2 / w + jnp.log(w))
        return log_p + 0.5 * ((y[:, 0] - THETA["mean"]) ** 2 / v + jnp.log(v))

    y, s = jnp.linspace(-2.0, 2.0, 9)[:, None], jnp.geomspace(0.1, 5.0, 9)
    D = discriminator_guidance(model, logits)
    np.testing.assert_allclose(D(y, s), TEACHER.denoiser(y, s), rtol=1e-9)
    np.testing.assert_allclose(discriminator_guidance(model, logits, 0.0)(y, s), model(y, s))

    method = discriminator(
        model, lambda a, y, s, cond: a * logits(y, s), jnp.asarray(1.0), levels=fixed
    )
    z = jax.random.normal(KEY, (2, COUNT, 1))
    batch = {"image": MEAN + STD * z[0], "sample": THETA["mean"] + THETA["std"] * z[1]}
    context = Context(jnp.asarray(0), {}, {}, None)
    loss = lambda a: method.players["student"].loss(a, context, batch, KEY)[0]  # noqa: E731
    slopes = [float(jax.jit(jax.grad(loss))(a)) for a in (0.0, 1.0)]
    assert abs(slopes[1]) < 0.02 * abs(slopes[0]) and slopes[0] < 0
    with pytest.raises(ValueError, match='"sample"'):
        method.players["student"].loss(1.0, context, {"image": z[0]}, KEY)


def test_neighbours_are_of_one_diffusion():
    levels = [3.0, 1.0, 0.0]
    pair = neighbours(KEY, jnp.zeros((COUNT, 1)), levels)
    top = pair.t == 3.0
    assert abs(top.mean() - 0.5) < 0.01
    assert ((pair.s == 1.0) == top).all() and (pair.y_s[~top] == 0).all()
    np.testing.assert_allclose(pair.y_t[top].std(), 3.0, rtol=0.01)
    both = jnp.mean(pair.y_t[top] * pair.y_s[top])
    np.testing.assert_allclose([both, pair.y_s[top].var()], 1.0, rtol=0.03)


def critic_logits(params, x, cond):
    return jnp.tanh(x) @ params["w"]


def pair_logits(params, x, told):
    y_t, t, s, cond = told
    return jnp.tanh(x + 0.3 * y_t) @ params["w"]


def weights():
    return {"w": jnp.asarray([[0.4], [-0.2]], jnp.float32)}


def latent_network(params, x, label, cond=None, **options):
    told = jnp.sum(label[:, 1:], axis=1, keepdims=True)
    return tiny_network(params, x + 0.1 * told, label[:, 0], cond, **options)


def frames():
    teacher = lambda y, s, cond=None: FLAT.denoiser(y, s)  # noqa: E731
    seen = denoiser(tiny_network, tiny_params(1))
    return {
        "add": add(teacher, tiny(), Critic(critic_logits, weights(), HINGE)),
        "ladd": ladd(seen, tiny(), Opponent(head=HEAD, trunk="teacher", scores=False)),
        "ddgan": ddgan(
            Student(latent_network, tiny_params()), Critic(pair_logits, weights()), latent=2
        ),
        "ufogen": ufogen(tiny(), Opponent(head=HEAD)),
        "truncated": truncated_diffusion(tiny(), Opponent(head=HEAD)),
    }


@pytest.mark.parametrize(
    "name",
    [
        "ddgan",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("add", "ladd", "ufogen", "truncated")),
    ],
)
def test_a_player_moves_itself_alone(name):
    with jax.enable_x64(False):
        method = frames()[name]
        state = init_state(method, jax.random.key(0))
        for player in method.players:
            step = jax.jit(functools.partial(update, method, active=(player,)))
            new, metrics = step(state, tiny_batch())
            assert all(np.isfinite(v).all() for v in metrics.values())
            for other in method.players:
                pairs = zip(
                    jax.tree.leaves(state.params[other]), jax.tree.leaves(new.params[other]),
                    strict=True,
                )  # fmt: skip
                same = [np.array_equal(a, b) for a, b in pairs]
                assert all(same) if other != player else not all(same), (player, other)


def test_latents_are_of_the_sample_and_the_evaluation():
    """Sample 3 is the same in any batch; its steps are random in themselves."""
    with jax.enable_x64(False):
        method = frames()["ddgan"]
        state = fit(method, tiny_batch, steps=1, key=0, progress=False)
        sampler = method.sampler(state)
        x = sampler(KEY, 5, (2,))
        np.testing.assert_allclose(sampler(KEY, [3], (2,))[0], x[3], rtol=1e-6)
        assert sampler.latent == 2 and np.isfinite(x).all()
        assert np.abs(sampler(jax.random.key(6), 5, (2,)) - x).max() > 1e-3


def test_students_of_a_truncated_chain_jump_first():
    method = frames()["truncated"]
    made = method.sampler(init_state(method, KEY), steps=3).table
    assert made.nfe == 3 and made.levels[0] == 80.0
    np.testing.assert_allclose(made.levels[1], 2.5)
    with pytest.raises(ValueError, match="steps >= 2"):
        method.sampler(init_state(method, KEY), steps=1)
    with pytest.raises(ValueError, match="between levels"):
        truncated_diffusion(tiny(), Opponent(head=HEAD), cut=100.0)
    with pytest.raises(ValueError, match="head on its own"):
        truncated_diffusion(tiny(), Opponent())
    with pytest.raises(ValueError, match="decrease to 0"):
        ddgan(tiny(), Critic(pair_logits, weights()), levels=[3.0, 1.0])
