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

GRADIENT = jax.jit(jax.grad(logits.distilled_logits))


def shares(z, temperature=1.0):
    e = np.exp(z / temperature - (z / temperature).max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


@pytest.mark.parametrize("temperature", [1.0, 4.0, 1e4])
def test_the_gradient_of_kd_is_the_difference_of_predictions(temperature):
    grad = GRADIENT(jnp.asarray(Z_S), jnp.asarray(Z_T), temperature)
    wanted = temperature * (shares(Z_S, temperature) - shares(Z_T, temperature)) / 6
    np.testing.assert_allclose(grad, wanted, atol=1e-9)
    if temperature > 1e3:  # then it is the distance of centred logits
        centred = [z - z.mean(1, keepdims=True) for z in (Z_S, Z_T)]
        np.testing.assert_allclose(grad, (centred[0] - centred[1]) / (5 * 6), atol=1e-4)


def test_kd_is_decoupled_kd_with_what_the_teacher_leaves_to_others():
    """KL = TCKD + (1 - p_t) NCKD, sample by sample."""
    left = 1 - shares(Z_T, 4.0)[np.arange(6), LABEL]
    one = lambda s, t, y, beta: logits.decoupled(s, t, y, 4.0, 1.0, beta)  # noqa: E731
    step = jax.jit(jax.value_and_grad(one))
    total, grads = 0.0, []
    for i in range(6):
        value, grad = step(Z_S[i : i + 1], Z_T[i : i + 1], LABEL[i : i + 1], left[i])
        total, grads = total + value / 6, [*grads, grad[0] / 6]
    wanted, gradient = jax.jit(jax.value_and_grad(logits.distilled_logits))(Z_S, Z_T)
    np.testing.assert_allclose(total, wanted, rtol=1e-10)
    np.testing.assert_allclose(grads, gradient, atol=1e-10)


def test_losses_of_logits_vanish_where_they_should():
    @jax.jit
    def values(z, label):
        zeros = [loss(z, z) for loss in (logits.distilled_logits, logits.correlation_distances)]
        zeros.append(logits.decoupled(z, z, label))
        return jnp.stack(zeros), logits.standardised(z), logits.standardised(3.0 * z + 2.0)

    zeros, standard, moved = values(Z_S, LABEL)
    np.testing.assert_allclose(zeros, 0, atol=1e-10)
    np.testing.assert_allclose(moved, standard, rtol=1e-6)
    np.testing.assert_allclose(np.std(standard, axis=1, ddof=1), 1, rtol=1e-6)
    correlation = jax.jit(logits.correlation_distances)
    # a correlation sees neither scale nor shift of a distribution: here of two classes
    two = np.log(np.array([[0.6, 0.4], [0.3, 0.7]]))
    wider = np.log(np.array([[0.7, 0.3], [0.1, 0.9]]))
    np.testing.assert_allclose(correlation(two, wider, 1.0, 2.0, 3.0), 0, atol=1e-9)
    flipped = correlation(two, np.asarray(two)[:, ::-1], 1.0, 2.0, 3.0)
    np.testing.assert_allclose(flipped, 2 * 2.0 + 2 * 3.0, rtol=1e-9)


@pytest.mark.parametrize("loss", OF_MAPS + OF_FEATURES, ids=lambda f: f.__name__)
def test_losses_of_features_vanish_for_equal_ones_and_no_others(loss):
    given = F_S if loss in OF_MAPS else E_S
    other = given + jnp.asarray(RNG.standard_normal(given.shape))

    @jax.jit
    def all_of(f, g):
        """Of equal ones, of others, and gradients where norms are 0."""
        flat = jnp.zeros_like(f) if loss in OF_MAPS else f
        return loss(f, f), loss(g, f), jax.grad(loss)(flat, f)

    same, apart, grad = all_of(given, other)
    np.testing.assert_allclose(same, 0, atol=1e-10)
    assert apart > 1e-6 and np.all(np.isfinite(grad))


def test_symmetries():
    flat = lambda e: e[:, None, None]  # noqa: E731

    @jax.jit
    def pairs(f_s, f_t, e_s, e_t, rotation):
        turned = 2.0 * e_s @ rotation
        return {
            "attention": (maps.attention(3.0 * f_s, f_t), maps.attention(f_s, f_t)),
            "similarity": tuple(maps.similarity(flat(e), flat(e_t)) for e in (turned, e_s)),
            "rkd": tuple(relations.relational(e, e_t) for e in (turned + 5.0, e_s)),
            "pkt": tuple(relations.probabilistic(e, e_t) for e in (turned, e_s)),
        }

    for name, (one, other) in pairs(F_S, F_T, E_S, E_T, ROTATION).items():
        np.testing.assert_allclose(one, other, rtol=1e-5, err_msg=name)


def test_values_by_hand():
    s, t = np.array([[2.0, -2.0, -0.5, 0.5]]), np.array([[-1.0, 3.0, 0.0, 1.0]])
    fine = np.array([[-1.5, 2.0, -1.0, 1.5]])  # beyond the margin on the right side
    p, q = np.array([[-5.0, 1.0], [-1.5, 4.0]]), np.array([[-1.0, 2.0], [-3.0, 4.0]])
    ones = np.ones((1, 2, 2, 1))
    checks = (-1.0) ** np.indices((4, 4)).sum(0)[None, :, :, None]

    @jax.jit
    def values():
        return {
            "variational": maps.variational(F_T, jnp.full(5, 5.0), F_T),
            "flow": maps.flow(ones, 3 * ones, ones, ones),
            "boundary": boundaries.activation_boundary(s, t),
            "beyond": boundaries.activation_boundary(fine, t),
            "margins": boundaries.margins(jnp.asarray(q)),
            "overhaul": boundaries.overhaul(p, jnp.asarray(q)),
            "review": review.hierarchical(F_S + 2.0, F_S),
            "checks": review.hierarchical(jnp.asarray(checks), jnp.zeros_like(checks)),
        }

    wanted = {
        "variational": 0.5 * np.log(5),  # .8047
        "flow": (3 - 1) ** 2,
        "boundary": ((2 + 1) ** 2 + (-2 - 1) ** 2 + (-0.5 + 1) ** 2 + (0.5 - 1) ** 2) / 4,
        "beyond": 0,
        "margins": [-2, 0],  # of -1 and -3, and of none
        # t' = [[-1, 2], [-2, 4]]: -5 <= -1 counts not, (1 - 2)^2, (-1.5 + 2)^2, 0
        "overhaul": (1 + 0.25) / (1000 * 2),
        "review": 4.0,  # the mean over any parts is 2 off
        "checks": 1 / (1 + 1 / 2 + 1 / 4),  # means over parts of 2 x 2 and 4 x 4 pixels vanish
    }
    for name, value in values().items():
        np.testing.assert_allclose(value, wanted[name], rtol=1e-9, err_msg=name)
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
    chosen = np.asarray(
        jax.jit(contrast.contrasts, static_argnums=4)(jax.random.key(0), index, label, of, 3000)
    )
    assert np.array_equal(chosen[:, 0], index)
    for row, own in zip(chosen, label, strict=True):
        assert not np.any(labels[row[1:]] == own)
        counts = np.bincount(row[1:], minlength=9)[labels != own]
        assert np.all(np.abs(counts - 500) < 100)
    with pytest.raises(ValueError, match="class of every image"):
        contrast.others(np.zeros(4, int))


def test_the_contrastive_loss_is_that_of_its_formula_and_the_memory_moves_by_half():
    draw = jax.jit(contrast.memory, static_argnums=(1, 2))
    stored = draw(jax.random.key(0), 9, 4)
    v, w = RNG.standard_normal((2, 2, 4)).astype(np.float32)
    v, w = (jnp.asarray(x / np.linalg.norm(x, axis=1, keepdims=True)) for x in (v, w))
    chosen = jnp.array([[3, 1, 2], [5, 0, 8]])
    contrastive = jax.jit(contrast.contrastive)
    value, scale = contrastive(v, w, stored, chosen, 0.5)
    total = 0.0
    for own, kept, z in ((v, stored.teacher, scale[0]), (w, stored.student, scale[1])):
        p = np.exp(np.einsum("bd,bkd->bk", own, np.asarray(kept)[np.asarray(chosen)]) / 0.5)
        np.testing.assert_allclose(z, p.mean() * 9, rtol=1e-5)
        p, noise = p / z, 2 / 9
        total -= np.log(p[:, 0] / (p[:, 0] + noise)).sum() / 2
        total -= np.log(noise / (p[:, 1:] + noise)).sum() / 2
    np.testing.assert_allclose(value, total, rtol=1e-4)
    later = stored._replace(scale=jnp.array([7.0, 8.0], jnp.float32))
    np.testing.assert_array_equal(contrastive(v, w, later, chosen, 0.5)[1], [7, 8])
    after = jax.jit(contrast.moved)(stored, v, w, chosen[:, 0], scale)
    student = np.asarray(stored.student)
    wanted = (student[[3, 5]] + np.asarray(v)) / 2
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(np.asarray(after.student)[[3, 5]], wanted, rtol=1e-5)
    assert np.all(np.asarray(after.student)[:3] == student[:3])
