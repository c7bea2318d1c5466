"""The command line: ``jaxdiff demo | train | ema | distill | tune | discriminate | adapt | sample |
optimise | restore | edit | evaluate | analyse | export | inspect | runs | compare | list``.

Each command is a function of one typed configuration (:mod:`jaxdiff.app.config`), every field of
which is an option (:mod:`jaxdiff.app.commands`).
"""

import difflib
import os
import sys
import typing
from collections.abc import Sequence
from typing import Any

from jaxdiff.app import parsing
from jaxdiff.app.commands import COMMANDS
from jaxdiff.app.completion import completion
from jaxdiff.app.config_given import MISSING, own_options, read_values, to_toml
from jaxdiff.app.environment import use_cache as use_cache
from jaxdiff.app.environment import versions
from jaxdiff.app.help import page
from jaxdiff.app.options import check
from jaxdiff.app.overview import OVERVIEW
from jaxdiff.app.stopped import how_to_go_on

ONE_PROCESS = (
    "adapt", "demo", "ema", "optimise", "restore", "edit", "analyse", "export", "inspect", "runs",
    "compare",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    try:
        status = _main(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141  # as of a process that SIGPIPE has ended
    except KeyboardInterrupt:
        print("\njaxdiff: stopped before anything was done", file=sys.stderr)
        return 130
    return status


def _main(arguments: list[str]) -> int:
    traceback = "--traceback" in arguments
    citing = "--cite" in arguments
    arguments = [a for a in arguments if a not in ("--traceback", "--cite")]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(OVERVIEW.format(presets=", ".join(parsing.presets())))
        return 0
    if arguments[0] == "--completion":
        return print_completion(arguments[1:])
    if arguments[0] == "--version":
        print(versions())
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, 1)
        near = f"; did you mean {close[0]!r}?" if close else ""
        print(f"jaxdiff: no command {command!r}{near}", file=sys.stderr)
        print("The commands are: " + ", ".join(COMMANDS), file=sys.stderr)
        return 2
    parse, _ = COMMANDS[command]
    try:
        if {"-h", "--help"} & set(rest):
            print(page(command, kind_of(command), rest))
            raise SystemExit(0)
        rest = ["--help" if argument == "--help-all" else argument for argument in rest]
        rest, file, printing = own_options(rest)
        values = {} if file is None else read_values(file, command)
        where = "" if file is None else f"--config {file}"
        given = parsing.FromFile(values, where, printing)
        config = parse(command, rest, given)
        parsing.refuse_without_value(parse, command, rest, given, config)
        if printing:
            print(printed(command, config), end="")
            return 0
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(f"jaxdiff {command}: {error}", file=sys.stderr)
        return 2
    return print_papers(command, config) if citing else _run(command, config, traceback)


def _run(command: str, config: Any, traceback: bool) -> int:
    """Run a command of a configuration; return the exit status."""
    from jaxdiff.training import hosts

    use_cache()
    try:
        hosts.connect()  # before anything is computed
    except (ValueError, RuntimeError) as error:
        print(f"jaxdiff: several processes, but {error}", file=sys.stderr)
        return 2
    if hosts.several() and command in ONE_PROCESS:
        print(
            f"jaxdiff: {command} is for one process; JAXDIFF_HOSTS=off makes it one",
            file=sys.stderr,
        )
        return 2
    if not hosts.is_main_process():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    _, run = COMMANDS[command]
    try:
        check(config)
        run(config)
    except KeyboardInterrupt as stopped:
        print(f"\njaxdiff {command}: {stopped or 'stopped'}", file=sys.stderr)
        print(how_to_go_on(command, config), file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise
    except (ValueError, OSError, FloatingPointError) as error:
        if traceback:
            raise
        print(f"jaxdiff {command}: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if traceback:
            raise
        said = f"{type(error).__name__}: {error}\n--traceback shows where it comes from"
        print(f"jaxdiff {command}: {said}", file=sys.stderr)
        return 1
    return 0


def printed(command: str, config: Any) -> str:
    """Return a configuration as TOML. ValueError for a number out of its range, where all that must
    be given is there.
    """
    text = to_toml(command, config)
    if MISSING not in text:
        check(config)
    return text


def print_completion(shells: Sequence[str]) -> int:
    """Print the script of a shell; return the exit status."""
    words = {"train": tuple(parsing.presets()), "list": parsing.kinds_of_lists()}
    try:
        kinds = {command: kind_of(command) for command in COMMANDS}
        print(completion(" ".join(shells), kinds, words), end="")
    except ValueError as error:
        print(f"jaxdiff: {error}", file=sys.stderr)
        return 2
    return 0


def print_papers(command: str, config: Any) -> int:
    """Print the papers of what a command would do; return the exit status."""
    from jaxdiff.app.citations import cited

    try:
        print(cited(config))
    except (ValueError, OSError) as error:
        print(f"jaxdiff {command}: {error}", file=sys.stderr)
        return 2
    return 0


def kind_of(command: str) -> type:
    """Return the configuration of a command."""
    return typing.get_type_hints(COMMANDS[command][1])["config"]
