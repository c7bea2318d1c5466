"""Runs that are conditioned on texts: trained, sampled, and given to every other command."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.app import text as texts
from jaxdiff.app.conditions import check_class_condition, conditions
from jaxdiff.app.data import read_data
from jaxdiff.app.distill import distill
from jaxdiff.app.evaluate import evaluate
from jaxdiff.app.export import export
from jaxdiff.app.load import load_model
from jaxdiff.app.load_run import load_run
from jaxdiff.app.models import model_of
from jaxdiff.app.sample import sample
from jaxdiff.app.samplers import guided
from jaxdiff.app.train import train
from jaxdiff.app.tune import tune
from jaxdiff.data.words import read_words, words_of
from jaxdiff.networks import init, small_text_to_image
from jaxdiff.sampling.export import load_sampler

DATA = configs.Data("digits", compose=40, size=8)
NETWORK = configs.TextUNet(channels=(8,), head_width=8, text_width=8, text_depth=1)
CAPTIONS = ["a red seven, upper left", "a blue one"]
PROMPTS = ("a red seven", "a blue one, upper left")


@pytest.fixture(autouse=True)
def as_users_run():
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def model():
    """An untrained model of texts; its parameters are zeros: nothing is drawn or compiled."""
    tokenizer = words_of(CAPTIONS)
    module = small_text_to_image(
        len(tokenizer), tokenizer.length, tokenizer.empty, image_channels=3,
        **{k: v for k, v in dataclasses.asdict(NETWORK).items() if k not in ("dtype", "classes")},
    )  # fmt: skip
    shapes = jax.eval_shape(lambda key: init(module, key, (8, 8, 3)), jax.random.key(0))
    metadata = {
        "kind": "teacher", "network": config_file.to_dict(NETWORK), "shape": [8, 8, 3],
        "classes": 0, "sigma_data": 0.4, "data": dataclasses.asdict(DATA),
        "tokenizer": dataclasses.asdict(texts.words(tokenizer)),
    }  # fmt: skip
    metadata = json.loads(json.dumps(metadata))
    return model_of(jax.tree.map(lambda s: np.zeros(s.shape, s.dtype), shapes), metadata)


def test_a_model_keeps_its_tokenizer(model):
    assert model.tokenizer == words_of(CAPTIONS)
    assert len(model.module.empty) == model.tokenizer.length
    again = model_of(model.params, json.loads(json.dumps(model.metadata)))
    assert again.tokenizer == model.tokenizer


def test_the_next_command_after_training_has_a_prompt(model, monkeypatch, capsys):
    from jaxdiff.app import commands

    for name, config in (("train", configs.Train("r")), ("distill", configs.Distill("t", "r"))):
        monkeypatch.setattr(f"jaxdiff.app.{name}.{name}", lambda config: model)
        getattr(commands, name)(config)
        assert "next: jaxdiff sample --run r --prompt TEXT\n" in capsys.readouterr().out
        plain = model._replace(metadata={**model.metadata, "tokenizer": None})
        monkeypatch.setattr(f"jaxdiff.app.{name}.{name}", lambda config, plain=plain: plain)
        getattr(commands, name)(config)
        assert "next: jaxdiff sample --run r\n" in capsys.readouterr().out
    monkeypatch.setattr("jaxdiff.app.adapt.adapt", lambda config: (model, {"loss": 1.0}))
    commands.adapt(configs.Adapt("r", "a.safetensors"))
    assert "--run r --prompt TEXT --adapter a.safetensors\n" in capsys.readouterr().out


def test_prompts_are_taken_in_turn(model):
    cond = conditions(model, configs.Sample("run", count=3, prompt=PROMPTS))
    np.testing.assert_array_equal(cond["text"], model.tokenizer([*PROMPTS, PROMPTS[0]]))
    with pytest.warns(UserWarning, match="1 samples for 2 prompts.*none of 'a blue one, upper"):
        conditions(model, configs.Sample("run", count=1, prompt=PROMPTS))
    with pytest.warns(UserWarning, match="no caption in training had the word 'purple'"):
        conditions(model, configs.Sample("run", count=1, prompt=("a purple one",)))


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "conditioned on a text: give a --prompt"),
        ({"prompt": PROMPTS, "label": 3}, "--label would have no effect"),
        ({"prompt": PROMPTS, "negative_prompt": "a"}, "without --guidance nothing is kept away"),
    ],
)
def test_other_conditions_are_refused(model, options, message):
    with pytest.raises(ValueError, match=message):
        conditions(model, configs.Sample("run", count=2, **options))
    with pytest.raises(ValueError, match="jaxdiff edit.*is conditioned on texts"):
        check_class_condition(model, "edit")


def test_guidance_keeps_away_from_the_negative_prompt(model):
    def D(y, level, cond=None):
        return y + cond["text"].sum(axis=1).astype(y.dtype)[:, None]

    cond = {"text": model.tokenizer([*PROMPTS])}
    y = np.zeros((2, 1), np.float32)
    for negative in (None, "a red one"):
        away = np.tile(model.tokenizer(negative or ""), (2, 1))
        made = guided(model, D, 3.0, negative)(y, 1.0, cond)
        sums = cond["text"].sum(1), away.sum(1)
        np.testing.assert_allclose(made[:, 0], sums[1] + 3.0 * (sums[0] - sums[1]))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data": configs.Data("digits")}, "the data have none: give --data.captions"),
        ({"network": configs.UNet()}, "has text beside its images.*--network text takes captions"),
        ({"data": dataclasses.replace(DATA, flip=True)}, "--data.flip does not go with --data.com"),
        ({"data": configs.Data("digits", nouns=("a",))}, "--data.nouns would have no effect"),
        ({"data": configs.Data("digits", captions=True)}, "--data.captions would have no effect"),
    ],
)
def test_data_and_networks_that_do_not_go_together(tmp_path, changes, message):
    config = configs.Train(str(tmp_path / "run"), data=DATA, network=NETWORK)
    with pytest.raises(ValueError, match=message):
        train(dataclasses.replace(config, **changes), progress=False)
    assert not (tmp_path / "run").exists()


def test_composed_data_are_described(capsys):
    data = read_data(DATA)
    assert data.shape == (8, 8, 3) and len(data.conditions["text"]) == 40
    line = capsys.readouterr().out
    assert "digits-train-composed" in line or "digits-composed" in line
    assert "text: " in line and "held-out pairs of class and colour among them: 0" in line


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("runs") / "text")
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        config = configs.Train(folder, data=DATA, network=NETWORK, updates=2, batch=4)
        train(config, progress=False)
    return folder


@pytest.mark.slow
def test_a_run_is_sampled_by_prompts(run, tmp_path):
    assert read_words(f"{run}/tokenizer.json") == load_model(run).tokenizer
    again = config_file.load(run)
    assert isinstance(again, configs.Train) and again.network == NETWORK
    made = {}
    for name, options in {
        "plain": {}, "guided": {"guidance": 3.0},
        "negative": {"guidance": 3.0, "negative_prompt": "a blue one"},
    }.items():  # fmt: skip
        config = configs.Sample(
            run, str(tmp_path / name), count=3, num_steps=2, prompt=PROMPTS, **options
        )
        sample(config)
        made[name] = np.load(tmp_path / name / "samples.npz")
        assert made[name]["prompts"].tolist() == [*PROMPTS, PROMPTS[0]]
    images = [m["images"] for m in made.values()]
    assert np.abs(images[0] - images[1]).max() > 1e-5 < np.abs(images[1] - images[2]).max()
    loaded = load_run(run)
    assert loaded.parts["tokenizer"] == load_model(run).tokenizer and "text" in loaded.cond


@pytest.mark.slow
def test_a_run_is_distilled_tuned_and_evaluated(run, tmp_path):
    student = distill(
        configs.Distill(run, str(tmp_path / "student"), updates=2, batch=4), progress=False
    )
    assert student.student and student.tokenizer == load_model(run).tokenizer
    options = {"count": 8, "features": "pixels", "num_steps": (2,)}
    said = evaluate(configs.Evaluate(run, **options), progress=False)
    assert "captions of the reference" in said
    text = tune(
        configs.Tune(
            run=run, out=str(tmp_path / "tuned"), nfe=(2,), pairs=16, teacher_steps=3, updates=1
        ),
        progress=False,
    )
    assert "NFE" in text


@pytest.mark.slow
def test_a_run_is_exported(run, tmp_path):
    export(configs.Export(run, str(tmp_path / "made.npz"), num_steps=2, guidance=2.0))
    own = load_sampler(tmp_path / "made.npz")
    cond = {"text": load_model(run).tokenizer([*PROMPTS])}
    assert own.run(0, np.arange(2), cond).shape == (2, 8, 8, 3)


def test_a_class_stands_beside_the_text(model):
    both = model._replace(classes=3, metadata={**model.metadata, "class_names": ("a", "b", "c")})
    given = conditions(both, configs.Sample("run", count=2, prompt=PROMPTS))
    np.testing.assert_array_equal(given["classes"], [3, 3])  # none
    given = conditions(both, configs.Sample("run", count=2, label="b"))
    np.testing.assert_array_equal(given["classes"], [1, 1])
    np.testing.assert_array_equal(given["text"], model.tokenizer(["", ""]))
    with pytest.raises(ValueError, match="label z is not one of"):
        conditions(both, configs.Sample("run", count=2, label="z", prompt=PROMPTS))
    assert texts.away(model.tokenizer, classes=3)["classes"] == 3
    assert texts.classes_of(given, 3).tolist() == [1, 1]
    assert texts.classes_of({"classes": np.array([3, 3])}, 3) is None


@pytest.mark.slow
def test_a_run_has_classes_beside_its_texts(tmp_path):
    rng, place = np.random.default_rng(0), tmp_path / "images.npz"
    words = np.array(["a red seven", "a blue one, upper left"] * 30)
    images = rng.integers(0, 256, (60, 8, 8, 3)).astype(np.uint8)
    np.savez(place, images=images, labels=np.arange(60) % 3, text=words)
    data, network = (
        configs.Data(str(place), captions=True),
        dataclasses.replace(NETWORK, classes=True),
    )
    folder = str(tmp_path / "run")
    config = configs.Train(folder, data=data, network=network, updates=2, batch=4,
                           learning_rate=0.3, warmup=0)  # fmt: skip
    made = train(config, progress=False)
    assert made.classes == 3 and made.tokenizer is not None
    images = []
    for label in ("0", "1", None):
        sample(configs.Sample(folder, str(tmp_path / "out"), count=2, num_steps=2, label=label,
                              prompt=PROMPTS, guidance=2.0))  # fmt: skip
        images.append(np.load(tmp_path / "out/samples.npz"))
    assert images[0]["labels"].tolist() == [0, 0] and "labels" not in images[2]
    assert (images[0]["images"] != images[1]["images"]).any()  # equal were it not read
    options = {"count": 8, "features": "pixels", "num_steps": (2,)}
    said = evaluate(configs.Evaluate(folder, **options), progress=False)
    assert "captions and classes of" in said
    export(configs.Export(folder, str(tmp_path / "made.npz"), num_steps=2))
    student = distill(
        configs.Distill(folder, str(tmp_path / "s"), updates=2, batch=4), progress=False
    )
    assert student.classes == 3
    with pytest.raises(ValueError, match="--network.classes would have no effect"):
        other = dataclasses.replace(
            config, run=folder + "2", data=dataclasses.replace(data, labels="none")
        )
        train(other, progress=False)
