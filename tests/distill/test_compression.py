"""Students smaller than their teacher: losses by hand, gradients where they belong, samplers."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import grids, solvers
from jaxdiff.denoisers import denoiser
from jaxdiff.distill import Shares, Student, block_knowledge, okddip, semckd, simkd
from jaxdiff.distill.compression import calibrated, peers
from jaxdiff.exact import Gaussian
from jaxdiff.method import Context
from jaxdiff.networks import MLP, UNet, from_linen, init
from jaxdiff.networks.branches import Branches, member, split_member
from jaxdiff.networks.reused_decoder import ReusedDecoder, replaced
from jaxdiff.networks.unet_stages import Stages, count_stages
from jaxdiff.sampling.trace import table
from jaxdiff.training.loop import fit

SHAPE = (4, 1)  # signals: the quickest of a U-Net's samples to compile
LARGE = UNet(channels=8, multipliers=(1,), embedding=8)
SMALL = LARGE.clone(channels=4)
DEEP = LARGE.clone(multipliers=(1, 1), heads=1, attention=(2,))


def moved(params, seed=0):
    """Parameters away from the zeros that networks start with."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda a: a + jnp.asarray(0.2 * random.normal(size=a.shape), a.dtype), params
    )


def draw(key):
    return init(SMALL, key, SHAPE)


@pytest.fixture(scope="module")
def teacher():
    return denoiser(from_linen(LARGE), moved(init(LARGE, jax.random.key(0), SHAPE)))


@pytest.fixture(scope="module")
def student():
    return Student(from_linen(SMALL), moved(init(SMALL, jax.random.key(1), SHAPE), 1))


def batches(step):
    random = np.random.default_rng(step)
    return {"image": (1 + 0.1 * random.normal(size=(4, *SHAPE))).astype(np.float32)}


def stepped(method, updates=1, **options):
    return fit(method, batches, num_updates=updates, progress=False, **options)


def loss_at(method, params, step=100):
    """The loss and its gradient at one batch and one noise."""

    def loss(params):
        player = method.players["student"]
        known = Context(jnp.asarray(step), {"student": params}, {}, method.frozen)
        return player.loss(params, known, batches(0), jax.random.key(7))

    return jax.jit(jax.value_and_grad(loss, has_aux=True))(params)


def test_parts_of_a_unet_are_the_whole():
    params = moved(init(DEEP, jax.random.key(0), SHAPE))
    x, label = jnp.linspace(-1, 1, 8, dtype=jnp.float32).reshape(2, 4, 1), jnp.float32([0.1, -0.4])
    stages = count_stages(DEEP)

    @jax.jit
    def both(params):
        out = DEEP.apply({"params": params}, x, label, full=True)
        parts = [
            Stages(DEEP, stages - k, stages).apply(
                {"params": params}, (out.features[stages - k - 1], *out.features[:k]), label
            ).value
            for k in range(3)
        ]  # fmt: skip
        return out.value, parts, Stages(DEEP, 0, stages).apply({"params": params}, x, label).value

    whole, parts, again = both(params)
    assert float(jnp.abs(whole).max()) > 0.1
    for part in (*parts, again):
        np.testing.assert_allclose(part, whole, rtol=1e-6, atol=1e-6)
    shared, own = split_member(DEEP, params)
    assert {"Attention_0", "Attention_1", "Block_2", "Conv_1", "Embedding_0"} <= set(shared)
    assert {"Attention_2", "Block_3", "Block_4", "Conv_2", "Conv_3", "Norm_0"} == set(own)
    assert replaced(DEEP, DEEP.clone(blocks=2), 2) == ((3, 6), (0, 0), (0, 1))


@pytest.mark.slow
def test_simkd_with_all_maps_equal_is_the_teacher(teacher, student):
    """The tail on the teacher's own maps, as the projectors would give them."""
    pairs = replaced(SMALL, LARGE, 1)
    assert pairs == ((1, 1), (0, 0))
    method = simkd(teacher, student, SHAPE)
    start = method.init(jax.random.key(0))["student"]["network"]
    y = jnp.linspace(-1, 1, 8, dtype=jnp.float32).reshape(2, 4, 1)
    level = jnp.float32([0.3, 2.0])
    stages = count_stages(LARGE)

    @jax.jit
    def both(held, teacher):
        maps = teacher(y, level, full=True).features
        tail = Stages(LARGE, stages - 1, stages)
        label = jnp.log(level) / 4
        own = tail.apply({"params": held}, [maps[t] for _, t in pairs], label).value
        c_skip, c_out = 0.25 / (level**2 + 0.25), 0.5 * level / jnp.sqrt(level**2 + 0.25)
        return c_skip[:, None, None] * y + c_out[:, None, None] * own, teacher(y, level)

    np.testing.assert_allclose(*both(start["teacher"], teacher), rtol=1e-5, atol=1e-6)


def noisy():
    """The noisy data, levels and data of :func:`loss_at`."""
    x0 = jnp.asarray(batches(0)["image"])
    key_level, key_noise, *_ = jax.random.split(jax.random.key(7), 4)
    level = jnp.exp(1.2 * jax.random.normal(key_level, (4,), jnp.float32) - 1.2)
    y = x0 + level[:, None, None] * jax.random.normal(key_noise, x0.shape, jnp.float32)
    return y, level, x0


def size(tree):
    """The largest number of a tree."""
    return max(float(jnp.abs(a).max()) for a in jax.tree.leaves(tree))


@pytest.mark.slow
def test_simkd_trains_encoder_and_projectors_alone(teacher, student, tmp_path):
    decaying = student._replace(optimiser=optax.adamw(1e-2, weight_decay=0.1))
    method = simkd(teacher, decaying, SHAPE, reused=1)
    before = method.init(jax.random.key(0))["student"]
    for name, leaf in before["network"]["student"].items():  # it starts as it was given
        jax.tree.map(np.testing.assert_array_equal, leaf, student.params[name])
    (first, _), gradient = loss_at(method, before)
    assert size(gradient["network"].pop("teacher")) == 0.0
    assert all(size(part) > 0 for part in gradient["network"].values())

    state = stepped(method, 40, checkpoint=tmp_path)
    (last, _), _ = loss_at(method, state.params["student"])
    assert last < 0.7 * first
    found = stepped(method, 40, checkpoint=tmp_path).params["student"]["network"]
    for name, tree in found["teacher"].items():
        jax.tree.map(np.testing.assert_array_equal, tree, teacher.args[0][name])
    coarse = table(solvers.euler, grids.karras(2))
    x = method.sampler(state, coarse)(jax.random.key(0), 2, SHAPE)
    assert x.shape == (2, *SHAPE) and bool(jnp.isfinite(x).all())


def test_simkd_loss_and_its_gradient(teacher, student):
    method = simkd(teacher, student, SHAPE, reused=0, factor=4)
    params = method.init(jax.random.key(0))["student"]
    (found, _), gradient = loss_at(method, params)
    assert size(gradient["network"].pop("teacher")) == 0.0
    assert all(size(part) > 0 for part in gradient["network"].values())

    @jax.jit
    def by_hand(params, D_T):
        y, level, _ = noisy()
        D_S = denoiser(from_linen(ReusedDecoder(SMALL, LARGE, 0, 4)), params["network"])
        (projected,), *_, last = D_S(y, level, full=True).features, D_T(y, level, full=True)
        return ((projected - last.features[2]) ** 2).mean()

    np.testing.assert_allclose(found, by_hand(params, teacher), rtol=1e-5)


def test_regression_by_hand(teacher, student):
    shares = Shares(2.0, 3.0, 5.0)
    method = block_knowledge(teacher, student, SHAPE, pairs=((0, 0), (2, 2)), shares=shares)
    params = method.init(jax.random.key(0))["student"]
    assert jax.tree.map(jnp.shape, params["beside"]) == {"map0": (4, 8), "map1": (4, 8)}
    (total, metrics), gradient = loss_at(method, params)
    assert size(gradient["beside"]["map1"]) > 0

    @jax.jit
    def by_hand(params, D_T):
        y, level, x0 = noisy()
        own = denoiser(from_linen(SMALL), params["network"])(y, level, full=True)
        known = D_T(y, level, full=True)
        w = (level**2 + 0.25) / (0.5 * level) ** 2
        task = (w[:, None, None] * (own.value - x0) ** 2).mean()
        output = (w[:, None, None] * (own.value - known.value) ** 2).mean()
        maps = [
            ((jnp.matmul(own.features[i], params["beside"][n]) - known.features[i]) ** 2).mean()
            for n, i in (("map0", 0), ("map1", 2))
        ]
        return 2 * task + 3 * output + 5 * (maps[0] + maps[1]), task, output, maps[1]

    expected = by_hand(params, teacher)
    found = (total, *(metrics[n] for n in ("task", "output", "map1")))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def linear(params, x, label, cond=None, **_):
    """A network that shows no maps."""
    return params["w"] * x


def test_output_regression_to_the_exact_denoiser():
    """Of a Gaussian of the data's standard deviation D is c_skip y, and F = 0."""
    T = Gaussian(np.zeros(4, np.float32), np.full(4, 0.25, np.float32)).denoiser
    exact = lambda y, s, cond=None: T(y[..., 0], s)[..., None]  # noqa: E731
    student = Student(linear, {"w": jnp.float32(0.0)})
    method = block_knowledge(exact, student, SHAPE, shares=Shares(0.0, 1.0, 0.0))
    assert method.init(jax.random.key(0))["student"]["beside"] == {}
    params = {"network": {"w": jnp.float32(0.3)}, "beside": {}}
    (found, _), gradient = loss_at(method, params)
    y, level, _ = noisy()
    scaled = np.asarray(y) / np.sqrt(np.asarray(level) ** 2 + 0.25)[:, None, None]
    np.testing.assert_allclose(found, 0.09 * (scaled**2).mean(), rtol=1e-4)
    np.testing.assert_allclose(gradient["network"]["w"], 0.6 * (scaled**2).mean(), rtol=1e-4)


def test_calibrated_maps_by_hand():
    random = np.random.default_rng(0)
    f_s = [random.normal(size=(3, 4, 2)) for _ in range(2)]
    f_t = [random.normal(size=(3, n, 2)) for n in (4, 2)]
    label = jnp.asarray([0.1, 0.2, 0.3])

    def run(name, f, *label):  # the similarity to the first sample; the map doubled
        return 2.0 * f if label else f[:, :1]

    found = calibrated.calibrated(run, *(tuple(map(jnp.asarray, f)) for f in (f_s, f_t)), label, 1)
    products = [np.einsum("bnc,nc->b", f, f[0]) / f[0].size for f in (*f_s, *f_t)]
    expected = 0.0
    for own, f in zip(products, f_s, strict=False):
        alpha = np.exp([own * p for p in products[2:]])
        sizes = f, f.reshape(3, 2, 2, 2).mean(axis=2)
        apart = [((2 * a - b) ** 2).mean((1, 2)) for a, b in zip(sizes, f_t, strict=True)]
        expected = expected + (alpha / alpha.sum(axis=0) * apart).sum(axis=0) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_attention_of_stages():
    random = np.random.default_rng(0)
    f = [jnp.asarray(random.normal(size=(4, 4, c))) for c in (2, 3)]
    label = jnp.asarray([0.1, 0.2, 0.3, 0.4])
    row = calibrated.rows(f[0], label)
    flat = np.asarray(f[0]).reshape(4, -1)
    np.testing.assert_allclose(row[:, :4], flat @ flat.T / 8, rtol=1e-12)
    assert row.shape == (4, 4 + calibrated.WAVES)
    assert float(jnp.abs(row[0, 4:] - row[1, 4:]).max()) > 0.01  # the level is seen
    q, k = (jnp.asarray(random.normal(size=(4, n, 3))) for n in (2, 3))
    alpha = calibrated.attention(q, k, 0.5)
    by_hand = np.exp(np.asarray(q)[1, 0] @ np.asarray(k)[1].T / 0.5)
    np.testing.assert_allclose(alpha[1, 0], by_hand / by_hand.sum(), rtol=1e-12)
    permuted = calibrated.attention(q, k[:, jnp.asarray([2, 0, 1])], 0.5)
    np.testing.assert_allclose(permuted, alpha[:, :, jnp.asarray([2, 0, 1])], rtol=1e-12)
    same = calibrated.attention(q, jnp.repeat(k[:, :1], 3, axis=1), 0.5)
    np.testing.assert_allclose(same, 1 / 3, rtol=1e-12)
    wide = jnp.arange(8.0).reshape(1, 4, 2)
    np.testing.assert_array_equal(calibrated.pooled(wide, (1, 2, 5))[0], [[1.0, 2.0], [5.0, 6.0]])
    with pytest.raises(ValueError, match="size 4 is not averaged to size 3"):
        calibrated.pooled(wide, (1, 3, 5))


@pytest.mark.slow
def test_semckd_trains_all_that_is_beside():
    """Of perceptrons, whose maps are vectors."""
    large, small = MLP(8, depth=2, flatten=True), MLP(6, depth=1, flatten=True)
    T = denoiser(from_linen(large), moved(init(large, jax.random.key(0), (4, 1))))
    S = Student(from_linen(small), lambda key: init(small, key, (4, 1)))
    method = semckd(T, S, SHAPE, batch=4, shares=Shares(0.0, 1.0, 1.0))
    params = method.init(jax.random.key(0))["student"]
    (found, metrics), gradient = loss_at(method, moved(params))
    np.testing.assert_allclose(found, metrics["output"] + metrics["features"], rtol=1e-5)
    for name in params["beside"]:
        assert size(gradient["beside"][name]) > 0, name
    with pytest.raises(ValueError, match="batches of 4 samples; one has 6"):
        method.check({"image": np.zeros((6, *SHAPE), np.float32)})
    with pytest.raises(ValueError, match="a batch of 2 at least"):
        semckd(T, S, SHAPE, batch=1)


@pytest.mark.slow
@pytest.mark.parametrize("make", [block_knowledge, semckd])
def test_regressions_learn(make, teacher, student):
    options = {"batch": 4} if make is semckd else {}
    method = make(teacher, student._replace(optimiser=optax.adam(1e-2)), SHAPE, **options)
    (first, _), _ = loss_at(method, method.init(jax.random.key(0))["student"])
    (last, _), _ = loss_at(method, stepped(method, 40).params["student"])
    assert last < 0.7 * first


def test_peers_by_hand():
    random = np.random.default_rng(0)
    D, x0 = random.normal(size=(2, 3, 4, 1)), random.normal(size=(2, 4, 1))
    h, q, k = (random.normal(size=s) for s in ((2, 2, 4), (4, 3), (4, 3)))
    alpha = peers.attention(*map(jnp.asarray, (h, q, k)))
    weights = np.exp(np.einsum("bal,bcl->bac", h @ q, h @ k))
    weights /= weights.sum(axis=2, keepdims=True)
    np.testing.assert_allclose(alpha, weights, rtol=1e-12)
    targets = np.einsum("bac,bcij->baij", weights, D[:, :2])
    expected = (
        ((D - x0[:, None]) ** 2).mean(axis=(2, 3)).sum(axis=1),
        ((D[:, :2] - targets) ** 2).mean(axis=(2, 3)).sum(axis=1),
        ((D[:, 2] - D[:, :2].mean(axis=1)) ** 2).mean(axis=(1, 2)),
    )
    found = peers.terms(jnp.asarray(D), jnp.asarray(x0), alpha)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    equal = np.broadcast_to(D[:, :1], D.shape)
    np.testing.assert_allclose(peers.terms(jnp.asarray(equal), x0, alpha)[1:], 0, atol=1e-25)
    step = jnp.asarray([0, 40, 80, 200])
    r = peers.ramp(step, 300, 80 / 300)
    np.testing.assert_allclose(r, [np.exp(-5), np.exp(-1.25), 1, 1], rtol=1e-6)

    def leader(D, reference):  # what the leader learns from gets no gradient
        return peers.terms(D, jnp.asarray(x0), alpha, reference)[2].sum()

    slope = jax.jit(jax.grad(leader), static_argnums=1)
    assert size(slope(jnp.asarray(D), False)[:, :2]) == 0 < size(slope(jnp.asarray(D), True)[:, :2])


@pytest.mark.slow
def test_members_are_plain_networks():
    method = okddip(Student(from_linen(SMALL), draw, optimiser=optax.adam(1e-2)), peers=2)
    params = method.init(jax.random.key(0))["student"]
    (first, _), gradient = loss_at(method, moved(params))
    assert all(size(gradient["beside"][n]) > 0 for n in ("query", "key"))
    state = stepped(method, 40)
    (start, _), _ = loss_at(method, params)
    (last, _), _ = loss_at(method, state.params["student"])
    assert last < start
    x, label = jnp.linspace(-1, 1, 8, dtype=jnp.float32).reshape(2, 4, 1), jnp.float32([0.1, -0.4])
    whole = state.params["student"]["network"]

    @jax.jit
    def both(whole):
        outputs = Branches(SMALL, 3).apply({"params": whole}, x, label, full=True)
        alone = [SMALL.apply({"params": member(whole, i)}, x, label) for i in range(3)]
        return outputs.features[0], jnp.stack(alone, axis=1), outputs.value

    together, alone, leader = both(whole)
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(leader, together[:, 2])
    assert float(jnp.abs(alone[:, 0] - alone[:, 1]).max()) > 1e-4  # they do not become one
    for which in (2, "leader"):
        found = method.sampler(state, member=which).denoiser.args[0]
        jax.tree.map(np.testing.assert_array_equal, found, member(whole, 2))
    with pytest.raises(ValueError, match='"leader" or 0 to 2; got 3'):
        method.sampler(state, member=3)


def test_what_does_not_fit_is_refused(teacher, student):
    deep = Student(from_linen(DEEP), {})
    with pytest.raises(ValueError, match="2 levels, the teacher 1"):
        simkd(teacher, deep, SHAPE)
    with pytest.raises(ValueError, match="0 to 1 stages"):
        simkd(teacher, student, SHAPE, reused=2)
    with pytest.raises(ValueError, match="sigma_data"):
        simkd(teacher, student._replace(sigma_data=1.0), SHAPE)
    with pytest.raises(TypeError, match=r"from_linen\(UNet"):
        simkd(lambda y, s, cond=None: y, student, SHAPE)
    with pytest.raises(ValueError, match="samples of shape"):
        simkd(teacher, student, SHAPE).check({"image": np.zeros((4, 8, 1), np.float32)})
    with pytest.raises(ValueError, match="no pair \\(9, 0\\)"):
        block_knowledge(teacher, student, SHAPE, pairs=((9, 0),))
    deep = deep._replace(params=lambda key: init(DEEP, key, SHAPE))
    with pytest.raises(ValueError, match="map 1 of the student has size"):
        block_knowledge(teacher, deep, SHAPE, pairs=((1, 0),))
    with pytest.raises(ValueError, match="not be negative"):
        block_knowledge(teacher, student, SHAPE, shares=Shares(-1.0))
    with pytest.raises(ValueError, match="start as one stay one"):
        okddip(student)
    with pytest.raises(ValueError, match="2 peers"):
        okddip(student._replace(params=draw), peers=1)
