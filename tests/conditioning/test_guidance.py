"""Guidance by a second denoiser."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd
from jaxdiff import blending, guidance
from jaxdiff.networks import DiT, UNet, from_linen, init


def test_autoguidance_is_classifier_free_guidance_of_an_unconditional_reference(rng):
    def D(y, level, cond=None):
        return 0.3 * y + (0.0 if cond is None else cond[:, None])

    y, cond = jnp.asarray(rng.standard_normal((3, 2))), jnp.asarray([1.0, 2.0, 3.0])
    plain = lambda y, level, cond=None: D(y, level)  # noqa: E731
    for conditional, reference in ((True, plain), (False, D)):
        made = jd.guidance.autoguidance(D, reference, 1.7, conditional=conditional)
        expected = jd.guidance.classifier_free(D, 1.7)(y, 1.0, cond)
        np.testing.assert_allclose(made(y, 1.0, cond), expected, rtol=1e-12)


def test_autoguidance_by_hand_per_sample_and_by_weight(rng):
    """Weight 1 is the model, 0 the reference; a weight may be each sample's own."""
    D, bad = (lambda y, level, cond=None, a=a: a * y for a in (2.0, 0.5))
    y, weight = jnp.asarray(rng.standard_normal((3, 2))), jnp.asarray([0.0, 1.0, 3.0])
    made = jd.guidance.autoguidance(D, bad, weight)(y, 1.0)
    np.testing.assert_allclose(made, y * jnp.asarray([0.5, 2.0, 5.0])[:, None], rtol=1e-12)
    slope = jax.grad(lambda w: jnp.sum(jd.guidance.autoguidance(D, bad, w)(y, 1.0)))(2.0)
    np.testing.assert_allclose(slope, 1.5 * jnp.sum(y), rtol=1e-12)


NULL = {"a": 0.5, "b": 1.0}
Y = jnp.asarray([[1.0, -1.0], [0.5, 2.0]])
OWN = jnp.asarray([0.3, -0.7])  # numbers per sample that the denoiser holds


class Counted:
    """A denoiser, also the network of one, that counts its calls; its null class is 3."""

    null = 3

    def __init__(self):
        self.calls = 0

    def __call__(self, y, level, cond=None, *, seen=None):
        self.calls += 1
        assert y.shape == Y.shape
        level = jnp.broadcast_to(jnp.asarray(level), y.shape[:1])
        told = sum(x.astype(float) for x in jax.tree.leaves(cond))
        return y * (level * OWN)[:, None] + jnp.sin(y[::-1] * jnp.reshape(told, (-1, 1)))


def conditions(count):
    """So many conditions: a number a sample and one for all."""
    return [{"a": jnp.asarray([1.0, 2.0]) / i, "b": jnp.asarray(3.0)} for i in range(1, count + 1)]


ONE, TWO = conditions(2)
TOGETHER = {
    "classifier_free": (lambda D: guidance.classifier_free(D, 3.0, NULL), ONE, 2),
    "negative": (lambda D: guidance.negative_prompt(D, OWN), guidance.Prompts(ONE, TWO), 2),
    "apg": (lambda D: blending.adaptive_projected(D, 3.0, NULL), ONE, 2),
    "bands": (lambda D: blending.frequency_decoupled(D, (3.0, 2.0), NULL, axes=(1,)), ONE, 2),
    "both": (lambda D: blending.both_outputs(D, NULL), ONE, 2),
    "composed": (lambda D: blending.composed(D, (3.0, -1.0), NULL), (ONE, TWO), 3),
    "perp-neg": (lambda D: blending.perpendicular_negative(D, 3, (1,), NULL), (ONE, TWO), 3),
    "pix2pix": (lambda D: blending.two_weights(D, nulls=(NULL, NULL)), (ONE, TWO), 3),
}


@pytest.mark.parametrize("name", TOGETHER)
def test_conditions_that_are_alike_are_one_call(name):
    """Whose numbers stay with their rows; a plain function among the options has a call each."""
    make, cond, each = TOGETHER[name]
    D = Counted()
    level = 0.7 if name == "apg" else jnp.asarray([0.7, 2.0])
    once = make(D)(Y, level, cond)
    assert D.calls == 1
    apart = make(D)(Y, level, cond, seen=print)
    assert D.calls == 1 + each
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), once, apart)


def test_conditions_that_are_not_alike_are_a_call_each():
    D = Counted()
    unlike = (None, {"a": 0.5, "b": None}, {"a": 0.5, "b": 1.0})
    for null, calls in zip(unlike, (2, 2, 1), strict=True):
        D.calls = 0
        guidance.classifier_free(D, 3.0, null)(Y, 0.7, ONE)
        assert D.calls == calls
    guidance.classifier_free(D, 3.0, NULL, batched=False)(Y, 0.7, ONE)
    assert D.calls == 3
    for null in unlike[:2]:
        with pytest.raises(ValueError, match="nothing left out"):
            guidance.classifier_free(D, 3.0, null, batched=True)(Y, 0.7, ONE)
    shapes = guidance.Prompts(ONE, {"a": jnp.asarray(1.0), "b": jnp.asarray(3.0)})
    guidance.negative_prompt(D, 3.0)(Y, 0.7, shapes)
    assert D.calls == 5
    guidance.negative_prompt(D, 3.0, batched=False)(Y, 0.7, guidance.Prompts(ONE, TWO))
    assert D.calls == 7
    with pytest.raises(ValueError, match="structure, shapes and dtypes"):
        guidance.negative_prompt(D, 3.0, batched=True)(Y, 0.7, shapes)


def test_a_condition_given_twice_is_evaluated_once():
    D = Counted()
    made = guidance.negative_prompt(D, 3.0)(Y, 0.7, guidance.Prompts(ONE, ONE))
    assert D.calls == 1
    np.testing.assert_allclose(made, D(Y, 0.7, ONE), rtol=1e-12)
    kept = guidance.classifier_free(D, 3.0, {"a": 0.5}, keep=("b",))  # "b" is not repeated
    np.testing.assert_allclose(
        kept(Y, 0.7, ONE), guidance.classifier_free(D, 3.0, {"a": 0.5, "b": 3.0})(Y, 0.7, ONE)
    )


def test_a_networks_own_class_for_none_is_one_call():
    network = Counted()
    network_of: Any = lambda params, x, label, cond: network(x, label, cond)  # noqa: E731
    network_of.null = 3
    D, classes = jd.denoiser(network_of, {}), jnp.asarray([0, 2])
    guided = guidance.classifier_free(D, 3.0)
    made = guided(Y, 0.7, classes)
    assert network.calls == 1
    by_hand = 3 * D(Y, 0.7, classes) - 2 * D(Y, 0.7, jnp.asarray([3, 3]))
    np.testing.assert_allclose(made, by_hand, rtol=1e-12)


def test_one_call_has_the_derivatives_of_two():
    def loss(y, weight, cond, **options):
        return jnp.sum(guidance.classifier_free(Counted(), weight, NULL)(y, 0.7, cond, **options))

    slopes = jax.grad(loss, (0, 1, 2))
    apart = slopes(Y, 3.0, ONE, seen=print)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), slopes(Y, 3.0, ONE), apart
    )


NETWORKS = {
    "unet": UNet(
        channels=8, multipliers=(1, 2), attention=(4,), heads=2, num_classes=3, dropout=0.5
    ),
    "dit": DiT(patch=4, width=16, depth=2, heads=2, num_classes=3, dropout=0.5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_in_one_call_give_what_they_give_in_two(name, rng):
    """With dropout by a key, attention of the user's, numbers per sample and guidance within."""
    params = init(NETWORKS[name], jax.random.key(0), (8, 8, 1))
    params = jax.tree.map(lambda p: 0.3 * jnp.asarray(rng.standard_normal(p.shape)), params)
    D = jd.denoiser(from_linen(NETWORKS[name]), params)
    y, classes = jnp.asarray(rng.standard_normal((3, 8, 8, 1))), jnp.asarray([0, 2, 1])
    level, weight, key = jnp.asarray([0.7, 2.0, 5.0]), jnp.asarray([1.5, 3.0, 0.0]), rng.integers(9)
    worse = jd.denoisers.conditioned(D, attention=jd.attention.perturbed())
    denoisers = D, guidance.autoguidance(D, worse, 1.0 + weight)

    def guided(y, batched):
        key_of = jax.random.key(int(key))
        made = [guidance.classifier_free(E, weight, 3, batched=batched) for E in denoisers]
        return [E(y, level, classes, key=key_of) for E in made]

    def both(y, batched):
        slope = jax.grad(lambda y: sum(jnp.sum(x**2) for x in guided(y, batched)))
        return guided(y, batched), slope(y)

    once, apart = (jax.jit(both, static_argnums=1)(y, batched) for batched in (True, False))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9), once, apart)
