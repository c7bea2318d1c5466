"""How many evaluations a Gaussian start saves, and where it does not help.

    python -m experiments.benchmarks.gaussian_start [--folder experiments/results] [--batch 256]

Problems with exact denoisers: two anisotropic mixtures of full Gaussians, and the 1797 real 8x8
digits as a finite data set. Error: root mean square distance of the final samples from those of the
exact probability flow with the same noise (reference: 600 steps of UniPC in log level). Every
solver runs on Karras grids that end in 0:

    plain        from level 80;
    first step   from level 80 with the analytic first step, as many evaluations;
    start low    from noise alone at the switch level: a shorter range, and no Gaussian;
    diagonal     jump with the data's variances to the level where its estimated error is 0.01;
    full         jump with the data's covariance, likewise; full 0.03: likewise with 0.03.

"Saved" is how many more evaluations the plain sampler needs for the same error, by interpolation of
its best error so far. Writes gaussian_start.json, .md and .png. Takes about a minute on two CPU
cores, in float64.
"""

import argparse
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxdiff as jd
from experiments.benchmarks import common
from experiments.numbers import count
from jaxdiff import exact, grids, solvers
from jaxdiff.sampling import gaussian_start as gs

HIGH = 80.0
NFES = (3, 4, 5, 6, 8, 10, 12, 15, 20)
MORE = (25, 30, 40, 60)  # for the plain sampler, to say how many evaluations are saved
LEVELS = np.geomspace(HIGH, 0.3, 30)
SOLVERS = (
    ("euler", solvers.euler, {}),
    ("dpmpp 2", solvers.dpmpp, {}),
    ("unipc 3", solvers.unipc, {}),
    ("ipndm 4", solvers.ipndm, {}),
)
COLUMNS = ("plain", "first step", "start low", "diagonal", "full", "full 0.03")


def mixture(d: int, components: int, spread: float, seed: int) -> exact.GaussianMixture:
    """Return a mixture of full Gaussians whose means have standard deviations from 1 down to
    0.1.
    """
    rng = np.random.default_rng(seed)
    half = spread * rng.normal(size=(components, d, d)) / np.sqrt(d)
    means = rng.normal(size=(components, d)) * np.linspace(1, 0.1, d)
    covariances = half @ half.transpose(0, 2, 1) + 0.01 * np.eye(d)
    return exact.GaussianMixture(np.full(components, 1 / components), means, covariances)


def problems() -> list[tuple[str, Any, int, float]]:
    """Name, exact model, dimension and lowest positive level."""
    from sklearn.datasets import load_digits

    digits = load_digits().data / 8.0 - 1.0  # type: ignore[attr-defined]
    return [
        ("mixture, 3 dimensions", mixture(3, 4, 0.5, 0), 3, 0.002),
        ("mixture, 16 dimensions", mixture(16, 5, 0.8, 1), 16, 0.002),
        ("digits, 64 dimensions", exact.Empirical(digits), 64, 0.02),
    ]


def fitted(truth: Any) -> dict[str, exact.Gaussian]:
    """Return the Gaussians with the exact moments, full and diagonal."""
    mean, covariance = truth.moments()
    covariance = covariance + 1e-4 * jnp.trace(covariance) / len(mean) * jnp.eye(len(mean))
    return {
        "full": exact.Gaussian(mean, covariance),
        "diagonal": exact.Gaussian(mean, jnp.diag(covariance)),
    }


def run(name: str, truth: Any, d: int, low: float, batch: int) -> dict[str, Any]:
    """Return all errors of one problem."""
    start = HIGH * jax.random.normal(jax.random.key(0), (batch, d))
    fine = np.append(np.geomspace(HIGH, low, 600), 0.0)
    reference = jd.sample(truth.denoiser, jd.table(solvers.unipc, fine), start)
    models, switches, estimates = fitted(truth), {}, {}
    for kind, model in models.items():
        estimates[kind] = gs.jump_errors(truth.denoiser, model, LEVELS, start[:64])
        switches[kind] = gs.switch_level(LEVELS, estimates[kind], 0.01)
    switches["full 0.03"] = gs.switch_level(LEVELS, estimates["full"], 0.03)
    jumped = {k: gs.jump(models[k.split()[0]], start, HIGH, s) for k, s in switches.items()}
    starts = {"plain": start, "first step": start, "start low": start * switches["full"] / HIGH}
    starts |= jumped
    highs = {"plain": HIGH, "first step": HIGH, "start low": switches["full"], **switches}
    jobs = []
    for label, solver, options in SOLVERS:
        for column in COLUMNS:
            for n in NFES + (MORE if column == "plain" else ()):
                first = solvers.steps.unit_first if column == "first step" else None
                grid = grids.karras(n + (first is not None), low, highs[column])
                jobs.append((label, column, n, jd.table(solver, grid, first=first, **options)))
    errors: dict[str, dict[str, dict[int, float]]] = {
        s: {c: {} for c in COLUMNS} for s, *_ in SOLVERS
    }
    for (label, column, n, _), t in zip(jobs, jd.pad([j[3] for j in jobs]), strict=True):
        end = jd.sample(truth.denoiser, t, starts[column])
        errors[label][column][n] = float(jnp.sqrt(jnp.mean((end - reference) ** 2)))
    estimated = {
        k: dict(zip(LEVELS.tolist(), e.tolist(), strict=True)) for k, e in estimates.items()
    }
    return {
        "name": name,
        "data_std": float(reference.std()),
        "switch_levels": switches,
        "estimated_jump_errors": estimated,
        "errors": errors,
        "saved": {s: {c: saved(e["plain"], e[c]) for c in COLUMNS[1:]} for s, e in errors.items()},
    }


def saved(plain: dict[int, float], ours: dict[int, float]) -> dict[int, float]:
    """Evaluations that the plain sampler needs beyond ours for the same error: infinite beyond its
    last, NaN below its first.
    """
    counts = np.array(sorted(plain), float)
    best = np.minimum.accumulate([plain[int(n)] for n in counts])
    falls = np.concatenate([[True], np.diff(best) < 0])

    def needed(error: float) -> float:
        if error < best[-1]:
            return np.inf
        if error > best[0]:
            return np.nan
        return float(np.interp(np.log(error), np.log(best[falls])[::-1], counts[falls][::-1]))

    return {n: needed(error) - n for n, error in ours.items()}


def markdown(results: Sequence[dict[str, Any]], metadata: dict[str, Any]) -> str:
    """Return one table per problem."""
    lines = [f"{metadata['batch']} samples."]
    for result in results:
        levels = ", ".join(f"{k} {s:.2f}" for k, s in result["switch_levels"].items())
        lines += ["", f"## {result['name'].capitalize()}", ""]
        lines += [f"Standard deviation {result['data_std']:.2f}. Switch levels: {levels}.", ""]
        lines += [*summary(result), ""]
        cells = []
        for solver, errors in result["errors"].items():
            for n in (3, 5, 8, 10, 15, 20):
                gains = [_gain(result["saved"][solver][c][n]) for c in ("full", "full 0.03")]
                cells.append([solver, n, *[f"{errors[c][n]:.4f}" for c in COLUMNS], *gains])
        header = ["solver", "NFE", *COLUMNS, "saved (full)", "(full 0.03)"]
        lines += common.table(header, cells)
    return common.page("Gaussian start", __doc__, metadata, lines)


def summary(result: dict[str, Any]) -> list[str]:
    """Return, in words, what the full jump saves, and where the plain sampler is better."""
    lines = []
    for n in (5, 10, 20):
        gains = [result["saved"][solver]["full"][n] for solver in result["errors"]]
        each = ", ".join(f"{s} {_gain(g)}" for s, g in zip(result["errors"], gains, strict=True))
        lines.append(f"- At {n} evaluations the full jump saves: {each}.")
    for column in ("full", "full 0.03"):
        worse = [
            f"{solver} at {n}"
            for solver, errors in result["errors"].items()
            for n in NFES
            if errors[column][n] > errors["plain"][n]
        ]
        lines.append(f"- {column.capitalize()} is worse than plain: {', '.join(worse) or 'never'}.")
    return lines


def _gain(gain: float) -> str:
    if np.isnan(gain):
        return "none"
    return f"> {max(MORE)} in all" if np.isinf(gain) else f"{gain:+.1f}"


def figure(results: Sequence[dict[str, Any]], path: pathlib.Path) -> None:
    """Error against evaluations: a row per problem, a column per solver."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    size = {"figsize": (13, 8.5), "sharex": True, "layout": "constrained"}
    made, axes = plt.subplots(len(results), len(SOLVERS), squeeze=False, **size)
    for row, result in zip(axes, results, strict=True):
        for ax, (solver, errors) in zip(row, result["errors"].items(), strict=True):
            for column in COLUMNS:
                points = [(n, e) for n, e in errors[column].items() if n in NFES]
                ax.plot(*zip(*points, strict=True), ".-", label=column, lw=1)
            ax.set(yscale="log", title=f"{solver}; {result['name']}")
            ax.title.set_fontsize(9)
    for ax in axes[-1]:
        ax.set_xlabel("evaluations")
    for row in axes:
        row[0].set_ylabel("root mean square error")
    axes[0, 0].legend(fontsize=8)
    made.savefig(path, dpi=90)
    plt.close(made)


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=pathlib.Path, default=pathlib.Path("experiments/results"),
        help="for gaussian_start.json, .md and .png (experiments/results)",
    )  # fmt: skip
    parser.add_argument("--batch", type=count, default=256, help="samples (256)")
    return parser.parse_args(arguments)


def main() -> None:
    """Run, print and write everything."""
    options = options_of()
    jax.config.update("jax_enable_x64", True)
    metadata = common.metadata(batch=options.batch)
    results = [run(*problem, options.batch) for problem in problems()]
    text = markdown(results, metadata)
    options.folder.mkdir(parents=True, exist_ok=True)
    (options.folder / "gaussian_start.md").write_text(text)
    (options.folder / "gaussian_start.json").write_text(common.to_json(metadata, problems=results))
    figure(results, options.folder / "gaussian_start.png")
    print(text)


if __name__ == "__main__":
    main()
