"""Losses on closed forms and against golden values, and methods end to end on exact problems."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers.golden_numbers import load

from jaxdiff import grids, solvers
from jaxdiff.arrays import expand, has_condition
from jaxdiff.conditioning.guidance import classifier_free
from jaxdiff.denoisers import denoiser
from jaxdiff.distance import absolute, pseudo_huber, squared
from jaxdiff.distill.consistency import consistency
from jaxdiff.distill.consistency.consistency import Pair, consistency_loss
from jaxdiff.distill.consistency.schedules import ct_decay, ct_scales, ect_level
from jaxdiff.distill.flow_map.mean_flow import mean_flow
from jaxdiff.distill.parts.levels import karras_level
from jaxdiff.distill.parts.primitives import drop_condition, perturb
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.score_matching import score_matching, score_matching_loss
from jaxdiff.exact import Gaussian
from jaxdiff.method import Context
from jaxdiff.prediction import edm_weight, snr_weight, uniform_weight
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table
from jaxdiff.solvers.steps import heun_step
from jaxdiff.training.loop import fit

CASES = load("losses_diffusion").cases
WEIGHTS = {"uniform": uniform_weight, "karras": edm_weight, "snr": snr_weight}


def toy(params, x, label, cond=None, **_):
    """The golden toy network F(x, c), its label the EDM one."""
    flat = x.reshape(x.shape[0], -1)
    hidden = jnp.tanh(
        flat @ params["W1"].T + params["b1"][None] + label[:, None] * params["u"][None]
    )
    return (hidden @ params["W2"].T + params["b2"][None]).reshape(x.shape)


def edm_toy(params, x, level):
    """The golden toy denoiser, which is the network itself of the scaled input."""
    return toy(
        params, x / jnp.sqrt(1 + expand(level, x) ** 2), jnp.log(jnp.maximum(level, 1e-12)) / 4
    )


def tree(numbers, case, prefix):
    return {
        k: jnp.asarray(numbers.get(case, f"{prefix}:{k}")) for k in ("W1", "b1", "u", "W2", "b2")
    }


def cases(**wanted):
    found = [c for c in CASES if all(c.get(k) in v for k, v in wanted.items())]
    assert found
    return [pytest.param(c, id=c["id"]) for c in found]


def check_gradient(numbers, case, gradient, rounding=0.0):
    for name, value in gradient.items():
        expected = numbers.get(case, f"grad:{name}")
        atol = (1e-9 + rounding) * np.abs(expected).max()
        np.testing.assert_allclose(value, expected, rtol=1e-8, atol=atol)


@pytest.mark.parametrize("case", cases(kind=("cd", "ct"), loss_norm=("l1", "l2")))
def test_golden_consistency_losses(case):
    numbers = load("losses_diffusion")
    x0, eps = (jnp.asarray(numbers.get(case, k)) for k in ("x_start", "noise"))
    index = jnp.asarray(numbers.get(case, "indices"), float)
    ends = (case["sigma_min"], case["sigma_max"], case["rho"])
    t, r = (karras_level(index + i, case["num_scales"], *ends) for i in (0.0, 1.0))
    y_t = perturb(x0, t, eps)
    if case["kind"] == "cd":
        teacher = denoiser(toy, tree(numbers, case, "teacher"), sigma_data=case["sigma_data"])
        y_r = heun_step(lambda y, s: teacher(y, s.reshape(-1)), y_t, expand(t, x0), expand(r, x0))
    else:
        y_r = perturb(x0, r, eps)
    distance = absolute if case["loss_norm"] == "l1" else squared
    scales = {"sigma_data": case["sigma_data"], "sigma_min": case["sigma_min"]}
    target = denoiser(toy, tree(numbers, case, "target"), **scales)

    def loss(params):
        f = denoiser(toy, params, **scales)
        weight = WEIGHTS[case["weight_schedule"]](t, case["sigma_data"])
        each = consistency_loss(f, target, Pair(y_t, t, y_r, r), distance, weight)
        return jnp.mean(each), each

    gradient, each = jax.grad(loss, has_aux=True)(tree(numbers, case, "student"))
    np.testing.assert_allclose(each, numbers.get(case, "loss"), rtol=1e-9)
    check_gradient(numbers, case, gradient)


@pytest.mark.parametrize("case", cases(kind=("ECMLoss",)))
def test_golden_easy_consistency(case):
    numbers, kwargs = load("losses_diffusion"), case["init_kwargs"]
    images, noise, rnd = (jnp.asarray(numbers.get(case, k)) for k in ("images", "noise", "rnd"))
    t = jnp.exp(kwargs.get("P_mean", -1.1) + kwargs.get("P_std", 2.0) * rnd.reshape(-1))
    mapping = {"q": kwargs.get("q", 2), "k": kwargs.get("k", 8.0), "b": kwargs.get("b", 1.0)}
    if kwargs.get("adj") == "const":
        mapping["k"] = 0.0
    r = ect_level(t, case["stage"], **mapping)
    np.testing.assert_allclose(r, numbers.get(case, "r").reshape(-1), rtol=1e-9, atol=1e-15)
    grid = jnp.asarray(numbers.get(case, "grid_t"))
    np.testing.assert_allclose(
        ect_level(grid, case["stage"], **mapping), numbers.get(case, "grid_r"), atol=1e-12
    )

    def loss(params):
        f = lambda y, s: edm_toy(params, y, s)  # noqa: E731
        clean = lambda y, s: jnp.where(expand(s, y) == 0, y, f(y, s))  # noqa: E731 (the toy has no skip)
        pair = Pair(perturb(images, t, noise), t, perturb(images, r, noise), r)
        each = consistency_loss(f, clean, pair, pseudo_huber(kwargs.get("c", 0.0)), 1.0 / (t - r))
        return jnp.mean(each), each

    gradient, each = jax.grad(loss, has_aux=True)(tree(numbers, case, "student"))
    # t - r is as small as 1e-10 t here: the outputs' difference keeps few digits, and the peer's
    # sqrt(total + c^2) - c fewer
    rounding = 1e-15 / float(jnp.min(t - r))
    np.testing.assert_allclose(each, numbers.get(case, "loss"), rtol=1e-7, atol=rounding)
    check_gradient(numbers, case, gradient, rounding)


@pytest.mark.parametrize("case", cases(kind=("EDMLoss",)))
def test_golden_score_matching(case):
    numbers, kwargs = load("losses_diffusion"), case["init_kwargs"]
    images, noise, rnd = (jnp.asarray(numbers.get(case, k)) for k in ("images", "noise", "rnd"))
    level = jnp.exp(kwargs.get("P_mean", -1.2) + kwargs.get("P_std", 1.2) * rnd.reshape(-1))
    size = images[0].size

    def loss(params):
        weight = edm_weight(level, kwargs.get("sigma_data", 0.5))
        each = score_matching_loss(lambda y, s: edm_toy(params, y, s), images, level, noise, weight)
        return size * jnp.sum(each), each

    gradient, each = jax.grad(loss, has_aux=True)(tree(numbers, case, "student"))
    np.testing.assert_allclose(
        each, numbers.get(case, "loss_map").reshape(6, -1).mean(1), rtol=1e-9
    )
    check_gradient(numbers, case, gradient)


@pytest.mark.parametrize("case", cases(what=("sampler",), steps=(40, 18)))
def test_golden_multistep_sampling(case):
    numbers = load("losses_diffusion")
    grid = karras_level(
        np.arange(case["steps"]), case["steps"], case["t_min"], case["t_max"], case["rho"]
    )
    levels = [*np.asarray(grid)[case["ts"]]]
    made = table(
        solvers.consistency,
        [*levels[:-1], 0.0] if len(levels) == 1 else levels,
        smallest=case["t_min"],
    )
    f = denoiser(toy, tree(numbers, case, "student"), sigma_min=case["t_min"])
    noise = numbers.get(case, "noise")
    out = sample(f, made, jnp.asarray(numbers.get(case, "x_T")), noise=noise[: len(made.draws)])
    np.testing.assert_allclose(out, numbers.get(case, "out"), rtol=1e-9)


@pytest.mark.parametrize("case", cases(what=("ema_and_scales",), target_ema_mode=("adaptive",)))
def test_golden_consistency_training_schedules(case):
    numbers = load("losses_diffusion")
    step, total = jnp.asarray(numbers.get(case, "step")), case["total_steps"]
    scales = ct_scales(step, total, case["start_scales"], case["end_scales"])
    np.testing.assert_allclose(scales, numbers.get(case, "num_scales"))
    decay = ct_decay(
        total, case["start_ema"], case["start_scales"], case["end_scales"], reference=True
    )
    np.testing.assert_allclose(decay(step), numbers.get(case, "target_ema"), rtol=1e-9)


@pytest.fixture(scope="module")
def gaussian():
    return Gaussian(np.array([0.2, -0.4]), np.array([0.09, 0.5]))


def test_the_exact_consistency_function_has_no_loss(gaussian):
    """Along exact trajectories, the exact map to the end agrees with itself; a teacher's step is
    nearly such a trajectory.
    """
    end = 0.002
    f = lambda y, s: gaussian.flow(y, s, end)  # noqa: E731
    random = np.random.default_rng(0)
    t = jnp.asarray(np.exp(random.normal(size=64)))
    y_t = gaussian.mean[None] + jnp.asarray(random.normal(size=(64, 2))) * jnp.sqrt(
        gaussian.variances[None] + t[:, None] ** 2
    )
    for ratio, exact_step in ((0.3, True), (0.98, False)):
        r = ratio * t
        if exact_step:
            y_r = gaussian.flow(y_t, t, r)
        else:
            y_r = heun_step(lambda y, s: gaussian.denoiser(y, s[:, 0]), y_t, t[:, None], r[:, None])
        loss = consistency_loss(f, f, Pair(y_t, t, y_r, r), squared, jnp.ones_like(t))
        assert jnp.max(loss) < (1e-20 if exact_step else 1e-9)


def test_training_pairs_point_to_the_denoiser(gaussian):
    """For consistency training at r = 0 the target is the data: the loss is minimised by the
    posterior mean.
    """
    D, level = gaussian.denoiser, 0.7
    x0 = gaussian.sample(jax.random.key(0), 200_000)
    eps = jax.random.normal(jax.random.key(1), x0.shape, jnp.float64)
    t, zero = jnp.full(len(x0), level), jnp.zeros(len(x0))
    pair = Pair(perturb(x0, t, eps), t, x0, zero)

    def loss(shift):
        f = lambda y, s: D(y, s) + shift  # noqa: E731
        return jnp.mean(consistency_loss(f, lambda y, s: y, pair, squared, jnp.ones_like(t)))

    assert abs(jax.grad(loss)(0.0)) < 5e-3
    assert loss(0.0) < min(loss(0.1), loss(-0.1))


def test_distances():
    a, b = jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[0.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(squared(a, b), [2.5, 0.0])
    np.testing.assert_allclose(absolute(a, b), [1.5, 0.0])
    np.testing.assert_allclose(pseudo_huber(0.0)(a, b), [5**0.5, 0.0])
    np.testing.assert_allclose(pseudo_huber(0.3)(a, b), [(5.09**0.5) - 0.3, 0.0])
    for distance in (squared, absolute, pseudo_huber(0.0), pseudo_huber(0.3)):
        gradient = jax.grad(lambda a, d=distance: jnp.sum(d(a, b)))(a)
        assert np.isfinite(gradient).all() and (gradient[1] == 0).all()


def test_stages_of_easy_consistency_draw_near():
    t = jnp.array([0.01, 0.5, 3.0, 60.0])
    ratios = np.array([ect_level(t, stage) / t for stage in range(8)])
    assert (
        (ratios[0] == 0).any()
        and (np.diff(ratios, axis=0) >= 0).all()
        and (ratios[-1] > 0.95).all()
    )
    assert (ratios < 1).all()


def test_label_dropping(key):
    labels = jnp.arange(1000) % 5
    dropped = drop_condition(key, labels, 0.3, 5)
    assert (
        abs(jnp.mean(dropped == 5) - 0.3) < 0.05
        and (dropped[dropped != 5] == labels[dropped != 5]).all()
    )
    assert drop_condition(key, None, 0.3, 5) is None
    with pytest.raises(ValueError, match="classes="):
        drop_condition(key, labels, 0.3, None)


def test_conditions_of_any_kind_are_dropped_whole(key):
    """Vectors used to lose single numbers (65 % of four were whole at 0.1), trees failed."""
    cond = {"text": jnp.ones((10_000, 2, 2), jnp.float32), "class": jnp.arange(10_000) % 3}
    null = {"text": jnp.asarray([[0.0, 0.5], [0.0, 0.0]]), "class": 3}
    dropped = drop_condition(key, cond, 0.1, null)
    gone = np.asarray(dropped["class"] == 3)
    assert abs(gone.mean() - 0.1) < 0.01 and dropped["text"].dtype == jnp.float32
    assert (np.asarray(dropped["text"])[gone] == np.asarray(null["text"])[None]).all()
    assert (np.asarray(dropped["text"])[~gone] == 1).all()
    np.testing.assert_array_equal(has_condition(dropped, null), ~gone)
    for wrong in ({"text": null["text"]}, null | {"text": jnp.zeros(3)}):
        with pytest.raises(ValueError, match="null"):
            drop_condition(key, cond, 0.1, wrong)


def test_guidance_by_a_null_of_ones_own():
    def D(y, s, cond=None):
        return cond["shift"] + 0 * y

    guided = classifier_free(D, 3.0, null={"shift": jnp.asarray([0.5, 0.0])})
    cond = {"shift": jnp.asarray([[1.0, 2.0], [0.5, 0.0]])}
    out = guided(jnp.zeros((2, 2)), jnp.ones(()), cond)
    np.testing.assert_allclose(out, [[2.0, 6.0], [0.5, 0.0]])  # null + 3 (cond - null)


def test_a_tree_of_conditions_is_trained_and_guided(key):
    """By a method of one player and by mean flow with guidance; the null is the student's own."""
    seen = []

    def network(params, x, label, cond=None, *, key=None):
        seen.append(jax.tree.structure(cond))
        recorded = label if label.ndim == 1 else label[:, 0]
        return params["w"] * x + cond["shift"] * recorded[:, None]

    null = {"shift": jnp.zeros(2), "kind": 4}
    cond = {"shift": jnp.ones((6, 2)), "kind": jnp.arange(6) % 4}
    student = Student(network, {"w": jnp.asarray(0.5)}, null=null, label_drop=0.5)
    batch = {"image": jnp.ones((6, 2)), "label": cond}
    for method in (
        score_matching(student),
        mean_flow(student, omega=2.0),
    ):
        (player,) = method.players.values()
        context = Context(jnp.asarray(0), {}, {}, method.frozen)
        value, _ = player.loss(student.params, context, batch, key)
        assert np.isfinite(value)
    assert set(seen) == {jax.tree.structure(cond)}


def linear(params, x, label, cond=None, **_):
    """D of a diagonal Gaussian is linear; so are its consistency map and this network's, level by
    level.
    """
    features = jnp.stack(
        [jnp.ones_like(label), label, label**2, jnp.tanh(4 * label), jnp.tanh(8 * label - 4)], 1
    )
    return (features @ params["scale"]) * x + features @ params["shift"]


def start(key):
    return {"scale": jnp.zeros((5, 2)), "shift": jnp.zeros((5, 2))}


def batches(gaussian, size=256):
    data = np.asarray(gaussian.sample(jax.random.key(5), 4096))
    return lambda step: {"image": data[np.random.default_rng(step).integers(0, len(data), size)]}


@pytest.fixture(scope="module")
def teacher(gaussian):
    method = score_matching(Student(linear, start, sigma_data=0.55, optimiser=optax.adam(2e-2)))
    state = fit(method, batches(gaussian), num_updates=600, key=0, progress=False)
    return method, state


def test_score_matching_learns_the_denoiser(gaussian, teacher):
    method, state = teacher
    D = method.sampler(state).denoiser
    y = gaussian.sample(jax.random.key(1), 500) + 0.5 * jax.random.normal(
        jax.random.key(2), (500, 2), jnp.float64
    )
    error = jnp.mean((D(y, 0.5) - gaussian.denoiser(y, 0.5)) ** 2)
    assert error < 0.02 * jnp.var(y)


@pytest.mark.parametrize(
    "name",
    [
        "easy_consistency",
        *(
            pytest.param(f"consistency_{kind}", marks=pytest.mark.slow)
            for kind in ("distillation", "training")
        ),
    ],
)
def test_students_learn_the_flow_map(gaussian, teacher, name):
    """In one evaluation a student lands nearer to the exact flow's end than an Euler step, by
    far.
    """
    params = teacher[1].params["student"]
    rate = optax.cosine_decay_schedule(2e-2, 1500)
    student = Student(linear, params, sigma_data=0.55, high=20.0, optimiser=optax.adam(rate))
    if name == "easy_consistency":
        method = consistency.easy_consistency(student, stage_updates=150, mean=-0.5, std=2.0)
    elif name == "consistency_distillation":
        method = consistency.consistency_distillation(gaussian.denoiser, student)
    else:
        method = consistency.consistency_training(student, num_updates=1500, last=40)
    state = fit(method, batches(gaussian), num_updates=1500, key=0, progress=False)
    sampler = method.sampler(state, levels=[20.0, 0.0])
    x = 20.0 * jax.random.normal(jax.random.key(3), (500, 2), jnp.float64)
    truth = gaussian.flow(x, 20.0, 1e-3)
    student = sample(sampler.denoiser, sampler.table, x)
    euler = gaussian.denoiser(x, 20.0)
    error = lambda a: float(jnp.sqrt(jnp.mean((a - truth) ** 2)))  # noqa: E731
    bound = 0.4 if name == "consistency_training" else 0.2
    assert error(student) < bound * error(euler), (error(student), error(euler))


def test_frozen_teacher_is_an_argument_and_gets_no_gradient(gaussian):
    """A teacher's parameters travel in the context, and the student's loss does not move them."""
    teacher = denoiser(linear, {"scale": jnp.ones((5, 2)), "shift": jnp.ones((5, 2))})
    method = consistency.consistency_distillation(teacher, Student(linear, start(None)))
    state_params = method.init(jax.random.key(0))["student"]
    batch = {"image": jnp.asarray(batches(gaussian, 16)(0)["image"])}

    def loss(frozen):
        from jaxdiff.method import Context

        context = Context(jnp.asarray(0), {}, {}, {"teacher": frozen})
        return method.players["student"].loss(state_params, context, batch, jax.random.key(0))[0]

    gradient = jax.grad(lambda p: loss(denoiser(linear, p)))(
        {"scale": jnp.ones((5, 2)), "shift": jnp.ones((5, 2))}
    )
    assert all((g == 0).all() for g in jax.tree.leaves(gradient))
    assert len(jax.tree.leaves(method.frozen)) >= 2


def test_student_levels():
    assert consistency.student_levels(1, 80.0, (0.821,)) == [80.0, 0.0]
    assert consistency.student_levels(2, 80.0, (0.821,)) == [80.0, 0.821, 0.0]
    four = consistency.student_levels(4, 80.0, (0.821,))
    assert len(four) == 5 and (np.diff(four) < 0).all()
    with pytest.raises(ValueError, match="at least 1"):
        consistency.student_levels(0, 80.0, ())
    assert grids.karras(1).tolist() == [80.0, 0.0]
