"""Help on one screen, and completion that shells can read."""

import shutil
import subprocess
import sys

import pytest

from jaxdiff.app import config as configs
from jaxdiff.app import main as cli
from jaxdiff.app.help import brief, grouped, options


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_option_is_on_one_screen(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "48")
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    text = capsys.readouterr().out
    lines, words = text.splitlines(), text.split()
    assert left.value.code == 0 and len(lines) <= 48 and max(map(len, lines)) <= 100
    kind = cli.kind_of(command)
    assert {option.flag for option in options(kind)} <= set(words)
    grouped_ones = [option for own in grouped(kind).values() for option in own]
    assert sorted(grouped_ones) == sorted(options(kind))  # each in one group
    assert all(option.text for option in options(kind)), command


def test_a_page_is_of_what_is_named(capsys):
    def page(*arguments):
        with pytest.raises(SystemExit):
            cli.main([*arguments, "--help"])
        return capsys.readouterr().out

    assert "PRESET is digits or" in page("train")
    mnist = page("train", "mnist")
    assert "--updates N     Updates in all [20000]" in mnist and "PRESET" not in mnist
    assert "--network.patch" in page("train", "digits", "--network", "dit")
    assert "usage: jaxdiff sample --run TEXT [OPTIONS]" in page("sample")
    assert "usage: jaxdiff inspect PATH [OPTIONS]" in page("inspect")
    assert "usage: jaxdiff edit [IMAGES ...] --run TEXT [OPTIONS]" in page("edit")
    assert "choices of easy_consistency: stages, q, c" in page("distill")
    assert "fine 60: steps of the teacher's grid" in page("tune", "--method", "gits")
    with pytest.raises(SystemExit):
        cli.main(["sample", "--help-all"])
    assert "keeping its noise" in " ".join(capsys.readouterr().out.split())


def test_names_that_usage_leaves_out_may_be_left_out():
    from jaxdiff.app import commands
    from jaxdiff.app.help import BARE
    from jaxdiff.app.parsing import NOTHING

    for kind, (name, _) in BARE.items():
        command, word = kind.__name__.lower(), "networks" if kind is configs.List else "word"
        needed = ["--run", "r"] if command in ("restore", "edit") else []
        found = getattr(commands.COMMANDS[command][0](command, [word, *needed], NOTHING), name)
        assert found in (word, (word,)), command


def test_what_has_no_room_is_named():
    text = brief("sample", configs.Sample, lines=24)
    assert len(text.splitlines()) <= 24
    assert "--run TEXT" in text and "sampler: --solver --order" in text


def test_shells_complete_commands_options_and_words(capsys):
    assert cli.main(["--completion", "bash"]) == 0
    script = capsys.readouterr().out
    if shutil.which("bash") is None:
        pytest.skip("there is no bash")

    def completed(*words):
        line = f"COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1}; _jaxdiff"
        return subprocess.run(
            ["bash", "-c", f'{script}\n{line}; echo "${{COMPREPLY[@]}}"'],
            capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip

    assert completed("jaxdiff", "dis") == ["distill", "discriminate"]
    assert completed("jaxdiff", "sample", "--num") == ["--num-steps"]
    assert completed("jaxdiff", "sample", "--grid", "v") == ["vp_time"]
    assert set(completed("jaxdiff", "train", "mnist")) == {"mnist", "mnist-small"}
    assert completed("jaxdiff", "list", "tu") == ["tuners"]
    assert cli.main(["--completion", "fish"]) == 0
    assert "from sample' -l 'num-steps'" in capsys.readouterr().out
    assert cli.main(["--completion", "tcsh"]) == 2
    assert "bash, zsh or fish, not 'tcsh'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["train", "digits", "--run", "r"], "goes on from the checkpoints in r"),
        (["tune", "--run", "r", "--out", "o"], "goes on with what is finished in o"),
        (["demo"], "goes on with what is finished in runs/demo"),
        (["sample", "--run", "r"], "give the command again"),
    ],
)
def test_a_stopped_command_says_how_to_go_on(given, said, capsys, monkeypatch):
    def stopped(config):
        raise KeyboardInterrupt("stopped after 3 updates")

    parse, _ = cli.COMMANDS[given[0]]
    monkeypatch.setitem(cli.COMMANDS, given[0], (parse, stopped))
    assert cli.main(given) == 130
    text = capsys.readouterr().err
    assert f"jaxdiff {given[0]}: stopped after 3 updates\n" in text and said in text


def test_a_reader_that_has_seen_enough_is_no_error():
    """As head is, of a list that is longer than a pipe holds."""
    code = (
        "import sys; from jaxdiff.app import main, listing;"
        "listing.listing = lambda _: 'x' * 10**6;"
        "sys.exit(main.main(['list', 'solvers']))"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert run.stdout is not None and run.stderr is not None
    run.stdout.read(10)
    run.stdout.close()
    said = run.stderr.read().decode()
    run.stderr.close()
    assert run.wait() == 141 and said == ""


def test_stopping_while_options_are_read_is_said_in_a_line(capsys, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    _, run = cli.COMMANDS["sample"]
    monkeypatch.setitem(cli.COMMANDS, "sample", (stopped, run))
    assert cli.main(["sample"]) == 130
    assert "stopped before anything was done" in capsys.readouterr().err
