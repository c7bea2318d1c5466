"""Guidance by a second denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxdiff as jd


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


def test_both_conditions_in_one_call():
    """The same output; twice the rows are asked for once."""
    y, cond = jnp.asarray([[1.0, -1.0], [0.5, 2.0]]), {"a": jnp.asarray([1.0, 2.0]), "b": 3.0}
    rows = []

    def D(y, level, cond=None):
        assert cond is not None
        rows.append(y.shape[0])
        level = jnp.broadcast_to(jnp.asarray(level), y.shape[:1])
        return y * level[:, None] + (cond["a"] * cond.get("b", 1.0)).reshape(-1, 1)

    null = {"a": 0.5, "b": 1.0}
    for level in (0.7, jnp.asarray([0.7, 2.0])):
        apart = jd.guidance.classifier_free(D, 3.0, null)(y, level, cond)
        rows.clear()
        once = jd.guidance.classifier_free(D, 3.0, null, batched=True)(y, level, cond)
        np.testing.assert_allclose(once, apart, rtol=1e-12)
        assert rows == [4]
    with pytest.raises(ValueError, match="needs null"):
        jd.guidance.classifier_free(D, 3.0, batched=True)
    left = jd.guidance.classifier_free(D, 3.0, {"a": 0.5, "b": None}, batched=True)
    with pytest.raises(ValueError, match="nothing left out"):
        left(y, 0.7, cond)
