"""Which attention layers a controller changes: functions of :class:`jaxdiff.networks.Place`."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from jaxdiff.networks.attention import AttentionFn, Place, softmax_attention
from jaxdiff.typing import Array

Where: TypeAlias = Callable[[Place], bool]


class At(NamedTuple):
    """Layers of a kind, of some stages, with grids of some sizes; all of them by default.

    kind: "self" or "cross", "" for both. stages: names as ``Place.stage`` has them, () for all.
    smallest, largest: numbers of a grid's tokens.
    """

    kind: str = ""
    stages: tuple[str, ...] = ()
    smallest: int = 0
    largest: int | None = None

    def __call__(self, place: Place) -> bool:
        """Return whether a layer is among them."""
        tokens = 1
        for n in place.grid:
            tokens *= n
        fits = self.smallest <= tokens and (self.largest is None or tokens <= self.largest)
        staged = not self.stages or place.stage in self.stages
        return fits and staged and self.kind in ("", place.kind)


SELF, CROSS = At("self"), At("cross")


class Elsewhere(NamedTuple):
    """The static half of an attention that is changed at some layers, and plain at others."""

    where: Where
    changed: Callable[..., Array]

    def __call__(self, numbers: tuple, q: Array, k: Array, v: Array, place: Place) -> Array:
        """Return what the layer gives."""
        if not self.where(place):
            return softmax_attention(q, k, v, place)
        return self.changed(numbers, q, k, v, place)


def check_where(where: Where) -> None:
    """Raise TypeError for what does not choose layers."""
    if not callable(where):
        raise TypeError(f"where is a function of a Place, such as At('self'); this is {where!r}")


__all__ = ["CROSS", "SELF", "At", "AttentionFn", "Elsewhere", "Where", "check_where"]
