"""What sampling costs beyond the network, and how many programs a sweep compiles.

    python -m experiments.benchmarks.sampling [--json FILE] [--batch 64] [--repeats 20]

(a) Overhead: wall-clock time of ``sample`` with the demo's network at several numbers of
evaluations, against the same number of
    bare calls of the jitted denoiser. Aim: below 3 %.
(b) Sweep: compilations that 20 solver and step-count combinations cause, one by one and padded.
Aim: far fewer than 20.

Takes about two minutes on two CPU cores.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

import jaxdiff as jd
from jaxdiff import config, runs
from jaxdiff.networks.adapters import init


def demo_denoiser() -> Any:
    """The demo's network with random parameters, its zero-initialised output layer included: time
    is all that matters.
    """
    module, network = runs.build_network(config.UNet(), 10)
    return jd.denoiser(network, init(module, jax.random.key(0), (8, 8, 1)))


def paired(
    first: Callable[[], Any], second: Callable[[], Any], repeats: int
) -> tuple[float, float, float]:
    """Median seconds of each, and the median of their ratio, alternating so that both see the same
    machine.
    """
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for call, kept in ((first, times[0]), (second, times[1])):
            began = time.perf_counter()
            jax.block_until_ready(call())
            kept.append(time.perf_counter() - began)
    ratios = [a / b for a, b in zip(*times, strict=True)]
    return statistics.median(times[0]), statistics.median(times[1]), statistics.median(ratios)


def overhead(batch: int, repeats: int) -> list[dict[str, float]]:
    """Rows of (a)."""
    D = demo_denoiser()
    labels = jnp.arange(batch, dtype=jnp.int32) % 10
    x = 80.0 * jd.start_noise(jax.random.key(0), batch, (8, 8, 1))
    bare = jax.jit(lambda D, y, s, c: D(y, s, c))
    rows = []
    for solver in (jd.solvers.euler, jd.solvers.unipc):
        for steps in (5, 10, 40):
            table = jd.table(solver, jd.grids.karras(steps))
            levels = [jnp.asarray(s, jnp.float32) for s in table.nodes]

            def calls(levels: list[Any] = levels) -> Any:
                return [bare(D, x, s, labels) for s in levels][-1]

            def sampling(table: Any = table) -> Any:
                return jd.sample(D, table, x, labels)

            jax.block_until_ready((calls(), sampling()))
            ours, theirs, ratio = paired(sampling, calls, repeats)
            rows.append(
                {
                    "solver": table.name,
                    "nfe": table.nfe,
                    "sample_s": ours,
                    "calls_s": theirs,
                    "overhead": ratio - 1,
                }
            )
    return rows


def sweep(batch: int) -> dict[str, Any]:
    """Numbers of (b), with a small exact denoiser: only compilations are counted."""
    from jaxdiff.sampling import sample as module

    solvers = [
        jd.solvers.euler,
        jd.solvers.heun,
        jd.solvers.lms,
        jd.solvers.dpmpp,
        jd.solvers.unipc,
    ]
    tables = [jd.table(s, jd.grids.karras(n)) for s in solvers for n in (4, 6, 9, 15)]
    x = 80.0 * jd.start_noise(jax.random.key(0), batch, (8, 8, 1))
    D = demo_denoiser()
    programs: Any = module._run._cache_size  # type: ignore[attr-defined]
    counts = {}
    for name, group in (("one by one", tables), ("padded", jd.pad(tables))):
        jax.clear_caches()
        began = time.perf_counter()
        for table in group:
            jax.block_until_ready(jd.sample(D, table, x))
        counts[name] = {
            "programs": programs(),
            "seconds": time.perf_counter() - began,
        }
    return {"combinations": len(tables), **counts}


def main() -> None:
    """Run both and print them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    rows, found = overhead(options.batch, options.repeats), sweep(options.batch)
    print("| solver | NFE | sample (ms) | bare calls (ms) | overhead |\n|---|---|---|---|---|")
    for r in rows:
        times = f"{1e3 * r['sample_s']:.1f} | {1e3 * r['calls_s']:.1f}"
        print(f"| {r['solver']} | {r['nfe']} | {times} | {100 * r['overhead']:+.1f} % |")
    print(f"\n{found['combinations']} combinations of solver and steps:")
    for name in ("one by one", "padded"):
        print(
            f"- {name}: {found[name]['programs']} programs, {found[name]['seconds']:.1f} s in all"
        )
    if options.json:
        about = {
            "jax": jax.__version__,
            "device": str(jax.devices()[0]),
            "platform": platform.platform(),
        }
        with open(options.json, "w") as file:
            json.dump({"machine": about, "overhead": rows, "sweep": found}, file, indent=1)


if __name__ == "__main__":
    main()
