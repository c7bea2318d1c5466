"""What every method of distillation stands on: maps between two levels, networks of several labels,
predictions in other coordinates, roll-outs, tangents and stages.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff import distance as distances
from jaxdiff import grids, solvers
from jaxdiff.conditioning.guidance import classifier_free
from jaxdiff.denoisers import conditioned, denoiser, predictor
from jaxdiff.distance import of_features, squared
from jaxdiff.distill import consistency_distillation, diff_instruct
from jaxdiff.distill.parts import tangents
from jaxdiff.distill.parts.frame import regression
from jaxdiff.distill.parts.primitives import implied, jump
from jaxdiff.distill.parts.stage import Stage
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.parts.teacher import rollout
from jaxdiff.distill.score_matching import score_matching
from jaxdiff.distill.trajectory.knowledge import knowledge_distillation, stored_pairs
from jaxdiff.exact import Gaussian
from jaxdiff.networks import MLP, UNet, from_linen, graft, init
from jaxdiff.process import EDM, VP, RectifiedFlow, TrigFlow
from jaxdiff.sampling.direct import direct
from jaxdiff.sampling.pairs import make_pairs, pair_batches
from jaxdiff.sampling.picard import picard
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.table import load_table, pad
from jaxdiff.sampling.trace import table
from jaxdiff.training.fit_stages import fit_stages, split_updates
from jaxdiff.typing import Outputs

LEVELS = [20.0, 3.0, 0.4, 0.0]


@pytest.fixture(scope="module")
def gaussian():
    return Gaussian(np.array([0.2, -0.4]), np.array([0.09, 0.5]))


def exact_map(gaussian):
    """The exact flow map in the form D(y, s, r) that jumps have."""

    def D(y, s, cond=None, *, target):
        s = jnp.broadcast_to(jnp.asarray(s, y.dtype), y.shape[:1])
        r = jnp.broadcast_to(jnp.asarray(target, y.dtype), y.shape[:1])
        return implied(y, s, gaussian.flow(y, s, r), r)

    return D


def starts(count=8):
    return 20.0 * jnp.asarray(np.random.default_rng(0).normal(size=(count, 2)))


def test_jumps_of_the_exact_map_follow_the_flow(gaussian, tmp_path):
    made = table(solvers.jump, LEVELS)
    np.testing.assert_array_equal(made.targets, LEVELS[1:])
    assert made.nfe == 3 and not made.stochastic
    end = gaussian.flow(starts(), 20.0, 0.0)
    D = exact_map(gaussian)
    np.testing.assert_allclose(sample(D, made, starts()), end, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(direct(D, solvers.jump, LEVELS, starts()), end, atol=1e-9)
    made.save(tmp_path / "jump.json")
    again = load_table(tmp_path / "jump.json")
    np.testing.assert_allclose(sample(D, again, starts()), end, rtol=1e-9, atol=1e-12)


def test_gamma_sampling_keeps_the_distribution(gaussian, key):
    """By the exact map its samples have the data's moments, whatever gamma; 0 draws nothing that
    matters, 1 jumps to the data.
    """
    count = 20_000
    start = 20.0 * jax.random.normal(key, (count, 2), jnp.float64)
    for gamma in (0.3, 1.0):
        made = table(solvers.gamma_sampling, LEVELS, gamma=gamma)
        x = sample(exact_map(gaussian), made, start, key=jax.random.key(1))
        np.testing.assert_allclose(x.mean(0), gaussian.mean, atol=0.03)
        np.testing.assert_allclose(x.var(0), gaussian.variances, rtol=0.05)
    still = table(solvers.gamma_sampling, LEVELS, gamma=0.0)
    x = sample(exact_map(gaussian), still, start, key=jax.random.key(1))
    np.testing.assert_allclose(x, gaussian.flow(start, 20.0, 0.0), atol=1e-9)
    with pytest.raises(ValueError, match="gamma"):
        table(solvers.gamma_sampling, LEVELS, gamma=1.5)


def test_tables_with_targets_say_where_they_do_not_go(gaussian):
    made = table(solvers.jump, LEVELS)
    with pytest.raises(ValueError, match="targets"):
        pad([made])
    with pytest.raises(ValueError, match="flow map"):
        picard(exact_map(gaussian), made, starts())

    def mixed(D, y, levels):
        y = D(y, levels[0], levels[1])
        yield y
        yield D(y, levels[1])

    with pytest.raises(TypeError, match="target"):
        table(mixed, [2.0, 1.0, 0.5])


def test_implied_inverts_a_jump(gaussian):
    y, s, r = starts(4), jnp.array([3.0, 2.0, 1.0, 0.5]), jnp.array([1.0, 0.0, 0.9, 0.1])
    x = gaussian.denoiser(y, s)
    np.testing.assert_allclose(implied(y, s, jump(y, s, r, x), r), x, rtol=1e-10)
    distance = of_features(lambda a: a[:, :1], squared)
    np.testing.assert_allclose(distance(y, x), (y - x)[:, 0] ** 2)


def network(params, x, label, cond=None, *, full=False, key=None):
    """Shows its inputs."""
    recorded = label if label.ndim == 2 else label[:, None]
    out = x * params["scale"] + jnp.sum(recorded, axis=1, keepdims=True)
    return Outputs(out, label, (x,)) if full else out


@pytest.mark.slow
def test_further_labels_reach_the_network():
    params, y = {"scale": jnp.array(0.5)}, starts(3)
    D = denoiser(network, params, prediction="x0", process=EDM())
    plain = D(y, 2.0)
    np.testing.assert_allclose(plain, 0.5 * y + 2.0)
    np.testing.assert_allclose(D(y, 2.0, target=1.0), plain + 1.0)
    np.testing.assert_allclose(D(y, 2.0, target=1.0, extra=7.0), plain + 8.0)
    extra = jnp.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    np.testing.assert_allclose(D(y, 2.0, extra=extra), plain + jnp.array([[3.0], [7.0], [11.0]]))
    np.testing.assert_allclose(conditioned(D, extra=7.0)(y, 2.0), plain + 7.0)
    answer = D(y, 2.0, full=True)
    np.testing.assert_allclose(answer.value, plain)
    np.testing.assert_allclose(answer.features[0], y)
    guided = classifier_free(conditioned(D, extra=7.0), 3.0)
    np.testing.assert_allclose(guided(y, 2.0), plain + 7.0)
    vp = denoiser(network, params, prediction="eps", process=VP())
    same = denoiser(network, params, prediction="eps", process=VP(), label=lambda t: t)
    np.testing.assert_allclose(vp(y, 2.0, target=1.0), same(y, 2.0, target=1.0))


@pytest.mark.parametrize("prediction", ["edm", "x0", "flow"])
def test_a_predictor_is_the_denoiser_in_other_coordinates(prediction):
    flow = RectifiedFlow()
    D = denoiser(network, {"scale": jnp.array(0.3)}, prediction=prediction, process=flow)
    t, x = jnp.array([0.2, 0.5, 0.9]), starts(3) / 20
    y, s, r = x / (1 - t)[:, None], t / (1 - t), 0.5 * t / (1 - 0.5 * t)
    u = predictor(D, flow, "flow")
    for recorded in ({}, {"target": 0.5 * t}):
        there = {"target": r} if recorded else {}
        expected = (x - D(y, s, **there)) / t[:, None]
        np.testing.assert_allclose(u(x, t, **recorded), expected, rtol=1e-7)
    if prediction == "flow":
        np.testing.assert_array_equal(u(x, t), network({"scale": 0.3}, x, t))
        with pytest.raises(ValueError, match="flow"):
            predictor(D, TrigFlow(), "flow")
    with pytest.raises(TypeError, match="denoiser made by"):
        predictor(lambda y, s: y, flow, "flow")


def test_edm_preconditioning_is_trigflow(gaussian):
    """F of TrigFlow is minus the network of EDM: D = cos(t) x_t + sigma_data sin(t) F_edm."""
    D = denoiser(network, {"scale": jnp.array(0.3)}, sigma_data=0.7)
    t, trig = jnp.array([0.1, 0.8, 1.5]), TrigFlow(sigma_data=0.7)
    x = starts(3) / 20
    F = predictor(D, trig, "edm")(x, t)
    rebuilt = jnp.cos(t)[:, None] * x + 0.7 * jnp.sin(t)[:, None] * F
    np.testing.assert_allclose(rebuilt, D(x / jnp.cos(t)[:, None], 0.7 * jnp.tan(t)), rtol=1e-9)
    full = predictor(D, trig, "edm")(x, t, full=True)
    np.testing.assert_allclose(full.value, F)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("small", "shape"),
    [(MLP(width=8, depth=1, embedding=8), (2,)), (UNet(channels=8, embedding=8), (4, 4, 1))],
)
def test_a_larger_network_starts_as_its_teacher(small, shape, key):
    """It computes the same whatever its further labels, and has a head for the log variance."""
    large = small.clone(log_variance=True)
    params = init(small, key, shape)
    noisy = jax.tree.map(lambda p: p + 0.1, params)
    grown = graft(noisy, init(large, key, shape, labels=3))
    x, label = jnp.ones((2, *shape), jnp.float32), jnp.array([[0.3, 9.0, 5.0], [0.1, 2.0, 1.0]])
    label = label.astype(jnp.float32)
    out = from_linen(large)(grown, x, label, full=True)
    expected = from_linen(small)(noisy, x, label[:, 0])
    np.testing.assert_allclose(out.value, expected, rtol=1e-5, atol=1e-5)
    assert out.log_variance.shape == (2,) and not out.log_variance.any()
    assert out.features[0].shape[0] == 2
    with pytest.raises(ValueError, match="does not go into"):
        graft(grown, params | {"LogVariance_0": grown["LogVariance_0"]})
    with pytest.raises(ValueError, match="has no"):
        graft(grown, params)


def test_a_rollout_is_the_solver_and_rests_where_levels_repeat(gaussian):
    levels = jnp.array([[8.0, 2.0], [2.0, 2.0], [0.5, 1.0], [0.1, 1.0]])
    y = starts(2)
    path = rollout(lambda y, s: gaussian.denoiser(y, s), y, levels)
    made = table(solvers.heun, [8.0, 2.0, 0.5, 0.1])
    np.testing.assert_allclose(path[-1, 0], sample(gaussian.denoiser, made, y[:1])[0], rtol=1e-9)
    np.testing.assert_array_equal(path[1, 1], y[1])
    np.testing.assert_array_equal(path[3, 1], path[2, 1])
    assert np.isfinite(path).all()


@pytest.mark.slow
def test_stored_pairs_are_the_flow(gaussian, key):
    made = Sampler(gaussian.denoiser, table(solvers.heun, grids.karras(40, high=20.0)))
    pairs = make_pairs(made, 50, (2,), key, batch=16, path=True, progress=False)
    assert pairs["path"].shape == (50, 41, 2)
    np.testing.assert_array_equal(pairs["path"][:, 0], pairs["start"])
    np.testing.assert_allclose(pairs["image"], gaussian.flow(pairs["start"], 20.0, 0.0), atol=1e-2)
    other = make_pairs(made, 20, (2,), key, batch=20, progress=False)
    np.testing.assert_allclose(other["start"], pairs["start"][:20], rtol=1e-6)
    data = pair_batches(pairs, 8, seed=3)
    np.testing.assert_array_equal(data(5)["image"], data(5)["image"])
    assert data(5)["image"].shape == (8, 2) and not np.array_equal(
        data(5)["image"], data(6)["image"]
    )
    stochastic = Sampler(gaussian.denoiser, table(solvers.ddpm, [2.0, 1.0]))
    with pytest.raises(ValueError, match="deterministic"):
        make_pairs(stochastic, 4, (2,), key)


def test_tangents(gaussian):
    """The exact consistency function does not change along the flow; norms have gradients at 0."""
    y, s = starts(4), jnp.array([5.0, 2.0, 1.0, 0.3])
    f = lambda y, s: gaussian.flow(y, s, 0.0)  # noqa: E731
    slope = (y - gaussian.denoiser(y, s)) / s[:, None]
    value, rate = tangents.along(f, (y, s), (slope, jnp.ones_like(s)))
    np.testing.assert_allclose(value, f(y, s))
    np.testing.assert_allclose(rate, 0.0, atol=1e-12)
    assert not jax.grad(lambda y: tangents.along(f, (y, s), (slope, s))[1].sum())(y).any()
    g = jnp.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(distances.norm(g), [5.0, 0.0])
    assert np.isfinite(jax.grad(lambda g: distances.norm(g).sum())(g)).all()
    np.testing.assert_allclose(tangents.normalised(g, 0.1)[0], g[0] / 5.1)
    np.testing.assert_allclose(tangents.normalised(g, 0.1, True)[0], g[0] / (5 / 2**0.5 + 0.1))
    np.testing.assert_allclose(tangents.warmup(jnp.asarray(30), 120), 0.25)
    np.testing.assert_allclose(tangents.warmup(jnp.asarray(30), 0), 1.0)
    error = jnp.array([4.0, 0.0])
    np.testing.assert_allclose(tangents.adaptive(error, 0.5, 1e-3)[0], 4.0 / 4.001**0.5)


def test_splitting_steps():
    stages = [Stage("a", None, 3.0), Stage("b", None, 1.0), Stage("c", None, 0.0)]  # type: ignore[arg-type]
    assert split_updates(stages, 100) == [75, 24, 1]
    assert split_updates(stages, 3) == [1, 1, 1]
    with pytest.raises(ValueError, match="at least as many"):
        split_updates(stages, 2)


def shift_student(student, target):
    """A method whose parameter goes to ``target``; enough to see stages follow each other."""

    def student_loss(step):
        return jnp.broadcast_to(jnp.square(step.params["scale"] - target), step.x0.shape[:1])

    tables = lambda num_steps: table(solvers.euler, grids.karras(num_steps))  # noqa: E731
    return regression(student, student_loss, tables, optimiser=optax.sgd(0.5))


def test_stages_hand_on_their_student(tmp_path):
    student = Student(network, {"scale": jnp.array(0.0, jnp.float32)})
    seen = []

    def second(before):
        seen.append((float(before.params["scale"]), before.sampler(num_steps=2).table.nfe))
        return shift_student(student._replace(params=before.params), 2.0)

    def paired(data, before, spread):
        return lambda step: data(step) | {"extra": np.ones(4)}

    stages = [
        Stage("one", lambda before: shift_student(student, 1.0)),
        Stage("two", second, data=paired),
    ]
    data = lambda step: {"image": np.zeros((4, 2), np.float32)}  # noqa: E731
    logged = []
    options = {"key": 0, "checkpoint": tmp_path, "progress": False, "log_every": 1}
    method, state = fit_stages(
        stages, data, num_updates=6, log=lambda name, n, row: logged.append((name, n)), **options
    )
    assert seen == [(1.0, 2)] and state.params["student"]["scale"] == 2.0
    assert logged == [("one", 1), ("one", 2), ("one", 3), ("two", 1), ("two", 2), ("two", 3)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0-one", "1-two"]
    again = fit_stages(stages, data, num_updates=6, **options)[
        1
    ]  # all done: nothing is trained anew
    assert again.params["student"]["scale"] == 2.0 and len(seen) == 2
    assert method.sampler(state, num_steps=3).table.nfe == 3


def test_what_a_stage_stores_is_made_on_the_devices_that_train(gaussian):
    places = []

    def made(given, before, spread):
        def recorded(f, given, **static):
            places.append(spread.keywords)
            return spread(f, given, **static)

        return stored(given, before, recorded)

    teacher = Sampler(gaussian.denoiser, table(solvers.euler, [20.0, 0.0]))
    stored = stored_pairs(teacher, 8, jax.random.key(0), progress=False)
    student = Student(network, {"scale": jnp.float32(1.0)}, prediction="x0", high=20.0)
    stage = Stage("distil", lambda before: knowledge_distillation(student), data=made)
    placing = {"parallel": "pmap", "devices": jax.devices()[:1]}
    data = lambda step: {"image": np.zeros((4, 2), np.float32)}  # noqa: E731
    state = fit_stages(
        [stage], data, num_updates=2, progress=False, gradient_accumulation=2, **placing
    )[1]
    assert places == [placing] and state.params["student"]["scale"] != 1.0


def test_a_target_network_lags_behind(gaussian):
    """With a decay the target is the moving average, without one the student itself; it gets no
    gradient.
    """
    rates = {}
    for name, decay in (("lagging", lambda step: jnp.asarray(0.5)), ("own", None)):
        student = Student(network, {"scale": jnp.array(1.0)}, prediction="x0")

        def student_loss(step):
            return jnp.sum(step.student(step.x0, 1.0) - 3.0 * step.target(step.x0, 1.0), axis=1)

        method = regression(
            student, student_loss, lambda num_steps: None, optimiser=optax.sgd(1.0), target=decay
        )
        from jaxdiff.training.step import init_state, update

        state = init_state(method, jax.random.key(0))
        batch = {"image": jnp.ones((2, 2))}
        step = jax.jit(functools.partial(update, method, active=("student",)))
        for _ in range(2):
            state, metrics = step(state, batch)
        rates[name] = (float(state.params["student"]["scale"]), float(metrics["student/loss"]))
    # a step takes scale 1 to -1 and its average to 0; the second loss is 2 (scale + 1) - 6 (target
    # + 1)
    assert rates["own"] == (-3.0, pytest.approx(2 * 0.0 - 6 * 0.0))
    assert rates["lagging"] == (-3.0, pytest.approx(2 * 0.0 - 6 * 1.0))


def test_score_matching_still_hands_over_a_denoiser(gaussian):
    method = score_matching(Student(network, lambda key: {"scale": jnp.zeros(())}))
    assert set(method.players) == {"student"}


def test_a_name_of_an_average_is_not_taken_twice():
    student = Student(network, {"scale": jnp.ones(())}, ema={"target": lambda step: 0.9})
    options = {"optimiser": optax.sgd(1.0), "target": lambda step: 0.5}
    with pytest.raises(ValueError, match="target network"):
        regression(student, lambda step: 0.0, lambda num_steps: None, **options)


def test_a_distance_of_what_is_not_a_number_is_none():
    """The distances that guard their root at 0 do not hide a NaN there."""
    nan, zero = jnp.full((1, 2), jnp.nan), jnp.zeros((1, 2))
    for distance in (distances.pseudo_huber(0.0), distances.pseudo_huber(0.1), squared):
        assert np.isnan(distance(nan, zero)).all()
    assert np.isnan(distances.norm(nan)).all() and distances.norm(zero) == 0.0


def test_every_stage_draws_numbers_of_its_own():
    keys = []

    def make(before):
        student = Student(network, {"scale": jnp.ones(())}, prediction="x0")

        def student_loss(step):
            jax.debug.callback(lambda k: keys.append(int(k)), jax.random.key_data(step.key)[0])
            return step.student(step.x0, 1.0)[:, 0]

        return regression(student, student_loss, lambda num_steps: None, optimiser=optax.sgd(0.0))

    stages = [Stage("one", make), Stage("two", make)]
    fit_stages(stages, lambda step: {"image": np.ones((2, 2))}, num_updates=2, progress=False)
    jax.effects_barrier()
    assert len(set(keys)) == 2


def test_a_student_of_a_denoiser_starts_as_it():
    """The same weights read by another prediction were another model, without a word."""
    x, level = jnp.asarray([[0.4, -0.2], [1.0, 0.3]]), jnp.asarray([0.7, 3.0])
    network = lambda params, x, label, cond=None: params["w"] * x + label[:, None]  # noqa: E731
    params = {"w": jnp.asarray(0.3)}
    options = {"prediction": "eps", "process": VP(), "label": lambda t: 2 * t}
    D = denoiser(network, params, **options)
    student = Student.of(D, low=0.01)
    assert student.low == 0.01 and student.params is params
    np.testing.assert_array_equal(student.denoiser(student.params)(x, level), D(x, level))
    consistency_distillation(D, student)  # is built
    for other in (Student(network, params), student._replace(label=None)):
        with pytest.raises(ValueError, match="another model"):
            consistency_distillation(D, other)
        with pytest.raises(ValueError, match="another model"):
            diff_instruct(D, other)
    consistency_distillation(D, Student(network, {"w": jnp.asarray(0.3)}))  # weights of its own
    with pytest.raises(TypeError, match="without guidance"):
        Student.of(classifier_free(D, 2.0))
