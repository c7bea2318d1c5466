"""The cost of the gradient of a sample with respect to its table, with and without remat.

    python -m experiments.benchmarks.tuning_memory [--json FILE] [--markdown FILE]

Tuning a sampler differentiates its last state through every evaluation of the network. What the
backward pass needs of an evaluation has to be kept, so that memory grows with the number of steps;
``jd.sample(..., remat=True)`` keeps the states alone and computes each evaluation again when its
turn comes: one more forward pass, and memory that stays.

Measured is the gradient of the mean squared distance of Euler samples to given images with respect
to the table, for the network of the digits teacher with random parameters. Memory is what XLA
reserves for intermediate results (``compile().memory_analysis()``), seconds are the least of a few
gradients, which other work on the machine disturbs least, compilation apart. The ways to run it:

    loop        one scan, the default: compiles in the same time for any number of steps;
    unrolled    unroll=True: XLA has its fast convolutions for CPU outside of loops only; compile
                time grows with the steps;
    scheduled   unrolled, and on CPU compiled with jax.jit(..., compiler_options={
                "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"});
    weights     scheduled with remat, and the gradient is that of the weights of states and denoised
                outputs alone, not of the levels that the network is conditioned on.

Unrolled on CPU, remat by itself saves nothing: XLA drops the barriers that hold the second forward
passes back, and its default order of operations puts all of them before the backward pass, where
their results are kept as long as those that they were to replace. Ordering by memory repairs that
for the weights; of the gradient with respect to the levels it still puts much last.

Takes three to four minutes of one CPU core (taskset -c 1).
"""

import argparse
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

import jaxdiff as jd
from experiments.benchmarks import common
from experiments.benchmarks.sampling import demo_denoiser
from experiments.numbers import count
from jaxdiff.typing import Array

SHAPE = (8, 8, 1)
BY_MEMORY: dict[str, str | bool] = {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}


class Way(NamedTuple):
    """How a gradient is run, with respect to which parts of the table, without remat or with."""

    unroll: bool
    compiler: dict[str, str | bool]
    parts: tuple[str, ...] = ("nodes", "states", "denoised")
    remat: tuple[bool, ...] = (False, True)


WAYS = {
    "loop": Way(False, {}),
    "unrolled": Way(True, {}),
    "scheduled": Way(True, BY_MEMORY),
    "weights": Way(True, BY_MEMORY, ("states", "denoised"), (True,)),
}


def gradient(way: Way, remat: bool) -> Callable[..., Any]:
    """Return the loss and its gradient with respect to parts of a table, a function of the parts,
    the whole table, the denoiser, the start and the goal.
    """

    def loss(parts: dict[str, Any], table: jd.Table, D: Any, start: Array, goal: Array) -> Array:
        labels = jnp.arange(start.shape[0], dtype=jnp.int32) % 10
        own, unroll = dataclasses.replace(table, **parts), True if way.unroll else 1
        ends = jd.sample(D, own, start, labels, unroll=unroll, remat=remat)
        return jnp.mean(jnp.square(ends - goal))

    return jax.value_and_grad(loss)


def measure(name: str, num_steps: int, remat: bool, batch: int, repeats: int) -> dict[str, Any]:
    """Measure one row: bytes, seconds per gradient and seconds of compilation."""
    way, table = WAYS[name], jd.table(jd.solvers.euler, jd.grids.karras(num_steps))
    table = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), table)
    start, goal = (jd.start_noise(jax.random.key(seed), batch, SHAPE) for seed in (0, 1))
    parts = {part: getattr(table, part) for part in way.parts}
    given = (parts, table, demo_denoiser(), 80.0 * start, goal)
    began = time.perf_counter()
    options = way.compiler if jax.default_backend() == "cpu" else {}
    run = jax.jit(gradient(way, remat)).lower(*given).compile(compiler_options=options)
    built, times = time.perf_counter() - began, []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        jax.block_until_ready(run(*given))
        times.append(time.perf_counter() - began)
    used: Any = run.memory_analysis()
    row = {"way": name, "steps": num_steps, "remat": remat, "compile_s": built}
    row |= {"temporary_bytes": used.temp_size_in_bytes}
    return row | {"seconds": min(times[1:])}  # the first is a warm-up


def rows(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Return all measurements."""
    for name, way in WAYS.items():
        for num_steps in options.unrolled if way.unroll else options.steps:
            for remat in way.remat:
                yield measure(name, num_steps, remat, options.batch, options.repeats)


def lines_of(found: Sequence[dict[str, Any]], batch: int) -> list[str]:
    """Return the page's findings, in words and as a table."""
    header = ["way", "steps", "remat", "memory (MB)", "gradient (s)", "compilation (s)"]
    cells = [
        [r["way"], r["steps"], "yes" if r["remat"] else "no", f"{r['temporary_bytes'] / 1e6:.2f}"]
        + [f"{r['seconds']:.3f}", f"{r['compile_s']:.0f}"]
        for r in found
    ]
    return [f"{batch} samples of 8x8.", "", *summary(found), "", *common.table(header, cells)]


def summary(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return how memory grows from the fewest to the most steps."""
    lines = []
    for name, remat in dict.fromkeys((r["way"], r["remat"]) for r in found):
        own = [r for r in found if (r["way"], r["remat"]) == (name, remat)]
        memory, steps = (own[-1][k] / own[0][k] for k in ("temporary_bytes", "steps"))
        how = "with" if remat else "without"
        lines.append(
            f"- {name.capitalize()}, {how} remat: {memory:.2f} times the memory for {steps:.0f} "
            "times the steps."
        )
    return lines


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = common.parser(__doc__)
    more: dict[str, Any] = {"type": int, "nargs": "+", "metavar": "N"}
    parser.add_argument(
        "--steps", **more, default=[5, 10, 20, 50, 100], help="of the loop (5 10 20 50 100)"
    )
    parser.add_argument(
        "--unrolled",
        **more,
        default=[5, 15],
        help="steps of the other ways (5 15): compilation takes about a second per step",
    )
    parser.add_argument("--batch", type=count, default=4, help="samples (4); memory goes with them")
    parser.add_argument("--repeats", type=count, default=3, help="gradients that are timed (3)")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print and write."""
    options = options_of()
    machine = common.metadata(batch=options.batch, repeats=options.repeats)
    with common.uncached():
        found = list(rows(options))
    title, lines = "Memory of gradients through a sampler", lines_of(found, options.batch)
    common.publish(options, title, __doc__, machine, lines, rows=found)


if __name__ == "__main__":
    main()
