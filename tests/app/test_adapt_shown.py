"""Adapters of runs that are shown more than classes: captions of a folder, measurements."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from jaxdiff.app import config as configs
from jaxdiff.app import main as cli
from jaxdiff.app.adapt import _objective
from jaxdiff.app.data import data_of
from jaxdiff.app.distill import check_classes
from jaxdiff.app.load import load_model
from jaxdiff.app.models import Model
from jaxdiff.app.objective import OBJECTIVE
from jaxdiff.app.presets import PRESETS
from jaxdiff.app.text import captioned
from jaxdiff.app.train import train
from jaxdiff.data import Dataset

NETWORK = configs.TextUNet(channels=(8,), head_width=8, text_width=8, text_depth=1)
CAPTIONS = ("a red seven", "a blue one", "two", "a one")
SHORT = ["--updates", "1", "--batch", "2"]


@pytest.fixture(autouse=True)
def as_users_run():
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        yield


@pytest.fixture
def pictures(tmp_path):
    """Pictures in folders of classes, with captions and numbers in the layout of Hugging Face."""
    folder, rows = tmp_path / "pictures", []
    for i, text in enumerate(CAPTIONS):
        name = f"{'ab'[i % 2]}/{i}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 60 * i + 10, np.uint8)).save(folder / name)
        rows.append({"file_name": name, "text": text, "width": 8, "id": 10**12 + i})
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def test_captions_alone_are_taken():
    images, given = np.zeros((2, 4, 4, 1), np.uint8), {"text": ["a", "b"], "width": [1, 2]}
    data = Dataset(images, np.arange(2), 2, conditions=given)
    alone, left = captioned(data)
    assert left == ("classes", "width") and {*alone.conditions} == {"text"}
    assert alone.labels is None and alone.num_classes == 0
    assert captioned(alone) == (alone, ())


def test_a_latent_run_is_adapted_by_its_own_objective():
    metadata = {"network": {}, "process": "edm", "prediction": "edm", "sigma_data": 1.0}
    run = Model(None, {}, (4, 4, 2), 0, False, metadata, None, source=object())  # type: ignore[arg-type]
    assert {*_objective(run)} == {"levels", "weight"}
    assert _objective(run._replace(metadata={"network": None})) == {}


def test_an_adapter_is_trained_at_the_levels_of_the_run():
    options = {name: getattr(PRESETS["text"][1], name) for name in OBJECTIVE}
    told = {"network": {}, "process": "edm", "prediction": "edm", "sigma_data": 0.4}
    run = Model(None, {}, (4, 4, 3), 0, False, told | {"objective": options})  # type: ignore[arg-type]
    key, x = jax.random.key(0), np.zeros((4000, 1), np.float32)
    logs = np.log(_objective(run)["levels"].draw(key, x))
    wanted = [options["level_mean"], options["level_std"]]
    assert abs(wanted[0] - -1.2) > 0.5  # not the usual ones
    np.testing.assert_allclose([logs.mean(), logs.std()], wanted, atol=0.08)
    before = _objective(run._replace(metadata=told))["levels"].draw(key, x)
    np.testing.assert_allclose(np.log(before).mean(), -1.2, atol=0.08)


@pytest.mark.slow
def test_a_folder_with_classes_captions_and_numbers(pictures, tmp_path, capsys):
    run = str(tmp_path / "run")
    own = configs.Data(str(pictures), captions=True)
    train(configs.Train(run, own, network=NETWORK, updates=1, batch=2), progress=True)
    said = capsys.readouterr().out
    assert "left out: classes, width;" in said and "id is not read" in said
    model = load_model(run)
    data = data_of(model, configs.OtherData(), progress=False)  # it is known again
    assert {*data.conditions} == {"text"}
    check_classes(data, model)
    shutil.copytree(pictures, tmp_path / "others")
    out = str(tmp_path / "lora.safetensors")
    command = ["adapt", "--run", run, "--out", out, "--data.path", str(tmp_path / "others")]
    assert cli.main([*command, *SHORT]) == 2
    assert "has no captions: give the images' --prompt" in capsys.readouterr().err
    assert cli.main([*command, *SHORT, "--data.captions", "True"]) == 0, capsys.readouterr().err
    assert cli.main(["adapt", "--run", run, "--out", out, *SHORT]) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_a_restoration_network_is_adapted_to_what_it_is_shown(tmp_path, capsys, monkeypatch):
    run, out = str(tmp_path / "run"), str(tmp_path / "lora.safetensors")
    small = configs.UNet(channels=8, multipliers=(1,))
    config = configs.Train(
        run, configs.Data(labels="none", limit=8), measure=configs.Measure("super"), network=small,
        updates=1, batch=2,
    )  # fmt: skip
    train(config, progress=False)
    seen = []
    from jaxdiff.distill.parts.student import Student

    check = Student.check
    monkeypatch.setattr(
        Student, "check", lambda self, batch: (seen.append(batch), check(self, batch))[1]
    )
    assert cli.main(["adapt", "--run", run, "--out", out, *SHORT]) == 0, capsys.readouterr().err
    assert seen and all(batch["label"]["beside"].shape[:3] == (2, 8, 8) for batch in seen)
    other = ["--kind", "dreambooth", "--data.path", "digits"]
    assert cli.main(["adapt", "--run", run, "--out", out, *other]) == 2
    assert "makes images of one that it is shown" in capsys.readouterr().err
    assert cli.main(["adapt", "--run", run, "--out", out, "--data.captions", "True"]) == 2
    assert "--data.captions would have no effect" in capsys.readouterr().err
