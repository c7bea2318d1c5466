"""Boxes that say where things are to be: trained, saved, given, refused by the command line."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from jaxdiff.adapt.grown import BOXES
from jaxdiff.adapt.patterns import matching
from jaxdiff.app import boxes
from jaxdiff.app import config as configs
from jaxdiff.app import main as cli
from jaxdiff.app.adapters import with_adapters
from jaxdiff.app.load import load_model
from jaxdiff.data import Dataset, compose, load_digits
from jaxdiff.pretrained.names import flat, unturned
from jaxdiff.pretrained.tensors import open_tensors

pytestmark = pytest.mark.usefixtures("as_users")
SMALL = ["--network.channels", "8", "--network.head-width", "8", "--network.text-width", "8",
         "--network.text-depth", "1", "--data.compose", "40", "--data.size", "8"]  # fmt: skip
SHORT = ["--updates", "3", "--batch", "4", "--learning-rate", "0.1"]


def test_a_box_is_four_ends_and_a_text():
    assert boxes.parsed("0,0.25,0.5,1") == ((0, 0.25, 0.5, 1), None)
    assert boxes.parsed("0,0,1,1: a seven") == ((0, 0, 1, 1), "a seven")
    for wrong in ("0,0,1", "0,0,1,1:", "0.5,0,0.5,1", "0,0,1,1.5", "0,0,nan,1", "a,b,c,d"):
        with pytest.raises(ValueError, match="--box is LEFT,UPPER,RIGHT,LOWER"):
            boxes.parsed(wrong)


def test_composed_pictures_know_the_boxes_of_their_ink():
    made = compose(load_digits("train"), 30, size=8)
    for image, (box,) in zip(made.images, made.boxes(), strict=True):
        left, upper, right, lower = (8 * box).round().astype(int)
        inside = np.zeros((8, 8), bool)
        inside[upper:lower, left:right] = True
        assert image[inside].any() and not image[~inside].any()


def test_boxes_without_effect_are_refused(tmp_path):
    plain = boxes.boxed(load_model("digits"), None, configs.Sample("digits"))
    assert plain is None
    with pytest.raises(ValueError, match="--box would have no effect: no --adapter of --kind"):
        boxes.boxed(load_model("digits"), None, configs.Sample("digits", box=("0,0,1,1",)))


def test_a_gate_is_a_number_in_its_file_too():
    gate = np.float32(0.5)
    assert unturned(("boxes", "gate_self"), gate).shape == ()
    assert unturned(("conv", "kernel"), np.zeros((3, 2, 4, 5))).shape == (5, 4, 3, 2)


def test_every_box_has_its_text_or_the_caption():
    data = Dataset(np.zeros((2, 4, 4, 1), np.uint8), conditions={"text": ["a", "b"]})
    ends = np.array([[[0, 0, 1, 1], [0, 0, 0.5, 1]], [[0, 0, 1, 1], [0, 0, 0, 0]]], np.float32)
    assert boxes._texts_of(data, ends) == [["a", "a"], ["b", "b"]]
    own = [["c", "d"], ["e", ""]]
    given = dataclasses.replace(data, conditions={"box_texts": own})
    assert boxes._texts_of(given, ends) == own
    for wrong, at in ((own[::-1], 0), ([["c", "d"], ["e", "f"]], 1), ([["c"], ["e"]], 0)):
        given = dataclasses.replace(data, conditions={"box_texts": wrong})
        with pytest.raises(ValueError, match=f"image {at} has not as many box_texts as boxes"):
            boxes._texts_of(given, ends)
    with pytest.raises(ValueError, match="has no captions"):
        boxes._texts_of(dataclasses.replace(data, conditions={}), ends)


@pytest.mark.slow
def test_a_run_of_texts_learns_boxes(tmp_path, capsys):
    run, file = str(tmp_path / "run"), str(tmp_path / "boxes.safetensors")
    assert cli.main(["train", "text", "--run", run, "--updates", "2", "--batch", "4", *SMALL]) == 0
    command = ["adapt", "--run", run, "--kind", "gligen", *SHORT, "--out"]
    assert cli.main([*command, str(tmp_path / "folder")]) == 2
    assert "saved as a .safetensors file" in capsys.readouterr().err
    assert cli.main([*command, file]) == 0, capsys.readouterr().err
    assert f"--adapter {file} --box LEFT,UPPER,RIGHT,LOWER" in capsys.readouterr().out
    assert "position_net.linears.0.weight" in open_tensors(file)

    base = load_model(run)
    made = with_adapters(base, [file])
    own, other = flat(made.params), flat(base.params)
    assert all((own[at] == leaf).all() for at, leaf in other.items())  # what is frozen, bitwise
    new = {at for at, free in flat(matching(made.params, BOXES)).items() if free}
    assert new == {*own} - {*other}
    moved = [at for at in new if at[-1] in ("gate_self", "gate_mlp") and np.asarray(own[at]).any()]
    assert moved  # gates open as they are trained

    sample = ["sample", "--run", run, "--count", "2", "--num-steps", "2", "--prompt", "a red seven"]
    found = {}
    for name, more in {
        "plain": [], "left": ["--adapter", file, "--box", "0,0,0.5,0.5:seven"],
        "right": ["--adapter", file, "--box", "0.5,0,1,0.5", "--guidance", "2"],
    }.items():  # fmt: skip
        assert cli.main([*sample, "--out", str(tmp_path / name), *more]) == 0, capsys.readouterr()
        found[name] = np.load(tmp_path / name / "samples.npz")["images"]
    assert np.abs(found["left"] - found["plain"]).max() > 1e-4
    assert np.abs(found["right"] - found["left"]).max() > 1e-4
    for more, said in (
        (["--adapter", file], "give a --box"),
        (["--adapter", f"{file}:0.5", "--box", "0,0,1,1"], "its scale is 1"),
        (["--adapter", file, file, "--box", "0,0,1,1"], "attends to boxes already"),
        (["--box", "0,0,1,1"], "--box would have no effect"),
    ):
        assert cli.main([*sample, "--out", str(tmp_path / "x"), *more]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["sample", "--run", "digits", "--adapter", file, "--box", "0,0,1,1"]) == 2
    assert "is not for this model: this needs a UNet2DCondition" in capsys.readouterr().err
    assert cli.main(["adapt", "--run", "digits", "--kind", "gligen", "--out", file + "2"]) == 2
    assert "is no run of texts" in capsys.readouterr().err

    place = tmp_path / "images"
    place.mkdir()
    rows = []
    for i in range(4):
        Image.fromarray(np.full((8, 8, 3), 60 * i, np.uint8)).save(place / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": "a red seven"})
        rows[-1]["boxes"], texts = [[0, 0, 0.5, 1]] * i, ["red", "seven", "a seven"][:i]
        rows[-1] |= {"box_texts": texts}
    (place / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    own = ["--data.path", str(place), "--data.captions", "True"]
    assert cli.main([*command, str(tmp_path / "own.safetensors"), *own]) == 0, capsys.readouterr()
    (place / "metadata.jsonl").write_text(
        "\n".join(json.dumps({k: v for k, v in row.items() if k != "boxes"}) for row in rows)
    )
    capsys.readouterr()
    assert cli.main([*command, str(tmp_path / "no.safetensors"), *own]) == 2
    assert "has no boxes: give, beside the images" in capsys.readouterr().err
    assert not (tmp_path / "no.safetensors").exists()


@pytest.mark.slow
def test_a_network_of_texts_is_fine_tuned_to_inpainting_and_takes_a_prompt(tmp_path, capsys):
    run, wide = str(tmp_path / "run"), str(tmp_path / "wide")
    assert cli.main(["train", "text", "--run", run, "--updates", "2", "--batch", "4", *SMALL]) == 0
    command = [
        "train",
        "inpaint",
        "--run",
        wide,
        "--network",
        "text",
        "--init",
        run,
        *SMALL,
        "--sigma-data",
        "0.4",
    ]
    assert cli.main([*command, "--updates", "2", "--batch", "4"]) == 0, capsys.readouterr().err
    model = load_model(wide)
    assert model.measure is not None and model.tokenizer == load_model(run).tokenizer
    out = tmp_path / "restored"
    restore = ["restore", "--run", wide, "--task", "inpaint", "--methods", "network,mmps"]
    restore += ["--num-steps", "2", "--count", "2", "--samples", "1", "--out", str(out)]
    found = []
    for prompt in ("a red seven", "a blue one"):
        assert cli.main([*restore, "--prompt", prompt]) == 0, capsys.readouterr().err
        found.append(np.load(out / "restored.npz"))
    assert found[0]["restored by network"].shape == (2, 1, 8, 8, 3)
    assert np.abs(found[0]["restored by network"] - found[1]["restored by network"]).max() > 1e-5
    capsys.readouterr()
    assert cli.main(["restore", "--run", "digits", "--prompt", "x", "--out", str(out)]) == 2
    assert "--prompt would have no effect: this model takes no text" in capsys.readouterr().err
