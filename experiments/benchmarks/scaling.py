"""How a training step grows with devices, batch and parameters, and what of it is communication.

    python -m experiments.benchmarks.scaling [--json FILE] [--markdown FILE]

No cluster is needed for the two things that decide about scaling, because the compiler states them:
this compiles the training step (that of ``fit``, by jit and by fsdp, without its guard against what
is not finite) for 1, 2, 4, ... simulated devices and reads, per device,

    state and batch  the bytes of the step's arguments: parameters, Adam's two moments, the average;
    temporary        the bytes that XLA reserves for what is computed in between;
    communicated     the bytes that a device sends: of every collective operation in the program,
                     in a ring (all-reduce 2 (n-1)/n of its operand, all-gather and reduce-scatter
                     (n-1)/n of the whole);
    FLOPs            by XLA's cost analysis.

From these follows the time of a step on n devices of a kind, by calculation,

    T(n) = FLOPs / (peak * share)  +  communicated / bandwidth,

the second term being what is lost at worst: compilers for GPU and TPU overlap most of it with the
backward pass. ``share`` of the peak is what one device reaches (40 % by default), peaks and
bandwidths are those of the makers. What the page shows is therefore measured in bytes and FLOPs and
calculated in seconds; nothing of it is timed. Parameters are float32, and so are the gradients that
are communicated. The compiler for CPU leaves an all-reduce where those for GPU and TPU make a
reduce-scatter of it (under fsdp): there it is up to a third less. Takes about five minutes on two
cores.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from experiments.benchmarks.common import metadata, parser, publish, table
from experiments.numbers import count, positive


class Kind(NamedTuple):
    """A device: peak FLOP/s of its matrix units (dense bfloat16), and bytes/s to its neighbours."""

    name: str
    peak: float
    bandwidth: float


KINDS = (
    Kind("H100 SXM, NVLink", 989e12, 450e9),  # each way; 900 GB/s both ways
    Kind("H100 SXM, 400 Gb/s network", 989e12, 50e9),
    Kind("TPU v5e", 197e12, 200e9),  # 1600 Gb/s of chip-to-chip links
)
DTYPES = {"f32": 4, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "pred": 1, "u8": 1, "s64": 8, "f64": 8}
COLLECTIVE = re.compile(
    r" = (?P<shape>\(.*?\)|\S+) (?P<kind>all-reduce|all-gather|reduce-scatter|all-to-all|"
    r"collective-permute)(?:-start)?\("
)


def sent(text: str, devices: int) -> dict[str, float]:
    """Bytes that a device sends, by kind of collective operation, in a compiled program's text."""
    ring = (devices - 1) / devices
    found: dict[str, float] = {}
    for match in COLLECTIVE.finditer(text):
        size = sum(
            DTYPES[dtype] * _product(dims)
            for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", match["shape"])
            if dtype in DTYPES
        )
        # a result is whole after all-reduce and all-gather, and a part after reduce-scatter
        factor = {"all-reduce": 2 * ring, "reduce-scatter": devices - 1.0}.get(match["kind"], ring)
        found[match["kind"]] = found.get(match["kind"], 0.0) + factor * size
    return found


def _product(dims: str) -> int:
    result = 1
    for n in filter(None, dims.split(",")):
        result *= int(n)
    return result


def networks() -> dict[str, Any]:
    """Return what is scaled: the modules, images of 32x32x3."""
    from jaxdiff.networks.dit import DiT
    from jaxdiff.networks.unet import UNet

    return {
        "U-Net, 128 channels": UNet(128, (2, 2, 2), blocks=4, attention=(16,), embedding=512),
        "DiT-S/4": DiT(patch=4, width=384, depth=12, heads=6),
        "DiT-B/4": DiT(patch=4, width=768, depth=12, heads=12),
    }


def compiled(module: Any, devices: int, parallel: str, batch: int) -> Any:
    """Return the training step for so many devices, compiled from shapes alone."""
    import jax
    import jax.numpy as jnp
    import optax

    from jaxdiff.distill.parts.student import Student
    from jaxdiff.distill.score_matching import score_matching
    from jaxdiff.networks import conv, from_linen, init
    from jaxdiff.training import devices as placement
    from jaxdiff.training import ema, init_state, update

    conv._on_cpu = lambda: False  # the program is to be that of GPUs and TPUs
    mesh = placement.mesh(jax.devices()[:devices])
    rule = placement.fsdp(mesh) if parallel == "fsdp" else placement.replicated(mesh)
    student = Student(
        from_linen(module),
        lambda key: init(module, key, (32, 32, 3)),
        optimiser=optax.adam(1e-4),
        ema={"average": ema.constant(0.999)},
    )
    method = score_matching(student)

    def placed(x: Any, sharding: Any) -> Any:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    state = jax.eval_shape(lambda: init_state(method, jax.random.key(0)))
    state = jax.tree.map(lambda x: placed(x, rule(x)), state)
    rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    images = placed(jax.ShapeDtypeStruct((batch, 32, 32, 3), jnp.float32), rows)
    one = jax.jit(
        lambda state, batch: update(method, state, batch, tuple(method.players)),
        donate_argnums=0,
        out_shardings=(jax.tree.map(lambda x: x.sharding, state), None),
    )
    return one.lower(state, {"image": images}).compile()


def row(name: str, module: Any, devices: int, parallel: str, each: int) -> dict[str, Any]:
    """Return what the compiler says of one program, per device."""
    program = compiled(module, devices, parallel, each * devices)
    memory, cost = program.memory_analysis(), program.cost_analysis()
    by_kind = sent(program.as_text(), devices)
    return {
        "network": name, "devices": devices, "parallel": parallel, "batch per device": each,
        "arguments": memory.argument_size_in_bytes, "temporary": memory.temp_size_in_bytes,
        "communicated": sum(by_kind.values()), "by kind": by_kind, "FLOPs": cost["flops"],
    }  # fmt: skip


def seconds(found: dict[str, Any], kind: Kind, share: float) -> tuple[float, float]:
    """Return the calculated seconds of a step: arithmetic, and communication."""
    return found["FLOPs"] / (kind.peak * share), found["communicated"] / kind.bandwidth


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Return all programs that are requested."""
    for name, module in networks().items():
        if options.network and not any(part in name for part in options.network):
            continue
        for parallel in ("jit", "fsdp"):
            for devices in options.devices:
                if devices > 1 or parallel == "jit":
                    yield row(name, module, devices, parallel, options.batch)
        yield row(name, module, 1, "jit", 2 * options.batch)


def lines(found: list[dict[str, Any]], share: float) -> list[str]:
    """Return the table of bytes, and that of calculated times."""
    sizes = []
    for r in found:
        batch = r["devices"] * r["batch per device"]
        parts = [f"{r[k] / 1e6:.0f}" for k in ("arguments", "temporary", "communicated")]
        sizes.append([r["network"], r["parallel"], r["devices"], batch, *parts])
    times = []
    for r in found:
        cells = []
        for kind in KINDS:
            a, b = seconds(r, kind, share)
            cells.append(f"{1e3 * a:.1f} + {1e3 * b:.1f} ({a / (a + b):.0%})")
        times.append([r["network"], r["parallel"], r["devices"], r["batch per device"], *cells])
    head = ["network", "parallel", "devices", "batch"]
    first = [*head, "state and batch (MB)", "temporary (MB)", "communicated (MB)"]
    second = [*head[:3], "batch per device", *(kind.name for kind in KINDS)]
    note = (
        f"Calculated milliseconds per step: arithmetic at {share:.0%} of the peak + communication, "
        "and in parentheses what is left of perfect scaling if nothing overlaps."
    )
    return [*table(first, sizes), "", note, "", *table(second, times)]


def main() -> None:
    """Compile, and write what was read."""
    made = parser(__doc__)
    made.add_argument("--devices", type=count, nargs="+", default=[1, 2, 8, 32])
    made.add_argument("--batch", type=count, default=32, help="per device")
    made.add_argument("--network", nargs="*", help="parts of the networks' names; default: all")
    made.add_argument("--share", type=positive, default=0.4, help="of the peak that is reached")
    options = made.parse_args()
    flags = f"--xla_force_host_platform_device_count={max(options.devices)}"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}"
    os.environ["JAX_PLATFORMS"] = "cpu"
    found = []
    for one in rows(options):
        found.append(one)
        print(json.dumps(one), file=sys.stderr, flush=True)
    title, text = "How a training step scales", lines(found, options.share)
    publish(options, title, __doc__, metadata(), text, rows=found)


if __name__ == "__main__":
    main()
