"""Memory of opening a large file of published weights.

    python -m experiments.benchmarks.reading [--json FILE] [--markdown FILE]

A folder of diffusers is written with a U-Net of some 900 million parameters in float16, and opened
by ``load_pretrained`` in fresh processes:

    whole     as the file has it: each parameter an array of its own;
    float32   ``dtype=jnp.float32``: twice the file's bytes;
    sharded   on 8 simulated devices, ``put=`` placing each parameter as ``fsdp`` splits it.

Peak memory is what the process's resident set had at most while it read, less what it had before;
the parameters' own bytes are counted beside it. Aim: a peak of at most 1.2 times the parameters'
bytes, and when sharded no device holds more than its part and what does not divide. Takes about a
minute, 4 GB of disk and 5 GB of memory; ``--width 32`` is a small form of it.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmarks import common
from experiments.numbers import count

MOST = 1.2  # the aim: peak memory in parameters' bytes
DEVICES = 8
CASES = ("whole", "float32", "sharded")


def resident(field: str) -> int:
    """Return bytes of this process's resident set: now ("VmRSS") or at most so far ("VmHWM").

    Raises OSError where the system does not say (Linux does).
    """
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.M)
    if found is None:
        raise OSError(f"/proc/self/status does not have {field}")
    return 1024 * int(found[1])


def write(folder: Path, width: int) -> int:
    """Write a U-Net of ``width`` (320: some 900 million) as a folder; return its parameters."""
    import jax

    from jaxdiff.denoisers import denoiser
    from jaxdiff.networks.adapters import from_linen
    from jaxdiff.networks.unet2d import UNet2D
    from jaxdiff.pretrained.model import Pretrained
    from jaxdiff.pretrained.saving import save_diffusers
    from jaxdiff.process import Discrete, cosine_betas, discrete_label

    network = UNet2D(
        channels=(width, 2 * width, 4 * width, 4 * width), blocks=3, groups=16,
        down=("plain", "attention", "attention", "attention"),
        up=("plain", "attention", "attention", "attention"),
    )  # fmt: skip
    image, label = np.zeros((1, 16, 16, 3), np.float32), np.zeros((1,), np.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image, label)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda s: np.frombuffer(rng.bytes(2 * math.prod(s.shape)), np.float16).reshape(s.shape),
        shapes["params"],
    )
    process: Any = Discrete.from_betas(cosine_betas(1000))
    D = denoiser(
        from_linen(network), params, prediction="eps", process=process, label=discrete_label(1000)
    )
    grid = lambda n: np.linspace(1, 0, n + 1)  # noqa: E731
    save_diffusers(Pretrained(D, params, network, (16, 16, 3), "eps", process, grid), folder)
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def read(folder: Path, case: str) -> dict[str, Any]:
    """Open a folder in this process; return its memory and times."""
    import jax
    import jax.numpy as jnp

    from jaxdiff.pretrained import load_pretrained
    from jaxdiff.training.devices import fsdp

    rule = fsdp(jax.make_mesh((jax.device_count(),), ("data",)))
    options: dict[str, Any] = {
        "whole": {},
        "float32": {"dtype": jnp.float32},
        "sharded": {"put": lambda path, array: jax.device_put(array, rule(array))},
    }[case]
    before, began = resident("VmRSS"), time.perf_counter()
    model = jax.block_until_ready(load_pretrained(folder, **options).params)
    seconds = time.perf_counter() - began
    leaves = jax.tree.leaves(model)
    pieces = [shard for leaf in leaves for shard in leaf.addressable_shards]
    held = {device.id: 0 for device in jax.devices()}
    for piece in pieces:
        held[piece.device.id] += piece.data.nbytes
    return {
        "case": case, "bytes": sum(leaf.nbytes for leaf in leaves), "devices": len(held),
        "largest_device_bytes": max(held.values()), "peak_bytes": resident("VmHWM") - before,
        "before_bytes": before, "seconds": seconds,
    }  # fmt: skip


def child(*arguments: str, devices: int = 1) -> Any:
    """Run this module in a process of its own; return what it prints, read as JSON."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name if __spec__ else __name__, *arguments],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def rows(width: int) -> list[dict[str, Any]]:
    """Return all measurements, each of a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        count = child("--write", folder, "--width", str(width))
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        found = []
        for case in CASES:
            devices = DEVICES if case == "sharded" else 1
            row = child("--read", folder, "--case", case, devices=devices)
            found.append(row | {"parameters": count, "file_bytes": size})
    return found


def lines_of(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the page's findings, in words and as a table."""
    first = found[0]
    lines = [
        f"{first['parameters'] / 1e6:.0f} million parameters in a file of "
        f"{first['file_bytes'] / 1e9:.2f} GB.",
        "",
    ]
    for row in found:
        share = row["peak_bytes"] / row["bytes"]
        verdict = "reached" if share <= MOST else "missed"
        lines.append(
            f"- {row['case']}: peak of at most {MOST} times the parameters: {verdict}, with "
            f"{share:.2f}."
        )
    header = ["case", "parameters (GB)", "peak (GB)", "devices", "largest device (GB)", "time (s)"]
    cells = [
        [
            r["case"], f"{r['bytes'] / 1e9:.2f}", f"{r['peak_bytes'] / 1e9:.2f}", r["devices"],
            f"{r['largest_device_bytes'] / 1e9:.2f}", f"{r['seconds']:.1f}",
        ]
        for r in found
    ]  # fmt: skip
    return [*lines, "", *common.table(header, cells)]


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = common.parser(__doc__)
    parser.add_argument("--width", type=count, default=320, help="of the U-Net, a multiple of 16")
    own = parser.add_argument_group("parts of it, each run in a process of its own")
    own.add_argument("--write", type=Path, metavar="FOLDER", help="only write the folder")
    own.add_argument("--read", type=Path, metavar="FOLDER", help="only open it, in one case")
    own.add_argument("--case", choices=CASES, default="whole", help="which (whole)")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print and write; or do the part of a process that was started for it."""
    options = options_of()
    if options.write:
        print(json.dumps(write(options.write, options.width)))
    elif options.read:
        print(json.dumps(read(options.read, options.case)))
    else:
        found = rows(options.width)
        title = "Memory of reading a large file"
        common.publish(options, title, __doc__, common.metadata(), lines_of(found), rows=found)


if __name__ == "__main__":
    main()
