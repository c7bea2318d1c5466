"""Real weights made by strangers, sampled in ten evaluations: J. Hughes's MNIST models.

    python -m experiments.mnist_ddpm --weights DIR --json experiments/results/mnist_ddpm.json

writes numbers, a page and a picture. Of the checkpoint 0400 of the
published run, and of the earlier 0100, the page has

    start       root mean square distance to accurate end points, by the level that sampling starts
                from: the end points are the same network's probability flow from that level
    solvers     ten evaluations and fewer, on held-out noise
    guidance    autoguidance with the early checkpoint as the worse model (arXiv 2406.02507)
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdiff import grids, solvers
from jaxdiff.app.load import load_model
from jaxdiff.app.models import Model
from jaxdiff.app.published import to_pictures
from jaxdiff.conditioning.guidance import autoguidance
from jaxdiff.report.images import side_by_side
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.table import load_table
from jaxdiff.sampling.trace import table

LATE, EARLY = "mnist_ddpm_0001_0400.pt", "mnist_ddpm_0001_0100.pt"
START, ACCURATE, LONGER = 10.0, 30, 40
SOLVERS = {
    "dpmpp": (solvers.dpmpp, {"order": 2}),
    "unipc": (solvers.unipc, {"order": 3}),
}
run = jax.jit(sample)


def ends(model: Model, D: Any, noise: np.ndarray, high: float, made: Any) -> np.ndarray:
    """Return the samples (count, 28, 28, 1) that a table makes of standard normal noise."""
    return np.asarray(run(D, made, high * noise))


def on_grid(model: Model, name: str, num_steps: int, high: float) -> Any:
    """Return the table of a solver on Karras's grid from ``high`` to the model's lowest level."""
    solver, options = SOLVERS[name]
    return table(solver, grids.karras(num_steps, model.levels[0], high), **options)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return the root mean square difference, black and white being 1 apart."""
    return float(np.sqrt(np.mean((a - b) ** 2)))


def outside(samples: np.ndarray) -> float:
    """Return the share of numbers more than a tenth outside of [-0.5, 0.5]."""
    return float(np.mean(np.abs(samples) > 0.6))


def measured(options: argparse.Namespace) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the numbers of the page, and its pictures by their titles."""
    late = load_model(Path(options.weights) / LATE)
    early = load_model(Path(options.weights) / EARLY)
    key = jax.random.key(options.seed)
    noise = np.asarray(jax.random.normal(key, (options.count, *late.shape)), np.float32)
    D, pictures = late.denoiser, {}
    start = []
    for high in (late.levels[1], 40.0, START, 4.0):
        made = ends(late, D, noise, high, on_grid(late, "unipc", 10, high))
        start.append({"high": high, "outside": outside(made), "std": float(made.std())})
        pictures[f"10 evaluations from level {high:.3g}"] = made
    exact = ends(late, D, noise, START, on_grid(late, "unipc", ACCURATE, START))
    longer = ends(late, D, noise, START, on_grid(late, "unipc", LONGER, START))
    pictures[f"{ACCURATE} evaluations"] = exact
    rows = []
    for name in SOLVERS:
        for nfe in options.nfe:
            made = ends(late, D, noise, START, on_grid(late, name, nfe, START))
            rows.append({"sampler": name, "nfe": nfe, "distance": distance(made, exact)})
    for path in options.tables or ():
        given = load_table(path)
        made = ends(late, D, noise, float(given.levels[0]), given)
        rows.append({"sampler": "tuned", "nfe": given.nfe, "distance": distance(made, exact)})
        pictures[f"tuned, {given.nfe} evaluations"] = made
    guided = autoguidance(D, early.denoiser, options.weight)
    worse = on_grid(early, "unipc", 10, START)
    pictures["early checkpoint"] = ends(early, early.denoiser, noise, START, worse)
    own = on_grid(late, "unipc", 10, START)
    pictures[f"autoguidance {options.weight:g}"] = ends(late, guided, noise, START, own)
    guidance = [
        {"model": title, "outside": outside(pictures[title]), "std": float(pictures[title].std())}
        for title in ("early checkpoint", f"autoguidance {options.weight:g}")
    ]
    numbers = {
        "levels": late.levels, "start": start, "solvers": rows, "guidance": guidance,
        "accuracy": distance(exact, longer), "count": options.count,
    }  # fmt: skip
    return numbers, {k: to_pictures(late.source, v) for k, v in pictures.items()}


def page(numbers: dict[str, Any], command: str) -> str:
    """Return the page as Markdown."""
    low, high = numbers["levels"]
    lines = [
        "# Real weights from elsewhere: MNIST digits in ten evaluations and fewer\n",
        f"Made by `{command}` in {numbers['seconds']:.0f} s on {numbers['machine']}.",
        f"{numbers['count']} samples of held-out noise; values lie in [-0.5, 0.5].\n",
        "## Where sampling starts\n",
        f"The model's levels reach from {low:.3g} to {high:.4g}. The error of a network of eps is",
        "multiplied by the level: from the highest, the flow leaves the data. *outside*: the share",
        "of pixels beyond +-0.6. UniPC of order 3 with 10 evaluations.\n",
        "| from level | outside | standard deviation |\n|--:|--:|--:|",
        *(f"| {r['high']:.4g} | {r['outside']:.4f} | {r['std']:.3f} |" for r in numbers["start"]),
        f"\n## Distance to accurate end points, from level {START:g}\n",
        f"Root mean square, to UniPC's with {ACCURATE} evaluations, which are",
        f"{numbers['accuracy']:.4f} from those with {LONGER}.\n",
    ]
    each = sorted({r["nfe"] for r in numbers["solvers"]})
    lines += ["| sampler | " + " | ".join(map(str, each)) + " |", "|---|" + "--:|" * len(each)]
    for name in dict.fromkeys(r["sampler"] for r in numbers["solvers"]):
        known = {r["nfe"]: r["distance"] for r in numbers["solvers"] if r["sampler"] == name}
        cells = (f"{known[n]:.4f}" if n in known else "" for n in each)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += [
        "\n## Autoguidance by the early checkpoint\n",
        "| model | outside | std |\n|---|--:|--:|",
    ]
    for r in numbers["guidance"]:
        lines.append(f"| {r['model']} | {r['outside']:.4f} | {r['std']:.3f} |")
    lines += [
        "\nNot here: distillation to 1 and 2 evaluations, and scores against MNIST's digits.",
        "Samplers that `jaxdiff tune --high 10` made join the table by `--tables`.",
    ]
    return "\n".join([*lines, "\n![Samples](mnist_ddpm.png)", ""])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m experiments.mnist_ddpm")
    add = parser.add_argument
    add("--weights", required=True, metavar="DIR", help=f"folder of {LATE} and {EARLY}")
    add("--json", type=Path, default=Path("experiments/results/mnist_ddpm.json"))
    add("--tables", nargs="*", metavar="FILE", help="tables by jaxdiff tune --high 10")
    add("--nfe", type=int, nargs="+", default=[4, 6, 10])
    add("--count", type=int, default=32, help="samples (32)")
    add("--weight", type=float, default=2.0, help="of autoguidance (2)")
    add("--seed", type=int, default=1)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    numbers, pictures = measured(options)
    numbers["seconds"] = time.monotonic() - begun
    numbers["machine"] = (
        f"{platform.machine()}, {jax.devices()[0].device_kind}, jax {jax.__version__}"
    )
    command = "python -m experiments.mnist_ddpm " + " ".join(arguments)
    options.json.write_text(json.dumps(numbers | {"command": command}, indent=1) + "\n")
    options.json.with_suffix(".md").write_text(page(numbers, command))
    shown = {title: np.clip(images[:12], -1, 1) for title, images in pictures.items()}
    side_by_side(shown, rows=4, columns=3).savefig(options.json.with_suffix(".png"), dpi=100)
    print(page(numbers, command))
    return 0


if __name__ == "__main__":
    sys.exit(main())
