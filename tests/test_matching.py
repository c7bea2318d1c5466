"""Distribution matching: gradients against closed forms of Gaussians, and golden values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_numbers import load

from jaxdiff.distill.adversarial import (
    SOFTPLUS,
    Head,
    approximate_penalty,
    gradient_penalty,
)
from jaxdiff.distill.diff_instruct import diff_instruct, score_difference
from jaxdiff.distill.distribution_matching import decoupled_dmd, dmd, dmd2
from jaxdiff.distill.f_distill import (
    DIVERGENCES,
    bin_means,
    bin_of,
    divergence_weight,
    f_distill,
    ratio,
)
from jaxdiff.distill.generator import generate, generator_tables, normaliser, push
from jaxdiff.distill.levels import karras_level
from jaxdiff.distill.lora import adapted, adapters
from jaxdiff.distill.moment_matching import ancestral_step, moment_matching
from jaxdiff.distill.primitives import perturb, squared
from jaxdiff.distill.score_identity import identity_loss, sid
from jaxdiff.distill.score_implicit import huber_slope, sim, squared_slope
from jaxdiff.distill.student import Student
from jaxdiff.distill.two_players import Opponent
from jaxdiff.exact import Gaussian
from jaxdiff.method import Context
from jaxdiff.prediction import expand
from jaxdiff.process import EDM
from jaxdiff.training.ema import constant
from jaxdiff.training.loop import fit, init_state, update
from jaxdiff.typing import Outputs

MEAN, STD = 0.3, 0.5  # of the data, in one dimension
TEACHER = Gaussian(np.array([MEAN]), np.array([STD**2]))
THETA = {"mean": jnp.asarray(-0.2), "std": jnp.asarray(0.9)}  # of what the student makes
LEVEL, START, COUNT = 0.7, 2.0, 200_000
KEY = jax.random.key(5)


def generator_network(params, x, label, cond=None, **_):
    """g(z) = mean + std z of x = START z."""
    return params["mean"] + params["std"] * x / START


def posterior_network(params, x, label, cond=None, *, full=False, key=None):
    """The exact denoiser of N(mean, std^2), whose label is the level."""
    variance = params["std"] ** 2
    value = params["mean"] + variance / (variance + expand(label, x) ** 2) * (x - params["mean"])
    return Outputs(value, None, (x,)) if full else value


def student():
    return Student(generator_network, THETA, prediction="x0", process=EDM(), high=START)


def fake(params=None):
    params = THETA if params is None else params
    return Student(posterior_network, params, prediction="x0", process=EDM())


def fixed(key, like):
    return jnp.full(like.shape[:1], LEVEL, like.dtype)


def gradient(method, count=COUNT, batch=None):
    """The student's gradient in its mean and deviation, the fake score being exact."""
    others = method.init(jax.random.key(0))
    context = Context(jnp.asarray(0), others, {}, method.frozen)
    data = {"image": jnp.zeros((count, 1))} | (batch or {})
    loss = lambda p: method.players["student"].loss(p, context, data, KEY)[0]  # noqa: E731
    return jax.jit(jax.grad(loss))(others["student"])


def check(found, expected, rtol=0.02):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=rtol, err_msg=name)


def noisy(theta):
    """Mean and variance of samples and of data with noise of the level."""
    return theta["mean"], theta["std"] ** 2 + LEVEL**2, MEAN, STD**2 + LEVEL**2


def kl(theta):
    m, v, mu, w = noisy(theta)
    return 0.5 * (v / w + (m - mu) ** 2 / w - 1.0 + jnp.log(w / v))


def fisher(theta, points=None):
    """E |D_q - D_p|^2, s^4 times the Fisher divergence, over noisy samples: of the student, or held
    fixed at ``points``, a student of its own.
    """
    m, v, mu, w = noisy(theta)
    at, spread = (m, v) if points is None else noisy(points)[:2]
    slope, shift = 1 / w - 1 / v, (at - mu) / w - (at - m) / v
    return LEVEL**4 * (spread * slope**2 + shift**2)


def test_diff_instruct_descends_the_divergence():
    method = diff_instruct(
        TEACHER.denoiser, student(), opponent=Opponent(fake()), start=START, levels=fixed,
        weight=lambda s: s**-2,
    )  # fmt: skip
    check(gradient(method), jax.grad(kl)(THETA))


def test_score_implicit_matching_is_the_gradient_of_the_fisher_divergence():
    """At fixed points; and the naive form, which holds the fake score still, is not: its sign is
    wrong.
    """
    method = sim(
        TEACHER.denoiser, student(), opponent=Opponent(fake()), slope=squared_slope, start=START,
        levels=fixed,
    )  # fmt: skip
    check(gradient(method), jax.grad(fisher)(THETA, THETA))

    z, eps = jax.random.normal(KEY, (2, COUNT, 1))
    narrow = {"mean": jnp.asarray(MEAN), "std": jnp.asarray(0.3)}
    D = fake().denoiser(narrow)

    def naive(theta):
        y = theta["mean"] + theta["std"] * z + LEVEL * eps
        return jnp.mean(jnp.square(D(y, LEVEL) - TEACHER.denoiser(y, LEVEL)))

    wrong, right = jax.jit(jax.grad(naive))(narrow)["std"], jax.grad(fisher)(narrow, narrow)["std"]
    assert right < -0.05 and wrong > 0.01  # it makes samples that are too narrow narrower still


def test_any_distance_of_scores_has_its_own_gradient():
    """Pseudo-Huber's, against the derivative of its mean by quadrature over the noisy samples."""
    c = 0.2
    method = sim(
        TEACHER.denoiser, student(), opponent=Opponent(fake()), slope=huber_slope(c), start=START,
        levels=fixed,
    )  # fmt: skip
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)

    def mean_distance(theta):
        m, v, mu, w = noisy(theta)
        y = noisy(THETA)[0] + jnp.sqrt(noisy(THETA)[1]) * nodes
        apart = LEVEL**2 * ((m - y) / v - (mu - y) / w)
        return jnp.sum(weights * jnp.sqrt(apart**2 + c**2)) / np.sqrt(2 * np.pi)

    check(gradient(method), jax.grad(mean_distance)(THETA))


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_score_identity_is_half_the_fisher_divergence(alpha):
    """Of all its gradient with a = 1/2, at fixed points with a = 1."""
    z, eps = jax.random.normal(KEY, (2, COUNT, 1))
    D = fake().denoiser(THETA)

    def loss(theta):
        x = theta["mean"] + theta["std"] * z
        y = x + LEVEL * eps
        values = identity_loss(TEACHER.denoiser(y, LEVEL), D(y, LEVEL), x, alpha, jnp.ones(COUNT))
        return jnp.mean(values)

    half = lambda theta: 0.5 * fisher(theta, None if alpha == 0.5 else THETA)  # noqa: E731
    check(jax.jit(jax.grad(loss))(THETA), jax.grad(half)(THETA))


def f_of(name):
    """The generator f of each divergence E_q f(p/q)."""
    log = jnp.log
    return {
        "reverse-kl": lambda r: -log(r),
        "kl": lambda r: r * log(r),
        "jensen-shannon": lambda r: r * log(r) - (r + 1) * log((r + 1) / 2),
        "softened-reverse-kl": lambda r: (r + 1) * log((r + 1) / (2 * r)),
        "hellinger": lambda r: -4 * jnp.sqrt(r),
        "jeffreys": lambda r: (r - 1) * log(r),
        "neyman": lambda r: (1 - r) ** 2 / (2 * r),
    }[name]


@pytest.mark.parametrize("name", DIVERGENCES)
def test_weights_of_divergences(name):
    """h(r) = f''(r) r^2, and with it the score difference is the gradient of E_q f(p/q)."""
    r = jnp.geomspace(0.05, 20.0, 30)
    second = jax.vmap(jax.grad(jax.grad(f_of(name))))(r) * r**2
    np.testing.assert_allclose(DIVERGENCES[name](r), second, rtol=1e-9)
    np.testing.assert_allclose(jnp.mean(divergence_weight(name, r)), 1.0, rtol=1e-5)

    y = jnp.linspace(-22.0, 22.0, 9001)
    gap = y[1] - y[0]
    density = lambda y, m, v: jnp.exp(-0.5 * (y - m) ** 2 / v) / jnp.sqrt(2 * jnp.pi * v)  # noqa: E731

    def divergence(theta):
        m, v, mu, w = noisy(theta)
        q = density(y, m, v)
        return gap * jnp.sum(q * f_of(name)(density(y, mu, w) / q))

    def moved(theta):
        """-E h (s_p - s_q) dy/dtheta, y = m + sqrt(v) n of one standard normal n."""
        m, v, mu, w = noisy(THETA)
        q, p = density(y, m, v), density(y, mu, w)
        away = DIVERGENCES[name](p / q) * ((mu - y) / w - (m - y) / v)
        m_new, v_new, _, _ = noisy(theta)
        points = m_new + jnp.sqrt(v_new) * (y - m) / jnp.sqrt(v)
        return -gap * jnp.sum(q * away * points)

    check(jax.grad(moved)(THETA), jax.grad(divergence)(THETA), rtol=1e-4)


def test_the_running_mean_of_ratios_is_gradient_descent():
    """Bins with samples move by the rate towards their mean, empty ones stay."""
    s = jnp.asarray([0.01, 0.012, 5.0])
    index = bin_of(s, 0.002, 80.0, 4)
    np.testing.assert_array_equal(index, [0, 0, 2])
    r = jnp.asarray([1.0, 3.0, 0.5])
    np.testing.assert_allclose(bin_means(r, index, jnp.ones(4)), [2.0, 1.0, 0.5, 1.0])
    logits = jnp.asarray([[0.0, 2.0], [50.0, 50.0], [-50.0, -50.0]])
    np.testing.assert_allclose(ratio(logits), [np.e, 20.0, 0.1])


def test_moment_matching_is_stationary_at_the_posterior(rng):
    """The step is a draw of the posterior, and neither player moves where both are the teacher.

    For the Gaussian the teacher's own denoised outputs have too little variance, so the student
    matched is that of the joint: E[x | y_s] of the student's x is what the auxiliary learns.
    """
    count = 100_000
    y, x = jnp.full((count, 1), 1.3), jnp.full((count, 1), 0.4)
    t, s = jnp.full(count, 2.0), jnp.full(count, 0.5)
    z = jnp.asarray(rng.normal(size=(count, 1)))
    found = ancestral_step(y, t, s, x, z)
    # precisions of y_s given x, and of y_t given y_s, multiply
    variance = 1 / (1 / 0.25 + 1 / (4 - 0.25))
    mean = variance * (0.4 / 0.25 + 1.3 / (4 - 0.25))
    np.testing.assert_allclose([found.mean(), found.var()], [mean, variance], rtol=0.01)
    own = Student(posterior_network, {"mean": jnp.asarray(MEAN), "std": jnp.asarray(STD)},
                  prediction="x0", process=EDM(), low=0.01, high=20.0)  # fmt: skip
    method = moment_matching(TEACHER.denoiser, own, opponent=Opponent(own), steps=4)
    others = method.init(jax.random.key(0))
    context = Context(jnp.asarray(0), others, {}, method.frozen)
    data = {"image": MEAN + STD * jnp.asarray(rng.normal(size=(64, 1)))}
    for name in ("student", "fake"):
        loss = lambda p, name=name: method.players[name].loss(p, context, data, KEY)[0]  # noqa: E731
        grad = jax.grad(loss)(others[name])
        if name == "student":
            assert max(abs(g) for g in jax.tree.leaves(grad)) < 1e-12


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
    x, told, fake_x = (array(case, k) for k in ("gen_data", "teacher_x0", "fake_score_x0"))
    scale = array(case, "additional_scale") if "additional_scale" in case["arrays"] else 1.0

    def loss(x):
        weight = normaliser(x, told) * scale
        direction = score_difference(lambda y, s: told, lambda y, s: fake_x, x, x, weight)
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
def test_golden_students_and_opponents(case):
    """Both updates of DMD2 and f-distill, the head on the teacher's features."""
    t, eps, real = array(case, "t"), array(case, "eps"), array(case, "real_data")
    told, head = toy_denoiser(toys(case, "teacher")), (array(case, "disc:w"), array(case, "disc:b"))
    logits = lambda y: told(y, t, full=True).features[0] @ head[0] + head[1][None]  # noqa: E731
    factor, name = case["gan_loss_weight_gen"], NAMES.get(case["f_div"])

    def make(params):
        return toy_denoiser(params)(array(case, "input_student"), array(case, "t_student"))

    def student_loss(params):
        x = make(params)
        y = perturb(x, t, eps)
        h = 1.0 if name is None else divergence_weight(name, ratio(logits(y), 0.1, 10.0))
        weight = normaliser(x, told(y, t)) * jax.lax.stop_gradient(h)
        direction = score_difference(told, toy_denoiser(toys(case, "fake_score")), y, t, weight)
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
        judged = SOFTPLUS.critic(logits(perturb(real, t, eps)), logits(perturb(x, t, eps)))
        np.testing.assert_allclose(judged, array(case, "fake_gan_loss_disc")[0], rtol=1e-6)


@pytest.mark.parametrize("case", cases("SID_EDMLoss"))
def test_golden_score_identity(case):
    told, made = toy_denoiser(toys(case, "teacher")), toy_denoiser(toys(case, "fake_score"))
    u = 1.0 - array(case, "rnd_uniform").reshape(-1) * case["tmax"] / 1000
    s = karras_level(u, jnp.full_like(u, 2.0), 0.002, 80.0, 7.0)

    def loss(params):
        z = array(case, "z")
        x = toy_denoiser(params)(z, jnp.full(len(z), 80.0))
        y = perturb(x, s, array(case, "noise"))
        D_teacher = told(y, s)
        weight = normaliser(x, D_teacher, 0.0)
        each = identity_loss(D_teacher, made(y, s), x, case["alpha"], weight)
        return jnp.sum(each) * x[0].size

    value, slope = jax.value_and_grad(loss)(toys(case, "student"))
    np.testing.assert_allclose(value, array(case, "generator_loss_map").sum(), rtol=1e-5)
    same_gradient(case, "student", slope)


# the frame


def tiny_network(params, x, label, cond=None, *, full=False, key=None):
    """A few numbers, with features."""
    hidden = jnp.tanh(x @ params["in"] + label[:, None] * params["label"][None])
    value = hidden @ params["out"]
    return Outputs(value, None, (hidden,)) if full else value


def tiny_params(seed=0):
    draw = np.random.default_rng(seed).normal
    return {k: jnp.asarray(0.3 * draw(size=s), jnp.float32)
            for k, s in (("in", (2, 3)), ("label", (3,)), ("out", (3, 2)))}  # fmt: skip


HEAD = Head(
    lambda params, features, cond: features[0] @ params["w"],
    {"w": jnp.asarray([[0.5], [-0.3], [0.2]], jnp.float32)},
)
FLAT = Gaussian(np.array([0.2, -0.4], np.float32), np.array([0.09, 0.5], np.float32))


def tiny(**options):
    return Student(tiny_network, tiny_params(), **options)


def frames():
    """Every method of two players, small."""
    own, head = Opponent(), Opponent(head=HEAD)
    teacher = lambda y, s, cond=None: FLAT.denoiser(y, s)  # noqa: E731
    return {
        "diff_instruct": diff_instruct(teacher, tiny(), opponent=own),
        "low rank": diff_instruct(teacher, tiny(), opponent=Opponent(tiny(), rank=1)),
        "dmd": dmd(teacher, tiny(), opponent=own),
        "dmd2": dmd2(teacher, tiny(), opponent=head, every=2),
        "two steps": dmd2(teacher, tiny(), opponent=own, steps=(5.0, 1.0), every=1),
        "decoupled": decoupled_dmd(teacher, tiny(), opponent=own),
        "f_distill": f_distill(teacher, tiny(), head, every=2),
        "sid": sid(teacher, tiny(), opponent=own),
        "sida": sid(teacher, tiny(), opponent=head),
        "sim": sim(teacher, tiny(), opponent=own),
        "moments": moment_matching(teacher, tiny(), opponent=own),
    }


FRAMES = frames()


def tiny_batch(step=0):
    draw = np.random.default_rng(step).normal
    image = (draw(size=(8, 2)) * 0.5).astype(np.float32)
    return {"image": image, "start": (80 * draw(size=(8, 2))).astype(np.float32)}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in ("dmd2", "sida") else pytest.mark.slow) for n in FRAMES],
)
def test_a_player_moves_itself_alone(name):
    """In an update of one player the others' parameters stay, bit for bit; its own move."""
    with jax.enable_x64(False):
        method = FRAMES[name]
        state = init_state(method, jax.random.key(0))
        for player in method.players:
            new, metrics = jax.jit(lambda s, b, p=player: update(method, s, b, (p,)))(
                state, tiny_batch()
            )
            assert all(np.isfinite(v).all() for v in metrics.values())
            for other in method.players:
                pairs = zip(
                    jax.tree.leaves(state.params[other]), jax.tree.leaves(new.params[other]),
                    strict=True,
                )  # fmt: skip
                same = [np.array_equal(a, b) for a, b in pairs]
                assert all(same) if other != player else not all(same), (player, other)


@pytest.mark.parametrize("every", [1, 2, 3])
def test_periods_resume_to_the_same_numbers(every, tmp_path):
    """A run stopped at any step goes on as if it had not been."""
    with jax.enable_x64(False):
        own = Opponent(head=HEAD)
        teacher = lambda y, s, cond=None: FLAT.denoiser(y, s)  # noqa: E731
        method = f_distill(teacher, tiny(ema={"slow": constant(0.9)}), own, every=every)
        options = {"key": 0, "progress": False}
        whole = fit(method, tiny_batch, steps=5, **options)
        for stop in (2, 3):
            folder = tmp_path / str(stop)
            fit(method, tiny_batch, steps=stop, checkpoint=folder, **options)
            again = fit(method, tiny_batch, steps=5, checkpoint=folder, **options)
            for a, b in zip(
                jax.tree.leaves(whole.params), jax.tree.leaves(again.params), strict=True
            ):
                np.testing.assert_array_equal(a, b)
            averages = [s.ema["student"]["slow"]["in"] for s in (whole, again)]
            np.testing.assert_array_equal(*averages)


def test_backward_simulation_differentiates_the_last_evaluation_alone():
    """Samples of one step, its input made by sampling without gradient; each step in turn."""
    levels = [4.0, 1.0, 0.25]

    def D(scale):
        return lambda y, s: scale * y / (1 + s[:, None])

    like = jnp.zeros((3000, 1))
    x, slope = jax.jvp(lambda a: generate(D(a), levels, like, KEY)[0], (2.0,), (1.0,))
    np.testing.assert_allclose(slope, x / 2.0, rtol=1e-9)  # linear in the last call's scale alone
    # the three steps' variances: y_0 = 4 z; y_k = D(y_(k-1)) + s_k z
    variances, y = [], 16.0
    for s, r in zip(levels, [*levels[1:], 0.0], strict=True):
        x_variance = y * (2 / (1 + s)) ** 2
        variances.append(x_variance)
        y = x_variance + r * r
    np.testing.assert_allclose(x.var(), np.mean(variances), rtol=0.1)
    tables = generator_tables(levels)
    assert tables(3).nfe == 3 and tables(1).nfe == 1
    for wrong in ([], [1.0, 2.0], [1.0, 0.0]):
        with pytest.raises(ValueError, match="positive and decrease"):
            generator_tables(wrong)
    with pytest.raises(ValueError, match="up to 3"):
        tables(4)


def test_adapters_change_a_network_by_little():
    params = {"a": jnp.ones((3, 3, 2, 4)), "bias": jnp.ones(4), "b": jnp.ones((5, 2))}
    own = adapters(params, 2, KEY)
    assert [v["A"].shape for v in own.values()] == [(18, 2), (5, 2)]
    assert jax.tree.all(jax.tree.map(lambda x, y: (x == y).all(), adapted(params, own), params))
    moved = jax.tree.map(lambda x: x + 1.0, own)
    new = adapted(params, moved, 0.5)
    np.testing.assert_array_equal(new["bias"], params["bias"])
    expected = 1 + 0.5 * (moved["['b']"]["A"] @ moved["['b']"]["B"])
    np.testing.assert_allclose(new["b"], expected)
    with pytest.raises(ValueError, match="at least 1"):
        adapters(params, 0, KEY)
    with pytest.raises(ValueError, match="nothing to adapt"):
        adapters({"bias": jnp.ones(3)}, 1, KEY)


def test_penalties():
    """Exact for a quadratic; the approximate one is its size squared times it for little moves."""
    logits = lambda y: jnp.sum(y**2, axis=1, keepdims=True)  # noqa: E731
    y = jnp.asarray([[0.5, -1.0], [2.0, 0.3]])
    np.testing.assert_allclose(gradient_penalty(logits, y), 4 * jnp.sum(y**2, axis=1))
    many = jnp.broadcast_to(y[:1], (200_000, 2))
    about = approximate_penalty(logits, many, KEY, 1e-3).mean() / 1e-6
    np.testing.assert_allclose(about, 4 * jnp.sum(y[0] ** 2), rtol=0.02)


def test_wrong_opponents_are_told():
    teacher = FLAT.denoiser
    with pytest.raises(ValueError, match='"fake" or "teacher"'):
        diff_instruct(teacher, tiny(), opponent=Opponent(trunk="student"))
    with pytest.raises(ValueError, match="give the opponent a head"):
        f_distill(teacher, tiny(), Opponent())
    with pytest.raises(ValueError, match="no divergence 'tv'"):
        f_distill(teacher, tiny(), Opponent(head=HEAD), divergence="tv")
    with pytest.raises(ValueError, match="not a way to draw them"):
        fake = Student(tiny_network, lambda key: tiny_params())
        diff_instruct(teacher, tiny(), opponent=Opponent(fake, rank=2))
    method = dmd(teacher, tiny())
    context = Context(jnp.asarray(0), method.init(KEY), {}, method.frozen)
    with pytest.raises(ValueError, match="DMD needs pairs"):
        data = {"image": jnp.zeros((4, 2), jnp.float32)}
        method.players["student"].loss(tiny_params(), context, data, KEY)
