"""Guidance by measurements against exact posteriors.

    python -m experiments.posteriors [--seeds 4] [--samples 4096] [--budgets 0 20 50 100]
        [--method NAME ...] [--json FILE] [--markdown FILE]

For every method of :mod:`experiments.posteriors.methods` on every problem of
:mod:`experiments.posteriors.problems`: sliced 2-Wasserstein distance (256 directions) to as many
exact samples, error of the mean, relative error of the covariance (Frobenius), root mean square of
u - A x; seconds of a second run. Budget 0 is the reference table's evaluations, others are so many.
Rows that the JSON file has are not made again, unless they are of other seeds or samples;
``--method`` alone, with no name, only writes the page.
"""

import argparse
import functools
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments.posteriors.methods import FLOOR, ROWS, Row
from experiments.posteriors.problems import Problem, problem, scores
from jaxdiff.files import read_json, write_text

NOISES = (0.05, 0.3, 0.0)
NAMES = ("sliced", "mean", "covariance", "misfit")
REFERENCE_SEEDS = 4
Entry = dict[str, Any]
READING = """\
What can be read off these tables:

- Particles are the only way here to the posterior itself: TDS with PiGDM's spread in its twist is
  where exact samples are. With the likelihood for a twist, the paper's, as many particles are not
  enough. FPS-SMC counts the measurement of every level as one more, and fits it more closely than
  its noise allows.
- Of methods with one evaluation at a time and a denoiser that can be differentiated, MMPS fits the
  measurement as well as its noise says, at every noise and without a number to choose; the
  ancestral sampler is better with it, and with PiGDM, than the flow.
- DPS and MCG's gradient can come nearer, with a step that suits the problem: their misfit is that
  of the step, not of the noise (too large with zeta 1, too small with 0.3).
- Of methods that differentiate nothing, DDRM does best; DDS, MPGD and backward guidance fit the
  measurement more closely than its noise allows.
- LGD-MC needs noise that is not small beside the spread of its draws; TMPD's sums of rows can be
  negative, and some samples then leave their path, which is why it can be worse than the prior.
- Without noise, replacement is half of the way, and RePaint's repeats go on, the more the better.
"""


def measured(row: Row, problems: list[Problem], evaluations: int, count: int) -> dict[str, Any]:
    """Return a method's scores on problems, and the seconds of one run."""
    run = _compiled(row.name, evaluations, count)
    found, seconds = [], []
    for i, given in enumerate(problems):
        key = jax.random.key(100 + i)
        if i == 0:
            jax.block_until_ready(run(given, key))
        began = time.perf_counter()
        x = jax.block_until_ready(run(given, key))
        seconds.append(time.perf_counter() - began)
        found.append(scores(x, given.posterior.sample(jax.random.key(200 + i), count), given))
    return {"scores": found, "seconds": float(np.median(seconds))}


@functools.cache
def _compiled(name: str, evaluations: int, count: int) -> Callable[..., jax.Array]:
    """Return a method as a function of problems and keys, one program if it is to be."""
    (row,) = [row for row in ROWS if row.name == name]
    run = lambda given, key: row.sampler(given, evaluations, key, count)  # noqa: E731
    return jax.jit(run) if row.compiled else run


def floor(problems: list[Problem], count: int) -> list[dict[str, float]]:
    """Return what exact samples score."""
    draws = lambda p, i: p.posterior.sample(jax.random.key(i), count)  # noqa: E731
    return [scores(draws(p, 300 + i), draws(p, 200 + i), p) for i, p in enumerate(problems)]


def cell(found: list[dict[str, float]]) -> str:
    """Return the means over problems, in the order of NAMES."""
    return " / ".join(f"{np.mean([s[name] for s in found]):.3g}" for name in NAMES)


def spread(found: list[dict[str, float]], name: str) -> str:
    """Return the least and the most over problems."""
    values = [s[name] for s in found]
    return f"{min(values):.3g} to {max(values):.3g}"


def deviations(found: list[dict[str, float]], reference: Sequence[float]) -> list[float]:
    """Return how far a reference, a mean over its four problems, is from the mean over these, in
    standard deviations of that difference; nothing of a single problem.
    """
    apart = []
    if len(found) < 2:
        return apart
    for name, wanted in zip(NAMES, reference, strict=False):
        values = np.array([s[name] for s in found])
        width = np.std(values, ddof=1) * np.sqrt(1 / REFERENCE_SEEDS + 1 / len(values))
        apart.append(float((wanted - values.mean()) / width))
    return apart


def markdown(result: dict[str, Any]) -> str:
    """Return the page."""
    text = [
        "# Guidance by measurements on exact posteriors", "",
        "Made by `python -m experiments.posteriors`; problems and settings stand in "
        f"`experiments/posteriors/`. jax {result['jax']}, {result['device']}, {result['seeds']} "
        f"seeds, {result['samples']} samples.", "",
        "Scores are sliced 2-Wasserstein distance / error of the mean / relative error of the "
        "covariance / rms of u - A x, means over the seeds, and the range of the distance over "
        "them. The reference is another implementation's, means over four other mixtures of the "
        "same kind (dimension, components, variances, operator; the spread of their means is not "
        "known). *apart* is by how many standard deviations of their difference its means lie from "
        "these. Evaluations are at most so many. Seconds are of one "
        "run after the first, of one core; those of solvers that are no table (DAPS, ReSample, "
        "SNIPS, DDRM, DDNM+) are not of one program.", "",
    ]  # fmt: skip
    for noise in NOISES:
        text += section(noise, result["floor"][str(noise)],
                        [r for r in result["rows"] if r["noise"] == noise])  # fmt: skip
    return "\n".join([*text, READING])


def section(noise: float, exact: list[dict[str, float]], rows: list[Entry]) -> list[str]:
    """Return the lines of one noise's tables."""
    order = {row.name: i for i, row in enumerate(ROWS)}
    rows = sorted(rows, key=lambda r: order.get(r["method"], len(order)))
    title = f"noise {noise:g}, three projections" if noise else "four coordinates, no noise"
    text = [f"## {title}", "", "| method | evaluations | scores | range | reference | apart | s |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    lines: list[tuple[Any, ...]] = [("exact samples", "", exact, FLOOR.get(noise, ()), "")]
    lines += [
        (r["method"], r["evaluations"], r["scores"], r["reference"], f"{r['seconds']:.2f}")
        for r in rows
        if not r["budget"]
    ]
    text += [
        f"| {name} | {count} | {cell(found)} | {spread(found, 'sliced')} | "
        f"{' / '.join(f'{x:g}' for x in given)} | "
        f"{' / '.join(f'{x:+.1f}' for x in deviations(found, given))} | {s} |"
        for name, count, found, given, s in lines
    ]
    budgets = sorted({r["evaluations"] for r in rows if r["budget"]})
    if budgets:
        text += ["", "Sliced distance / rms of u - A x by evaluations:", "",
                 "| method | " + " | ".join(map(str, budgets)) + " |",
                 "|---" * (len(budgets) + 1) + "|"]  # fmt: skip
    for method in dict.fromkeys(r["method"] for r in rows if r["budget"]):
        at = {r["evaluations"]: r["scores"] for r in rows if r["method"] == method and r["budget"]}
        cells = [
            " / ".join(f"{np.mean([s[n] for s in at[b]]):.3g}" for n in ("sliced", "misfit"))
            if b in at else "-" for b in budgets
        ]  # fmt: skip
        text.append(f"| {method} | " + " | ".join(cells) + " |")
    return [*text, ""]


def main() -> None:
    """Measure every method and write the page; numbers are stored as they come."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", default="experiments/results/posteriors.json")
    parser.add_argument("--markdown", default="experiments/results/posteriors.md")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--budgets", type=int, nargs="*", default=(0, 20, 50, 100))
    parser.add_argument("--method", nargs="*", help="parts of names; all methods by default")
    options = parser.parse_args()
    settings = {"seeds": options.seeds, "samples": options.samples}
    result = {"rows": [], "floor": {}}
    if (
        os.path.exists(options.json)
        and settings.items() <= (known := read_json(options.json)).items()
    ):
        result = known
    result |= {
        "jax": jax.__version__,
        "device": f"{jax.devices()[0]}, {platform.machine()}",
    } | settings
    chosen = [r for r in ROWS if options.method is None or any(m in r.name for m in options.method)]
    for noise in NOISES:
        problems = [problem(seed, noise) for seed in range(options.seeds)]
        result["floor"].setdefault(str(noise), floor(problems, options.samples))
        for row, budget in [(r, b) for b in options.budgets for r in chosen if noise in r.noises]:
            if not has(result["rows"], row, noise, budget) and (not budget or budget >= row.least):
                made = entry(row, noise, budget, problems, options.samples)
                result["rows"].append(made)
                write_text(options.json, json.dumps(result, indent=1) + "\n")
                print(f"{noise:g} {row.name} at {made['evaluations']}: {cell(made['scores'])}",
                      flush=True)  # fmt: skip
    write_text(options.markdown, markdown(result))


def entry(row: Row, noise: float, budget: int, problems: list[Problem], count: int) -> Entry:
    """Return a method's row; budget 0 is for the evaluations of the reference table."""
    evaluations = budget or row.evaluations
    return {"method": row.name, "noise": noise, "evaluations": evaluations, "budget": bool(budget),
            "reference": row.reference.get(noise, ()),
            **measured(row, problems, evaluations, count)}  # fmt: skip


def has(rows: list[Entry], row: Row, noise: float, budget: int) -> bool:
    """Return whether a measurement is among the rows."""
    wanted = (row.name, noise, budget or row.evaluations, bool(budget))
    return any(tuple(r[k] for k in ("method", "noise", "evaluations", "budget")) == wanted
               for r in rows)  # fmt: skip


if __name__ == "__main__":
    main()
