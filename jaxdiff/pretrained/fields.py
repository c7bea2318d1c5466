"""Fields of a config.json, with the defaults of the class it names, checked."""

from collections.abc import Mapping
from typing import Any

MOST_LAYERS = 256  # several times what the deepest published models have


class Fields:
    """The fields of a configuration: those that are there, and the defaults of the others."""

    def __init__(self, config: Mapping[str, Any], defaults: Mapping[str, Any], name: str) -> None:
        """Take them. Raises ValueError for a field that the class does not have.

        Fields that begin with "_" say where a file comes from and are left out.
        """
        given = {k: v for k, v in config.items() if not k.startswith("_")}
        if strange := sorted(set(given) - set(defaults)):
            raise ValueError(f"{name} has no field {strange[0]!r} that is known here")
        self.name, self.values = name, {**defaults, **given}

    def __getitem__(self, field: str) -> Any:
        """Return a field's value."""
        return self.values[field]

    def whole(self, *fields: str) -> tuple[int, ...]:
        """Return fields that are positive whole numbers."""
        found = tuple(self[f] for f in fields)
        for field, value in zip(fields, found, strict=True):
            if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**20:
                self.refuse(field, "a positive whole number")
            if value > MOST_LAYERS and ("layers" in field or "blocks" in field):
                self.refuse(field, f"at most {MOST_LAYERS}")
        return found

    def wholes(self, field: str) -> tuple[int, ...]:
        """Return a field that is a list of positive whole numbers."""
        given = self[field]
        good = isinstance(given, (list, tuple)) and 0 < len(given) < 20
        if not good or not all(type(c) is int and 0 < c < 2**20 for c in given):
            self.refuse(field, "a list of positive whole numbers")
        return tuple(given)

    def some(self, field: str) -> int:
        """Return a field that is a positive whole number, or 0 where it is null."""
        return 0 if self[field] is None else self.whole(field)[0]

    def of(self, field: str, *allowed: Any) -> Any:
        """Return a field that has one of some values."""
        if self[field] not in allowed:
            self.refuse(field, " or ".join(map(repr, allowed)))
        return self[field]

    def number(self, field: str) -> float:
        """Return a field that is a number."""
        if not isinstance(self[field], (int, float)) or isinstance(self[field], bool):
            self.refuse(field, "a number")
        return self[field]

    def each(self, field: str, count: int, kind: type = int) -> tuple[Any, ...]:
        """Return a value per level: those of a list of ``count``, or the same for all."""
        value = self[field]
        values = tuple(value) if isinstance(value, (list, tuple)) else (value,) * count
        if len(values) != count or not all(isinstance(v, kind) for v in values):
            self.refuse(field, f"a value of {kind.__name__}, or {count} of them")
        if "layers" in field and not all(0 < v <= MOST_LAYERS for v in values):
            self.refuse(field, f"from 1 to {MOST_LAYERS}")
        return values

    def kinds(self, field: str, names: Mapping[str, str]) -> tuple[str, ...]:
        """Return the kinds of stages of a list of published names."""
        given = self[field]
        if not isinstance(given, (list, tuple)) or not given:
            self.refuse(field, "a list of block types")
        for name in given:
            if name not in names:
                raise ValueError(
                    f"{self.name}: blocks of type {name} ({field}) are not supported; those that "
                    f"are: {', '.join(names)}"
                )
        return tuple(names[name] for name in given)

    def plain(self, field: str, value: Any = None) -> None:
        """Refuse a field of something that is not supported."""
        if self[field] != value:
            raise ValueError(f"{self.name}: {field} = {self[field]!r} is not supported")

    def refuse(self, field: str, what: str) -> None:
        """Raise ValueError for a field's value."""
        raise ValueError(f"{self.name}: {field} must be {what}; it is {self[field]!r:.100}")


def channels(fields: Fields) -> tuple[int, ...]:
    """Return the channels of the levels, as many as there are block types both ways."""
    given = fields.wholes("block_out_channels")
    for field in ("down_block_types", "up_block_types"):
        if field in fields.values and len(fields[field]) != len(given):
            fields.refuse(field, f"as long as block_out_channels, {len(given)}")
    return given
