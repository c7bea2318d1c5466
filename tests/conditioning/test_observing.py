"""Networks shown a measurement: what they are shown, and that they learn the exact posterior."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff.conditioning import operators as ops
from jaxdiff.distill.parts.level_distributions import LevelDistribution
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.score_matching import score_matching
from jaxdiff.exact import GaussianMixture
from jaxdiff.networks import MLP, Beside, UNet, from_linen, init
from jaxdiff.training.loop import fit

RNG = np.random.default_rng(3)
IMAGE = (4, 4, 1)


def test_a_network_is_shown_the_picture_where_it_is_known_and_how_noisy_it_is():
    u = jnp.asarray(RNG.normal(size=(2, 2, 2, 1)))
    small = ops.Measurement(ops.average(IMAGE, 2), u, jnp.array([0.1, 0.3]).reshape(2, 1, 1, 1))
    found = np.asarray(ops.beside(small))
    assert found.shape == (2, 4, 4, 2)
    np.testing.assert_allclose(found[..., :1], np.kron(u, np.ones((1, 2, 2, 1))), atol=1e-6)
    assert (found[0, ..., 1] == 0.1).all() and (found[1, ..., 1] == 0.3).all()
    hole = ops.box(IMAGE, (1, 1), (3, 3))
    x = jnp.asarray(RNG.normal(size=(1, *IMAGE)))
    found = np.asarray(ops.beside(ops.Measurement(hole, hole.apply(x)[0], 0.0)))
    known = np.asarray(hole.support)
    assert np.array_equal(found[0, ..., :1], np.where(known, x[0], 0))
    assert np.array_equal(found[0, ..., 1:2], known) and not found[..., 2].any()


def test_measurements_are_drawn_by_seed_update_and_row():
    images = RNG.uniform(-1, 1, (64, 8, 6, 1))

    def data(step, rows=slice(None)):
        return {"image": images[rows], "label": np.arange(64)[rows]}

    data.batch_size = 64
    shape = (8, 6, 1)
    observe = ops.observing(ops.random_box(shape, 0.3, 0.6), (0.1, 0.4))
    batches = ops.measured_batches(data, observe)
    whole = batches(3)
    picture, known, noise = np.moveaxis(whole["label"]["beside"], -1, 0)
    assert np.array_equal(whole["label"]["classes"], np.arange(64))
    sides = []
    for i in range(64):
        rows, columns = np.nonzero(known[i] == 0)
        box = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
        assert not known[i][box].any()  # one box, all of it
        sides.append((box[0].stop - box[0].start, box[1].stop - box[1].start))
        assert len(np.unique(noise[i])) == 1 and 0.1 <= noise[i, 0, 0] <= 0.4
    heights, widths = zip(*sides, strict=True)
    assert {3, 4, 5} <= {*heights} <= {2, 3, 4, 5} and {2, 3} <= {*widths} <= {2, 3, 4}
    assert not picture[known == 0].any()
    white = ((picture - images[..., 0]) / noise)[known == 1]
    assert abs(white.mean()) < 0.1 and abs(white.std() - 1) < 0.1
    again = batches(3, slice(5, 9))["label"]["beside"]
    np.testing.assert_array_equal(again, whole["label"]["beside"][5:9])
    assert not np.array_equal(batches(4)["label"]["beside"], whole["label"]["beside"])
    other = ops.measured_batches(data, observe, seed=1)
    assert not np.array_equal(other(3)["label"]["beside"], whole["label"]["beside"])


def test_what_cannot_be_shown_is_refused_by_name():
    with pytest.raises(ValueError, match="no pseudo-inverse"):
        ops.observing(ops.linear(lambda x: x[:, :2], (4,)))
    with pytest.raises(ValueError, match="two that are ordered"):
        ops.observing(ops.average(IMAGE, 2), (0.3, 0.1))
    with pytest.raises(TypeError, match="jaxdiff.operators"):
        ops.observing(np.eye(3))
    with pytest.raises(ValueError, match="share between 0 and 1"):
        ops.random_box(IMAGE, 0.5, 1.0)
    uneven = ops.Measurement(ops.average((4,), 2), jnp.ones(2), jnp.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="one level of noise"):
        ops.beside(uneven)


def test_the_network_beside_is_its_network_and_drops_to_it():
    """Parameters keep their place; no condition is zeros; further entries go to the network."""
    module = Beside(MLP(8, 1, num_classes=3, embedding=8, flatten=True), 2)
    x = jnp.asarray(RNG.normal(size=(3, 4, 4, 1)), jnp.float32)
    label = jnp.zeros(3, jnp.float32)
    params = init(module, jax.random.key(0), (4, 4, 1))
    params = jax.tree.map(lambda p: p + 0.1, params)  # the last layer starts at 0
    beside = jnp.asarray(RNG.normal(size=(3, 4, 4, 2)), jnp.float32)
    classes = jnp.array([0, 1, 2])
    inner = module.network
    network = jax.jit(from_linen(module))
    whole = from_linen(inner)(params, jnp.concatenate([x, beside], -1), label, classes)
    own = network(params, x, label, {"beside": beside, "classes": classes})
    np.testing.assert_allclose(own, whole[..., :1], rtol=1e-6)  # one of them is compiled
    zeros = network(params, x, label, {"beside": 0 * beside, "classes": jnp.full(3, 3)})
    np.testing.assert_array_equal(network(params, x, label, None), zeros)
    np.testing.assert_array_equal(
        network(params, x, label, classes), network(params, x, label, {"classes": classes})
    )
    full = from_linen(module)(params, x, label, {"beside": beside, "classes": classes}, full=True)
    np.testing.assert_allclose(full.value, own, atol=1e-5)
    assert module.num_classes == 3 and len(full.features) == 1
    for wrong, error, text in (
        (beside[:, :2], ValueError, r"must be \(3, 4, 4, 2\)"),
        (jnp.zeros(beside.shape, jnp.int32), TypeError, "floating"),
    ):
        with pytest.raises(error, match=text):
            network(params, x, label, {"beside": wrong})


MIXTURE = GaussianMixture(
    [0.3, 0.7], [[-0.6, 0.2], [0.5, -0.3]],
    [[[0.1, 0.06], [0.06, 0.2]], [[0.15, -0.08], [-0.08, 0.1]]],
)  # fmt: skip
SEEN = ops.matrix(np.array([[1.0, 0.5]]))
NOISE = 0.3


def relative_error(D, key, count):
    """Root mean square of D minus the exact conditional denoiser over that one's deviation from
    its mean, over levels, measurements and states.
    """
    keys = jax.random.split(key, 4)
    x0 = MIXTURE.sample(keys[0], count)
    seen = ops.measure(SEEN, x0, NOISE, keys[1])
    level = jnp.exp(-1.2 + 1.2 * jax.random.normal(keys[2], (count,)))
    y = x0 + level[:, None] * jax.random.normal(keys[3], x0.shape)

    def one(u, y, level):
        exact = MIXTURE.posterior(SEEN.apply(jnp.eye(2)).T, u, NOISE**2)
        return exact.denoise(y[None], level)[0]

    exact = jax.vmap(one)(seen.observation, y, level)
    found = D(y, level, {"beside": ops.beside(seen)})
    plain = jnp.sqrt(jnp.mean((MIXTURE.denoise(y, level) - exact) ** 2))
    scale = jnp.sqrt(jnp.mean(exact**2))
    return jnp.sqrt(jnp.mean((found - exact) ** 2)) / scale, plain / scale


def trained(num_updates, width, batch):
    """Return the relative errors after parts of a training."""
    module = Beside(MLP(width, 3, embedding=32, label_scale=10.0), 3)
    schedule = optax.cosine_decay_schedule(4e-3, num_updates)
    student = Student(
        from_linen(module), lambda key: init(module, key, (2,)), null={"beside": 0.0},
        label_drop=0.1, optimiser=optax.adam(schedule),
    )  # fmt: skip
    data = lambda step: {  # noqa: E731
        "image": np.asarray(_drawn(jax.random.key(step), batch), np.float32)
    }
    batches = ops.measured_batches(data, ops.observing(SEEN, NOISE))
    error = jax.jit(lambda params, key: relative_error(student.denoiser(params), key, 4096))
    errors = []

    def watch(step, state):
        errors.append([float(e) for e in error(state.params["student"], jax.random.key(7))])
        return False

    fit(
        score_matching(student), batches, num_updates=num_updates, progress=False, watch=watch,
        watch_every=num_updates // 4,
    )  # fmt: skip
    return np.array(errors)


@jax.jit
def _sample(key):
    return MIXTURE.sample(key, 512)


def _drawn(key, batch):
    return _sample(key)[:batch]


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_training_approaches_the_exact_conditional_denoiser():
    """Error falls with updates and ends within 5 %, where the unconditional one stays far off."""
    errors = trained(2400, 64, 512)
    assert (np.diff(errors[:, 0]) < 0).all()
    assert errors[-1, 0] < 0.05 < errors[-1, 1]


def test_the_loss_is_least_at_the_exact_conditional_denoiser():
    """Of a Gaussian, among linear maps of y and what is shown: E[x0 | y, u] at one level."""
    level, cov = 0.5, np.array([[0.3, 0.1], [0.1, 0.2]])
    A = np.concatenate([np.eye(2), np.array([[1.0, 0.5]])])
    spread = A @ cov @ A.T + np.diag([level**2, level**2, NOISE**2])
    gain = cov @ A.T @ np.linalg.inv(spread)  # of y and u

    def network(params, x, label, cond, key=None):
        return jnp.concatenate([x, cond["beside"][:, :2] @ params["seen"]], axis=1) @ params["gain"]

    student = Student(network, {}, "x0", null={"beside": 0.0})
    at = LevelDistribution(lambda key, x: jnp.full(x.shape[0], level), None)
    player = score_matching(student._replace(label_drop=0.0), levels=at).players["student"]
    x0 = RNG.multivariate_normal(np.zeros(2), cov, 4096).astype(np.float32)
    data = lambda step: {"image": x0}  # noqa: E731
    batch = ops.measured_batches(data, ops.observing(SEEN, NOISE))(0)

    @jax.jit
    @jax.grad
    def slope(gain):
        params = {"seen": SEEN.apply(jnp.eye(2)).astype(jnp.float32), "gain": gain}
        return player.loss(params, None, batch, jax.random.key(1))[0]

    best, none = (np.linalg.norm(slope(jnp.asarray(g, jnp.float32))) for g in (gain.T, 0 * gain.T))
    assert best < 0.05 * none


def test_signals_images_and_volumes():
    for shape in ((8, 1), (4, 4, 4, 1)):
        module = Beside(UNet(8, (1, 2), groups=4, embedding=8), 2)
        params = jax.eval_shape(lambda m=module, s=shape: init(m, jax.random.key(0), s))
        x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
        beside = {"beside": jax.ShapeDtypeStruct((2, *shape[:-1], 2), jnp.float32)}
        label = jax.ShapeDtypeStruct((2,), jnp.float32)
        out = jax.eval_shape(from_linen(module), params, x, label, beside)
        assert out.shape == x.shape
