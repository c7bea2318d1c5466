"""Configuration files of the user's: ``--config FILE`` and ``--print-config``, with any command.

A file is TOML, or YAML where PyYAML is installed, and names the fields of a command's configuration
(``learning_rate`` or ``learning-rate``), the nested ones in tables. What it says takes the place of
defaults and presets; the command line beats it. "None" stands for no value, which TOML has not.
"""

import dataclasses
import difflib
import importlib
import importlib.util
import json
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdiff.app.config_file import plain_value

MISSING = " =    required"  # after the name of a field that must be given
REQUIRED = "<required>"  # in place of a text that must be given, where a configuration is printed


def own_options(arguments: Sequence[str]) -> tuple[list[str], str | None, bool]:
    """Return arguments without ``--config FILE`` and ``--print-config``, the file, and whether the
    configuration is to be printed. ValueError for a second file, or none after ``--config``.
    """
    left, file, printing, given = [], None, False, iter(arguments)
    for argument in given:
        name, equals, value = argument.partition("=")
        if name == "--config":
            value = value if equals else next(given, "")
            if file is not None or not value:
                raise ValueError("--config takes one file" if value else "--config needs a file")
            file = value
        elif argument == "--print-config":
            printing = True
        else:
            left.append(argument)
    return left, file, printing


def read_values(path: str, command: str) -> dict[str, Any]:
    """Return the values of a configuration file of a command.

    Raises OSError if it cannot be read, ValueError for one that is damaged, of another kind or of
    another command.
    """
    kind = Path(path).suffix.lower()
    if kind not in (".toml", ".yaml", ".yml"):
        raise ValueError(f"--config {path}: a configuration is a .toml, .yaml or .yml file")
    text = Path(path).read_text(encoding="utf-8")
    try:
        found = tomllib.loads(text) if kind == ".toml" else _yaml(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"--config {path} is no TOML: {error}") from error
    found = {} if found is None else found
    if not isinstance(found, dict):
        raise ValueError(f"--config {path} should name fields, one a line")
    own = found.pop("command", command)
    if own != command:
        raise ValueError(f"--config {path} is of jaxdiff {own}, not of jaxdiff {command}")
    return found


def _yaml(text: str) -> Any:
    if importlib.util.find_spec("yaml") is None:
        raise ValueError("a YAML file needs PyYAML: pip install pyyaml, or write TOML")
    yaml = importlib.import_module("yaml")

    class Loader(yaml.SafeLoader):
        """Reads 1e-3 as the number that it is in every other language."""

    number = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+.0123456789"))
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"--config is no YAML: {error}") from error


def with_values(base: Any, values: Mapping[str, Any], where: str) -> Any:
    """Return a configuration with some of its fields replaced, the nested ones within theirs.

    base: a configuration, or its kind, whose required fields then are tyro's MISSING. where: what
    names the file in errors. Raises ValueError, naming the field, for one that there is not, with
    the nearest, or a value of another type.
    """
    import tyro

    kind = base if isinstance(base, type) else type(base)
    hints, fields = typing.get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}
    made = {}
    for field in fields.values():
        given = _default(field) if isinstance(base, type) else getattr(base, field.name)
        made[field.name] = tyro.MISSING if given is dataclasses.MISSING else given
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1)
            hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(fields)}"
            raise ValueError(f"{where} has no field {key}{hint}")
        made[name] = _value(made[name], hints[name], value, f"{where}.{name}")
    return kind(**made)


def _value(before: Any, hint: Any, value: Any, where: str) -> Any:
    options = typing.get_args(hint) if typing.get_origin(hint) in _UNIONS else (hint,)
    if value == "None" and types.NoneType in options:
        return None
    if dataclasses.is_dataclass(before) and isinstance(value, Mapping):
        named = value.get("kind", type(before).__name__)
        if named == type(before).__name__:
            return with_values(before, {k: v for k, v in value.items() if k != "kind"}, where)
    return plain_value(hint, value, where)


_UNIONS = (types.UnionType, typing.Union)


def _default(field: dataclasses.Field) -> Any:
    made = field.default_factory is not dataclasses.MISSING
    return field.default_factory() if made else field.default  # type: ignore[misc]


def without_pairs(config: Any) -> Any:
    """Return a configuration without the names and values of its dictionaries, each of which tyro
    would otherwise take for an option.
    """
    return _each(config, None, lambda here, _: {} if isinstance(here, dict) else here)


def with_pairs(config: Any, before: Any) -> Any:
    """Return a configuration whose dictionaries have those of another one beneath their own."""
    return _each(config, before, lambda here, own: {**own, **here} if _both(here, own) else here)


def _both(here: Any, own: Any) -> bool:
    return isinstance(here, dict) and isinstance(own, dict)


def _each(config: Any, other: Any, f: Any) -> Any:
    """Return a configuration whose fields are those of ``f(own, the other's)``, where it has the
    same.
    """
    made = {}
    for field in dataclasses.fields(config):
        here = getattr(config, field.name)
        there = getattr(other, field.name, None)
        nested = dataclasses.is_dataclass(here)
        made[field.name] = _each(here, there, f) if nested else f(here, there)
    return dataclasses.replace(config, **made)


def filled(config: Any) -> Any:
    """Return a configuration with a mark in every field that must be given and is not."""
    import tyro

    hints, made = typing.get_type_hints(type(config)), {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            made[field.name] = filled(value)
        elif value is tyro.MISSING:
            made[field.name] = REQUIRED if hints[field.name] is str else math.nan
    return dataclasses.replace(config, **made)


def to_toml(command: str, config: Any) -> str:
    """Return a command's configuration as TOML, which ``--config`` reads back as the same."""
    head = f"# jaxdiff {command} --config FILE; the command line beats the file"
    return "\n".join([head, f"command = {_toml(command)}", *_lines(config, "")]) + "\n"


def _lines(config: Any, table: str) -> list[str]:
    """Return the lines of a configuration, its tables last, as TOML requires."""
    lines, tables = [], []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) or isinstance(value, dict):
            tables.append((f"{table}{field.name}", value))
        elif value == REQUIRED or value != value:
            lines.append(f"# {field.name}{MISSING}")
        else:
            lines.append(f"{field.name} = {_toml(value)}")
    for name, value in tables:
        lines += ["", f"[{name}]"]
        if isinstance(value, dict):
            lines += [f"{_toml(k)} = {_toml(v)}" for k, v in value.items()]
        else:
            if name == "network":  # one of several kinds
                lines.append(f"kind = {_toml(type(value).__name__)}")
            lines += _lines(value, f"{name}.")
    return lines


def _toml(value: Any) -> str:
    if value is None:
        return '"None"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
