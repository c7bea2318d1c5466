"""Files of configurations: ``config.json`` in the folder of a run.

It is enough to rebuild the run's network. Plain values are read back by the types of the fields,
and what a field cannot be is an error that names it.
"""

import contextlib
import dataclasses
import difflib
import json
import math
import os
import pathlib
import sys
import types
import typing
from typing import Any, TypeVar

from jaxdiff.app.config import Data, Distill, Measure, PredictionName, ProcessName, Train
from jaxdiff.app.config_network import Network, Words
from jaxdiff.data.words import SPECIAL
from jaxdiff.files import read_json, write_text

# fields of a run's configuration that had other names, and their names now
RENAMED = {"steps": "updates", "accumulate": "gradient_accumulation"}
LARGEST = 1 << 63  # beyond it an integer is no number of anything
LARGEST_TEXT = 10**5  # tokens
MOST_CLASSES = 1_000_000  # each has a name in memory
C = TypeVar("C")


@dataclasses.dataclass(frozen=True)
class ModelMetadata:
    """Metadata of a finished model's file, besides what only students have."""

    network: Network | None
    """None for a student of published weights."""
    shape: tuple[int, ...]
    """Of an image."""
    classes: int
    sigma_data: float
    data: Data | None
    class_names: tuple[str, ...] = ()
    """"0", "1", ... by default."""
    process: ProcessName = "edm"
    prediction: PredictionName = "edm"
    measure: Measure | None = None
    """What the network is shown beside x, None for nothing."""
    tokenizer: Words | None = None
    """Of a model that takes texts."""
    pairs: int = 0
    """Channels of the picture that the network is shown beside x, of pairs; 0 for none."""
    autoencoder: str | None = None
    """File of the autoencoder whose latents these are; None of images."""

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1 or math.prod(self.shape) >= 1 << 31:
            raise ValueError(f"no image has shape {self.shape}")
        if not 0 <= self.classes <= MOST_CLASSES or self.sigma_data <= 0:
            raise ValueError(
                f"there are no {self.classes} classes of standard deviation {self.sigma_data}"
            )
        if len(self.class_names) not in (0, self.classes):
            raise ValueError(f"{self.classes} classes have {len(self.class_names)} names")
        if not 0 <= self.pairs < 1 << 16 or (self.pairs and self.measure is not None):
            raise ValueError(f"no picture of {self.pairs} channels stands beside x")
        known = self.tokenizer
        if known and (
            len(set(known.words)) != len(known.words) or not {*SPECIAL} <= {*known.words}
        ):
            raise ValueError("the tokenizer has a word twice, or lacks a special one")
        if known and not 3 <= known.length <= LARGEST_TEXT:
            raise ValueError(f"no text has {known.length} tokens")


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain values, with its kind; with that of its network, too."""
    values = {"kind": type(config).__name__} | dataclasses.asdict(config)
    if dataclasses.is_dataclass(network := getattr(config, "network", None)):
        values["network"] = to_dict(network)
    return values


def from_dict(kind: type[C], values: dict[str, Any], where: str = "config") -> C:
    """Return a configuration from plain values. Raises ValueError naming a field that is unknown,
    missing or of another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where} should hold the fields of {kind.__name__}")
    hints, fields = typing.get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    values = {k: v for k, v in values.items() if k != "kind"}
    for name in values:
        if name not in fields:
            close = difflib.get_close_matches(name, fields, 1)
            raise ValueError(
                f"{where}: no field {name!r} in "
                f"{kind.__name__}{f'; {close[0]!r}?' if close else ''}"
            )
    try:
        return kind(**{k: plain_value(hints[k], v, f"{where}.{k}") for k, v in values.items()})
    except (TypeError, RecursionError) as error:
        raise ValueError(f"{where}: {error}") from error


def plain_value(hint: Any, value: Any, where: str) -> Any:
    """Return the value of a field of a type, made of what JSON knows. ValueError for another
    type.
    """
    origin, of = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _one_of(of, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple and _fits(of, value):
        return tuple(plain_value(of[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is tuple and _single(of, value):
        return (plain_value(of[0], value, where),)
    if origin is dict and isinstance(value, dict):
        return {k: plain_value(of[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin is typing.Literal and value in of:
        return value
    if hint is float and type(value) in (int, float) and abs(value) < sys.float_info.max:
        return value
    if hint in (bool, str) and type(value) is hint:
        return value
    if hint is int and type(value) is int and abs(value) < LARGEST:
        return value
    named = hint.__name__ if isinstance(hint, type) else str(hint).removeprefix("typing.")
    raise ValueError(f"{where} should be of type {named}, not {value!r:.60}")


def _fits(of: tuple[Any, ...], value: Any) -> bool:
    """Return whether a value is a sequence of as many entries as a type of tuples has."""
    return isinstance(value, list | tuple) and (of[-1] is Ellipsis or len(of) == len(value))


def _single(of: tuple[Any, ...], value: Any) -> bool:
    """Return whether a value is one of what there may be several of."""
    return of[-1] is Ellipsis and isinstance(value, str | int | float)


def _one_of(hints: tuple[Any, ...], value: Any, where: str) -> Any:
    """Return the value as the first of these types that it is; fields as those of the kind that
    they name, the first where they name none.
    """
    if value is None and types.NoneType in hints:
        return None
    kinds: dict[str, Any] = {h.__name__: h for h in hints if dataclasses.is_dataclass(h)}  # type: ignore[union-attr]
    if kinds and isinstance(value, dict):
        named = value.get("kind", next(iter(kinds)))
        if not isinstance(named, str) or named not in kinds:
            raise ValueError(f"{where}.kind should be one of {', '.join(kinds)}, not {named!r:.60}")
        return from_dict(kinds[named], value, where)
    *others, last = (hint for hint in hints if hint is not types.NoneType)
    for hint in others:
        with contextlib.suppress(ValueError):
            return plain_value(hint, value, where)
    return plain_value(last, value, where)


def save(config: Any, folder: str | os.PathLike, known: dict[str, Any] | None = None) -> None:
    """Write ``config.json`` into a run's folder, whole or not at all. known: what else there is to
    know of the run (:mod:`jaxdiff.app.folder`).
    """
    values = to_dict(config) | ({} if known is None else {"known": known})
    write_text(pathlib.Path(folder) / "config.json", json.dumps(values, indent=1))


def load(folder: str | os.PathLike) -> Train | Distill:
    """Return the configuration of a run.

    Raises:
        FileNotFoundError: if there is no run. ValueError: if its configuration is damaged.
    """
    return load_known(folder)[0]


def load_known(folder: str | os.PathLike) -> tuple[Train | Distill, dict[str, Any]]:
    """Return the configuration of a run and what else is known of it, nothing in old runs."""
    path = pathlib.Path(folder) / "config.json"
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} is not a run: it has no config.json; nor are there published weights, or a "
            "card of this name"
        )
    try:
        values = read_json(path)
        kind = {"Train": Train, "Distill": Distill}[values["kind"]]
        known = dict(values.pop("known", {}))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    for before, now in RENAMED.items():
        if before in values:
            raise ValueError(
                f"{path} was written by an earlier version: its field {before!r} is called {now!r} "
                "now. Rename it in that file, or train the run again in another folder"
            )
    return from_dict(kind, values, str(path)), known
