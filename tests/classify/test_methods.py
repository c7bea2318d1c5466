"""Methods of distilling classifiers: each trains, and what is known of three of them exactly."""

import functools
import json
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import scripts

from jaxdiff import classify
from jaxdiff.classify import diverse_peers, reused_classifier, semantic_calibration
from jaxdiff.classify.frame import Modules
from jaxdiff.classify.losses.maps import aligned
from jaxdiff.classify.online import ONLINE, diversity, ramp
from jaxdiff.method import WithState
from jaxdiff.networks import ImageClassifier, ResNetCIFAR
from jaxdiff.networks.transfer import RowMLP
from jaxdiff.training import checkpoint, fit, init_state, update

SHAPE, CLASSES, BATCH = (8, 8, 3), 4, 8
TEACHER = ImageClassifier(ResNetCIFAR(2, (4, 4, 6, 8), CLASSES), SHAPE)
STUDENT = ImageClassifier(ResNetCIFAR(1, (4, 4, 5, 6), CLASSES), SHAPE)
ALIKE = ImageClassifier(ResNetCIFAR(1, (4, 4, 6, 8), CLASSES), SHAPE)
LABELS = np.random.default_rng(1).integers(0, CLASSES, 40)
RECIPE = classify.Recipe(num_updates=8, rate=0.05)


def data(step):
    rng = np.random.default_rng(step)
    index = rng.integers(0, 40, BATCH)
    image = rng.standard_normal((BATCH, *SHAPE)).astype(np.float32)
    image += LABELS[index][:, None, None, None]
    return {"image": image, "label": LABELS[index].astype(np.int32), "index": index}


@functools.cache
def teacher():
    return classify.Trained(TEACHER, jax.jit(TEACHER.init)(jax.random.key(3)))


CHOICES = {
    "crd": {"labels": LABELS, "negatives": 5, "size": 4},
    "semckd": {"batch": BATCH},
}


def made(name):
    if name in classify.ONLINE_METHODS:
        recipe = classify.ONLINE._replace(num_updates=8)
        return classify.ONLINE_METHODS[name](STUDENT, recipe=recipe)
    student = ALIKE if name == "fsp" else STUDENT
    method = classify.OFFLINE[name]
    return method(teacher(), student, recipe=RECIPE, **CHOICES.get(name, {}))


def shapes_of_a_step(method, batch):
    """The metrics' shapes, without computing anything."""
    step = lambda key: update(method, init_state(method, key), batch, ("student",))  # noqa: E731
    return jax.eval_shape(step, jax.random.key(0))[1]


def trains(method, updates=2):
    """Every parameter that should moves, in finite steps; the teacher and its head do not."""
    before = init_state(method, jax.random.key(0))
    state = fit(method, data, num_updates=updates, progress=False)
    assert int(state.skipped) == 0
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), before.params, state.params)
    assert all(jax.tree.leaves(moved)), moved
    images = jnp.asarray(data(0)["image"])
    logits = method.sampler(state)(images)
    assert logits.shape == (BATCH, CLASSES) and np.all(np.isfinite(logits))
    return state


PLAIN = ("at", "cc", "dist", "dkd", "kd", "nst", "pkt", "rkd", "sp", "standardised")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fitnet", "vid", "crd", "srrl", "reviewkd", "ofd", "semckd"])
def test_a_method_with_modules_of_its_own_trains(name):
    trains(made(name))


@pytest.mark.slow
@pytest.mark.parametrize("name, count", [("dml", 2), ("cl-ilr", 4), ("one", 4), ("okddip", 3)])
def test_a_group_trains_and_is_an_ensemble(name, count):
    method = made(name)
    state = trains(method)
    ensemble = method.sampler(state, member="ensemble")
    assert len(ensemble.members) == count
    images = jnp.asarray(data(0)["image"])
    each = [method.sampler(state, member=i)(images) for i in range(count)]
    np.testing.assert_allclose(ensemble(images), sum(each[1:], each[0]) / count, atol=1e-5)
    with pytest.raises(ValueError, match='"leader", "ensemble" or 0 to'):
        method.sampler(state, member=9)


@pytest.mark.slow
def test_methods_whose_term_is_a_loss_alone_have_a_step():
    for name in PLAIN:
        found = shapes_of_a_step(made(name), data(0))
        assert {"student/ce", "student/kl", "student/right", "student/loss"} <= set(found)
        assert ("student/term" in found) == (name != "kd")
    names = {*PLAIN, "fitnet", "vid", "crd", "srrl", "reviewkd", "ofd", "semckd", "fsp", "ab"}
    assert names | {"ft", "simkd"} == set(classify.OFFLINE)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fsp", "ab"])
def test_methods_of_two_phases_leave_the_rest_of_the_loss_to_the_second(name):
    method = made(name)
    metrics = {}

    def log(step, row):
        metrics[step] = row

    fit(method, data, num_updates=3, progress=False, log=log, log_every=1)
    first, second = metrics[1], metrics[3]
    weight = 50.0 if name == "fsp" else 1.0
    np.testing.assert_allclose(first["student/loss"], weight * first["student/term"], rtol=1e-5)
    rest = second["student/ce"] + second["student/kl"]
    np.testing.assert_allclose(second["student/loss"], rest, rtol=1e-5)


@pytest.mark.slow
def test_factor_transfer_trains_its_paraphraser_first_and_the_student_after():
    method = classify.factor_transfer(teacher(), STUDENT, first=0.5, recipe=RECIPE)
    start = init_state(method, jax.random.key(0))
    half = fit(method, data, num_updates=4, progress=False)
    same = jax.tree.map(np.array_equal, start.params["student"], half.params["student"])
    assert all(jax.tree.leaves(same))
    whole = fit(method, data, num_updates=6, progress=False)
    same = jax.tree.map(np.array_equal, half.params["paraphraser"], whole.params["paraphraser"])
    assert all(jax.tree.leaves(same))
    moved = jax.tree.map(
        lambda a, b: np.any(a != b), half.params["student"], whole.params["student"]
    )
    assert all(jax.tree.leaves(moved))


# --- the frame


@pytest.mark.slow
def test_float64_networks_are_trained_in_float64_and_images_need_not_be_square():
    double = {"num_classes": CLASSES, "param_dtype": jnp.float64}
    network = ImageClassifier(ResNetCIFAR(1, (4, 4, 6), **double), (8, 6, 1))
    zeros = jax.tree.map(
        lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(network.init, jax.random.key(0))
    )
    batch = data(0) | {"image": np.ones((BATCH, 8, 6, 1))}
    batch = jax.tree.map(jnp.asarray, batch)

    def parameters(method, key):
        return update(method, init_state(method, key), batch, tuple(method.players))[0].params

    for name in ("ab", "dkd", "reviewkd", "crd", "simkd", "one", "okddip"):
        if name in classify.ONLINE_METHODS:
            method = classify.ONLINE_METHODS[name](network)
        else:
            known = classify.Trained(network, zeros)
            method = classify.OFFLINE[name](known, network, **CHOICES.get(name, {}))
        shapes = jax.eval_shape(functools.partial(parameters, method), jax.random.key(0))
        assert {x.dtype for x in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float64)}, name


def test_the_recipe_is_momentum_with_decay_and_three_falls_of_the_rate():
    recipe = classify.Recipe(num_updates=240, rate=0.5, decay=0.1)
    optimiser, x = recipe.sgd(), jnp.ones(())
    state, momentum, wanted = optimiser.init(x), 0.0, 1.0
    for step in range(182):
        rate = 0.5 * 0.1 ** ((step >= 150) + (step >= 180))
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimiser.update(jnp.asarray(0.3), state, x)
            x = optax.apply_updates(x, updates)
        momentum = 0.9 * momentum + 0.3 + 0.1 * wanted
        wanted -= rate * momentum
    np.testing.assert_allclose(x, wanted, rtol=1e-6)
    with pytest.raises(ValueError, match="must be positive"):
        classify.Recipe(num_updates=0).sgd()
    for wrong in ({"milestones": (0.9, 0.5)}, {"milestones": (1.5,)}, {"momentum": 1.5},
                  {"momentum": np.nan}, {"decay": -1.0}):  # fmt: skip
        with pytest.raises(ValueError, match="milestones increase|momentum is in"):
            classify.Recipe(**wrong).sgd()


def test_what_does_not_fit_is_refused_by_name():
    other = ImageClassifier(ResNetCIFAR(1, (4, 4, 6), 3), SHAPE)
    with pytest.raises(ValueError, match="kd: the student has 3 classes, the teacher 4"):
        classify.kd(teacher(), other)
    shallow = ImageClassifier(ResNetCIFAR(1, (4, 4, 6), CLASSES), SHAPE)
    with pytest.raises(ValueError, match="the student has 2, the teacher 3; SemCKD takes any"):
        classify.attention_transfer(teacher(), shallow)
    with pytest.raises(ValueError, match="channels one by one"):
        classify.flow_of_procedure(teacher(), STUDENT)
    with pytest.raises(ValueError, match="stages 1 to 3"):
        classify.fitnet(teacher(), STUDENT, stage=4)
    with pytest.raises(ValueError, match="factor 3 does not divide the teacher's 8 channels"):
        classify.simkd(teacher(), STUDENT, factor=3)
    with pytest.raises(ValueError, match="blocks=3 are reused"):
        classify.simkd(teacher(), STUDENT, blocks=3)
    with pytest.raises(ValueError, match='"logits" or "predictions"'):
        classify.okddip(STUDENT, average="probabilities")
    method, good = classify.kd(teacher(), STUDENT), data(0)
    for changed, message in (
        ({"label": good["label"] + 3}, "labels go from .* 4 classes"),
        ({"image": good["image"][:, :4]}, "batch 'image' is float32"),
        ({"label": good["label"] * 1.0}, "labels are integers"),
    ):
        with pytest.raises(ValueError, match=message):
            method.check(good | changed)
    with pytest.raises(ValueError, match="needs 'index'"):
        made("crd").check({k: good[k] for k in ("image", "label")})
    made("crd").check(good)
    for index, message in (
        (good["index"] + 40, "there are 40 labels"),
        (good["index"] - 41, "'index' goes from"),
        (good["index"] * 1.0, r"'index' must be \(8,\) integers"),
        (good["index"][::-1], "is the index that of another order"),
    ):
        with pytest.raises(ValueError, match=message):
            made("crd").check(good | {"index": index})


# --- SimKD


class Found(NamedTuple):
    """Of a training state what a sampler reads."""

    params: Any
    network_state: Any


@pytest.mark.slow
def test_a_student_that_projects_onto_its_teachers_map_is_its_teacher():
    """With a projector that is the identity, the student being the teacher: its logits, exactly;
    and they are stored with the student, for the classifier is state.
    """
    method = classify.simkd(teacher(), TEACHER, factor=1, recipe=RECIPE)
    drawn = method.init(jax.random.key(0))["student"]
    params = dict(drawn.value["network"])
    params["student"] = {n: v for n, v in teacher().variables.value.items() if n != "fc"}
    eye = jnp.eye(8, dtype=jnp.float32)
    projector = jax.tree.map(jnp.zeros_like, params["projector"])
    for name in ("first", "middle", "last"):
        kernel = projector[f"{name}_conv"]["kernel"]
        middle = kernel.shape[0] // 2
        projector[f"{name}_conv"]["kernel"] = kernel.at[middle, middle].set(eye)
        projector[f"{name}_norm"]["scale"] = jnp.full(8, np.sqrt(1 + 1e-5), jnp.float32)
    state = dict(drawn.state["network"])
    statistics = dict(state["batch_stats"]) | {"student": teacher().variables.state["batch_stats"]}
    state["batch_stats"] = statistics
    given = params | {"projector": projector}
    whole = Found({"student": {"network": given}}, {"student": {"network": state}})
    student = method.sampler(whole)
    images = jnp.asarray(data(0)["image"])
    np.testing.assert_allclose(student(images), teacher()(images), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_simkd_trains_carries_its_head_through_a_checkpoint_and_teaches(tmp_path):
    method = made("simkd")
    state = fit(method, data, num_updates=2, progress=False, checkpoint=tmp_path)
    student = method.sampler(state)
    head = student.variables.state["teacher"]["variables"]["params"]["fc"]
    jax.tree.map(np.testing.assert_array_equal, head, teacher().variables.value["fc"])
    restored = checkpoint.restore(tmp_path, state).state
    images = jnp.asarray(data(0)["image"])
    np.testing.assert_array_equal(method.sampler(restored)(images), student(images))
    pooled = student.outputs(images).features[-1]
    np.testing.assert_allclose(
        student(images), pooled @ head["kernel"] + head["bias"][None], rtol=1e-4, atol=1e-5
    )
    path = tmp_path / "student.safetensors"
    classify.save_classifier(path, student)
    loaded = classify.load_classifier(path)
    np.testing.assert_array_equal(loaded(images), student(images))
    again = classify.simkd(loaded, STUDENT, recipe=RECIPE)  # a student is a teacher
    batch = data(0)
    assert "student/term" in shapes_of_a_step(again, batch)


def test_parameters_are_those_of_student_projector_and_head():
    method = classify.simkd(teacher(), STUDENT, factor=4, recipe=RECIPE)
    drawn = jax.eval_shape(method.init, jax.random.key(0))["student"]
    whole = Found({"student": drawn.value}, {"student": drawn.state})
    network = method.sampler(whole).network
    own = STUDENT.num_parameters() - (6 * CLASSES + CLASSES)
    projector = 6 * 2 + 4 + 9 * 2 * 2 + 4 + 2 * 8 + 16
    assert network.num_parameters() == own + projector + 8 * CLASSES + CLASSES
    products = STUDENT.multiply_adds() - 6 * CLASSES + 8 * CLASSES
    assert network.multiply_adds() == products + 4 * (6 * 2 + 9 * 2 * 2 + 2 * 8)


@pytest.mark.parametrize("blocks", [0, 1])
def test_the_projected_map_of_images_that_are_not_square_is_as_large_as_the_teachers(blocks):
    wide = ImageClassifier(ResNetCIFAR(1, (4, 4, 6), CLASSES), (8, 16, 3))
    variables = jax.eval_shape(wide.init, jax.random.key(0))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables)
    method = classify.simkd(classify.Trained(wide, zeros), wide, blocks=blocks, recipe=RECIPE)
    drawn = jax.eval_shape(method.init, jax.random.key(0))["student"]
    whole = Found({"student": drawn.value}, {"student": drawn.state})
    projected = method.sampler(whole).network.outputs().features[-2]
    assert projected.shape == ((1, 4, 8, 6) if blocks == 0 else (1, 4, 8, 4))


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [1, 2])
def test_simkd_with_more_of_the_teacher_reuses_its_last_blocks(blocks):
    """What the tail makes of the teacher's own map are the teacher's logits."""
    tail, held, sides, channels = reused_classifier.tail_of(teacher(), blocks)
    images = jnp.asarray(data(0)["image"])
    h = reused_classifier.input_of_tail(TEACHER.module, teacher().variables, images, blocks)
    assert h.shape[1:] == (*sides, channels) == ((2, 2, 8) if blocks == 1 else (4, 4, 6))
    np.testing.assert_allclose(tail.apply(held, h), teacher()(images), rtol=1e-4, atol=1e-5)
    method = classify.simkd(teacher(), STUDENT, blocks=blocks, recipe=RECIPE)
    state = fit(method, data, num_updates=1, progress=False)
    assert np.all(np.isfinite(method.sampler(state)(images)))


@pytest.mark.slow
@pytest.mark.parametrize("sides", [(8, 4), (4, 8)])
def test_a_map_of_another_size_is_averaged_to_the_smaller(sides):
    own, theirs = (
        ImageClassifier(ResNetCIFAR(1, widths, CLASSES), SHAPE)
        for widths in ([(4, 4), (4, 4, 4)] if sides == (8, 4) else [(4, 4, 4), (4, 4)])
    )
    known = classify.Trained(theirs, jax.eval_shape(theirs.init, jax.random.key(0)))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), known.variables)
    method = classify.simkd(classify.Trained(theirs, zeros), own, recipe=RECIPE)
    assert shapes_of_a_step(method, data(0))["student/term"].shape == ()


# --- SemCKD


def test_attention_over_a_teachers_stages():
    rng = np.random.default_rng(0)
    f_s, f_t = ([jnp.asarray(rng.standard_normal((BATCH, n, n, c))) for n, c in sizes]
                for sizes in (((4, 2), (2, 3)), ((4, 2), (4, 3), (2, 4))))  # fmt: skip
    modules = {f"query{i}": RowMLP(2) for i in range(2)}
    modules |= {f"key{j}": RowMLP(2) for j in range(3)}

    @jax.jit
    def draw(key):
        made = [m.init(key, jnp.zeros((BATCH, BATCH)))["params"] for m in modules.values()]
        scaled = [jax.tree.map(lambda x, i=i: x * (1.0 + i), p) for i, p in enumerate(made)]
        return dict(zip(modules, scaled, strict=True))

    drawn = draw(jax.random.key(0))

    @jax.jit
    def of(params, maps):
        return semantic_calibration.attention(Modules(modules, params, {}, None), f_s, maps, 0.5)

    alpha = of(drawn, f_t)
    assert alpha.shape == (BATCH, 2, 3)
    np.testing.assert_allclose(jnp.sum(alpha, 2), 1, rtol=1e-12)
    order = [2, 0, 1]
    permuted = drawn | {f"key{j}": drawn[f"key{i}"] for j, i in enumerate(order)}
    found = of(permuted, [f_t[i] for i in order])
    np.testing.assert_allclose(found, alpha[..., jnp.array(order)], rtol=1e-10)
    shared = drawn | {f"key{j}": drawn["key0"] for j in range(3)}
    np.testing.assert_allclose(of(shared, [f_t[0]] * 3), 1 / 3, rtol=1e-10)

    class Matching(Modules):
        def __call__(self, name, *inputs):
            if name.startswith("projection"):
                return aligned(f_s[int(name[-3])], f_t[int(name[-1])])[1]
            return super().__call__(name, *inputs)

    run = Matching(modules, drawn, {}, None)
    loss = jax.jit(lambda: semantic_calibration.calibrated(run, f_s, f_t, 0.5))()
    np.testing.assert_allclose(loss, 0, atol=1e-20)


@pytest.mark.slow
def test_semckd_refuses_a_batch_of_another_size():
    method = classify.semckd(teacher(), STUDENT, batch=4, recipe=RECIPE)
    with pytest.raises(ValueError, match="batches of 4 samples, and one has 8"):
        shapes_of_a_step(method, data(0))


# --- OKDDip


def test_attention_over_peers_is_their_own_and_uniform_without_queries():
    rng = np.random.default_rng(0)
    h = jnp.asarray(rng.standard_normal((BATCH, 3, 8)))
    q, k = (jnp.asarray(rng.standard_normal((8, 2))) for _ in range(2))
    alpha = diverse_peers.attention(h, q, k)
    np.testing.assert_allclose(jnp.sum(alpha, 2), 1, rtol=1e-12)
    assert np.max(np.abs(alpha - alpha.swapaxes(1, 2))) > 0.01
    uniform = diverse_peers.attention(h, 0 * q, k)
    np.testing.assert_allclose(uniform, 1 / 3, rtol=1e-12)


@pytest.mark.parametrize("average", ["logits", "predictions"])
def test_equal_peers_have_nothing_to_learn_from_each_other(average):
    rng = np.random.default_rng(0)
    z = np.repeat(rng.standard_normal((BATCH, 1, CLASSES)), 3, axis=1)
    alpha = rng.random((BATCH, 3, 3))
    alpha /= alpha.sum(2, keepdims=True)

    def step(z, alpha, reference):
        loss = lambda z, alpha: diverse_peers.peer_divergence(z, alpha, 3.0, average, reference)  # noqa: E731
        return jax.value_and_grad(loss, (0, 1))(z, alpha)

    step = jax.jit(step, static_argnums=2)
    np.testing.assert_allclose(step(z, alpha, False)[0], 0, atol=1e-10)
    other = z + rng.standard_normal(z.shape)
    (value, own), (literal, through) = (step(other, alpha, way) for way in (False, True))
    np.testing.assert_allclose(value, literal)
    assert np.max(np.abs(own[1])) > 1e-4  # the attention learns through constant targets
    np.testing.assert_allclose(through[1], own[1])
    assert np.max(np.abs(through[0] - own[0])) > 1e-4


def test_the_ramp_and_the_diversity():
    recipe = ONLINE._replace(num_updates=300)
    found = [ramp(jnp.asarray(e), recipe) for e in (0, 40, 80, 200)]
    with pytest.raises(ValueError, match="fraction of the updates"):
        ramp(jnp.asarray(0), recipe, 1.5)
    np.testing.assert_allclose(found, [np.exp(-5), np.exp(-5 / 4), 1, 1], rtol=1e-6)
    sure = [jnp.array([[50.0, 0.0]]), jnp.array([[0.0, 50.0]]), jnp.array([[50.0, 0.0]])]
    np.testing.assert_allclose(diversity(sure), np.sqrt(2) * 2 / 3, rtol=1e-6)


@pytest.mark.slow
def test_a_branch_is_a_network_and_gradients_into_the_trunk_are_scaled():
    group = classify.Group(STUDENT, 2, True)
    variables = jax.jit(group.init)(jax.random.key(0))
    images = jnp.asarray(data(0)["image"])
    alone, after = jax.jit(STUDENT.training)(group.member(variables, 1), images)

    def both(params, scale):
        whole = WithState(params, variables.state)
        outputs, _, state = group.training(whole, images, shared_gradient=scale)
        return jnp.mean(outputs[1].value ** 2), (outputs, state)

    step = jax.jit(jax.grad(both, has_aux=True))
    grad, (outputs, state) = step(variables.value, 1.0)
    np.testing.assert_allclose(outputs[1].value, alone.value, rtol=1e-4, atol=1e-5)
    assert [f.shape for f in outputs[1].features] == [f.shape for f in alone.features]
    member = group.member(WithState(variables.value, state), 1).state
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), member, after)
    half, _ = step(variables.value, 0.5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, 0.5 * np.asarray(b), rtol=1e-3, atol=1e-7),
        half["shared"], grad["shared"],
    )  # fmt: skip
    with pytest.raises(ValueError, match="2 members at least"):
        classify.Group(STUDENT, 1, True)


@pytest.mark.slow
def test_a_memory_of_contrasts_is_one_on_eight_devices():
    found = json.loads(scripts.last_line("multidevice_contrast.py", devices=8))
    assert set(found) == {"jit", "pmap"} and max(found.values()) < 1e-5, found
