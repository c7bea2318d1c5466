"""What a command that was stopped leaves, and how it goes on."""

from typing import Any


def how_to_go_on(command: str, config: Any) -> str:
    """Return what is kept of a command that a signal has stopped, and how to go on, in words."""
    if hasattr(config, "save_every"):
        return f"the same command goes on from the checkpoints in {config.run}, if there are any"
    if command in ("demo", "tune"):
        return f"the same command goes on with what is finished in {config.out}"
    return "files are written whole or not at all: give the command again"
