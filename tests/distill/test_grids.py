"""Distillation from pairs and on grids: golden losses, exact students, stages."""

from itertools import pairwise
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import load

from jaxdiff import solvers
from jaxdiff.arrays import expand
from jaxdiff.conditioning.guidance import classifier_free
from jaxdiff.denoisers import denoiser
from jaxdiff.distance import absolute, squared
from jaxdiff.distill.consistency.schedules import ct_scales
from jaxdiff.distill.parts.levels import karras_level
from jaxdiff.distill.parts.primitives import implied, perturb
from jaxdiff.distill.parts.stage import Before
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.score_matching import score_matching_loss
from jaxdiff.distill.trajectory import (
    classifier_features,
    guided,
    guided_rounds,
    knowledge,
    progressive,
)
from jaxdiff.distill.trajectory.progressive import (
    TargetPoint,
    cosine_levels,
    karras_levels,
    nested_levels,
)
from jaxdiff.exact import Gaussian, GaussianMixture
from jaxdiff.method import Context
from jaxdiff.prediction import (
    edm_weight,
    snr_plus_one_weight,
    snr_weight,
    truncated_snr_weight,
    uniform_weight,
)
from jaxdiff.process import EDM, VP, level
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table
from jaxdiff.training.fit_stages import split_updates

GOLDEN = load("losses_diffusion")
WEIGHTS = {"uniform": uniform_weight, "karras": edm_weight, "snr": snr_weight}
NAMES = ("W1", "b1", "u", "W2", "b2")


def toy(params, x, label, cond=None, **_):
    """The golden toy network F(x, c), its label the EDM one."""
    hidden = x.reshape(x.shape[0], -1) @ params["W1"].T + params["b1"][None]
    hidden = jnp.tanh(hidden + label[:, None] * params["u"][None])
    return (hidden @ params["W2"].T + params["b2"][None]).reshape(x.shape)


def edm_toy(params, x, s):
    """The golden toy denoiser of the EDM family: the network itself, of the scaled input."""
    return toy(params, x / jnp.sqrt(1 + expand(s, x) ** 2), jnp.log(jnp.maximum(s, 1e-12)) / 4)


def tree(case, prefix):
    return {k: jnp.asarray(GOLDEN.get(case, f"{prefix}:{k}")) for k in NAMES}


def cases(*kinds):
    return params([c for c in GOLDEN.cases if c.get("kind") in kinds])


def params(found):
    assert found, "a golden case is missing"
    return [pytest.param(c, id=c["id"]) for c in found]


def arrays(case, *names):
    return (jnp.asarray(GOLDEN.get(case, k)) for k in names)


def check_gradient(case, gradient):
    for name, value in gradient.items():
        expected = GOLDEN.get(case, f"grad:{name}")
        np.testing.assert_allclose(value, expected, rtol=1e-8, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("case", cases("progdist"))
def test_golden_progressive_losses(case):
    x0, eps, index = arrays(case, "x_start", "noise", "indices")
    ends = (case["sigma_min"], case["sigma_max"], case["rho"])
    knots = [index.astype(float) + h for h in (0.0, 0.5, 1.0)]
    path = [karras_level(i, jnp.asarray(case["num_scales"] + 1.0), *ends) for i in knots]
    for i, s in zip(knots, path, strict=True):
        np.testing.assert_allclose(karras_levels(i / case["num_scales"], *ends[:2]), s, rtol=1e-12)
    y = perturb(x0, path[0], eps)
    teacher = denoiser(toy, tree(case, "teacher"), sigma_data=case["sigma_data"])
    requested = TargetPoint(y, path[0], progressive.progressive_target(teacher, y, path))
    distance = absolute if case["loss_norm"] == "l1" else squared
    weight = WEIGHTS[case["weight_schedule"]](path[0], case["sigma_data"])
    scales = {"sigma_data": case["sigma_data"], "sigma_min": case["sigma_min"]}

    def loss(params):
        each = progressive.progressive_loss(
            denoiser(toy, params, **scales), requested, weight, distance
        )
        return jnp.mean(each), each

    gradient, each = jax.grad(loss, has_aux=True)(tree(case, "student"))
    np.testing.assert_allclose(each, GOLDEN.get(case, "loss"), rtol=1e-9)
    check_gradient(case, gradient)


@pytest.mark.parametrize("case", cases("denoise"))
def test_golden_denoising_losses(case):
    x0, eps, s = arrays(case, "x_start", "noise", "sigmas")

    def loss(params):
        D = denoiser(toy, params, sigma_data=case["sigma_data"])
        weight = WEIGHTS[case["weight_schedule"]](s, case["sigma_data"])
        each = score_matching_loss(D, x0, s, eps, weight)
        return jnp.mean(each), each

    gradient, each = jax.grad(loss, has_aux=True)(tree(case, "student"))
    np.testing.assert_allclose(each, GOLDEN.get(case, "loss"), rtol=1e-9)
    check_gradient(case, gradient)


@pytest.mark.parametrize("case", cases("VPLoss", "VELoss"))
def test_golden_score_matching_of_other_processes(case):
    """Levels of the linear VP process at uniform times, or log-uniform ones; weight 1/level^2."""
    x0, eps, rnd = arrays(case, "images", "noise", "rnd")
    u = rnd.reshape(-1)
    if case["kind"] == "VPLoss":
        s = level(VP(0.1, 20.0), 1.0 + u * (1e-5 - 1.0))
    else:
        s = 0.02 * (100 / 0.02) ** u

    def loss(params):
        D = lambda y, s: edm_toy(params, y, s)  # noqa: E731
        each = score_matching_loss(D, x0, s, eps, snr_weight(s))
        return x0[0].size * jnp.sum(each), each

    gradient, each = jax.grad(loss, has_aux=True)(tree(case, "student"))
    expected = GOLDEN.get(case, "loss_map").reshape(len(u), -1).mean(1)
    np.testing.assert_allclose(each, expected, rtol=1e-9)
    check_gradient(case, gradient)


def schedules(mode):
    found = [c for c in GOLDEN.cases if c.get("scale_mode") == mode]
    return params([c for c in found if c["target_ema_mode"] == "fixed"])


@pytest.mark.parametrize("case", schedules("progressive"))
def test_golden_scales_with_a_fixed_average(case):
    step, total = jnp.asarray(GOLDEN.get(case, "step")), case["total_steps"]
    scales = ct_scales(step, total, case["start_scales"], case["end_scales"])
    np.testing.assert_allclose(scales, GOLDEN.get(case, "num_scales"))


@pytest.mark.parametrize("case", schedules("progdist"))
def test_golden_halvings(case):
    """Rounds of equal length, doubled for two steps and for one."""
    stages = progressive.progressive_stages(
        lambda y, s, c: y, Student(toy, {}), first=case["start_scales"], last=case["end_scales"]
    )
    length = case["distill_steps_per_iter"]
    ends = np.cumsum(split_updates(stages, length * (len(stages) + 2)))
    rounds = np.searchsorted(ends, GOLDEN.get(case, "step"), side="right")
    num_steps = [int(stages[min(i, len(stages) - 1)].name.split("-")[0]) for i in rounds]
    np.testing.assert_array_equal(num_steps, GOLDEN.get(case, "num_scales"))


@pytest.mark.parametrize(
    "case", params([c for c in GOLDEN.cases if "sample_progdist" in c["peer"]])
)
def test_golden_progressive_sampling(case):
    made = table(solvers.euler, GOLDEN.get(case, "sigmas")[:-1])
    D = denoiser(toy, tree(case, "student"), sigma_min=0.002)
    out = sample(D, made, jnp.asarray(GOLDEN.get(case, "x_T")))
    np.testing.assert_allclose(out, GOLDEN.get(case, "out"), rtol=1e-9)


GAUSSIAN = Gaussian(np.array([0.2, -0.4]), np.array([0.09, 0.5]))
LOW, HIGH, COUNT = 0.01, 20.0, 6


def student(network, **options):
    """A student whose network is its denoiser: x = y, label = level."""
    params = {"shift": jnp.zeros(2)}
    fields = {"prediction": "x0", "process": EDM(), "low": LOW, "high": HIGH}
    return Student(network, **({"params": params} | fields | options))


def shifted(f):
    """A network that says f(y, label) plus its parameter."""
    add = lambda params, y: params["shift"][None].astype(y.dtype)  # noqa: E731
    return lambda params, y, label, cond=None, **_: f(y, label, cond) + add(params, y)


def tied(gaussian=GAUSSIAN):
    """A teacher with a parameter, whose gradient must be zero."""
    teach = lambda params, y, s, cond=None: gaussian.denoise(y, s) + params[None].astype(y.dtype)  # noqa: E731
    return jax.tree_util.Partial(teach, jnp.zeros(2))


def batch(**more):
    return {"image": GAUSSIAN.sample(jax.random.key(7), COUNT)} | more


def loss_at(method, data, shift=0.0, frozen=None, seed=0):
    def loss(params, data, frozen, key):
        context = Context(jnp.asarray(0), {}, {}, frozen)
        return method.players["student"].loss(params, context, data, key)[0]

    params = {"shift": jnp.asarray([shift, shift])}
    frozen = method.frozen if frozen is None else frozen
    return jax.jit(loss)(params, data, frozen, jax.random.key(seed))


def check_optimum(method, data, loss=1e-18, gradient=1e-8):
    """The exact student has no loss, its gradient is zero, other students have a loss, and frozen
    parameters get exactly no gradient.
    """
    value, slope = jax.jit(jax.value_and_grad(lambda a: loss_at(method, data, a)))(jnp.zeros(()))
    assert value < loss and abs(slope) < gradient, (value, slope)
    numbers, rest = split_floats(method.frozen)
    loss_of = lambda t: loss_at(method, data, 0.1, rest(t))  # noqa: E731
    other, moved = jax.jit(jax.value_and_grad(loss_of))(numbers)
    assert other > 1e3 * loss
    assert numbers and all((g == 0).all() for g in moved)


def split_floats(tree):
    """Floating leaves of a tree, and what puts them back."""
    leaves, structure = jax.tree.flatten(tree)
    places = [i for i, x in enumerate(leaves) if jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating)]

    def back(floats):
        new = list(leaves)
        for place, value in zip(places, floats, strict=True):
            new[place] = value
        return jax.tree.unflatten(structure, new)

    return [jnp.asarray(leaves[i]) for i in places], back


def euler_factor(s, r):
    """What an Euler step of the Gaussian's denoiser does to y - mean, along each axis."""
    keep = GAUSSIAN.variances / (GAUSSIAN.variances + s**2)
    return r / s + (1 - r / s) * keep


def two_step_student(num_steps, levels, span=1, substeps=2):
    """The exact student of one round in closed form: y - mean is multiplied by what the teacher's
    steps multiply it with, less what a plain step does.
    """
    ends = (LOW, HIGH)
    starts, scales = [], []
    for i in range(num_steps):
        knots = [min(i + k * span / substeps, num_steps) for k in range(substeps + 1)]
        path = [levels(k / num_steps, *ends) if k < num_steps else 0.0 for k in knots]
        moves = [(s, r) for s, r in pairwise(path) if s > r]
        factor = np.prod([euler_factor(s, r) for s, r in moves], axis=0)
        ratio = path[-1] / path[0]
        starts.append(path[0])
        scales.append((factor - ratio) / (1 - ratio))
    starts, scales = jnp.asarray(starts), jnp.asarray(np.stack(scales))

    def f(y, s, cond=None):
        s = jnp.broadcast_to(jnp.asarray(s, y.dtype), y.shape[:1])
        row = jnp.argmin(jnp.abs(jnp.log(starts)[None] - jnp.log(s)[:, None]), axis=1)
        return GAUSSIAN.mean[None] + scales[row] * (y - GAUSSIAN.mean[None])

    return f


def starts(count=5):
    return HIGH * jnp.asarray(np.random.default_rng(0).normal(size=(count, 2)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("levels", "num_steps", "substeps"),
    [(cosine_levels, 4, 2), (karras_levels, 1, 2), (cosine_levels, 2, 4)],
)
def test_exact_progressive_student(levels, num_steps, substeps):
    """It has no loss, and N of its steps are the teacher's ``substeps`` N; with one step the target
    is the teacher's last denoised output.
    """
    f = two_step_student(num_steps, levels, substeps=substeps)
    own = student(shifted(f))
    method = progressive.progressive_distillation(
        tied(), own, num_steps=num_steps, substeps=substeps, levels=levels
    )
    check_optimum(method, batch())
    coarse = table(solvers.euler, nested_levels(own, levels, num_steps))
    fine = table(solvers.euler, nested_levels(own, levels, num_steps * substeps))
    assert coarse.levels[-1] == 0 and set(coarse.levels) <= set(fine.levels)
    expected = sample(GAUSSIAN.denoiser, fine, starts())
    np.testing.assert_allclose(sample(f, coarse, starts()), expected, rtol=1e-9, atol=1e-12)


def test_progressive_weights_and_clipping():
    """Truncated SNR is the larger of the errors of x0 and eps; outputs are clipped in teacher and
    sampler.
    """
    s = jnp.array([0.1, 1.0, 7.0])
    y, a, b = (jnp.asarray(x) for x in np.random.default_rng(1).normal(size=(3, 3, 2)))
    requested = TargetPoint(y, s, b)
    eps = lambda x: (y - x) / s[:, None]  # noqa: E731
    by = lambda w: progressive.progressive_loss(lambda y, s: a, requested, w(s))  # noqa: E731
    np.testing.assert_allclose(by(snr_weight), squared(eps(a), eps(b)))
    np.testing.assert_allclose(
        by(truncated_snr_weight), np.maximum(squared(a, b), squared(eps(a), eps(b)))
    )
    v = lambda x: (eps(x) - s[:, None] * x) / jnp.sqrt(1 + s**2)[:, None]  # noqa: E731
    np.testing.assert_allclose(by(snr_plus_one_weight), squared(v(a), v(b)))
    own = student(shifted(lambda y, s, c: 0.0 * y + 3.0))
    method = progressive.progressive_distillation(
        lambda y, s, c: 0.0 * y - 9.0, own, num_steps=1, weight=uniform_weight, clip=0.5
    )
    np.testing.assert_allclose(loss_at(method, batch()), 3.5**2)
    made = method.sampler(method_state(own))
    assert made.table.nfe == 1
    np.testing.assert_allclose(made(jax.random.key(0), 3, (2,)), 0.5)


def method_state(own):
    from jaxdiff.training.step import State

    return State(jnp.asarray(0), {"student": own.params}, {}, {}, jax.random.key(0), jnp.asarray(0))


def test_levels():
    """In the paper's range the angle of the cosine schedule has log-SNR from 20 to -20."""
    u, low, high = np.linspace(0, 1, 9), np.exp(-10.0), np.exp(10.0)
    b = np.arctan(np.exp(-10.0))
    a = np.arctan(np.exp(10.0)) - b
    log_snr = -2 * np.log(np.tan(a * (1 - u) + b))
    np.testing.assert_allclose(-2 * np.log(cosine_levels(u, low, high)), log_snr, atol=1e-8)
    single = cosine_levels(jnp.asarray(u, jnp.float32), low, high)
    assert single.dtype == jnp.float32
    np.testing.assert_allclose(single, cosine_levels(u, low, high), rtol=2e-6)
    assert (np.diff(karras_levels(u, LOW, HIGH)) < 0).all()


def test_a_round_follows_from_the_one_before():
    """The student becomes the teacher and its own start; wrong numbers of rounds are refused."""
    own = student(shifted(lambda y, s, c: y * 0.5))
    shares = []

    def learner(share):
        shares.append(share)
        return own

    stages = progressive.progressive_stages(tied(), learner, first=8, last=1, substeps=4)
    assert [s.name for s in stages] == ["8-steps", "4-steps", "2-steps", "1-steps"]
    assert [s.share for s in stages] == [1, 1, 2, 2] and np.isclose(sum(shares), 1)
    assert stages[0].method(None).frozen["teacher"].args[0].shape == (2,)
    before = Before(lambda num_steps: None, {"shift": jnp.array([0.3, 0.3])})
    method = stages[2].method(before)
    np.testing.assert_array_equal(method.frozen["teacher"].args[0]["shift"], 0.3)
    np.testing.assert_array_equal(method.init(jax.random.key(0))["student"]["shift"], 0.3)
    assert method.sampler(method_state(own)).table.nfe == 2
    for first, last in ((12, 2), (4, 8), (4, 0)):
        with pytest.raises(ValueError, match="never gives"):
            progressive.progressive_stages(tied(), own, first=first, last=last)
    for wrong in ({"num_steps": 0}, {"substeps": 1}):
        with pytest.raises(ValueError, match="at least 1"):
            progressive.progressive_distillation(tied(), own, **wrong)
    with pytest.raises(ValueError, match="in 2 steps, not 4"):
        method.sampler(method_state(own), num_steps=4)
    with pytest.raises(ValueError, match="at least 1 step"):
        nested_levels(own, cosine_levels, 0)


def exact_pairs():
    """Starts and exact paths of the Gaussian's flow, through levels 20, 3, 0.4 and 0."""
    levels = [HIGH, 3.0, 0.4, 0.0]
    start = starts(COUNT)
    path = jnp.stack([GAUSSIAN.flow(start, HIGH, r) for r in levels], axis=1)
    return levels, {"start": start, "image": path[:, -1], "path": path}


def test_exact_denoising_student():
    levels, pairs = exact_pairs()
    own = student(shifted(lambda y, s, c: GAUSSIAN.flow(y, s, 0.0)))
    for method in (
        knowledge.knowledge_distillation(own),
        knowledge.knowledge_distillation(own, levels=levels),
    ):
        assert loss_at(method, pairs) < 1e-25
        np.testing.assert_allclose(loss_at(method, pairs, 0.1), 0.01)
        assert abs(jax.grad(lambda a, m=method: loss_at(m, pairs, a))(0.0)) < 1e-12
    one, many = (knowledge.knowledge_distillation(own, levels=k) for k in (None, levels))
    assert one.sampler(method_state(own)).table.nodes.tolist() == [HIGH]
    assert many.sampler(method_state(own), num_steps=2).table.nodes.tolist() == [HIGH, 0.4]
    with pytest.raises(ValueError, match="in 1 to 1 steps, not 2"):
        one.sampler(method_state(own), num_steps=2)
    with pytest.raises(ValueError, match="no 'path'"):
        loss_at(many, batch())
    with pytest.raises(ValueError, match="no 'start'"):
        loss_at(one, batch())
    with pytest.raises(ValueError, match="strictly decrease"):
        knowledge.knowledge_distillation(own, levels=[1.0, 2.0, 0.0])


def exact_jump(y, label, cond=None):
    s, r = label.T
    return implied(y, s, GAUSSIAN.flow(y, s, r), r)


def test_exact_map_of_paths():
    levels, pairs = exact_pairs()
    own = student(shifted(exact_jump))
    method = knowledge.path_distillation(own, levels)
    for seed in range(3):
        assert loss_at(method, pairs, seed=seed) < 1e-22
    np.testing.assert_allclose(loss_at(method, pairs, 0.1), 0.01, rtol=1e-6)
    for num_steps in (1, 2, 3):
        made = method.sampler(method_state(own), num_steps=num_steps)
        assert made.table.nfe == num_steps
        end = sample(made.denoiser, made.table, pairs["start"])
        np.testing.assert_allclose(end, pairs["image"], rtol=1e-8, atol=1e-10)


def test_pairs_solved_in_every_update():
    """They are the teacher's own paths from new starts, and give the teacher no gradient."""
    made = table(solvers.euler, [HIGH, 3.0, 0.4, 0.0])
    factor = np.cumprod([euler_factor(s, r) for s, r in pairwise(made.levels)][::-1], axis=0)
    to_end = dict(zip([0.4, 3.0, HIGH], factor, strict=True))

    def f(y, s, cond=None):
        scales = jnp.stack([jnp.asarray(to_end[k]) for k in (HIGH, 3.0, 0.4)])
        row = jnp.argmin(jnp.abs(jnp.asarray([[HIGH, 3.0, 0.4]]) - s[:, None]), axis=1)
        return GAUSSIAN.mean[None] + scales[row] * (y - GAUSSIAN.mean[None])

    teacher = Sampler(tied(), made)
    levels = made.levels
    check_optimum(knowledge.knowledge_distillation(student(shifted(f)), teacher=teacher), batch())
    many = knowledge.knowledge_distillation(student(shifted(f)), teacher=teacher, levels=levels)
    check_optimum(many, batch())
    with pytest.raises(ValueError, match="teacher's own"):
        knowledge.path_distillation(student(shifted(f)), [HIGH, 0.0], teacher=teacher)
    noisy = Sampler(tied(), table(solvers.ddpm, [2.0, 1.0]))
    with pytest.raises(ValueError, match="deterministic"):
        knowledge.knowledge_distillation(student(shifted(f)), teacher=noisy)


def test_stored_pairs_come_with_the_labels_of_the_data(key):
    made = table(solvers.euler, [HIGH, 3.0, 0.4, 0.0])
    teach = lambda y, s, cond: y * 0.0 + expand(cond.astype(y.dtype), y)  # noqa: E731
    source = knowledge.stored_pairs(Sampler(teach, made), 10, key, states=(0, 2, 3), progress=False)
    given = lambda step: {"image": np.zeros((4, 2)), "label": np.arange(4) + 4 * step}  # noqa: E731
    rows = source(given, None)(3)
    assert rows["path"].shape == (4, 3, 2) and rows["label"].max() < 10
    np.testing.assert_allclose(rows["image"][:, 0], rows["label"], rtol=1e-6)
    np.testing.assert_array_equal(rows["path"][:, 0], rows["start"])
    np.testing.assert_array_equal(rows["path"][:, -1], rows["image"])


def test_feature_divergence():
    a, b = (jnp.asarray(x) for x in np.random.default_rng(2).normal(size=(2, 3, 4)))
    share = lambda x: np.exp(x / 0.7) / np.exp(x / 0.7).sum(1, keepdims=True)  # noqa: E731
    expected = (share(b) * np.log(share(b) / share(a))).sum(1)
    distance = classifier_features.feature_divergence(lambda x: x, 0.7)
    np.testing.assert_allclose(distance(a, b), expected)
    np.testing.assert_allclose(distance(b + 2.0, b), 0.0, atol=1e-14)  # it does not see this
    assert abs(jax.grad(lambda a: distance(a, b).sum())(b)).max() < 1e-15
    even = jnp.full((2, 4), np.log(0.25))
    term = classifier_features.decided_and_varied(even, 0.75)
    np.testing.assert_allclose(term, (0.75 - 0.25) * np.log(4))
    certain = jax.nn.log_softmax(jnp.array([[50.0, 0.0], [0.0, 50.0]]))
    np.testing.assert_allclose(
        classifier_features.decided_and_varied(certain, 0.75), -0.25 * np.log(2), rtol=1e-9
    )


@pytest.mark.parametrize("beta", [0.0, 0.003])
def test_exact_student_of_features(beta):
    """The progressive student is that of its features too, if they distinguish samples; the term
    for known classes moves it.
    """
    f, F = two_step_student(2, cosine_levels), classifier_features.random_features((2,), width=32)
    method = classifier_features.feature_distillation(
        tied(), student(shifted(f)), F, num_steps=2, beta=beta, logits=F if beta else None
    )
    if beta:
        requested = jax.grad(lambda a: loss_at(method, batch(), a))(0.0)
        assert 1e-8 < abs(requested) < 1e-2
    else:
        check_optimum(method, batch(), loss=1e-15)
    assert set(method.frozen) == {"features", "teacher"} | ({"logits"} if beta else set())
    for wrong, said in (
        ({"temperature": 0.0}, "temperature must be above 0"), ({"gamma": 1.5}, "gamma"),
        ({"beta": 1.0}, "give logits="),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            classifier_features.feature_distillation(tied(), student(f), F, **wrong)


def test_the_published_feature_divergence_sharpens_one_side():
    F = lambda x: x  # noqa: E731
    a, b = jnp.array([[0.3, -0.2, 0.5]]), jnp.array([[0.1, 0.4, -0.6]])
    wanted, log_student = jax.nn.softmax(b / 0.7), jax.nn.log_softmax(a)
    expected = jnp.sum(wanted * (jnp.log(wanted) - log_student), axis=1)
    found = classifier_features.feature_divergence(F, 0.7, reference=True)(a, b)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found != classifier_features.feature_divergence(F, 0.7)(a, b)


def test_stages_of_features_take_the_options_of_both():
    """Those of one method alone, and those that both have, in rounds of either kind."""
    f, F = (lambda y, s, cond: 0.3 * y), classifier_features.random_features((2,), width=8)
    stages = classifier_features.feature_stages(
        tied(), student(shifted(f)), F, first=4, begin=4, last=2, clip=0.2,
        features_only={"temperature": 0.5},
    )  # fmt: skip
    first = stages[0].method(None)
    state = SimpleNamespace(params={"student": {"shift": jnp.ones(2)}})
    before = Before(
        lambda num_steps: first.sampler(state, num_steps=num_steps), {"shift": jnp.ones(2)}
    )
    for stage, made in zip(stages, (first, stages[1].method(before)), strict=True):
        sampler = made.sampler(state, num_steps=int(stage.name[0]))
        x = sampler.denoiser(jnp.ones((3, 2)), jnp.asarray(1.0))
        np.testing.assert_allclose(x, 0.2)


def test_random_features_determine_a_sample():
    """Their divergence is near a multiple of the squared distance, of full rank."""
    F = classifier_features.random_features((3,), scale=0.5)
    distance = classifier_features.feature_divergence(F)
    b, way = (jnp.asarray(x) for x in np.random.default_rng(0).normal(size=(2, 500, 3)))
    way = 1e-3 * way / jnp.linalg.norm(way, axis=1, keepdims=True)
    sizes = np.asarray(distance(0.5 * b + way, 0.5 * b))
    assert sizes.min() > 0.05 * sizes.max()


def test_feature_stages_begin_where_progressive_distillation_ends():
    own, F = student(shifted(lambda y, s, c: y)), classifier_features.random_features((2,))
    stages = classifier_features.feature_stages(tied(), own, F, first=8, begin=4, last=1)
    before = Before(lambda num_steps: None, own.params)
    kinds = ["features" in s.method(before).frozen for s in stages]
    assert kinds == [False, False, True, True]


MIXTURE = GaussianMixture(
    [[0.9, 0.1, 0.0], [0.2, 0.2, 0.6]],
    [[-0.6, 0.1], [0.5, 0.5], [0.3, -0.6]],
    np.full((3, 2), 0.02),
)
WEIGHTS_RANGE = (1.0, 4.0)


def guided_exactly(y, label, cond):
    """The guided mixture, its weight given as a place in the range."""
    w = WEIGHTS_RANGE[0] + (WEIGHTS_RANGE[1] - WEIGHTS_RANGE[0]) * label[:, 1]
    return classifier_free(MIXTURE.denoiser, w)(y, label[:, 0], cond)


def labelled():
    cond = jnp.arange(COUNT, dtype=jnp.int32) % 2
    return {"image": MIXTURE.sample(jax.random.key(3), COUNT, cond), "label": cond}


def test_a_guidance_weight_that_a_student_does_not_know_is_refused():
    method = guided.guidance_distillation(
        MIXTURE.denoiser, student(shifted(guided_exactly)), guidance_range=WEIGHTS_RANGE
    )
    for weight in (0.5, 4.5, np.nan):
        with pytest.raises(ValueError, match="guidance weights from 1 to 4, not"):
            method.sampler(None, guidance=weight)


@pytest.mark.slow
def test_exact_guided_student():
    """One network conditioned on the weight; weight 1 is the conditional model. Without labels it
    is the plain model, whatever the weight.
    """
    own = student(shifted(guided_exactly))
    method = guided.guidance_distillation(MIXTURE.denoiser, own, guidance_range=WEIGHTS_RANGE)
    check_optimum(method, labelled())
    assert loss_at(method, {"image": labelled()["image"]}) < 1e-18
    y, s, cond = labelled()["image"], 0.7, labelled()["label"]
    for weight in (1.0, 2.5):
        made = method.sampler(method_state(own), guidance=weight)
        plain, full = (MIXTURE.denoise(y, s, c) for c in (None, cond))
        # the number is bound in float32
        np.testing.assert_allclose(
            made.denoiser(y, s, cond), plain + weight * (full - plain), rtol=1e-6, atol=1e-6
        )
    default = method.sampler(method_state(own), num_steps=4)
    assert default.table.nfe == 4
    np.testing.assert_allclose(
        default.denoiser(y, s, cond), MIXTURE.denoise(y, s, cond), rtol=1e-12
    )
    with pytest.raises(ValueError, match="low < high"):
        guided.guidance_distillation(MIXTURE.denoiser, own, guidance_range=(2.0, 2.0))


@pytest.mark.slow
@pytest.mark.parametrize("stochastic", [False, True])
def test_exact_guided_student_of_few_steps(stochastic):
    """Two steps of the guided teacher in one; with noise, the teacher's own two intervals."""
    teacher = denoiser(
        shifted(guided_exactly), {"shift": jnp.zeros(2)}, prediction="x0", process=EDM()
    )
    num_steps, span = 4, 2 if stochastic else 1

    def f(y, label, cond):
        ends = (LOW, HIGH)
        angle = lambda s: jnp.arctan(s)  # noqa: E731
        top, bottom = np.arctan(HIGH), np.arctan(LOW)
        index = jnp.round(num_steps * (top - angle(label[:, 0])) / (top - bottom))
        knots = [jnp.minimum(index + k * span / 2, float(num_steps)) / num_steps for k in range(3)]
        path = [jnp.where(u < 1, cosine_levels(u, *ends), 0.0) for u in knots]
        D = lambda y, s: guided_exactly(y, jnp.stack([s, label[:, 1]], 1), cond)  # noqa: E731
        z = y
        for s, r in pairwise(path):
            x = D(z, jnp.maximum(s, 1e-3))
            still = (s == 0)[:, None]
            z = jnp.where(still, z, z + ((r - s) / jnp.maximum(s, 1e-3))[:, None] * (z - x))
        return implied(y, path[0], z, path[-1])

    method = guided.guided_progressive_distillation(
        teacher,
        student(shifted(f)),
        guidance_range=WEIGHTS_RANGE,
        num_steps=num_steps,
        stochastic=stochastic,
    )
    check_optimum(method, labelled(), loss=1e-16)
    made = method.sampler(method_state(student(shifted(f))), guidance=3.0)
    assert made.table.stochastic == stochastic and made.table.nfe == num_steps


def test_double_steps_keep_the_distribution(key):
    """With exact steps over two intervals every state has the moments of its level."""
    levels = [20.0, 6.0, 1.5, 0.4, 0.0]
    made = table(guided.double_steps, levels)
    assert made.nfe == 4 and len(made.draws) == 3

    def D(y, s, cond=None):
        s = jnp.broadcast_to(jnp.asarray(s, y.dtype), y.shape[:1])
        row = jnp.argmin(jnp.abs(jnp.asarray(levels)[None] - s[:, None]), axis=1)
        r = jnp.asarray([1.5, 0.4, 0.0, 0.0, 0.0])[row]
        return implied(y, s, GAUSSIAN.flow(y, s, r), r)

    spread = jnp.sqrt(GAUSSIAN.variances + HIGH**2)[None]
    start = GAUSSIAN.mean[None] + spread * jax.random.normal(key, (20_000, 2), jnp.float64)
    x = sample(D, made, start, key=jax.random.key(1))
    np.testing.assert_allclose(x.mean(0), GAUSSIAN.mean, atol=0.02)
    np.testing.assert_allclose(x.var(0), GAUSSIAN.variances, rtol=0.04)


def test_guided_stages():
    own = student(shifted(guided_exactly))
    stages = guided_rounds.guided_stages(MIXTURE.denoiser, own, first=4, last=2, stochastic=True)
    assert [s.name for s in stages] == ["guidance", "4-steps", "2-steps", "2-steps-with-noise"]
    before = Before(lambda num_steps: None, {"shift": jnp.array([0.3, 0.3])})
    first, *_, last = (stage.method(before) for stage in stages)
    np.testing.assert_array_equal(first.init(jax.random.key(0))["student"]["shift"], 0.0)
    np.testing.assert_array_equal(last.frozen["teacher"].args[0]["shift"], 0.3)
    assert last.sampler(method_state(own)).table.nfe == 2
    assert np.isfinite(loss_at(last, labelled()))


@pytest.mark.parametrize("make", ["guided", "features", "path"])
def test_float32_stays(make):
    """A loss of float32 data and parameters is float32: traced only."""
    f = lambda y, label, cond=None: 0.3 * y  # noqa: E731
    own = student(shifted(f), params={"shift": jnp.zeros(2, jnp.float32)})
    x0 = batch()["image"].astype(jnp.float32)
    teach = lambda y, s, cond=None, extra=None: 0.5 * y  # noqa: E731
    data = {"image": x0, "path": jnp.stack([x0 + 1, x0 + 2, x0], axis=1)}
    F = classifier_features.random_features((2,), width=8)
    method = {
        "guided": lambda: guided.guided_progressive_distillation(teach, own, num_steps=2),
        "features": lambda: classifier_features.feature_distillation(
            teach, own, F, beta=0.1, logits=F
        ),
        "path": lambda: knowledge.path_distillation(own, [HIGH, 1.0, 0.0]),
    }[make]()
    context = Context(jnp.asarray(0), {}, {}, method.frozen)
    loss = method.players["student"].loss
    value, _ = jax.eval_shape(loss, own.params, context, data, jax.random.key(0))
    assert value.dtype == jnp.float32


def test_stored_paths_must_have_the_states_of_the_levels():
    own, levels = student(lambda y, s: 0.3 * y), [HIGH, 1.0, 0.0]
    data = {"image": jnp.ones((4, 2)), "path": jnp.ones((4, 9, 2))}
    for method in (
        knowledge.knowledge_distillation(own, levels=levels),
        knowledge.path_distillation(own, levels),
    ):
        context = Context(jnp.asarray(0), {}, {}, method.frozen)
        with pytest.raises(ValueError, match="paths have 9 states, but levels= 3 levels"):
            method.players["student"].loss(own.params, context, data, jax.random.key(0))


def test_progressive_students_do_not_predict_noise():
    with pytest.raises(ValueError, match="not eps"):
        own = student(lambda y, s: y, prediction="eps")
        progressive.progressive_distillation(tied(), own, num_steps=2)
