"""Two-time maps learnt without forward derivatives: the exact map has no loss and stays where it
is, players leave each other alone, and what is added to networks starts as nothing.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.golden_numbers import load

from jaxdiff import grids
from jaxdiff.denoisers import denoiser, predictor
from jaxdiff.distance import squared
from jaxdiff.distill.flow_map.inductive_moments import (
    Times,
    bandwidth,
    draw_times,
    group_discrepancy,
    inductive_moments,
    moment_loss,
    time_label,
    time_weight,
)
from jaxdiff.distill.flow_map.shortcut import draw_step, flow_tables, shortcut, two_halves
from jaxdiff.distill.flow_map.trajectory_consistency import (
    Draw,
    draw,
    jump_tables,
    to_data,
    trajectory_consistency,
    trajectory_loss,
)
from jaxdiff.distill.parts.critic import HINGE, SOFTPLUS, Critic, balanced
from jaxdiff.distill.parts.primitives import implied, jump, perturb
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.trajectory.trajectory_operator import operator_loss, trajectory_operator
from jaxdiff.exact import Gaussian
from jaxdiff.method import Context
from jaxdiff.networks import MLP, DiT, UNet, from_linen, init
from jaxdiff.networks.temporal import fourier_layer, temporal
from jaxdiff.process import EDM, RectifiedFlow
from jaxdiff.sampling.sample import sample
from jaxdiff.training.step import init_state, update

FLOW = RectifiedFlow()
# run once on little: unoptimised programs compile faster
quick = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def gaussian():
    return Gaussian(np.array([0.2, -0.4]), np.array([0.09, 0.5]))


def exact_network(gaussian):
    """What a jump needs, of the exact flow, plus a parameter; also for the labels of trajectories.

    x0 is predicted in EDM's process: the network is the denoiser and its labels are levels.
    """

    def g(y, s, r):
        lower = jnp.where(r < s, r, 0.5 * s)
        x = implied(y, s, gaussian.flow(y, s, lower), lower)
        return jnp.where((r < s)[:, None], x, gaussian.denoiser(y, s))

    def network(params, x, label, cond=None, *, key=None):
        return g(x, label[:, 0], label[:, 1]) + params["shift"].reshape((1,) * (x.ndim - 1) + (-1,))

    return network


def exact_student(gaussian, shift=0.0, **fields):
    params = {"shift": jnp.full(2, shift)}
    fields = {"prediction": "x0", "process": EDM(), "sigma_data": 0.55, "high": 20.0} | fields
    return Student(exact_network(gaussian), params, **fields)


def draws(gaussian, count=16):
    """States of the flow at levels t, and levels u and s below them."""
    random = np.random.default_rng(0)
    t = np.exp(random.normal(size=count))
    u = t * random.uniform(0.2, 0.9, count)
    s = u * np.array([0.0, 1.0, *random.uniform(size=count - 2)])
    spread = np.sqrt(np.asarray(gaussian.variances) + t[:, None] ** 2)
    y = np.asarray(gaussian.mean) + random.normal(size=(count, 2)) * spread
    return tuple(jnp.asarray(a) for a in (y, t, u, s))


def batch_of(gaussian, count=16):
    noise = np.random.default_rng(3).normal(size=(count, 2))
    spread = np.sqrt(np.asarray(gaussian.variances))
    return {"image": jnp.asarray(np.asarray(gaussian.mean) + spread * noise)}


def context(params, **fields):
    fields = {"params": {}, "frozen": {}} | fields
    return Context(jnp.asarray(0), ema={"student": {"target": params}}, **fields)


def test_golden_adversarial_losses():
    numbers = load("losses_fastgen")
    (case,) = [c for c in numbers.cases if "common_loss gan" in c["peer"]]
    real, fake = (jnp.asarray(numbers.get(case, f"{k}_logits")) for k in ("real", "fake"))
    value, gradient = jax.value_and_grad(SOFTPLUS.student)(fake)
    np.testing.assert_allclose(value, numbers.get(case, "gen_loss")[0], rtol=1e-9)
    np.testing.assert_allclose(gradient, numbers.get(case, "grad_gen_fake"), rtol=1e-9)
    value, gradients = jax.value_and_grad(SOFTPLUS.critic, argnums=(0, 1))(real, fake)
    np.testing.assert_allclose(value, numbers.get(case, "disc_loss")[0], rtol=1e-9)
    np.testing.assert_allclose(gradients[0], numbers.get(case, "grad_disc_real"), rtol=1e-9)
    np.testing.assert_allclose(gradients[1], numbers.get(case, "grad_disc_fake"), rtol=1e-9)


def test_hinge_losses():
    real, fake = jnp.array([2.0, 0.5, -1.0]), jnp.array([-3.0, 0.0, 1.0])
    np.testing.assert_allclose(HINGE.critic(real, fake), (0 + 0.5 + 2) / 3 + (0 + 1 + 2) / 3)
    np.testing.assert_allclose(HINGE.student(fake), 2 / 3)


def test_balanced_terms_have_gradients_of_one_length():
    params = {"first": jnp.array([1.0, 2.0]), "last": jnp.array([3.0])}
    one = lambda p: jnp.sum(p["first"] ** 2) + p["last"][0]  # noqa: E731
    two = lambda p: 100.0 * jnp.sum(p["first"]) * p["last"][0] ** 2  # noqa: E731

    def total(p, **options):
        value, weights = balanced((one, two), p, [(0.0, np.inf)], [0.5], **options)
        return value, weights

    (value, weights), gradient = jax.value_and_grad(total, has_aux=True)(params)
    a, b = jax.grad(one)(params), jax.grad(two)(params)
    ratio = 0.5 * optax.tree.norm(a) / optax.tree.norm(b)
    np.testing.assert_allclose(weights[1], ratio)
    np.testing.assert_allclose(value, one(params) + ratio * two(params))
    for name in params:
        np.testing.assert_allclose(gradient[name], a[name] + ratio * b[name])
    weights = total(params, last=lambda path: "last" in path)[1]
    np.testing.assert_allclose(weights[1], 0.5 / b["last"][0])
    weights = balanced((one, two), params, [(0.3, 1.0)], [1.0])[1]
    np.testing.assert_allclose(weights[1], 0.3)
    still = balanced((one, lambda p: 0.0 * p["last"][0]), params, [(0.0, 10.0)], [1.0])
    assert np.isfinite(still[0]) and still[1][1] == 10.0
    with pytest.raises(ValueError, match="chooses none"):
        total(params, last=lambda path: "no such" in path)


def test_draws_of_trajectory_consistency(key):
    x0 = jnp.zeros((20_000, 1))
    t, u, s = (np.asarray(a) for a in quick(lambda: draw(key, x0, 18, 17))())
    n = u - t
    assert (t >= 0).all() and (u <= 17).all() and (s >= u).all() and (s <= 18).all()
    share = np.bincount(n.astype(int), minlength=18)[1:] / len(n)
    np.testing.assert_allclose(share, np.arange(1, 18) / (17 * 9), atol=0.01)
    assert (s == 18).any() and (s == u).any() and (t[n == 17] == 0).all()


def test_the_exact_map_has_no_trajectory_loss(gaussian):
    """And no gradient in the student, the target or the teacher; s = 0 and s = u included."""
    y_t, t, u, s = draws(gaussian)
    network = exact_network(gaussian)

    @quick
    @jax.value_and_grad
    def loss(shifts):
        y_u = gaussian.flow(y_t, t, u)
        f, target = (
            denoiser(network, {"shift": x}, prediction="x0", process=EDM()) for x in shifts
        )
        return jnp.mean(trajectory_loss(f, target, y_t, y_u, Draw(t, u, s)))

    zero, off = jnp.zeros(2), jnp.array([0.1, 0.0])
    value, gradients = loss((zero, zero))
    assert value < 1e-25
    assert all(np.abs(g).max() < 1e-12 for g in gradients)
    value, gradients = loss((off, zero))
    assert value > 1e-4 and gradients[0][0] > 1e-3
    stay = to_data(lambda y, s, target: 5.0 + 0.0 * y, y_t, jnp.zeros_like(t))
    np.testing.assert_array_equal(stay, y_t)


@pytest.mark.slow
def test_trajectory_consistency_at_the_exact_map(gaussian):
    """The whole loss: a teacher's Heun steps leave an error of the solver only; teacher and target
    get no gradient.
    """
    student = exact_student(gaussian, low=0.02)
    method = trajectory_consistency(
        gaussian.denoiser, student, denoising=0.0, scales=40, max_steps=3
    )
    batch, key = batch_of(gaussian), jax.random.key(0)

    def loss(shift, slow, teacher):
        around = context({"shift": slow}, frozen={"teacher": teacher})
        return method.players["student"].loss({"shift": shift}, around, batch, key)[0]

    loss = quick(jax.value_and_grad(loss, (0, 1, 2)))
    zero = jnp.zeros(2)
    value, gradients = loss(zero, zero, gaussian.denoiser)
    assert value < 1e-7
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradients[1:]))
    assert loss(jnp.full(2, 0.1), zero, gaussian.denoiser)[0] > 1e-4


def linear_critic(**fields):
    logits = lambda params, x, cond: x @ params["w"] + params["b"]  # noqa: E731
    return Critic(logits, lambda key: {"w": jnp.zeros(2), "b": jnp.ones(())}, **fields)


@pytest.fixture(scope="module")
def game(gaussian):
    student = exact_student(gaussian, shift=0.5, optimiser=optax.sgd(0.1))
    return trajectory_consistency(
        gaussian.denoiser, student, max_steps=2, critic=linear_critic(optimiser=optax.sgd(0.1)),
        critic_from=1, scales=4, denoising=0.0,
    )  # fmt: skip


@pytest.mark.slow
def test_players_leave_each_other_alone(gaussian, game):
    """Bitwise; and the critic learns that shifted samples are not data."""
    state, batch = init_state(game, jax.random.key(0)), batch_of(gaussian, 64)
    student, critic = (
        quick(lambda state, name=name: update(game, state, batch, (name,)))
        for name in ("student", "critic")
    )
    after, metrics = student(state)
    for name, leaf in state.params["critic"].items():
        np.testing.assert_array_equal(after.params["critic"][name], leaf)
    assert (after.params["student"]["shift"] != state.params["student"]["shift"]).all()
    assert metrics["student/weight 1"] == 0.0  # before critic_from
    later, _ = critic(after)
    np.testing.assert_array_equal(
        later.params["student"]["shift"], after.params["student"]["shift"]
    )
    assert (later.params["critic"]["w"] < 0).all()
    assert student(later)[1]["student/weight 1"] > 0.0


def test_what_trajectory_consistency_refuses(gaussian):
    student = exact_student(gaussian)
    for wrong, said in (({"max_steps": 18}, "max_steps="), ({"target": 1.0}, "decay")):
        with pytest.raises(ValueError, match=said):
            trajectory_consistency(gaussian.denoiser, student, **wrong)
    tables = jump_tables(student)
    assert not tables(2).stochastic and tables(2, gamma=0.5).stochastic


def flow_field(student, params):
    return predictor(student.denoiser(params), FLOW, "flow")


def test_the_exact_average_field_is_two_halves(gaussian):
    """u(x, t, r) = (x_t - x_r)/(t - r) along the exact flow, in rectified-flow time."""
    student = exact_student(gaussian)
    random = np.random.default_rng(1)
    t = jnp.asarray(random.uniform(0.2, 0.95, 12))
    d = t * jnp.asarray([1.0, *random.uniform(0.1, 1.0, 11)])
    x = jnp.asarray(random.normal(size=(12, 2)))

    def fields(params):
        u, r = flow_field(student, params), t - d
        x_r = (1 - r)[:, None] * gaussian.flow(x / (1 - t)[:, None], t / (1 - t), r / (1 - r))
        halves = [two_halves(u, x, t, d, clip) for clip in (None, 0.3)]
        return u(x, t, target=r), (x - x_r) / d[:, None], *halves

    one, exact, halves, clipped = quick(fields)(student.params)
    np.testing.assert_allclose(one, exact, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(halves, one, atol=1e-9)
    assert np.abs(clipped).max() == 0.3
    gradient = quick(jax.grad(lambda p: jnp.sum(fields(p)[2] ** 2)))(student.params)
    assert not np.any(gradient["shift"])


def test_steps_of_shortcut_models(key):
    x0 = jnp.zeros((5000, 1))
    t, d = (np.asarray(a) for a in quick(lambda: draw_step(key, x0, 16))())
    assert sorted(set(d)) == [1 / 8, 1 / 4, 1 / 2, 1.0]
    assert (t % d == 0).all() and (t >= d).all() and (t <= 1).all()
    assert set(t[d == 0.5]) == {0.5, 1.0}


def point(value=0.3):
    """The denoiser of data that are all one point, plus a parameter: flows are straight lines."""

    def network(params, x, label, cond=None, *, key=None):
        return jnp.broadcast_to(value + params["shift"][None], x.shape)

    return Student(network, {"shift": jnp.zeros(2)}, prediction="x0", process=EDM(), high=20.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda student: shortcut(student, count=8, share=0.5),
        lambda student: inductive_moments(student, k=3.0),
    ],
    ids=["shortcut", "inductive_moments"],
)
def test_nothing_is_lost_on_straight_lines(make):
    """For data that are one point every part of these losses is 0, and stationary."""
    method = make(point())
    batch = {"image": jnp.full((16, 2), 0.3)}

    @quick
    @jax.value_and_grad
    def loss(shift):
        params = {"shift": shift}
        own = context({"shift": jnp.zeros(2)})
        return method.players["student"].loss(params, own, batch, jax.random.key(0))[0]

    value, gradient = loss(jnp.zeros(2))
    assert abs(value) < 1e-12 and np.abs(gradient).max() < 1e-6
    assert loss(jnp.full(2, 0.05))[0] > 1e-4
    made = method.sampler(init_state(method, jax.random.key(0)), num_steps=4).table
    assert made.nfe == 4 and made.levels[0] == 20.0 and made.levels[-1] in (0.0, 0.002)


def test_what_shortcut_models_refuse():
    for wrong in ({"count": 12}, {"share": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            shortcut(point(), **wrong)
    for steps in (0, 3, 16):
        with pytest.raises(ValueError, match="a power of 2"):
            flow_tables(point(), 8)(steps)
    assert flow_tables(point(), 8)(8).nfe == 8


def test_the_interpolant_is_consistent_with_itself():
    """DDIM from x_t towards its own data is x_r with the same noise (2503.07565, section 3)."""
    random = np.random.default_rng(0)
    x0, eps = (jnp.asarray(random.normal(size=(6, 2))) for _ in range(2))
    s, r = jnp.asarray(random.uniform(1, 9, 6)), jnp.asarray(random.uniform(0, 1, 6))
    np.testing.assert_allclose(jump(perturb(x0, s, eps), s, r, x0), perturb(x0, r, eps))


def test_weight_and_bandwidth_of_moments():
    t = jnp.array([0.01, 0.4, 0.9, 0.987])
    log_snr = lambda t: 2 * jnp.log((1 - t) / t)  # noqa: E731
    for a, b in ((1.0, 5.0), (2.0, 4.0)):
        slope = -jax.vmap(jax.grad(log_snr))(t)
        expected = 0.5 * jax.nn.sigmoid(b - log_snr(t)) * slope
        expected = expected * (1 - t) ** a / ((1 - t) ** 2 + t**2)
        np.testing.assert_allclose(time_weight(t, a, b), expected)
    s = 0.5 * t
    expected = 0.5 * ((1 - s) * t - (1 - t) * s) / jnp.sqrt((1 - t) ** 2 + t**2)
    times = Times(t, t, s)
    np.testing.assert_allclose(bandwidth(times, 0.5), expected)


def test_an_edm_student_has_the_papers_scaling():
    """Noise at the data's scale: f = c_skip x_t + c_out F(x_t/(sigma_data n)) is a jump of EDM's
    denoiser around -F from level sigma_data t/(1 - t); the input has variance 1 at every time.
    """
    weight = jnp.array([[0.4, -0.2], [0.1, 0.9]])
    network = lambda params, x, label, cond=None, **_: x @ weight + label.sum(1)[:, None]  # noqa: E731
    minus = lambda *recorded, **options: -network(*recorded, **options)  # noqa: E731
    D = Student(minus, {}, sigma_data=0.6, label=time_label(0.6)).denoiser({})
    t, s = jnp.array([0.3, 0.9, 0.99]), jnp.array([0.1, 0.0, 0.98])
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2)))
    level, end = 0.6 * t / (1 - t), 0.6 * s / (1 - s)
    y = x / (1 - t)[:, None]
    own = (1 - s)[:, None] * jump(y, level, end, D(y, level, target=end))
    n = jnp.sqrt((1 - t) ** 2 + t**2)
    skip = ((1 - t) * (1 - s) + t * s) / n**2
    out = -((1 - s) * t - (1 - t) * s) / n * 0.6
    F = network({}, x / (0.6 * n)[:, None], 1000.0 * jnp.stack([t, s], 1))
    np.testing.assert_allclose(own, skip[:, None] * x + out[:, None] * F, rtol=1e-9)


def test_moments_by_hand():
    """Two samples 0 and 1 of t = 3/4, r = s = 1/2, no noise; the network says 0. At the data's
    scale 2 the levels are 6 and 2, jumps lead to (1 - s) x_s = x/6, the target is x/2.
    """
    zero = lambda y, level, target: 0.0 * y  # noqa: E731
    requested = []
    note = lambda y, level, target: requested.append((level, target)) or 0.0 * y  # noqa: E731
    x0, times = jnp.array([[0.0], [1.0]]), Times(*(jnp.array([a]) for a in (0.75, 0.5, 0.5)))
    value = moment_loss(note, zero, x0, 0.0 * x0, times, 2.0)
    np.testing.assert_allclose(requested[0], [[6.0, 6.0], [2.0, 2.0]])
    width = 2.0 * 0.25 / np.sqrt(0.75**2 + 0.25**2)
    k = lambda d: np.exp(-d / width)  # noqa: E731
    apart = (1 + k(1 / 6)) / 2 + (1 + k(1 / 2)) / 2 - (1 + k(1 / 6) + k(1 / 2) + k(1 / 3)) / 2
    weight = 1 / (1 + np.exp(-5 - 2 * np.log(3))) / (0.75 * (0.75**2 + 0.25**2))
    np.testing.assert_allclose(value, weight * apart, rtol=1e-6)


def test_levels_of_moments_are_at_the_datas_scale():
    """Two-step sampling goes by 1.4 sigma_data, level 0.7 for images, down to the lowest level."""
    method = inductive_moments(point())
    made = method.sampler(init_state(method, jax.random.key(0)), num_steps=2).table
    np.testing.assert_allclose(made.levels, [20.0, 0.7, 0.002])


def test_discrepancy_of_groups():
    a, b = jnp.array([[[0.0, 0.0], [3.0, 4.0]]]), jnp.array([[[0.0, 0.0], [0.0, 0.0]]])
    scale = jnp.array([2.0])
    k = np.exp(-5.0 / 4.0)  # |.| = 5, D = 2
    expected = (2 + 2 * k) / 4 + 1 - 2 * (2 + 2 * k) / 4

    @quick
    @jax.value_and_grad
    def apart(a, b):
        return jnp.sum(group_discrepancy(a, b, scale))

    value, gradient = apart(a, b)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert np.isfinite(gradient).all() and np.any(gradient)
    np.testing.assert_array_equal(apart(b, b)[1], 0.0)


def test_times_of_moments(key):
    """Given by ratios eta = level/sigma_data."""
    like = jnp.zeros(4000)
    draw = quick(lambda ends: draw_times(key, like, 0.002, 20.0, 6.0, ends))
    t, r, s = (np.asarray(time) for time in draw(0.0))
    assert (s <= r).all() and (r <= t).all() and (s >= 0.00199).all() and (t < 20 / 21).all()
    free = r > s
    apart = (t / (1 - t) - r / (1 - r))[free]
    np.testing.assert_allclose(apart, (20 - 0.002) / 64, rtol=1e-6)
    assert 0.1 < free.mean() < 0.95
    assert abs(np.mean(np.asarray(draw(0.25).s) == 0.002 / 1.002) - 0.25) < 0.03


@pytest.mark.slow
def test_moments_of_the_exact_map_are_stationary(gaussian):
    """In expectation: over 4000 groups of 16 the gradient in a shift of the exact map's jumps is 0
    within its noise (1.6 % of that at a shift of 0.1, one standard deviation; the bound is 5 %).
    """
    groups, key = 4000, jax.random.key(0)
    network, exact = exact_network(gaussian), {"shift": jnp.zeros(2)}
    target = denoiser(network, exact, prediction="x0", process=EDM())
    keys = jax.random.split(key, 3)

    @quick
    @jax.grad
    def gradient(shift):
        x0 = gaussian.sample(keys[0], 16 * groups)
        eps = jax.random.normal(keys[1], x0.shape, x0.dtype)
        times = draw_times(keys[2], jnp.zeros(groups), 0.002 / 0.55, 20.0 / 0.55, 8.0)
        f = denoiser(network, {"shift": shift}, prediction="x0", process=EDM())
        return jnp.mean(moment_loss(f, target, x0, eps, times, 0.55))

    here, there = np.asarray(gradient(jnp.zeros(2))), np.asarray(gradient(jnp.full(2, 0.1)))
    assert (there > 0).all() and np.abs(here).max() < 0.05 * there.min(), (here, there)


def test_what_moments_refuse():
    with pytest.raises(ValueError, match="group="):
        inductive_moments(point(), group=0)
    method = inductive_moments(point(), group=5)
    with pytest.raises(ValueError, match="groups of 5"):
        loss = method.players["student"].loss
        loss(point().params, context({}), {"image": jnp.zeros((16, 2))}, jax.random.key(0))


def test_fourier_layers_filter_by_mode(rng):
    """Against NumPy's transform with complex weights; zero weights change nothing."""
    u, A, B = rng.normal(size=(2, 4, 3)), *rng.normal(size=(2, 3, 5, 5))
    u = rng.normal(size=(2, 4, 3, 5))
    found = fourier_layer({"real": jnp.asarray(A), "imaginary": jnp.asarray(B)}, jnp.asarray(u))
    U = np.fft.rfft(u, axis=1)
    mixed = np.fft.irfft(np.einsum("kcd,bkpc->bkpd", A + 1j * B, U), n=4, axis=1)
    np.testing.assert_allclose(found, u + mixed / (1 + np.exp(-mixed)), rtol=1e-9)
    zero = jnp.zeros((2, 5, 5))
    still = fourier_layer({"real": zero, "imaginary": zero}, jnp.asarray(u))
    np.testing.assert_array_equal(still, u)
    with pytest.raises(ValueError, match="1 to 3 Fourier modes"):
        fourier_layer({"real": jnp.zeros((4, 5, 5)), "imaginary": zero}, jnp.asarray(u))


def noisy(shapes):
    random = np.random.default_rng(0)
    draw = lambda p: jnp.asarray(0.3 * random.normal(size=p.shape), jnp.float32)  # noqa: E731
    return jax.tree.map(draw, shapes)


def some_params(module, shape):
    return noisy(jax.eval_shape(lambda: init(module, jax.random.key(0), shape, labels=2)))


def test_a_temporal_network_starts_as_its_own_network(key):
    module = MLP(width=8, depth=2, embedding=8)
    params = some_params(module, (2,))
    network, grown = temporal(from_linen(module), params, (2,))
    assert len(grown["temporal"]) == 2
    x = np.random.default_rng(1).normal(size=(2, 4, 2)).astype(np.float32)
    label = (np.arange(10).reshape(2, 5) / 10).astype(np.float32)
    pairs = np.stack([np.repeat(label[:, 0], 4), label[:, 1:].reshape(-1)], 1)
    apply = quick(network)
    alone = quick(from_linen(module))(params, x.reshape(8, 2), pairs)
    np.testing.assert_allclose(apply(grown, x, label), alone.reshape(2, 4, 2), rtol=1e-4, atol=1e-4)
    moved, further = grown | {"temporal": noisy(grown["temporal"])}, x.copy()
    further[:, 3] += 1.0
    other = np.asarray(apply(moved, x, label)) - np.asarray(apply(moved, further, label))
    assert np.abs(other[:, 0]).max() > 1e-3  # points see each other
    with pytest.raises(ValueError, match="labels must be"):
        network(grown, x, label[:, :3])


@pytest.mark.parametrize(
    ("module", "shapes"),
    [
        (
            UNet(channels=8, multipliers=(1, 2), embedding=8, num_classes=3),
            [(3, 8, 8)] * 2 + [(3, 16, 16)] * 3,
        ),
        (DiT(4, 8, 2, 2, num_classes=3, remat=True), [(3, 8, 8)] * 2),
    ],
    ids=["unet", "dit"],
)
def test_temporal_layers_of_networks_of_images(module, shapes):
    """One after every block, of its width; labels of a condition are repeated."""
    params = some_params(module, (8, 8, 1))
    network, grown = temporal(from_linen(module), params, (8, 8, 1), modes=3)
    widths = sorted(layer["real"].shape for layer in grown["temporal"].values())
    assert widths == shapes
    x, label = jnp.zeros((2, 4, 8, 8, 1), jnp.float32), jnp.zeros((2, 5), jnp.float32)
    out = jax.eval_shape(network, grown, x, label, jnp.zeros(2, jnp.int32))
    assert out.shape == x.shape and out.dtype == x.dtype


def test_what_temporal_networks_refuse(key):
    with pytest.raises(TypeError, match="from_linen"):
        temporal(lambda *a: None, {}, (2,))
    module = MLP(width=8, depth=1, embedding=8, residual=False)
    with pytest.raises(ValueError, match="no unet.Block, dit.Block"):
        temporal(from_linen(module), some_params(module, (2,)), (2,))


LEVELS = [float(s) for s in grids.karras(8, 0.02, 20.0)]


def trajectory_network(gaussian):
    """The exact map, decoded at the M levels whose logarithms over 4 are the labels."""
    g = exact_network(gaussian)

    def network(params, x, label, cond=None, *, key=None):
        batch, count = x.shape[:2]
        s = jnp.repeat(label[:, 0], count)
        r = jnp.exp(4 * label[:, 1:]).reshape(-1)
        r = jnp.where(r > 0.0201, r, 0.0)  # the lowest label stands for level 0
        both = jnp.stack([s, r], 1)
        return g(params, x.reshape(batch * count, -1), both).reshape(x.shape)

    return network


def test_the_exact_operator_has_no_loss(gaussian):
    """And samples the flow in as many steps as it has starts."""
    student = exact_student(gaussian, low=0.02)._replace(network=trajectory_network(gaussian))
    keep = (2, 4, 6, 8)
    method = trajectory_operator(student, LEVELS, keep=keep, starts=4, distance=squared)
    y = 20.0 * jnp.asarray(np.random.default_rng(0).normal(size=(16, 2)))
    path = jnp.stack([gaussian.flow(y, LEVELS[0], s) for s in LEVELS], axis=1)
    batch = {"image": path[:, -1], "path": path}

    @quick
    @jax.value_and_grad
    def loss(shift):
        own = method.players["student"].loss
        return own({"shift": shift}, context({}), batch, jax.random.key(0))[0]

    value, gradient = loss(jnp.zeros(2))
    assert value < 1e-20 and jnp.max(jnp.abs(gradient)) < 1e-8
    assert loss(jnp.full(2, 0.05))[0] > 0.01
    state = init_state(method, jax.random.key(0))
    for steps in (1, 2, 4):
        sampler = method.sampler(state, num_steps=steps)
        assert sampler.table.nfe == steps
        end = sample(sampler.denoiser, sampler.table, y)
        np.testing.assert_allclose(end, gaussian.flow(y, 20.0, 0.0), rtol=1e-6, atol=1e-8)
    alone = trajectory_operator(student, LEVELS, keep=keep)
    with pytest.raises(ValueError, match="1 starting levels"):
        alone.sampler(state, num_steps=2)


def test_weights_of_decoded_points():
    """1/level between 1 and the cap; points that are not below the start do not count."""
    y, s = jnp.ones((2, 1)), jnp.array([8.0, 1.0])
    levels, points = jnp.array([4.0, 0.5, 0.0]), jnp.zeros((2, 3, 1))
    g = jnp.ones((2, 3, 1))
    found = operator_loss(g, y, s, points, levels, cap=10.0)
    scale = 1 / np.sqrt(1 + np.array([4.0, 0.5, 0.0]) ** 2)
    each = np.array([1.0, 2.0, 10.0]) * scale
    np.testing.assert_allclose(found, [each.sum() / 3, each[1:].sum() / 2])


def test_a_temporal_network_learns_from_stored_paths(key):
    path = np.random.default_rng(0).normal(size=(4, 9, 2)).astype(np.float32)
    batch = jax.tree.map(jnp.asarray, {"image": path[:, -1], "path": path})
    module = MLP(width=8, depth=1, embedding=8)
    network, params = temporal(from_linen(module), some_params(module, (2,)), (2,))
    student = Student(network, params, low=0.02, high=20.0)
    method = trajectory_operator(student, LEVELS, keep=(4, 8))
    loss = lambda p: method.players["student"].loss(p, context({}), batch, key)[0]  # noqa: E731
    value, gradient = quick(jax.value_and_grad(loss))(params)
    assert np.isfinite(value) and all(np.any(g) for g in jax.tree.leaves(gradient["temporal"]))
    with pytest.raises(ValueError, match="9 states"):
        other = trajectory_operator(student, LEVELS[1:], keep=(7,))
        other.players["student"].loss(params, context({}), batch, key)


def test_what_the_operator_refuses(gaussian):
    student = exact_student(gaussian)
    for levels, wrong, said in (
        (LEVELS[::-1], {}, "decrease"),
        (LEVELS, {"keep": (4,)}, "keep="),
        (LEVELS, {"keep": (4, 8), "starts": 3}, "starts="),
    ):
        with pytest.raises(ValueError, match=said):
            trajectory_operator(student, levels, **wrong)
