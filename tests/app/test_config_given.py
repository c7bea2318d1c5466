"""Configuration files: read, refused, beaten by the command line, printed and read back."""

import dataclasses
import tomllib
import typing

import pytest

from jaxdiff.app import config as configs
from jaxdiff.app import config_given
from jaxdiff.app import main as cli
from jaxdiff.app.config_given import to_toml, with_values
from jaxdiff.app.parsing import FromFile

ODD = 'a "b" \\ \t ü 🙂 \x7f'


def changed(kind):
    """A configuration in which no field that has a default is at it, where that is possible."""
    hints, made = typing.get_type_hints(kind), {}
    for field in dataclasses.fields(kind):
        known = field.default
        if field.default_factory is not dataclasses.MISSING:
            made[field.name] = {"one two": 3, "flag": True, "text": ODD, "rate": 1e-3}
        elif dataclasses.is_dataclass(known):
            made[field.name] = changed(configs.DiT if field.name == "network" else type(known))
        else:
            made[field.name] = other(hints[field.name], known)
    return kind(**made)


def other(hint, known):
    options = [h for h in typing.get_args(hint) if h is not type(None)]
    if typing.get_origin(hint) in config_given._UNIONS:
        return None if known not in (None, dataclasses.MISSING) else other(options[0], known)
    if typing.get_origin(hint) is tuple:
        variable = Ellipsis in options
        return (
            ()
            if known and variable
            else tuple(other(h, None) for h in options if h is not Ellipsis)
        )
    if typing.get_origin(hint) is typing.Literal:
        return next(option for option in options if option != known)
    if dataclasses.is_dataclass(hint):
        return changed(hint)
    return {bool: not known, int: 7, float: 1e-07, str: ODD}[hint]


KINDS = {
    "train": configs.Train, "ema": configs.Ema, "distill": configs.Distill, "tune": configs.Tune,
    "discriminate": configs.Discriminate, "sample": configs.Sample, "optimise": configs.Optimise,
    "restore": configs.Restore, "edit": configs.Edit, "evaluate": configs.Evaluate,
    "analyse": configs.Analyse, "export": configs.Export, "inspect": configs.Inspect,
    "list": configs.List, "demo": configs.Demo, "runs": configs.Runs, "compare": configs.Compare,
    "adapt": configs.Adapt,
}  # fmt: skip


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_what_is_printed_is_read_back(command):
    config = changed(KINDS[command])
    values = tomllib.loads(to_toml(command, config))
    assert values.pop("command") == command
    parse, _ = cli.COMMANDS[command]
    assert parse(command, [], FromFile(values, "FILE")) == config


def test_the_command_line_beats_the_file_and_the_file_the_preset(tmp_path, capsys):
    file = tmp_path / "a.toml"
    file.write_text(
        'run = "there"\nlearning-rate = 1\nupdates = 5\nclip = "None"\n'
        '[data]\nflip = true\n[network]\nkind = "UNet"\nchannels = 16\n'
    )

    def printed(*arguments):
        assert cli.main([*arguments, "--config", str(file), "--print-config"]) == 0
        return tomllib.loads(capsys.readouterr().out)

    made = printed("train", "mnist", "--updates", "6", "--network.blocks", "3")
    assert made["updates"] == 6 and made["learning_rate"] == 1 and made["clip"] == "None"
    assert made["run"] == "there" and made["batch"] == 128  # of the preset
    assert made["data"]["path"] == "mnist.npz" and made["data"]["flip"]
    assert made["network"]["channels"] == 16 and made["network"]["blocks"] == 3
    assert made["network"]["multipliers"] == [1, 2, 2, 2]
    made = printed("train", "digits", "--network", "dit")  # another kind: nothing of the file's
    assert made["network"]["kind"] == "DiT" and made["network"]["width"] == 128
    file.write_text('teacher = "t"\n[choices]\nq = 2\nstages = 4\n')
    made = printed("distill", "--choices", "stages", "8", "--run", "r")
    assert made["choices"] == {"q": 2, "stages": 8}


def test_what_must_be_given_is_printed_as_a_remark(capsys):
    assert cli.main(["ema", "--print-config"]) == 0
    text = capsys.readouterr().out
    assert "# run =    required" in text and "# out =    required" in text
    assert tomllib.loads(text) == {
        "command": "ema",
        "std": "None",
        "decay": "None",
        "updates": "None",
    }


def test_a_number_out_of_its_range_is_not_printed(capsys):
    assert cli.main(["train", "digits", "--updates", "0", "--print-config"]) == 2
    said = capsys.readouterr()
    assert "--updates must be at least 1, not 0" in said.err and not said.out


def test_yaml_is_read_as_toml_is(tmp_path, monkeypatch):
    pytest.importorskip("yaml")
    file = tmp_path / "a.yml"
    file.write_text("run: r\nlearning_rate: 1e-3\nclip: null\ndata:\n  path: x\n")
    values = config_given.read_values(str(file), "train")
    made = with_values(configs.Train, values, "FILE")
    assert made.learning_rate == 1e-3 and made.clip is None and made.data.path == "x"
    file.write_text("a: [")
    with pytest.raises(ValueError, match="no YAML"):
        config_given.read_values(str(file), "train")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install pyyaml"):
        config_given.read_values(str(file), "train")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("updtes = 3", "has no field updtes; did you mean updates?"),
        ("[data]\nsplitt = 'val'", "a.toml.data has no field splitt; did you mean split?"),
        ("updates = 'many'", "a.toml.updates should be of type int, not 'many'"),
        ("process = 'vq'", "a.toml.process should be of type Literal"),
        ("[data]\nrange = [0, 1, 2]", "a.toml.data.range should be of type tuple"),
        ("command = 'sample'", "is of jaxdiff sample, not of jaxdiff train"),
        ("updates = ", "is no TOML"),
        ("seed = 'None'", "a.toml.seed should be of type int"),
    ],
)
def test_wrong_files_are_refused_by_name(text, said, tmp_path, capsys):
    (tmp_path / "a.toml").write_text(text)
    assert cli.main(["train", "digits", "--config", str(tmp_path / "a.toml")]) == 2
    assert said in capsys.readouterr().err


def test_a_preset_is_asked_for_where_there_is_no_file(tmp_path, capsys):
    for given, said in (
        ([], "give a preset: one of digits, images"),
        (["digitz"], "no preset 'digitz'; did you mean digits?"),
        (["nothing", "--run", "r"], "no preset 'nothing': one of digits"),
    ):
        assert cli.main(["train", *given]) == 2
        assert said in capsys.readouterr().err


def test_other_files_are_refused(tmp_path, capsys):
    for given, said in (
        (["--config"], "--config needs a file"),
        (["--config", "a.json"], "a .toml, .yaml or .yml file"),
        (["--config=a.toml", "--config", "b.toml"], "takes one file"),
        (["--config", str(tmp_path / "no.toml")], "No such file"),
    ):
        assert cli.main(["sample", *given]) == 2
        assert said in capsys.readouterr().err


def test_an_option_of_several_values_is_given_one(tmp_path, capsys):
    """Without, it was the default; where that is no empty one, nothing is a value like others."""
    for command, *given in (
        ("evaluate", "--num-steps", "--run", "r"), ("sample", "--run", "r", "--adapter"),
        ("train", "digits", "--log", "--print-config"),
        ("restore", "--run", "r", "--task", "super", "--images"),
    ):  # fmt: skip
        assert cli.main([command, *given]) == 2
        name = next(g for g in given if g in ("--num-steps", "--adapter", "--log", "--images"))
        assert f"{name} has no value: give one or more, or leave it out" in capsys.readouterr().err
    file = tmp_path / "logged.toml"
    file.write_text('log = ["tensorboard"]\n')
    given = ["--config", str(file), "--run", "r", "--log", "--network.attention", "--print-config"]
    assert cli.main(["train", "cifar10", *given]) == 0
    printed = tomllib.loads(capsys.readouterr().out)
    assert printed["log"] == [] and printed["network"]["attention"] == []
