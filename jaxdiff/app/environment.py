"""What a command runs in: versions and devices, and where compiled programs are kept."""

import os
import platform
from pathlib import Path

CACHED = 2 << 30  # bytes of compiled programs


def versions() -> str:
    """Return what a report of a fault needs: versions and devices."""
    from importlib.metadata import version

    import jax

    names = ("jaxdiff", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "diffrax", "numpy")
    lines = [f"{name} {version(name)}" for name in names]
    devices = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    return "\n".join(
        [*lines, f"Python {platform.python_version()}, {platform.platform()}", devices]
    )


def use_cache() -> None:
    """Keep compiled programs on disk, unless the user has chosen where, or that they are not kept.

    By version of jaxlib and kind of processor, for whose programs no other can be taken. What the
    environment says of the size and of the programs worth keeping (jax's own variables) holds.
    """
    import jax
    import jaxlib

    chosen = os.environ.get("JAXDIFF_CACHE", "")
    if getattr(jax.config, "jax_compilation_cache_dir", None) or chosen == "off":
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxdiff"
    folder = Path(chosen or home) / f"{jaxlib.__version__}-{platform.machine()}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    ours = {
        "jax_compilation_cache_max_size": CACHED,
        "jax_persistent_cache_min_compile_time_secs": 0.5,
    }
    for name, value in ours.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)
