"""Losses of distillation in closed form: gradients, symmetries, values by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.classify.losses import boundaries, contrast, logits, maps, relations, review
from jaxdiff.networks.classifier_layers import adaptive_mean, windows

RNG = np.random.default_rng(0)
Z_S, Z_T = RNG.standard_normal((2, 6, 5))
LABEL = jnp.array([0, 1, 2, 3, 4, 0])
F_S, F_T = (jnp.asarray(RNG.standard_normal((6, 4, 4, c))) for c in (3, 5))
E_S, E_T = jnp.asarray(F_S.reshape(6, -1)[:, :7]), jnp.asarray(F_T.reshape(6, -1)[:, :7])
ROTATION = jnp.asarray(np.linalg.qr(RNG.standard_normal((7, 7)))[0])
OF_MAPS = (maps.hint, maps.attention, maps.similarity, maps.selectivity, maps.factor)
OF_FEATURES = (relations.probabilistic, relations.relational, relations.congruence)


def shares(z, temperature=1.0):
    e = np.exp(z / temperature - (z / temperature).max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 1e4])
def test_the_gradient_of_kd_is_the_difference_of_predictions(temperature):
    grad = jax.grad(logits.distilled_logits)(jnp.asarray(Z_S), jnp.asarray(Z_T), temperature)
    wanted = temperature * (shares(Z_S, temperature) - shares(Z_T, temperature)) / 6
    np.testing.assert_allclose(grad, wanted, atol=1e-9)
    if temperature > 1e3:  # then it is the distance of centred logits
        centred = [z - z.mean(1, keepdims=True) for z in (Z_S, Z_T)]
        np.testing.assert_allclose(grad, (centred[0] - centred[1]) / (5 * 6), atol=1e-4)


def test_kd_is_decoupled_kd_with_what_the_teacher_leaves_to_others():
    """KL = TCKD + (1 - p_t) NCKD, sample by sample."""
    total = 0.0
    left = 1 - shares(Z_T, 4.0)[np.arange(6), LABEL]
    for i in range(6):
        one = [jnp.asarray(z[i : i + 1]) for z in (Z_S, Z_T)]
        total += logits.decoupled(*one, LABEL[i : i + 1], 4.0, 1.0, float(left[i])) / 6
    whole = logits.distilled_logits(jnp.asarray(Z_S), jnp.asarray(Z_T), 4.0)
    np.testing.assert_allclose(total, whole, rtol=1e-10)
    grad = jax.grad(logits.decoupled)(jnp.asarray(Z_S), jnp.asarray(Z_T), LABEL)
    assert np.all(np.isfinite(grad))


def test_losses_of_logits_vanish_where_they_should():
    z, label = jnp.asarray(Z_S), LABEL
    for loss in (logits.distilled_logits, logits.correlation_distances):
        np.testing.assert_allclose(loss(z, z), 0, atol=1e-10)
    np.testing.assert_allclose(logits.decoupled(z, z, label), 0, atol=1e-12)
    moved = 3.0 * z + 2.0
    standard = logits.standardised(z)
    np.testing.assert_allclose(logits.standardised(moved), standard, rtol=1e-6)
    np.testing.assert_allclose(np.std(standard, axis=1, ddof=1), 1, rtol=1e-6)
    # a correlation sees neither scale nor shift of a distribution: here of two classes
    two = jnp.log(jnp.array([[0.6, 0.4], [0.3, 0.7]]))
    wider = jnp.log(jnp.array([[0.7, 0.3], [0.1, 0.9]]))
    np.testing.assert_allclose(logits.correlation_distances(two, wider, 1.0), 0, atol=1e-9)
    flipped = logits.correlation_distances(two, two[:, ::-1], 1.0, 2.0, 3.0)
    np.testing.assert_allclose(flipped, 2 * 2.0 + 2 * 3.0, rtol=1e-9)


@pytest.mark.parametrize("loss", OF_MAPS, ids=lambda f: f.__name__)
def test_losses_of_maps_vanish_for_equal_ones_and_no_others(loss):
    np.testing.assert_allclose(loss(F_S, F_S), 0, atol=1e-12)
    other = F_S + jnp.asarray(RNG.standard_normal(F_S.shape))
    assert loss(other, F_S) > 1e-6
    zero = jnp.zeros_like(F_S)
    assert np.all(np.isfinite(jax.grad(loss)(zero, F_S)))


@pytest.mark.parametrize("loss", OF_FEATURES, ids=lambda f: f.__name__)
def test_losses_of_relations_vanish_for_equal_features_and_no_others(loss):
    np.testing.assert_allclose(loss(E_S, E_S), 0, atol=1e-10)
    assert loss(E_S, E_T) > 1e-9
    assert np.all(np.isfinite(jax.grad(loss)(E_S, E_S)))


def test_symmetries():
    np.testing.assert_allclose(maps.attention(3.0 * F_S, F_T), maps.attention(F_S, F_T))
    flat = lambda e: e[:, None, None]  # noqa: E731
    turned = 2.0 * E_S @ ROTATION
    same = maps.similarity(flat(turned), flat(E_T)), maps.similarity(flat(E_S), flat(E_T))
    np.testing.assert_allclose(*same, rtol=1e-9)
    moved = turned + 5.0
    same = relations.relational(moved, E_T), relations.relational(E_S, E_T)
    np.testing.assert_allclose(*same, rtol=1e-6)
    same = relations.probabilistic(turned, E_T), relations.probabilistic(E_S, E_T)
    np.testing.assert_allclose(*same, rtol=1e-5)


def test_values_by_hand():
    mean, variance = F_T, jnp.full(5, 5.0)
    found = maps.variational(mean, variance, F_T)
    np.testing.assert_allclose(found, 0.5 * np.log(5), rtol=1e-12)  # .8047
    ones = jnp.ones((1, 2, 2, 1))
    np.testing.assert_allclose(maps.flow(ones, 3 * ones, ones, ones), (3 - 1) ** 2)
    s, t = jnp.array([[2.0, -2.0, -0.5, 0.5]]), jnp.array([[-1.0, 3.0, 0.0, 1.0]])
    by_hand = ((2 + 1) ** 2 + (-2 - 1) ** 2 + (-0.5 + 1) ** 2 + (0.5 - 1) ** 2) / 4
    np.testing.assert_allclose(boundaries.activation_boundary(s, t), by_hand)
    fine = jnp.array([[-1.5, 2.0, -1.0, 1.5]])  # beyond the margin on the right side
    np.testing.assert_allclose(boundaries.activation_boundary(fine, t), 0)
    # channels with negatives -1 and -3 (mean -2) and none
    s, t = jnp.array([[-5.0, 1.0], [-1.5, 4.0]]), jnp.array([[-1.0, 2.0], [-3.0, 4.0]])
    np.testing.assert_allclose(boundaries.margins(t), [-2, 0])
    # t' = [[-1, 2], [-2, 4]]: -5 <= -1 counts not, (1-2)^2, (-1.5+2)^2, 0
    np.testing.assert_allclose(boundaries.overhaul(s, t), (1 + 0.25) / (1000 * 2))
    apart = review.hierarchical(F_S + 2.0, F_S)  # the mean over any parts is 2 off
    np.testing.assert_allclose(apart, 4.0, rtol=1e-9)
    with pytest.raises(ValueError, match="no squared distance"):
        maps.hint(F_S, F_T)
    with pytest.raises(ValueError, match="widths"):
        maps.flow(F_S, F_S, F_T, F_T)
    with pytest.raises(ValueError, match="batch of 2"):
        relations.congruence(E_S[:1], E_T[:1])


def test_means_over_windows():
    halves = adaptive_mean(F_S, 2, 2)
    wanted = np.asarray(F_S).reshape(6, 2, 2, 2, 2, 3).mean((2, 4))
    np.testing.assert_allclose(halves, wanted, rtol=1e-12)
    np.testing.assert_allclose(windows(5, 3)[1], [0, 1 / 3, 1 / 3, 1 / 3, 0])
    assert adaptive_mean(F_S, 4, 4) is F_S


# --- contrast


def test_contrasts_are_of_other_classes_all_of_them_alike():
    labels = np.array([2, 0, 1, 0, 2, 2, 1, 0, 1])
    of = contrast.others(labels)
    index = jnp.array([0, 1, 2])
    label = jnp.asarray(labels[np.asarray(index)])
    chosen = np.asarray(contrast.contrasts(jax.random.key(0), index, label, of, 3000))
    assert np.array_equal(chosen[:, 0], index)
    for row, own in zip(chosen, label, strict=True):
        assert not np.any(labels[row[1:]] == own)
        counts = np.bincount(row[1:], minlength=9)[labels != own]
        assert np.all(np.abs(counts - 500) < 100)
    with pytest.raises(ValueError, match="class of every image"):
        contrast.others(np.zeros(4, int))


def test_the_contrastive_loss_is_that_of_its_formula_and_the_memory_moves_by_half():
    stored = contrast.memory(jax.random.key(0), 9, 4)
    v = maps.unit(jnp.asarray(RNG.standard_normal((2, 4)), jnp.float32))
    w = maps.unit(jnp.asarray(RNG.standard_normal((2, 4)), jnp.float32))
    chosen = jnp.array([[3, 1, 2], [5, 0, 8]])
    value, scale = contrast.contrastive(v, w, stored, chosen, 0.5)
    total = 0.0
    for own, kept, z in ((v, stored.teacher, scale[0]), (w, stored.student, scale[1])):
        p = np.exp(np.einsum("bd,bkd->bk", own, np.asarray(kept)[np.asarray(chosen)]) / 0.5)
        np.testing.assert_allclose(z, p.mean() * 9, rtol=1e-5)
        p, noise = p / z, 2 / 9
        total -= np.log(p[:, 0] / (p[:, 0] + noise)).sum() / 2
        total -= np.log(noise / (p[:, 1:] + noise)).sum() / 2
    np.testing.assert_allclose(value, total, rtol=1e-4)
    later = stored._replace(scale=jnp.array([7.0, 8.0], jnp.float32))
    np.testing.assert_array_equal(contrast.contrastive(v, w, later, chosen)[1], [7, 8])
    after = contrast.moved(stored, v, w, chosen[:, 0], scale)
    wanted = np.asarray(stored.student[jnp.array([3, 5])] + v) / 2
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(after.student[jnp.array([3, 5])], wanted, rtol=1e-5)
    assert np.all(np.asarray(after.student[:3] == stored.student[:3]))
