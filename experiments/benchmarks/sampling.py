"""The cost of sampling beyond the network, and the programs that a sweep over samplers compiles.

    python -m experiments.benchmarks.sampling [--json FILE] [--markdown FILE]

Overhead. Samples with the demo's network (random parameters: time is all that matters) in 1 to 100
evaluations, against as many bare calls of the same jitted network, one after the other from
Python. Aim: at most 3 % above bare calls on a CPU, 1 % on a GPU. There bare calls of a small
network wait for Python, so beside them stands one program that does nothing but call the network in
a loop, which is the least that any sampler takes.

Sweep. 20 solvers with options at 8 numbers of steps, 160 samplers, each run once: table by table,
where each compiles a program, and padded by ``jd.pad``, where few programs run all. Counted are the
samplers for which the network was traced anew, so that a program with the network was compiled, and
apart from that all programs that jax reports, down to the smallest. Aim: at most 8 programs with
the network for the 160 samplers. All are run one by one with the exact denoiser of a Gaussian,
where little but the sampler is compiled; with the demo's network every eighth is enough to know the
seconds that each takes.

On two CPU cores the overhead takes about a minute and the sweep as long.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from experiments.benchmarks import common
from experiments.numbers import count, positive
from jaxdiff import solvers
from jaxdiff.app import config
from jaxdiff.app.network import build_network
from jaxdiff.networks.parameters import init

SHAPE, CLASSES = (8, 8, 1), 10
PROGRAMS = 8  # the aim of the sweep
NFES = (1, 2, 5, 10, 20, 50, 100)
STEPS = (4, 5, 6, 8, 10, 12, 16, 20)
SOLVERS = [(e.solver, options) for e in solvers.SOLVERS for options in e.sweep]


def demo_denoiser() -> Any:
    """Return the demo's network with random parameters, its zero-initialised output layer included:
    time is all that matters.
    """
    module, network = build_network(config.UNet(), CLASSES)
    return jd.denoiser(network, init(module, jax.random.key(0), SHAPE))


def small_denoiser() -> Any:
    """Return the exact denoiser of a Gaussian: hardly more than the sampler itself is compiled."""
    return jd.exact.Gaussian(np.array([0.3, -0.2]), np.array([0.04, 1.3])).denoiser


def overhead(batch: int, seconds: float, clock: str) -> list[dict[str, Any]]:
    """Rows of the overhead, each repeated for so many seconds, at least five times."""
    D, labels = demo_denoiser(), jnp.arange(batch, dtype=jnp.int32) % CLASSES
    x = 80.0 * jd.start_noise(jax.random.key(0), batch, SHAPE)
    bare, loop = jax.jit(_call), jax.jit(_loop)
    rows = []
    for solver in (solvers.euler, solvers.unipc):
        for nfe in NFES:
            table = jd.table(solver, jd.grids.karras(nfe))
            levels = [jnp.asarray(s, jnp.float32) for s in table.nodes]
            nodes = jnp.stack(levels)
            calls: dict[str, Callable[[], Any]] = {
                "sample": lambda t=table: jd.sample(D, t, x, labels),
                "calls": lambda own=levels: [bare(D, x, s, labels) for s in own],
                "loop": lambda own=nodes: loop(D, x, own, labels),
            }
            times = common.alternate(calls, common.rounds(calls, seconds), clock)
            medians = {f"{name}_s": statistics.median(times[name]) for name in times}
            found = {
                name: common.ratio(times["sample"], times[name])._asdict()
                for name in ("calls", "loop")
            }
            rows.append({"solver": table.name, "nfe": table.nfe, **medians, "over": found})
    return rows


def _call(D: Any, y: Any, s: Any, labels: Any) -> Any:
    return D(y, s, labels)


def _loop(D: Any, y: Any, levels: Any, labels: Any) -> Any:
    return jax.lax.scan(lambda y, s: (D(y, s, labels), None), y, levels)[0]


def counted(D: Any, traces: list[int]) -> Any:
    """Return the denoiser, which adds to ``traces`` whenever it is traced; its parameters remain
    arguments of the program. It is another function every time, so that no program of before fits
    it.
    """

    def call(D: Any, y: Any, s: Any, cond: Any = None) -> Any:
        traces.append(1)
        return D(y, s, cond)

    return jax.tree_util.Partial(call, D)


def tables(
    methods: Sequence[tuple[Any, dict[str, Any]]] = SOLVERS, num_steps: Sequence[int] = STEPS
) -> list[jd.Table]:
    """Return the samplers of the sweep: every solver at every number of steps."""
    return [jd.table(s, jd.grids.karras(n), **options) for s, options in methods for n in num_steps]


def sweep(D: Any, shape: tuple[int, ...], group: Sequence[jd.Table], batch: int) -> dict[str, Any]:
    """Run every sampler once: programs with the network and in all, seconds, those of XLA."""
    traces: list[int] = []
    D, key = counted(D, traces), jax.random.key(1)
    x = 80.0 * jd.start_noise(jax.random.key(0), batch, shape)
    began, programs = time.perf_counter(), 0
    with common.compilations() as compiled:
        for table in group:
            known = len(traces)
            out = jd.sample(D, table, x, key=key if table.stochastic else None)
            jax.block_until_ready(out)
            programs += len(traces) > known
    return {
        "samplers": len(group),
        "programs": programs,
        "all_programs": len(compiled),
        "seconds": time.perf_counter() - began,
        "xla_s": sum(p.seconds for p in compiled),
    }


def kinds(group: Sequence[jd.Table]) -> dict[str, list[str]]:
    """Return which solvers share a program once padded: those of as many rows and noises per
    evaluation.
    """
    found: dict[str, list[str]] = {}
    for t in group:
        kind = f"{t.states.shape[1]} rows, {t.slots} noises"
        if t.name not in found.setdefault(kind, []):
            found[kind].append(t.name)
    return found


def sweeps(batch: int, every: int) -> dict[str, Any]:
    """Return all samplers of both networks; with the demo's, every so many-th one by one."""
    began = time.perf_counter()
    group = tables()
    built = time.perf_counter()
    padded = jd.pad(group)
    timed = {"tables_s": built - began, "pad_s": time.perf_counter() - built}
    rows = []
    networks: tuple[tuple[str, Callable[[], Any], tuple[int, ...], int], ...] = (
        ("exact Gaussian", small_denoiser, (2,), 1),
        ("demo's U-Net", demo_denoiser, SHAPE, every),
    )
    for name, make, shape, part in networks:
        for way, own in (("one by one", group[::part]), ("padded", padded)):
            rows.append({"network": name, "way": way, **sweep(make(), shape, own, batch)})
    return {"combinations": len(group), **timed, "kinds": kinds(group), "rows": rows}


def overhead_lines(rows: Sequence[dict[str, Any]], batch: int) -> list[str]:
    """Return the page's part on overhead."""
    most = 1.01 if common.is_accelerator() else 1.03
    lines, cells = ["## Overhead", ""], []
    verdicts: dict[str, list[str]] = {"reached": [], "open": [], "missed": []}
    for r in rows:
        calls, loop = (common.Ratio(**r["over"][k]) for k in ("calls", "loop"))
        word = common.verdict(calls, most)
        verdicts[word].append(f"{r['solver']} at {r['nfe']}")
        times = [f"{1e3 * r[k]:.2f}" for k in ("sample_s", "calls_s", "loop_s")]
        cells.append([r["solver"], r["nfe"], *times, _percent(calls), _percent(loop), word])
    lines.append(
        f"Aim: at most {100 * (most - 1):.0f} % above bare calls, batches of {batch}. Reached in "
        f"{len(verdicts['reached'])} of {len(rows)} cases; undecided by the interval of 95 % "
        f"(in brackets): {', '.join(verdicts['open']) or 'none'}; missed: "
        f"{', '.join(verdicts['missed']) or 'none'}."
    )
    header = ["solver", "NFE", "sample (ms)", "bare calls (ms)", "loop (ms)"]
    return [*lines, "", *common.table([*header, "over calls", "over loop", "aim"], cells), ""]


def _percent(r: common.Ratio) -> str:
    low, middle, high = (100 * (v - 1) for v in (r.low, r.median, r.high))
    return f"{middle:+.1f} % [{low:+.1f}, {high:+.1f}]"


def sweep_lines(found: dict[str, Any]) -> list[str]:
    """Return the page's part on the sweep."""
    worst = max(r["programs"] for r in found["rows"] if r["way"] == "padded")
    reached = "reached" if worst <= PROGRAMS else "missed"
    lines = ["## Sweep", ""]
    lines += [
        f"Aim: at most {PROGRAMS} programs for {found['combinations']} samplers: {reached}, with "
        f"{worst}. Making the tables takes {found['tables_s']:.1f} s, padding "
        f"{found['pad_s']:.2f} s.",
        "",
    ]
    header = ["network", "way", "samplers", "programs", "with small ones", "seconds", "of XLA"]
    cells = [
        [r["network"], r["way"], r["samplers"], r["programs"], r["all_programs"]]
        + [f"{r['seconds']:.1f}", f"{r['xla_s']:.1f}"]
        for r in found["rows"]
    ]
    lines += [*common.table(header, cells), "", "What shares a padded program:", ""]
    return lines + [f"- {kind}: {', '.join(names)}." for kind, names in found["kinds"].items()]


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = common.parser(__doc__)
    common.add_clock(parser)
    parser.add_argument("--only", choices=("overhead", "sweep"), help="measure this alone")
    parser.add_argument("--batch", type=count, default=32, help="samples, of the overhead (32)")
    parser.add_argument(
        "--seconds", type=positive, default=2.0, metavar="S",
        help="time every case of the overhead for so long, five rounds at least (2)",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=count, default=8, metavar="N",
        help="of the samplers, run this part one by one with the demo's network (8)",
    )  # fmt: skip
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print and write."""
    options = options_of()
    found: dict[str, Any] = {}
    lines: list[str] = []
    if options.only != "sweep":
        found["overhead"] = overhead(options.batch, options.seconds, options.clock)
        lines += overhead_lines(found["overhead"], options.batch)
    if options.only != "overhead":
        with common.uncached():
            found["sweep"] = sweeps(4, options.every)
        lines += sweep_lines(found["sweep"])
    machine = common.metadata(batch=options.batch, clock=options.clock)
    title = "What sampling costs beyond the network"
    common.publish(options, title, __doc__, machine, lines, **found)


if __name__ == "__main__":
    main()
