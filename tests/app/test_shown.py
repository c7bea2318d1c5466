"""Restoration networks of the command line: trained on measurements, loaded again, and used."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import solvers
from jaxdiff.app import cascading, commands, references
from jaxdiff.app import config as configs
from jaxdiff.app import restore as command
from jaxdiff.app.conditions import conditions
from jaxdiff.app.data_conditions import rows_in_turn
from jaxdiff.app.distill import distill
from jaxdiff.app.export import export
from jaxdiff.app.load import load_model
from jaxdiff.app.models import Model
from jaxdiff.app.presets import PRESETS
from jaxdiff.app.samplers import student_sampler
from jaxdiff.app.shown import channels_of, observe_of
from jaxdiff.app.train import train
from jaxdiff.conditioning import operators
from jaxdiff.data.dataset import to_float
from jaxdiff.grids import karras
from jaxdiff.sampling.export import load_sampler
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.start import start
from jaxdiff.sampling.trace import table

pytestmark = pytest.mark.usefixtures("as_users")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network for small digits, of two updates."""
    folder = tmp_path_factory.mktemp("shown")
    config = dataclasses.replace(
        PRESETS["super"][1], run=str(folder / "run"), updates=2, batch=4,
        network=configs.MLP(width=8, depth=1, embedding=8),
        data=configs.Data(limit=40), measure=configs.Measure("super", (0.1, 0.2)),
    )  # fmt: skip
    train(config, progress=False)
    return config


def test_a_run_is_loaded_with_what_it_is_shown_and_restores_by_it(run, tmp_path):
    model = load_model(run.run)
    assert model.metadata["measure"]["task"] == "super" and model.module.channels == 2
    options = configs.Restore(run.run, task="super", noise=0.15, num_steps=3, samples=2, count=2)
    config = dataclasses.replace(options, out=str(tmp_path))
    setting, chosen, _ = command.prepared(config, False)
    assert chosen == ["network"]  # by default
    found, more = command.restored_by("network", setting, config)
    seen = operators.Measurement(
        setting.seen.operator, jnp.repeat(setting.seen.observation, 2, axis=0), setting.seen.noise
    )
    made = table(solvers.dpmpp, setting.levels)
    y = start(jax.random.key(0), made, 4, model.shape)
    by_hand = sample(model.denoiser, made, y, {"beside": operators.beside(seen)})
    np.testing.assert_allclose(found.reshape(4, 8, 8, 1), np.clip(by_hand, -1, 1), atol=1e-5)
    assert more["nfe"] == 3 and found.std(axis=1).max() > 0
    plain, _ = command.restored_by("bicubic", setting, config)
    large = jax.image.resize(setting.seen.observation, (2, 8, 8, 1), "cubic")
    np.testing.assert_allclose(plain[:, 0], np.clip(large, -1, 1), atol=1e-6)


def test_small_samples_of_a_base_are_enlarged(run, monkeypatch, tmp_path):
    """With noise of the level that is chosen, which the network is told; kept beside the large."""
    D = jax.tree_util.Partial(lambda y, level, cond=None: y / (1 + 25 * level**2))
    metadata = {"kind": "teacher", "data": None, "class_names": (), "measure": None}
    base = Model(D, {}, (4, 4, 1), 0, False, metadata)
    monkeypatch.setattr(cascading, "load_model", lambda *a, **k: base)
    model = load_model(run.run)
    config = configs.Sample(run.run, count=3, base="small", base_noise=0.15)
    cond, small = cascading.enlarging(model, config, None)
    means = cond["beside"][..., 0].reshape(3, 4, 2, 4, 2).mean((2, 4))
    added = (means - small[..., 0]) / 0.15
    assert np.allclose(cond["beside"][..., 1], 0.15) and 0.7 < added.std() < 1.3
    two, _ = cascading.enlarging(model, dataclasses.replace(config, count=2), None)
    np.testing.assert_allclose(two["beside"], cond["beside"][:2], atol=1e-5)
    assert cascading.enlarging(model, configs.Sample(run.run), None) == (None, None)
    for wrong, text in (
        ({"base_noise": 0.5}, "--base-noise is from 0.1 to 0.2"),
        ({"base": None}, "--base-noise would have no effect"),
    ):
        with pytest.raises(ValueError, match=text):
            cascading.enlarging(model, dataclasses.replace(config, **wrong), None)
    with pytest.raises(ValueError, match="enlarges no images"):
        cascading.enlarging(base, config, None)
    with pytest.raises(ValueError, match="of other classes than it is told"):
        cascading.enlarging(model, config, np.arange(3))
    other = base._replace(shape=(2, 2, 1))
    monkeypatch.setattr(cascading, "load_model", lambda *a, **k: other)
    with pytest.raises(ValueError, match=r"makes \(2, 2, 1\)"):
        cascading.enlarging(model, config, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "blur"}, "network does not take .* trained for --task super"),
        ({"task": "super", "factor": 4}, "trained for --factor 2"),
        ({"task": "super", "noise": 0.3}, "trained for --noise from 0.1 to 0.2"),
        ({"task": "blur", "method": "bicubic"}, "bicubic does not take .* enlarges small images"),
    ],
)
def test_other_measurements_are_refused_by_name(run, options, message):
    config = configs.Restore(run.run, **({"method": "network"} | options))
    with pytest.raises(ValueError, match=message):
        command.prepared(config, False)


@pytest.mark.parametrize("method", ["easy_consistency_distillation", "knowledge_distillation"])
def test_a_student_is_trained_on_measurements_and_shown_them(run, method, tmp_path):
    config = configs.Distill(
        run.run, str(tmp_path / "student"), method, updates=2, batch=4, learning_rate=1e-2
    )
    student = distill(config, progress=False)
    assert student.student and student.measure is not None
    options = configs.Restore(
        config.run, task="super", noise=0.15, samples=2, count=2, out=str(tmp_path)
    )
    setting, chosen, _ = command.prepared(options, False)
    assert chosen == ["network"]
    found, more = command.restored_by("network", setting, options)
    seen = operators.Measurement(
        setting.seen.operator, jnp.repeat(setting.seen.observation, 2, axis=0), setting.seen.noise
    )
    by_hand = student_sampler(student, 1)(
        jax.random.key(0), 4, (8, 8, 1),
        {"beside": operators.beside(seen), "classes": np.repeat(setting.given.cond, 2)},
    )  # fmt: skip
    np.testing.assert_allclose(found.reshape(4, 8, 8, 1), np.clip(by_hand, -1, 1), atol=1e-5)
    other = student_sampler(student, 1)(jax.random.key(0), 4, (8, 8, 1), None)
    assert more["nfe"] == 1 and np.abs(by_hand - other).max() > 1e-3
    for wrong, said in (
        ({"method": "dps"}, "a student answers at its own noise levels alone"),
        ({"task": "blur", "method": None}, "not shown this measurement: .* for --task super"),
        ({"num_steps": 7}, "evaluations, not with 7"),
        ({"high": 20.0}, "--high would have no effect: a student has its own sampler"),
    ):
        with pytest.raises(ValueError, match=said):
            command.prepared(dataclasses.replace(options, **wrong), False)
    with pytest.raises(ValueError, match="without which it has not learnt to sample"):
        conditions(student, configs.Sample(config.run))


def test_an_exported_sampler_takes_what_is_shown(run, tmp_path):
    export(configs.Export(run.run, str(tmp_path / "made.npz"), num_steps=2))
    made, model = load_sampler(tmp_path / "made.npz"), load_model(run.run)
    beside = np.random.default_rng(0).uniform(-1, 1, (3, 8, 8, 2)).astype(np.float32)
    cond = {"beside": beside, "classes": np.arange(3, dtype=np.int32)}
    own = Sampler(model.denoiser, table(solvers.dpmpp, karras(2)))(
        jax.random.key(4), 3, (8, 8, 1), cond
    )
    shown, not_shown = (made.run(4, np.arange(3), c) for c in (cond, cond | {"beside": 0 * beside}))
    np.testing.assert_allclose(shown, np.clip(own, -1, 1), atol=1e-5)
    assert np.abs(shown - not_shown).max() > 1e-3


def test_samples_are_compared_given_measurements_of_the_reference(run, tmp_path):
    model = load_model(run.run)
    config = configs.Evaluate(run.run, count=6, features="pixels")
    real = references.find(model, config, progress=False)
    cond, said = references.labels_for(model, real, config)
    assert said == "measurements and classes of the reference" and model.classes == 10
    rows = rows_in_turn(real.reference, 6, 0)
    assert (cond["classes"] == real.reference.labels[rows]).all()
    images = to_float(real.reference.images[rows])
    small = images.reshape(6, 4, 2, 4, 2).mean((2, 4))
    shown = cond["beside"][..., 0].reshape(6, 4, 2, 4, 2).mean((2, 4))
    noise = cond["beside"][:, 0, 0, 1]
    assert (noise >= 0.1).all() and (noise <= 0.2).all()
    assert 0.5 < ((shown - small) / noise[:, None, None]).std() < 1.5
    sampled = configs.Sample(run.run, guidance=2.0)
    with pytest.raises(ValueError, match="--guidance would have no effect: no measurement"):
        conditions(model._replace(classes=0), sampled)


def test_what_cannot_be_trained_is_refused_by_name():
    with pytest.raises(ValueError, match="--measure.factor would have no effect"):
        observe_of(configs.Measure("blur", factor=2), (8, 8, 1))
    with pytest.raises(ValueError, match="--measure.noise"):
        observe_of(configs.Measure(noise=(0.2, 0.1)), (8, 8, 1))
    with pytest.raises(ValueError, match="not on arrays"):
        observe_of(configs.Measure(), (8,))


def test_every_task_has_channels_beside_x():
    shown = {"inpaint": 7, "colour": 4, "super": 4, "blur": 4, "motion": 4}
    for task, channels in shown.items():
        assert channels_of(configs.Measure(task), (8, 8, 3)) == channels


def test_what_comes_next_is_what_a_run_is_for(run):
    model = load_model(run.run)
    assert commands._next("r", model) == "next: jaxdiff restore --run r --task super --noise 0.1"
    alone = model._replace(metadata=model.metadata | {"measure": None})
    assert commands._next("r", alone) == "next: jaxdiff sample --run r"
