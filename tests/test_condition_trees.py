"""A condition is any tree of arrays, with a null of its own, in everything that takes one.

The network says the mean m(cond) of its condition whatever the state, so that what every sampler
gives is known: a sample that ends at level 0 is m, and y at level s moves as m + s/S (Y - m).
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import scripts

import jaxdiff as jd
from jaxdiff import distill
from jaxdiff.app.generate import generate
from jaxdiff.arrays import null_condition
from jaxdiff.distill.parts.critic import Critic
from jaxdiff.distill.parts.primitives import drop_condition
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.score.decoupled_matching import decoupled_dmd
from jaxdiff.sampling.export import export_sampler, load_sampler
from jaxdiff.sampling.pairs import make_pairs, pair_batches
from jaxdiff.training.devices import over_batch
from jaxdiff.tuning.learned.family import of_grid
from jaxdiff.tuning.learned.method import tuning
from jaxdiff.tuning.learned.objective import end_point
from jaxdiff.typing import Outputs

B, SHAPE, HIGH, LOW = 4, (2,), 80.0, 0.5
NULL = {
    "class": np.int32(5),
    "text": np.zeros((3, 4), np.float32),
    "mask": np.zeros(3, bool),
}
DTYPES = {"class": np.int32, "text": np.float32, "mask": np.bool_}
RNG = np.random.default_rng(0)
PARAMS = {
    "class": RNG.uniform(-0.3, 0.3, (6, 2)).astype(np.float32),
    "text": RNG.uniform(-0.1, 0.1, (4, 2)).astype(np.float32),
    "state": np.zeros((1, 2), np.float32),
}
TABLE = jd.table(jd.solvers.dpmpp, jd.grids.karras(3))
LEVELS = jd.grids.karras(4, LOW, HIGH, zero=False)


def conditions(count=B, seed=1):
    rng = np.random.default_rng(seed)
    return {
        "class": rng.integers(0, 5, count).astype(np.int32),
        "text": rng.uniform(-1, 1, (count, 3, 4)).astype(np.float32),
        "mask": rng.uniform(size=(count, 3)) < 0.7,
    }


COND = conditions()


def network(params, x, label, cond, *, key=None, full=False):
    found = {k: (v.dtype, v.shape[0]) for k, v in cond.items()}
    assert found == {k: (d, x.shape[0]) for k, d in DTYPES.items()}, found
    seen = jnp.where(cond["mask"][..., None], cond["text"], 0).sum(1)
    stated = label.reshape(x.shape[0], -1).sum(1)[:, None]
    mean = jnp.asarray(params["class"])[cond["class"]] + seen @ params["text"]
    out = mean + params["state"] * (x + jnp.sin(stated))
    return Outputs(out, None, (out,)) if full else out


def mean_of(cond):
    seen = np.where(cond["mask"][..., None], cond["text"], 0).sum(1)
    return PARAMS["class"][cond["class"]] + seen @ PARAMS["text"]


def nulls(count=B):
    return jax.tree.map(lambda n: np.broadcast_to(n, (count, *np.shape(n))), NULL)


MEAN, NOTHING = mean_of(COND), mean_of(nulls())
D = jd.denoiser(network, PARAMS, prediction="x0")
CLOSE = functools.partial(np.testing.assert_allclose, atol=2e-5)


@pytest.fixture(autouse=True)
def as_users_sample():
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


def start(level=HIGH, count=B):
    return level * jd.start_noise(jax.random.key(0), count, SHAPE)


# --- dropping, and its null


def test_dropping_takes_whole_conditions_and_keeps_dtypes():
    cond = conditions(64)
    dropped = drop_condition(jax.random.key(0), cond, 0.5, NULL)
    assert {k: v.dtype for k, v in dropped.items()} == DTYPES
    gone = np.asarray(dropped["class"]) == 5
    assert 16 < gone.sum() < 48
    for name, value in dropped.items():
        expected = np.where(gone.reshape(-1, *[1] * (value.ndim - 1)), NULL[name], cond[name])
        np.testing.assert_array_equal(value, expected)


def test_entries_are_dropped_each_by_itself_or_together():
    cond = conditions(4000)
    odds = {"class": 0.1, "text": 0.2, ("text", "mask"): 0.3}
    dropped = drop_condition(jax.random.key(0), cond, odds, NULL)
    assert {k: v.dtype for k, v in dropped.items()} == DTYPES
    gone = {
        "class": np.asarray(dropped["class"]) == 5,
        "text": ~np.asarray(dropped["text"]).any(axis=(1, 2)),
    }
    some = cond["mask"].any(axis=1)  # of the others the null is their own
    gone["mask"] = ~np.asarray(dropped["mask"]).any(axis=1)
    rates = {name: hit[some].mean() for name, hit in gone.items()}
    expected = {"class": 0.1, "text": 1 - 0.8 * 0.7, "mask": 0.3}
    np.testing.assert_allclose([*rates.values()], [*expected.values()], atol=0.03)
    assert gone["text"][gone["mask"] & some].all()
    assert abs((gone["class"] & gone["text"]).mean() - 0.1 * 0.44) < 0.02
    for name, hit in gone.items():
        np.testing.assert_array_equal(np.asarray(dropped[name])[~hit], cond[name][~hit])


def test_entries_that_are_never_dropped_need_no_null():
    null = {"class": NULL["class"]}
    cond = conditions(64)
    dropped = drop_condition(jax.random.key(0), cond, {"class": 0.5}, null)
    assert 16 < (np.asarray(dropped["class"]) == 5).sum() < 48
    assert dropped["text"] is cond["text"] and dropped["mask"] is cond["mask"]
    STUDENT._replace(null=null, label_drop={"class": 0.5}).check(BATCH)
    with pytest.raises(ValueError, match="null has the structure"):
        STUDENT._replace(null=null).check(BATCH)


@pytest.mark.parametrize(
    "drop, null, error, message",
    [
        ({"word": 0.1}, NULL, ValueError, "'word', which the condition has not"),
        ({"text": 0.1}, {"class": 5}, ValueError, "'text', which its null has not"),
        ({"text": 1.5}, NULL, ValueError, "of 'text' is in \\[0, 1\\], not 1.5"),
        ({"text": 0.1}, None, TypeError, "must be dictionaries"),
        (-0.5, NULL, ValueError, "in \\[0, 1\\], not -0.5"),
    ],
)
def test_dropping_that_does_not_fit_is_refused_by_name(drop, null, error, message):
    with pytest.raises(error, match=message):
        drop_condition(jax.random.key(0), COND, drop, null)
    with pytest.raises(error, match=message):
        STUDENT._replace(null=null, label_drop=drop).check(BATCH)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"class": 5.5}, r"null\['class'\] is float.*int32 does not hold"),
        ({"mask": 1}, r"null\['mask'\] is int.*bool does not hold"),
        ({"text": np.zeros(4)}, r"null\['text'\] has shape \(4,\)"),
        ({"more": 0}, "null has the structure"),
    ],
)
def test_another_null_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        null_condition(COND, NULL | change)
    method = jd.distill.score_matching(STUDENT._replace(null=NULL | change))
    with pytest.raises(ValueError, match=message):
        jd.fit(method, lambda step: BATCH, num_updates=1, progress=False)


@pytest.mark.parametrize(
    "label, message",
    [
        (COND | {"mask": np.bool_(True)}, r"\['mask'\] has shape \(\).*of 4 samples"),
        (COND | {"text": COND["text"][:3]}, r"\['text'\] has shape \(3, 3, 4\).*of 4 samples"),
        (None, 'the batch no "label"'),
    ],
)
def test_a_leaf_without_its_rows_is_refused_by_name(label, message):
    batch = {"image": BATCH["image"]} | ({} if label is None else {"label": label})
    with pytest.raises(ValueError, match=message):
        jd.fit(distill.score_matching(STUDENT), lambda step: batch, num_updates=1, progress=False)
    if label is None:
        return
    maker, key = jd.Sampler(D, TABLE), jax.random.key(0)
    pairs = {"image": BATCH["image"], "start": BATCH["image"], "label": label}
    wide = jax.tree.map(lambda x: x[:3] if np.ndim(x) and len(x) == 3 else x, label)
    for refuse in (
        lambda: drop_condition(key, label, 0.5, NULL),
        lambda: make_pairs(maker, B, SHAPE, key, labels=wide, progress=False),
        lambda: pair_batches(pairs, 2),
        lambda: jd.held_out(D, pairs),
        lambda: generate(maker, B, SHAPE, label, progress=False),
        lambda: over_batch(call, (D, TABLE))((start(), label)),
    ):
        with pytest.raises(ValueError, match=message):
            refuse()


# --- training: a method of each family

STARTS = jax.tree.map(lambda x: 0.7 * x + np.float32(0.1), PARAMS)
STUDENT = Student.of(D, params=STARTS, null=NULL, label_drop=0.3, optimiser=optax.adam(1e-3))
BATCH = {"image": np.float32(MEAN + 0.2), "start": np.float32(80 * MEAN), "label": COND}


def marked(names, *slow):
    """The names, of which the costly ones are for the slow tests."""
    return [pytest.param(n, marks=[pytest.mark.slow] if n in slow else []) for n in names]


def conditional_critic():
    def logits(params, x, cond):
        assert {k: v.dtype for k, v in cond.items()} == DTYPES
        return x @ params["w"] + cond["class"]

    return Critic(logits, {"w": jnp.ones(2)})


METHODS = {
    "score matching": lambda: distill.score_matching(
        STUDENT._replace(label_drop={"class": 0.3, ("text", "mask"): 0.2})
    ),
    "guidance": lambda: distill.guidance_distillation(D, STUDENT),
    "pairs": lambda: distill.knowledge_distillation(STUDENT),
    "trajectory": lambda: distill.progressive_distillation(D, STUDENT, num_steps=2),
    "consistency": lambda: distill.easy_consistency(STUDENT, teacher=D),
    "latent consistency": lambda: distill.latent_consistency(D, STUDENT),
    "flow map": lambda: distill.mean_flow(STUDENT, omega=2.0, kappa=0.5),
    "score": lambda: distill.diff_instruct(D, STUDENT),
    "guided score": lambda: decoupled_dmd(D, STUDENT, every=1),
    "adversarial": lambda: distill.add(D, STUDENT, conditional_critic()),
}


@pytest.mark.parametrize(
    "name", marked(METHODS, "trajectory", "latent consistency", "guided score")
)
def test_methods_train_with_it(name):
    method = METHODS[name]()
    batch = {k: jnp.asarray(v) if k != "label" else v for k, v in BATCH.items()}
    state = jd.fit(method, lambda step: batch, num_updates=2, progress=False)
    moved = np.abs(state.params["student"]["class"] - STARTS["class"]).max(axis=1) > 0
    assert moved[np.unique(COND["class"])].all(), moved
    assert {*np.flatnonzero(moved)} <= {*COND["class"], 5}


def test_score_matching_learns_the_mean_of_each_condition_and_of_none():
    """The conditions stay, half of them dropped: the network learns m(cond), and of the null row
    the mean over all images.
    """
    data = {"image": np.tile([[0.5, -0.5]], (B, 1)).astype(np.float32), "label": COND}
    student = Student(
        network, PARAMS, null=NULL, label_drop=0.5, prediction="x0", optimiser=optax.adam(0.05)
    )
    method = distill.score_matching(student, weight=lambda s, sigma_data: jnp.ones_like(s))
    state = jd.fit(method, lambda step: data, num_updates=200, progress=False)
    learned = student.denoiser(state.params["student"])
    for cond in (COND, nulls()):
        np.testing.assert_allclose(learned(start(1.0), 1.0, cond), data["image"], atol=0.1)


# --- samplers


def call(given, batch):
    return jd.sample(*given, *batch)


def march(solve, **options):
    return solve(D, start(), HIGH, LOW, COND, denoise=True, **options).states


KEY = {"key": jax.random.key(1)}
ENDS = {
    "sample": lambda: jd.sample(D, TABLE, start(), COND),
    "trajectory": lambda: jd.trajectory(D, TABLE, start(), COND).states[-1],
    "direct": lambda: jd.direct(D, jd.solvers.heun, jd.grids.karras(3), start(), COND),
    "stages": lambda: jd.sample_in_stages(D, TABLE, start(), COND),
    "picard": lambda: jd.picard(D, TABLE, start(), COND, tolerance=0.0).states,
    "adaptive": lambda: march(jd.adaptive),
    "adaptive together": lambda: march(jd.adaptive, per_sample=False),
    "dpm_adaptive": lambda: march(jd.dpm_adaptive),
    "gotta_go_fast": lambda: march(jd.gotta_go_fast, rtol=0.5, **KEY),
    "reverse_sde": lambda: march(jd.reverse_sde, num_steps=8, **KEY),
    "sampler": lambda: jd.Sampler(D, TABLE)(jax.random.key(0), B, SHAPE, COND),
}


@pytest.mark.parametrize(
    "name", marked(ENDS, "adaptive", "adaptive together", "reverse_sde", "dpm_adaptive")
)
def test_every_sampler_ends_at_each_sample_s_mean(name):
    CLOSE(ENDS[name](), MEAN)


def test_guidance_needs_the_null_of_every_leaf():
    guided = jd.guidance.classifier_free(D, 3.0, NULL)
    CLOSE(jd.sample(guided, TABLE, start(), COND), NOTHING + 3.0 * (MEAN - NOTHING))
    CLOSE(jd.guidance.classifier_free(D, 0.0, NULL)(start(), 1.0, COND), NOTHING)
    with pytest.raises(ValueError, match=r"null\['class'\]"):
        jd.sample(jd.guidance.classifier_free(D, 3.0, NULL | {"class": 0.5}), TABLE, start(), COND)


@pytest.mark.parametrize("per_sample", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_likelihood(per_sample):
    """y moves as m + (S/s)(x - m), whose Jacobian is (S/s)^2 in two dimensions."""
    x = MEAN + np.asarray(start(0.3))
    found = jd.log_likelihood(D, x, HIGH, LOW, COND, per_sample=per_sample)
    y = MEAN + HIGH / LOW * (x - MEAN)
    prior = -0.5 * np.sum((y / HIGH) ** 2, 1) - np.log(2 * np.pi * HIGH**2)
    np.testing.assert_allclose(found.log_density, prior + 2 * np.log(HIGH / LOW), atol=2e-3)


def test_inversion():
    x = MEAN + np.asarray(start(0.5))
    latent = MEAN / HIGH + (x - MEAN) / LOW
    CLOSE(jd.invert(D, jd.solvers.euler, LEVELS, x, COND), latent)
    CLOSE(jd.invert(D, jd.table(jd.solvers.dpmpp, LEVELS), None, x, COND), latent, atol=1e-3)
    encoded = jd.encode(D, jd.solvers.bdia, LEVELS, x, COND)
    CLOSE(jd.decode(D, jd.solvers.bdia, LEVELS, encoded, COND), x, atol=1e-3)


@pytest.mark.slow
def test_steps_predicted_for_each_sample():
    from jaxdiff.tuning.learned.amed import amed_predictor
    from jaxdiff.tuning.learned.amed_network import Predictor, bottleneck_size

    predictor = Predictor(bottleneck_size(D, SHAPE, jax.tree.map(lambda x: x[:1], COND)))
    method = amed_predictor(D, [HIGH, 5.0, LOW], predictor)
    path = jd.trajectory(D, jd.table(jd.solvers.heun, [HIGH, 5.0, LOW]), start(), COND).states
    batch = {"path": np.moveaxis(np.asarray(path), 0, 1), "label": COND}
    state = jd.fit(method, lambda step: batch, num_updates=1, progress=False)
    found = method.sampler(state).sample(start(), COND)
    assert np.abs(np.asarray(found) - (MEAN + LOW / HIGH * (start() - MEAN))).max() < 0.2


# --- pairs, tuning, files, generation, devices


def test_pairs_and_tuning():
    labels = conditions(10, seed=2)
    pairs = make_pairs(
        jd.Sampler(D, TABLE), 10, SHAPE, jax.random.key(0), labels=labels, batch=4, progress=False
    )
    CLOSE(pairs["image"], mean_of(labels))
    data = pair_batches(pairs, B)
    assert {k: v.dtype for k, v in data(0)["label"].items()} == DTYPES
    CLOSE(data(3)["image"], mean_of(data(3)["label"]))
    family = of_grid(jd.solvers.euler, [HIGH, 5.0, LOW])
    method = tuning(D, family, end_point(), optimiser=optax.adam(0.01))
    logits_of = jd.held_out(D, pairs, batch=4)
    first = jd.table(jd.solvers.euler, [HIGH, 5.0, LOW])
    tuned = jd.tune(method, data, logits_of, first, num_updates=2, every=1, progress=False)
    apart = LOW / HIGH * (pairs["start"] - mean_of(labels))
    np.testing.assert_allclose(tuned.before, np.sqrt(np.mean(apart**2)), rtol=1e-4)


@pytest.mark.parametrize("weight", [None, 3.0])
def test_an_exported_sampler_takes_the_tree(tmp_path, weight):
    own = D if weight is None else jd.guidance.classifier_free(D, weight, NULL)
    path = tmp_path / "s.npz"
    export_sampler(path, jd.Sampler(own, TABLE), SHAPE, cond=NULL, platforms=["cpu"])
    run = load_sampler(path).run
    expected = MEAN if weight is None else NOTHING + weight * (MEAN - NOTHING)
    CLOSE(run(0, B, COND), expected)
    CLOSE(run(0, [2], jax.tree.map(lambda x: x[2:3], COND)), expected[2:3])
    for other, message in (
        (None, "has conditions; labels=None"),
        (COND["class"], "labels have the structure"),
        (COND | {"mask": COND["class"]}, r"labels\['mask'\] is int32 of shape \(4,\)"),
        (COND | {"text": COND["text"][:3]}, r"labels\['text'\].*should be float32 of shape \(4, 3"),
        (COND | {"class": COND["class"] + 0.5}, r"labels\['class'\] is float.*should be int32"),
    ):
        with pytest.raises(ValueError, match=message):
            run(0, B, other)
    far = {k: v.astype(np.int64) + 2**32 if k == "class" else v for k, v in COND.items()}
    with pytest.raises(ValueError, match=r"labels\['class'\] is \d+, which int32 does not hold"):
        run(0, B, far)
    with pytest.raises(ValueError, match="not both"):
        export_sampler(path, jd.Sampler(own, TABLE), SHAPE, cond=NULL, classes=3)


def test_generate():
    labels = conditions(6, seed=3)
    CLOSE(
        generate(jd.Sampler(D, TABLE), 6, SHAPE, labels, batch=4, progress=False), mean_of(labels)
    )
    labels["text"][4] = np.nan
    with pytest.raises(FloatingPointError, match="not finite, number 4 the first of them"):
        generate(jd.Sampler(D, TABLE), 6, SHAPE, labels, batch=4, progress=False)


@pytest.mark.parametrize("parallel", ["jit", "fsdp", "pmap"])
def test_placing_on_devices(parallel):
    labels = conditions(5, seed=4)
    made = over_batch(call, (D, TABLE), parallel=parallel)((np.asarray(start(count=5)), labels))
    CLOSE(made, mean_of(labels))


def on_devices():
    """Training and sampling on eight devices beside one, for the test below."""
    assert jax.device_count() == 8
    labels = conditions(16, seed=5)
    batch = {"image": mean_of(labels).astype(np.float32), "label": labels}
    method = distill.score_matching(STUDENT._replace(label_drop=0.0))
    found = {}
    for way in ("jit", "fsdp", "pmap"):
        y = np.asarray(start(count=13))
        cond = conditions(13, seed=6)
        made = over_batch(call, (D, TABLE), parallel=way)((y, cond))
        found[f"sample {way}"] = float(np.abs(np.asarray(made) - mean_of(cond)).max())
        state = jd.fit(method, lambda step: batch, num_updates=1, parallel=way, progress=False)
        moved = np.abs(state.params["student"]["class"] - STARTS["class"]).max(axis=1) > 0
        assert moved[np.unique(labels["class"])].all() and not moved[5], (way, moved)
    print(json.dumps(found))


@pytest.mark.slow
def test_eight_devices():
    found = json.loads(scripts.last_line("../test_condition_trees.py", devices=8))
    assert len(found) == 3 and max(found.values()) < 2e-5, found


if __name__ == "__main__":
    on_devices()
