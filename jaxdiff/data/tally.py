"""Counts of what a reader noticed or left out, by reason, with the first names of each."""

SHOWN = 2  # names for each reason


class Tally:
    """Counts by reason, and the first names."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}
        self._counts: dict[str, int] = {}

    def add(self, reason: str, name: str) -> None:
        """Count ``name`` under ``reason``."""
        self._counts[reason] = self._counts.get(reason, 0) + 1
        if self._counts[reason] <= SHOWN:
            self._names.setdefault(reason, []).append(name)

    def lines(self) -> tuple[str, ...]:
        """Return one text for each reason, as "dangling links: 3 (a.png, b.png, ...)"."""
        return tuple(
            f"{reason}: {count} ({', '.join(self._names[reason])}{', ...' * (count > SHOWN)})"
            for reason, count in self._counts.items()
        )
