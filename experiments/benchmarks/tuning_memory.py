"""What the gradient of a sample with respect to its table costs, with and without remat.

    python -m experiments.benchmarks.tuning_memory [--json FILE] [--markdown FILE]

Tuning a sampler differentiates its last state through every evaluation of the network. Whatever the
backward pass needs of an evaluation has to be kept, so that memory grows with the number of steps;
``jd.sample(..., remat=True)`` keeps the states alone and computes each evaluation again when its
turn comes: one more forward pass, and memory that stays.

Measured is the gradient of the mean squared distance of Euler samples to given images with respect
to all numbers of the table, for the network of the digits teacher with random parameters. Memory is
what XLA reserves for intermediate results (``compile().memory_analysis()``), seconds are the median
of a few gradients, compilation apart. Three ways to run it:

    loop        one scan, the default: quick to compile;
    unrolled    ``unroll=True``, which is faster on CPU, where XLA has its fast convolutions outside
                of loops only; compile time grows with the steps;
    scheduled   unrolled and compiled with
                compiler_options={"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}.

The last is for CPU. There XLA orders the operations of an unrolled program by how soon they can
run, which puts what remat computes again at the very beginning, where it is kept as long as what it
was to replace. The option makes it order them by memory. jax.jit takes it as an argument.

Takes about three minutes on one CPU core (taskset -c 1).
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

import jaxdiff as jd
from experiments.benchmarks.sampling import demo_denoiser
from jaxdiff.typing import Array

SHAPE = (8, 8, 1)
BY_MEMORY = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}
WAYS: dict[str, tuple[int | bool, dict[str, Any]]] = {
    "loop": (1, {}),
    "unrolled": (True, {}),
    "scheduled": (True, BY_MEMORY),
}


def gradient(unroll: int | bool, remat: bool) -> Callable[..., Any]:
    """The loss and its gradient with respect to a table, of (table, denoiser, start, goal)."""

    def loss(table: jd.Table, D: Any, start: Array, goal: Array) -> Array:
        labels = jnp.arange(start.shape[0], dtype=jnp.int32) % 10
        ends = jd.sample(D, table, start, labels, unroll=unroll, remat=remat)
        return jnp.mean(jnp.square(ends - goal))

    return jax.value_and_grad(loss)


def measure(way: str, steps: int, remat: bool, D: Any, batch: int, repeats: int) -> dict[str, Any]:
    """One row: bytes, seconds per gradient and seconds of compilation."""
    unroll, options = WAYS[way]
    table = jax.tree.map(jnp.float32, jd.table(jd.solvers.euler, jd.grids.karras(steps)))
    start = 80.0 * jd.start_noise(jax.random.key(0), batch, SHAPE)
    goal = jd.start_noise(jax.random.key(1), batch, SHAPE)
    began = time.perf_counter()
    lowered = jax.jit(gradient(unroll, remat)).lower(table, D, start, goal)
    compiled = lowered.compile(compiler_options=options)
    built = time.perf_counter() - began
    used, times = compiled.memory_analysis(), []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(compiled(table, D, start, goal))
        times.append(time.perf_counter() - began)
    row = {"way": way, "steps": steps, "remat": remat, "temporary_bytes": used.temp_size_in_bytes}
    return row | {"seconds": statistics.median(times[1:]), "compile_s": built}  # the first warms up


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """All measurements, in the order of the table."""
    D, where = demo_denoiser(), jax.devices()[0].platform
    for way, (unroll, compiler) in WAYS.items():
        if compiler and where != "cpu":
            continue
        for steps in options.steps:
            if unroll is True and steps > options.unrolled:
                continue
            for remat in (False, True):
                yield measure(way, steps, remat, D, options.batch, options.repeats)


def markdown(found: Sequence[dict[str, Any]], about: dict[str, Any]) -> str:
    """The page: what was measured, in words and as a table."""
    lines = ["# Memory of gradients through a sampler", "", (__doc__ or "").split("\n\n", 2)[2]]
    lines += [f"Measured with jax {about['jax']} on {about['device']} ({about['cores']} core(s)), "]
    lines[-1] += f"{about['batch']} samples of 8x8."
    lines += ["", *summary(found), ""]
    lines += ["| way | steps | kept (MB) | remat (MB) | kept (s) | remat (s) | compile (s) |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for kept, again in zip(found[::2], found[1::2], strict=True):
        memory = " | ".join(f"{r['temporary_bytes'] / 1e6:.2f}" for r in (kept, again))
        seconds = " | ".join(f"{r['seconds']:.3f}" for r in (kept, again))
        built = ", ".join(f"{r['compile_s']:.0f}" for r in (kept, again))
        lines.append(f"| {kept['way']} | {kept['steps']} | {memory} | {seconds} | {built} |")
    return "\n".join(lines) + "\n"


def summary(found: Sequence[dict[str, Any]]) -> list[str]:
    """How memory grows from the fewest to the most steps, per way."""
    lines = []
    for way in dict.fromkeys(r["way"] for r in found):
        first, last = ([r for r in found if r["way"] == way][k : k + 2 or None] for k in (0, -2))
        growth = [
            b["temporary_bytes"] / a["temporary_bytes"] for a, b in zip(first, last, strict=True)
        ]
        cost = last[1]["seconds"] / last[0]["seconds"]
        lines.append(
            f"- {way.capitalize()}, {first[0]['steps']} to {last[0]['steps']} steps: memory grows "
            f"{growth[0]:.1f} times, with remat {growth[1]:.2f} times; at {last[0]['steps']} steps "
            f"a gradient with remat takes {cost:.2f} times as long."
        )
    return lines


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=pathlib.Path, help="write the numbers here")
    parser.add_argument("--markdown", type=pathlib.Path, help="write the page here")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 10, 20, 50, 100])
    parser.add_argument(
        "--unrolled", type=int, default=20, help="most steps that are unrolled (compile time)"
    )
    parser.add_argument("--batch", type=int, default=8, help="samples; memory is proportional")
    parser.add_argument("--repeats", type=int, default=3, help="gradients that are timed")
    options = parser.parse_args()
    about: dict[str, Any] = {"jax": jax.__version__, "device": str(jax.devices()[0])}
    about |= {"platform": platform.platform(), "cores": len(os.sched_getaffinity(0))}
    about |= {"batch": options.batch, "repeats": options.repeats}
    found = []
    for row in rows(options):
        found.append(row)
        print(row, flush=True)
    text = markdown(found, about)
    print(text)
    if options.json:
        options.json.write_text(json.dumps({"machine": about, "rows": found}, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(text)


if __name__ == "__main__":
    main()
