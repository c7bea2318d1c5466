"""Adapters by the command line: trained, saved, looked at, put in, refused."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.app import main as cli
from jaxdiff.app import text as texts
from jaxdiff.app.adapt import adapt
from jaxdiff.app.adapters import parsed, with_adapters
from jaxdiff.app.inspect import inspect
from jaxdiff.app.load import load_model
from jaxdiff.app.models import model_of
from jaxdiff.data.words import words_of
from jaxdiff.networks import init, small_text_to_image

pytestmark = pytest.mark.usefixtures("as_users")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "svdiff", "rank": 3}, "--rank would have no effect: svdiff has neither"),
        ({"token": "x"}, "--token would have no effect: lora has no new token"),
        ({"kind": "custom"}, "--kind custom needs a --token, and a word to --start from"),
        ({"kind": "textual-inversion", "token": "x", "start": "a", "layers": ("*",)},
         "--layers would have no effect: the token's rows alone"),
        ({"prior_count": 3}, "--prior-count would have no effect: lora has no own samples"),
        ({"kind": "dreambooth"}, "--kind dreambooth needs images of the subject: --data.path"),
        ({"rank": 0}, "--rank must be at least 1, not 0"),
        ({"kind": "dreambooth", "prior_weight": 0.0, "prior_count": 3},
         "--prior-count would have no effect: --prior-weight 0 makes no own samples"),
    ],
)  # fmt: skip
def test_options_without_effect_are_refused(given, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        adapt(configs.Adapt("nowhere", str(tmp_path / "x.safetensors"), **given), progress=False)
    assert not list(tmp_path.iterdir())


def test_an_argument_is_a_file_and_a_scale():
    assert parsed("a/b.safetensors:0.5") == ("a/b.safetensors", 0.5)
    assert parsed("c:/b.safetensors") == ("c:/b.safetensors", 1.0)
    for wrong in ("x:nan", ":2"):
        with pytest.raises(ValueError, match="--adapter is FILE or FILE:SCALE"):
            parsed(wrong)
    with pytest.raises(FileNotFoundError, match="there is no adapter none.safetensors: jaxdiff"):
        with_adapters(load_model("digits"), ("none.safetensors:0.5",))


@pytest.mark.slow
def test_adapters_of_a_run(tmp_path, capsys):
    run, data = str(tmp_path / "run"), tmp_path / "new.npz"
    small = ["--network.channels", "8", "--network.multipliers", "1", "--updates", "4"]
    assert cli.main(["train", "digits", "--run", run, "--batch", "8", *small]) == 0
    images = np.zeros((5, 8, 8, 1), np.uint8)
    images[:, 2:6, 2:6] = 255
    np.savez(data, images=images)
    short = ["--updates", "3", "--batch", "4", "--learning-rate", "0.1"]
    own = ["--data.path", str(data), "--label", "3"]
    files = {}
    for kind, more in {
        "lora": ["--rank", "2", "--layers", "*Conv*kernel"],
        "svdiff": [],
        "dreambooth": [*own, "--prior-count", "4", "--num-steps", "2"],
    }.items():
        files[kind] = str(tmp_path / f"{kind}.safetensors")
        command = ["adapt", "--run", run, "--kind", kind, "--out", files[kind], *short, *more]
        assert cli.main(command) == 0, capsys.readouterr().err
    text = inspect(configs.Inspect(files["lora"]))
    assert "adapter: lora" in text and "ranks 2 to 2" in text
    assert "adapter: svdiff" in inspect(configs.Inspect(files["svdiff"]))
    made = {}
    for name, given in {
        "plain": [], "lora": [files["lora"]], "none": [f"{files['lora']}:0"],
        "both": [files["lora"], f"{files['svdiff']}:0.5"],
    }.items():  # fmt: skip
        out = tmp_path / name
        command = ["sample", "--run", run, "--out", str(out), "--count", "3", "--num-steps", "2"]
        assert cli.main([*command, *(["--adapter", *given] if given else [])]) == 0
        made[name] = np.load(out / "samples.npz")["images"]
    np.testing.assert_array_equal(made["none"], made["plain"])
    assert np.abs(made["lora"] - made["plain"]).max() > 1e-3
    assert np.abs(made["both"] - made["lora"]).max() > 1e-3
    capsys.readouterr()
    command = ["adapt", "--run", run, "--kind", "lora", "--layers", "*attention*"]
    assert cli.main([*command, "--out", str(tmp_path / "x.safetensors")]) == 2
    assert "no parameter fits" in capsys.readouterr().err
    assert cli.main(["adapt", "--run", run, "--data.path", str(data), *short]) == 2
    assert "has no classes: give the images' --label" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


def text_run():
    """An untrained model of texts; its parameters are small numbers."""
    tokenizer = words_of(["a red seven, upper left", "a blue one"])
    own = configs.TextUNet(channels=(8,), head_width=8, text_width=8, text_depth=1)
    module = small_text_to_image(
        len(tokenizer), tokenizer.length, tokenizer.empty, image_channels=3,
        **{k: v for k, v in dataclasses.asdict(own).items() if k not in ("dtype", "classes")},
    )  # fmt: skip
    shapes = jax.eval_shape(lambda key: init(module, key, (8, 8, 3)), jax.random.key(0))
    metadata = {
        "kind": "teacher", "network": config_file.to_dict(own), "shape": [8, 8, 3],
        "classes": 0, "sigma_data": 0.5, "data": None,
        "tokenizer": dataclasses.asdict(texts.words(tokenizer)),
    }  # fmt: skip
    rng = np.random.default_rng(0)
    draw = lambda s: (rng.standard_normal(s.shape) * 0.1).astype(s.dtype)  # noqa: E731
    return model_of(jax.tree.map(draw, shapes), json.loads(json.dumps(metadata)))


@pytest.mark.slow
def test_new_tokens_of_a_text_run(tmp_path, monkeypatch):
    model = text_run()
    monkeypatch.setattr("jaxdiff.app.adapt.load_model", lambda *_: model)
    data = tmp_path / "new.npz"
    np.savez(data, images=np.full((3, 8, 8, 3), 200, np.uint8))
    shared = {
        "data": configs.AdaptData(str(data)), "updates": 2, "batch": 2, "token": "zorp",
        "vectors": 2, "start": "seven",
    }  # fmt: skip
    for kind, more in {
        "textual-inversion": {},
        "custom": {"prior_count": 3, "num_steps": 1},
    }.items():
        path = str(tmp_path / f"{kind}.safetensors")
        adapt(configs.Adapt("r", path, kind=kind, **shared, **more), progress=False)
        made = with_adapters(model, (path,))
        count = len(model.tokenizer)
        assert made.tokenizer.encode("a zorp") == [*model.tokenizer.encode("a"), count, count + 1]
        table = made.params["encoder"]["tokens"]["embedding"]
        assert table.shape == (count + 2, 8) and made.module.encoder.vocabulary == count + 2
        cond = texts.texts_condition(made.tokenizer, ["a zorp"])
        assert np.isfinite(made.denoiser(np.zeros((1, 8, 8, 3), np.float32), 1.0, cond)).all()
        with pytest.raises(ValueError, match="put in whole: its scale is 1"):
            with_adapters(model, (f"{path}:0.5",))
    for given, said in (
        ({"start": "cat"}, "--start 'cat' is not a word that r knows"),
        ({"prompt": "a seven"}, "does not say with {} where the token goes"),
        ({"token": "red"}, "the word 'red' is there already"),
        ({"label": "3"}, "--label would have no effect: this model is conditioned on texts"),
    ):
        with pytest.raises(ValueError, match=said):
            adapt(configs.Adapt("r", path, kind="custom", **(shared | given)), progress=False)
