"""Pairs of names, published and ours, that are read in both directions.

A pair is ("down_blocks.#.resnets.#.conv1", "down_#/block_#/conv_in"), a "#" standing for a number,
the same ones in the same order on both sides. :func:`rules` makes a layout's rules of pairs, and
:func:`published` names our parameters as their publishers do: for saving, and for files that hold
changes of some of them.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxdiff.typing import Params

Pair = tuple[str, str]


def rules(pairs: Iterable[Pair]) -> tuple[tuple[str, str], ...]:
    """Return the rules of a layout (:class:`jaxdiff.pretrained.layout.Layout`)."""
    return tuple((_pattern(theirs), _template(ours)) for theirs, ours in pairs)


def published(params: Params, pairs: Iterable[Pair]) -> dict[str, tuple[tuple[str, ...], Any]]:
    """Return every parameter by its published name: its path here and itself.

    params: the network's "params". The first pair that fits is taken. Raises ValueError naming a
    parameter that no pair names.
    """
    back = [(re.compile(_pattern(ours)), _template(theirs)) for theirs, ours in pairs]
    made: dict[str, tuple[tuple[str, ...], Any]] = {}
    for path, leaf in flat(params).items():
        name = _named("/".join(path), "", back)
        if name is None:
            name = _named("/".join(path[:-1]), _leaf(path[-1]), back)
        if name is None:
            raise ValueError(f"{'/'.join(path)} has no published name")
        made[name] = path, leaf
    return made


def name_of(path: str, pairs: Iterable[Pair]) -> str | None:
    """Return the published name of a module's path here, "block_0/attention/out"; None without."""
    return _named(path, "", [(re.compile(_pattern(o)), _template(t)) for t, o in pairs])


def flat(params: Mapping[str, Any], at: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return the leaves of a tree of dictionaries by their paths."""
    made: dict[tuple[str, ...], Any] = {}
    for key, value in params.items():
        made |= flat(value, (*at, key)) if isinstance(value, Mapping) else {(*at, key): value}
    return made


def unturned(path: tuple[str, ...], value: Any) -> np.ndarray:
    """Return a parameter as it is published, its kernel turned round."""
    value = np.asarray(value)
    if path[-1] == "kernel":
        value = value.transpose(value.ndim - 1, value.ndim - 2, *range(value.ndim - 2))
    return np.ascontiguousarray(value).reshape(value.shape)  # which makes a number a vector


def _named(path: str, leaf: str, back: list[tuple[re.Pattern[str], str]]) -> str | None:
    for pattern, template in back:
        if match := pattern.fullmatch(path):
            return match.expand(template) + (f".{leaf}" if leaf else "")
    return None


def _leaf(name: str) -> str:
    return "bias" if name == "bias" else "weight"


def _pattern(name: str) -> str:
    return re.escape(name).replace(r"\#", r"(\d+)")


def _template(name: str) -> str:
    count = iter(range(1, 100))
    return re.sub("#", lambda match: rf"\{next(count)}", name)
