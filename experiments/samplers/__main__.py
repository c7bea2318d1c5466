"""Orders and errors of every solver on three exact problems.

    python -m experiments.samplers [--json FILE] [--markdown FILE] [--plot FILE] [--nfe 5 10 20 50]

For every solver: the order it is known to have and the one observed
(:mod:`experiments.samplers.orders`), evaluations, window of past states and outputs, and at each
budget of network evaluations its errors on the problems of :mod:`experiments.samplers.problems`,
all divided by the spread of the data:

- state: root mean square distance to where the exact flow takes the same start (deterministic
only);
- distribution: 2-Wasserstein distance for the Gaussian (closed form), sliced 2-Wasserstein for the
  others, the score of exact samples is printed, too.

Takes about five minutes on two CPU cores.
"""

import argparse
import functools
import json
import platform
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from experiments.samplers import beyond, orders, problems
from experiments.samplers.rows import GRIDS, ROWS, Row
from jaxdiff import solvers
from jaxdiff.solvers.model_statistics import second_moments

BUDGETS = (5, 10, 20, 50)
PLOTTED = (
    "euler",
    "heun",
    "ipndm order=3",
    "deis order=4",
    "dpmpp order=2 prediction=data",
    "unipc order=3",
    "dpm_solver order=3 prediction=data",
    "sde_dpmpp order=2",
    "er_sde order=3",
)


def evaluations(row: Row, levels: Any) -> int:
    """Network evaluations of a solver on a grid, counted by running it."""
    return _counted(row, [float(s) for s in levels])


def _counted(row: Row, levels: list[float]) -> int:
    calls: list[float] = []

    def D(y: Any, s: Any) -> Any:
        calls.append(0.0)
        return 0.5 * y

    extra: dict[str, Any] = {"noise": lambda: np.zeros(1)} if row.stochastic else {}
    for _ in row.solver(D, np.ones(1), levels, **extra, **row.options):
        pass
    return len(calls)


def grid_for(row: Row, nfe: int) -> np.ndarray | None:
    """Return the longest default grid of a solver that costs at most ``nfe`` evaluations."""
    for num_steps in range(nfe, 1, -1):
        levels = GRIDS[row.grid](num_steps, problems.LOW, problems.HIGH, True)
        if evaluations(row, levels) <= nfe:
            return levels
    return None


def gaussian_errors(row: Row, levels: np.ndarray) -> dict[str, float]:
    """Closed-form errors on the Gaussian with the spectrum of natural images."""
    _, variances = problems.natural_spectrum()
    knots, options = [float(s) for s in levels], row.options
    if row.solver is solvers.analytic_dpm:
        options = {"moments": lambda s: float(np.mean(s * s / (variances + s * s)))}
    spread = orders.outcome(row.solver, options, knots, variances)
    total = variances.sum()
    found = {"distribution": np.sqrt(np.sum((np.sqrt(spread) - np.sqrt(variances)) ** 2) / total)}
    if not row.stochastic:
        start = np.sqrt(variances + knots[0] ** 2)
        *_, end = row.solver(orders.denoiser(variances), start, knots, **row.options)
        found["state"] = np.sqrt(np.sum((end - np.sqrt(variances)) ** 2) / total)
    return {k: float(v) for k, v in found.items()}


def errors(row: Row, levels: np.ndarray, problem: problems.Problem) -> dict[str, float]:
    """Errors on a problem that is sampled."""
    key, options = jax.random.key(3) if row.stochastic else None, row.options
    if row.solver is solvers.analytic_dpm:
        some = jnp.asarray(problem.data[:4096])
        moments = second_moments(problem.denoiser, some, levels, jax.random.key(4))
        options: dict[str, Any] = {"moments": moments}
    run = functools.partial(jd.direct, problem.denoiser, row.solver, levels, problem.start)
    out = run(key=key, **options)
    d = problem.data.shape[1]
    unit = np.sqrt(problem.scale**2 / d)  # spread along a random line
    sliced = jd.metrics.sliced_wasserstein(np.asarray(out), problem.data)
    found = {"distribution": float(sliced / unit)}
    if not row.stochastic:
        squares = jnp.mean(jnp.sum((out - problem.flowed) ** 2, axis=1))
        found["state"] = float(jnp.sqrt(squares)) / problem.scale
    return found


def real_data_score(problem: problems.Problem) -> float:
    """Sliced distance of the exact flow's samples to the data."""
    unit = np.sqrt(problem.scale**2 / problem.data.shape[1])
    return float(jd.metrics.sliced_wasserstein(np.asarray(problem.flowed), problem.data) / unit)


def measure(row: Row, budgets: tuple[int, ...], sampled: list[problems.Problem]) -> dict[str, Any]:
    """Everything about one solver."""
    slope, _ = orders.observed(row)
    levels, window = GRIDS[row.grid](10, problems.LOW, problems.HIGH, True), None
    if row.solver is not solvers.genie:  # which is not linear in its states
        made = jd.table(row.solver, levels, **row.options)
        window = [made.states.shape[2], made.denoised.shape[2]]
    found: dict[str, Any] = {
        "solver": row.name,
        "stochastic": row.stochastic,
        "declared": row.order,
        "observed": slope,
        "grid": row.grid,
        "nfe_of_10_steps": evaluations(row, levels),
        "window": window,
        "errors": {},
    }
    for nfe in budgets:
        levels = grid_for(row, nfe)
        if levels is not None:
            found["errors"][nfe] = {
                "gaussian": gaussian_errors(row, levels),
                **{p.name: errors(row, levels, p) for p in sampled},
            }
    return found


def number(x: float | None) -> str:
    """Two significant digits; a dash where there is none."""
    if x is None or not np.isfinite(x):
        return "-"
    return (
        f"{x:.2g}" if 1e-3 <= abs(x) < 1000 else f"{x:.0e}".replace("e-0", "e-").replace("e+0", "e")
    )


def lines(rows: list[dict[str, Any]], budgets: tuple[int, ...], kind: str) -> list[str]:
    """Return one Markdown table: a row per solver, the errors of a kind by problem and budget."""
    names = ["gaussian", "mixture", "digits"]
    head = ["solver", "order: declared", "observed", "grid", "NFE of 10 steps", "window"]
    head += [f"{p} {n}" for p in names for n in budgets]
    text = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for r in rows:
        cells = [f"`{r['solver']}`", str(r["declared"]), f"{r['observed']:.2f}", r["grid"]]
        cells += [str(r["nfe_of_10_steps"]), "+".join(map(str, r["window"] or "-"))]
        cells += [
            number(r["errors"].get(n, {}).get(p, {}).get(kind)) for p in names for n in budgets
        ]
        text.append("| " + " | ".join(cells) + " |")
    return text


def markdown(result: dict[str, Any], budgets: tuple[int, ...]) -> str:
    """Both tables with what they mean."""
    rows = result["rows"]
    real_data = ", ".join(f"{k} {v:.3f}" for k, v in result["real_data"].items())
    state = lines([r for r in rows if not r["stochastic"]], budgets, "state")
    spread = lines(rows, budgets, "distribution")
    metadata = result["machine"]
    return "\n".join(
        [
            "# Every sampler on exact problems",
            "",
            "Made by `python -m experiments.samplers`; what is measured and how stands in "
            "`experiments/samplers/`. Columns after the window are errors by problem and number of "
            "network evaluations, divided by the spread of the data.",
            "",
            f"jax {metadata['jax']}, {metadata['device']}, {metadata['seconds']:.0f} s.",
            "",
            "## Error of the state: distance to the exact flow",
            "",
            *state,
            "",
            "## Error of the distribution: Wasserstein distance to the data",
            "",
            f"Exact samples against exact samples: {real_data}; that of the Gaussian is 0.",
            "",
            *spread,
            "",
            "## Without a fixed grid",
            "",
            "On the mixture: mean evaluations per sample, calls of the denoiser one after another, "
            "and the error of the state.",
            "",
            "| solve | evaluations | calls | error |",
            "|---|---|---|---|",
            *[
                f"| {s['name']} | {s['nfe']:.0f} | {s['calls']} | {number(s['state'])} |"
                for s in result["beyond"]
            ],
            "",
        ]
    )


def plot(result: dict[str, Any], path: str) -> None:
    """Error of the distribution against evaluations on the mixture, of some baseline solvers."""
    from jaxdiff.report.curves import quality_against_nfe

    curves = {
        r["solver"]: [(int(n), e["mixture"]["distribution"]) for n, e in r["errors"].items()]
        for r in result["rows"]
        if r["solver"] in PLOTTED
    }
    figure = quality_against_nfe(
        curves, result["real_data"]["mixture"], ylabel="sliced Wasserstein distance, mixture"
    )
    figure.savefig(path)


def main() -> None:
    """Measure every solver and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json")
    parser.add_argument("--markdown")
    parser.add_argument("--plot")
    parser.add_argument("--nfe", type=int, nargs="+", default=BUDGETS)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    began, budgets = time.perf_counter(), tuple(options.nfe)
    sampled = [problems.mixture(), problems.digits()]
    rows = []
    for row in ROWS:
        rows.append(measure(row, budgets, sampled))
        print(f"{row.name}: order {rows[-1]['observed']:.2f}", flush=True)
    metadata = {
        "jax": jax.__version__,
        "device": str(jax.devices()[0]),
        "platform": platform.platform(),
    }
    others = beyond.adaptive_lines(sampled[0]) + beyond.parallel_lines(sampled[0])
    result = {
        "machine": metadata | {"seconds": time.perf_counter() - began},
        "beyond": [solve._asdict() for solve in others],
        "real_data": {p.name: real_data_score(p) for p in sampled},
        "rows": rows,
    }
    text = markdown(result, budgets)
    print(text)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=1)
    if options.markdown:
        with open(options.markdown, "w") as file:
            file.write(text)
    if options.plot:
        plot(result, options.plot)


if __name__ == "__main__":
    main()
