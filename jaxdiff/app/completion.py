"""``jaxdiff --completion SHELL``: a script with which bash, zsh or fish completes commands."""

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jaxdiff.app.help import WHOLE, options


def completion(shell: str, kinds: Mapping[str, type], words: Mapping[str, Sequence[str]]) -> str:
    """Return a script that completes commands, options and their words in a shell.

    shell: bash, zsh or fish. kinds: configurations by command. words: what may come first after a
    command, by command. Raises ValueError for another shell.
    """
    if shell == "fish":
        return _fish(kinds, words)
    if shell not in ("bash", "zsh"):
        raise ValueError(f"--completion is for bash, zsh or fish, not {shell!r}")
    cases = []
    for command, kind in kinds.items():
        flags = " ".join([o.flag for o in options(kind)] + [w.split()[0] for w in WHOLE])
        first = " ".join(words[command]) if command in words else ""
        chosen = "".join(
            f"        {flag}) words={' '.join(choices)!r} ;;\n" for flag, choices in _choices(kind)
        )
        cases.append(
            f"    {command})\n      words='{first} {flags}'\n      case $before in\n{chosen}"
            "      esac ;;\n"
        )
    script = BASH.format(commands=" ".join(kinds), cases="".join(cases))
    return ("autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else "") + script


BASH = """\
_jaxdiff() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words=""
  case ${{COMP_WORDS[1]}} in
{cases}    esac
  if [ "$COMP_CWORD" -eq 1 ]; then words='{commands} --help --version'; fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _jaxdiff jaxdiff
"""


def _choices(kind: Any) -> Iterator[tuple[str, list[str]]]:
    """Yield the options that take one of several words, with these."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        for one in (hint, *typing.get_args(hint)):
            if typing.get_origin(one) is typing.Literal:
                yield f"--{field.name.replace('_', '-')}", [*map(str, typing.get_args(one))]


def _fish(kinds: Mapping[str, type], words: Mapping[str, Sequence[str]]) -> str:
    lines = [f"complete -c jaxdiff -n __fish_use_subcommand -f -a '{' '.join(kinds)}'"]
    for command, kind in kinds.items():
        head, chosen = f"complete -c jaxdiff -n '__fish_seen_subcommand_from {command}'", {}
        if command in words:
            lines.append(f"{head} -a '{' '.join(words[command])}'")
        chosen = dict(_choices(kind))
        for option in options(kind):
            text = option.text.partition(". ")[0].replace("'", "\\'")
            own = f" -x -a '{' '.join(chosen[option.flag])}'" if option.flag in chosen else ""
            lines.append(f"{head} -l '{option.flag[2:]}'{own} -d '{text[:60]}'")
    return "\n".join(lines) + "\n"
