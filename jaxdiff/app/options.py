"""Checks of options: ranges of numbers, options without effect, and how devices are used.

A numeric field of a configuration is declared with its range, ``steps: Count = 3000``. Every
command, and every function that takes a configuration, calls :func:`check` before anything else.
"""

import dataclasses
import types
import typing
from typing import Annotated, Any

from jaxdiff.ranges import Range
from jaxdiff.training.devices import first_devices


def check(config: Any, prefix: str = "--") -> None:
    """Raise ValueError, naming the option, for a number outside of its field's range, a text that
    is empty, and no number where the default has some.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value, name = getattr(config, field.name), prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            check(value, f"{name}.")
        elif value in ("", ()) and value != _default(field):
            raise ValueError(f"{name} is empty: give a value, or leave it out")
        else:
            _check(hints[field.name], value, name)


def _check(hint: Any, value: Any, name: str) -> None:
    origin, of = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        allowed = next(given for given in of[1:] if isinstance(given, Range))
        if not allowed.holds(value):
            raise ValueError(f"{name} must be {allowed}, not {value}")
    elif origin in (types.UnionType, typing.Union):
        if value is not None:
            _check(of[0], value, name)
    elif origin is tuple:
        for one in value:
            _check(of[0], one, name)
    elif origin is dict:
        for key, one in value.items():
            _check(of[1], one, f"{name} {key}")


def given(config: Any, *names: str) -> list[str]:
    """Return which of these fields are not at their defaults, as options."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    found = []
    for name in names:
        if name in fields and getattr(config, name) != _default(fields[name]):
            found.append("--" + name.replace("_", "-"))
    return found


def _default(field: dataclasses.Field) -> Any:
    made = field.default_factory is not dataclasses.MISSING
    return field.default_factory() if made else field.default  # type: ignore[misc]


def refuse(config: Any, why: str, *names: str) -> None:
    """Raise ValueError for fields that are given and that would have no effect: ``why``."""
    if found := given(config, *names):
        raise ValueError(f"{' and '.join(found)} would have no effect: {why}")


def placed(config: Any) -> dict[str, Any]:
    """Return how a configuration uses devices, as options of :func:`jaxdiff.training.loop.fit`."""
    placing = {"parallel": config.parallel, "devices": first_devices(config.devices)}
    trained = {
        k: getattr(config, k) for k in ("gradient_accumulation", "nonfinite") if hasattr(config, k)
    }
    return placing | trained
