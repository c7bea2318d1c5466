"""Guidance by measurements against exact posteriors.

    python -m experiments.posteriors [--seeds 4] [--samples 4096] [--budgets 0 20 50 100]
        [--beside 16] [--method NAME ...] [--json FILE] [--markdown FILE]

For every method of :mod:`experiments.posteriors.methods` on every problem of
:mod:`experiments.posteriors.problems`: sliced 2-Wasserstein distance (256 directions) to as many
exact samples, error of the mean, relative error of the covariance (Frobenius), root mean square of
u - A x; seconds of a second run. Budget 0 is the reference table's evaluations, others are so many.
Rows that the JSON file has are not made again, unless they are of other seeds or samples;
methods of the reference table are measured on ``--beside`` problems, too. ``--method`` alone, with
no name, only writes the page.
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

from experiments.numbers import count, natural
from experiments.posteriors.methods import FLOOR, ROWS, Row
from experiments.posteriors.problems import Problem, problem, scores
from jaxdiff.files import read_json, write_text

NOISES = (0.05, 0.3, 0.0)
NAMES = ("sliced", "mean", "covariance", "misfit")
REFERENCE_SEEDS = 4
Entry = dict[str, Any]
READING = """\
What can be read off these tables:

- Particles are the only way here to the posterior itself: TDS with PiGDM's spread in its twist
  comes nearest to exact samples. With the likelihood for a twist, the paper's, as many particles
  are not enough. FPS-SMC counts the measurement of every level as one more, and fits it more
  closely than its noise allows.
- Of methods with one evaluation at a time and a denoiser that can be differentiated, MMPS fits the
  measurement as well as its noise says, at every noise and without a number to choose; the
  ancestral sampler is better with it, and with PiGDM, than the flow. One iteration is enough.
- DPS and MCG's gradient can come as near, with a step that suits the problem: their misfit is that
  of the step, not of the noise (too large with zeta 1, too small with 0.3).
- Of methods that differentiate nothing, RED-diff does best in distance, and DDRM and DDNM+ of
  those that sample; RED-diff, ReSample, DDS and MPGD do not know how large the noise is.
- LGD-MC needs noise that is not small beside the spread of its draws: with noise 0.3 it is next to
  the particles, with 0.05 it is not. TMPD's sums of rows can be negative, and some samples then
  leave their path: in the mean over problems it alone is worse than the prior. On the problem
  whose prior is nearest to its posterior LGD-MC, the energy of the likelihood and narrow twists
  are, too. They are their papers' formulas: TMPD's sum of a row stands for the diagonal, and is
  far from it where projections mix all coordinates; the others divide by the noise's
  variance alone, where the denoised state has the variance of p(x0 | y), too (PiGDM, MMPS and the
  wide twist add it), so that at high levels their step is some hundred times too long. LGD-MC's
  draws have it, but of ten the likelihood, narrow beside them, counts the nearest one only.
- In 20 evaluations MMPS and PiGDM are where they are in hundreds, DDRM and DDNM+ not far from it.
  A narrow likelihood (LGD-MC, the energy, the paper's twist, with noise 0.05) in so few steps sends
  samples away; SNIPS and DAPS, several evaluations a step, need more of them.
- ULA and SK-ROCK stay at one level, in the mode where they began.
- Beside the reference: with noise, the distance and the error of the mean of every method lie
  within 2.5 deviations. Its relative errors of the covariance are larger, most of all without
  noise, where even that of its prior is (15 beside 4): its posteriors were narrower than these.
  Its order of the methods is the same but for RePaint's repeats, which do more here.
- Without noise, replacement and projection are half of the way, and RePaint's repeats go on, the
  more the better.
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
        "them. Evaluations are at most so many. Seconds are of one run after the first, on one "
        "core that others used, too; solvers that are no table (DAPS, ReSample, SNIPS, DDRM, "
        "DDNM+) are not one program.", "",
    ]  # fmt: skip
    for noise in NOISES:
        text += section(noise, result["floor"][str(noise)],
                        [r for r in result["rows"] if r["noise"] == noise])  # fmt: skip
    if result["beside"]["rows"]:
        text += beside(result["beside"])
    return "\n".join([*text, READING])


def beside(result: dict[str, Any]) -> list[str]:
    """Return the lines of the table beside the reference."""
    text = [
        "## Beside another implementation", "",
        "The reference has means over four other mixtures of the same kind (dimension, components, "
        "variances, operator; how far their means lie apart is not known). Here are means over "
        f"{result['seeds']} problems, and by how many standard deviations of their difference the "
        "reference's lie from these.", "",
        "| method | noise | reference | here | apart |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for noise in NOISES:
        rows = [("exact samples", result["floor"][str(noise)], FLOOR.get(noise, ()))]
        rows += [(r["method"], r["scores"], r["reference"])
                 for r in result["rows"] if r["noise"] == noise]  # fmt: skip
        for name, found, reference in rows:
            if reference:
                apart = " / ".join(f"{x:+.1f}" for x in deviations(found, reference))
                given = " / ".join(f"{x:g}" for x in reference)
                text.append(f"| {name} | {noise:g} | {given} | {cell(found)} | {apart} |")
    return [*text, ""]


def section(noise: float, exact: list[dict[str, float]], rows: list[Entry]) -> list[str]:
    """Return the lines of one noise's tables."""
    order = {row.name: i for i, row in enumerate(ROWS)}
    rows = sorted(rows, key=lambda r: order.get(r["method"], len(order)))
    title = f"noise {noise:g}, three projections" if noise else "four coordinates, no noise"
    text = [f"## {title}", "", "| method | evaluations | scores | range | s |",
            "|---|---|---|---|---|",
            f"| exact samples | | {cell(exact)} | {spread(exact, 'sliced')} | |"]  # fmt: skip
    text += [
        f"| {r['method']} | {r['evaluations']} | {cell(r['scores'])} | "
        f"{spread(r['scores'], 'sliced')} | {r['seconds']:.2f} |"
        for r in rows
        if not r["budget"]
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
    parser.add_argument("--seeds", type=count, default=4)
    parser.add_argument("--samples", type=count, default=4096)
    parser.add_argument("--budgets", type=natural, nargs="*", default=(0, 20, 50, 100))
    parser.add_argument("--beside", type=natural, default=16, help="problems beside the reference")
    parser.add_argument("--method", nargs="*", help="parts of names; all methods by default")
    options = parser.parse_args()
    known = read_json(options.json) if os.path.exists(options.json) else {}
    result = of_settings(known, options.seeds, options.samples)
    result["beside"] = of_settings(known.get("beside", {}), options.beside, options.samples)
    result |= {"jax": jax.__version__, "device": f"{jax.devices()[0]}, {platform.machine()}"}
    save = lambda: write_text(options.json, json.dumps(result, indent=1) + "\n")  # noqa: E731
    chosen = [r for r in ROWS if options.method is None or any(m in r.name for m in options.method)]
    measure(result, chosen, options.budgets, save)
    if options.beside:
        measure(result["beside"], [row for row in chosen if row.reference], (0,), save)
    write_text(options.markdown, markdown(result))


def of_settings(known: dict[str, Any], seeds: int, samples: int) -> dict[str, Any]:
    """Return what is known of so many problems and samples, nothing of others."""
    settings = {"seeds": seeds, "samples": samples}
    same = settings.items() <= known.items()
    return settings | (
        {k: known[k] for k in ("rows", "floor")} if same else {"rows": [], "floor": {}}
    )


def measure(
    result: dict[str, Any], chosen: Sequence[Row], budgets: Sequence[int], save: Callable[[], None]
) -> None:
    """Put in the rows that are missing."""
    for noise in NOISES:
        problems = [problem(seed, noise) for seed in range(result["seeds"])]
        result["floor"].setdefault(str(noise), floor(problems, result["samples"]))
        for row, budget in [(r, b) for b in budgets for r in chosen if noise in r.noises]:
            if not has(result["rows"], row, noise, budget) and (not budget or budget >= row.least):
                made = entry(row, noise, budget, problems, result["samples"])
                result["rows"].append(made)
                save()
                print(f"{noise:g} {row.name} at {made['evaluations']}: {cell(made['scores'])}",
                      flush=True)  # fmt: skip


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
