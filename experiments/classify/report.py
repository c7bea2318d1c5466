"""The page of distilled classifiers."""

import math
from typing import Any

import numpy as np

PAPER = """\
As facts, from elsewhere, never measured here: on CIFAR-100 with ResNet-32x4 (79.42 %) teaching
ResNet-8x4 (73.09 % alone) the README of SimKD's authors has KD 74.42, FitNet 74.32, AT 75.07, SP
74.29, VID 74.55, CRD 75.59, SRRL 75.39, SemCKD 76.23, SimKD 76.73 (factor 8), 77.88 (4) and 78.08
(2), in 240 epochs at the full width (arXiv 2203.14001). With VGG-8 (70.46) as the student the
README of SemCKD's authors has KD 72.73, FitNet 72.91, SemCKD 75.27 (arXiv 2012.03236). Of OKDDip
others report ResNet-32 alone 71.09, with DML 75.08, CL-ILR 74.60, ONE 74.26, OKDDip 74.24, its
ensemble 76.27 (README of winycg/MCL-OKD), in 300 epochs.
"""

CLAIMS = {  # of the papers: what is above what
    "SimKD above KD": ("simkd", "kd"), "SimKD above FitNet": ("simkd", "fitnet"),
    "the teacher above SimKD": ("teacher", "simkd"), "SemCKD above FitNet": ("semckd", "fitnet"),
    "OKDDip's leader above the network alone": ("okddip", "vanilla"),
}  # fmt: skip


def summaries(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a row for each method, its accuracies' mean and standard deviation over seeds (by n -
    1; nan of one seed), in the order they were made.
    """
    found = []
    for name in dict.fromkeys(r["method"] for r in rows):
        own = [r for r in rows if r["method"] == name]
        scored = [r for r in own if "accuracy" in r]
        if not scored:
            why = own[0].get("not_for") or own[0]["diverged"]
            found.append({"method": name, "no_score": why})
            continue
        accuracies = [r["accuracy"] for r in scored]
        spread = float(np.std(accuracies, ddof=1)) if len(scored) > 1 else math.nan
        ensembles = [r["ensemble"] for r in scored if "ensemble" in r]
        found.append({
            "method": name, "seeds": len(scored), "mean": float(np.mean(accuracies)),
            "spread": spread, "seconds": float(np.mean([r["seconds"] for r in scored])),
            "parameters": scored[0]["parameters"], "multiply_adds": scored[0]["multiply_adds"],
            "ensemble": float(np.mean(ensembles)) if ensembles else None,
            "diverged": f"{len(own) - len(scored)} more diverged" if own != scored else "",
        })  # fmt: skip
    return found


def line(summary: dict[str, Any]) -> str:
    """Return a line of the table."""
    if "no_score" in summary:
        return f"| {summary['method']} | | | | | | {summary['no_score']} |"
    spread = "" if math.isnan(summary["spread"]) else f" ± {100 * summary['spread']:.2f}"
    extra = summary["ensemble"]
    extra = "" if extra is None else f"its ensemble {100 * extra:.2f}"
    extra = ", ".join(filter(None, [extra, summary["diverged"]]))
    return (
        f"| {summary['method']} | {100 * summary['mean']:.2f}{spread} | {summary['seeds']} | "
        f"{summary['parameters']} | {summary['multiply_adds'] / 1e6:.2f} | "
        f"{summary['seconds']:.0f} | {extra} |"
    )


def differences(found: list[dict[str, Any]]) -> list[str]:
    """Return lines that say by how much what the papers claim holds, of rows of several seeds: the
    difference of means and its standard error. Of a method's variants the best one is taken.
    """
    several = [f for f in found if f.get("seeds", 1) > 1]

    def best(base: str) -> dict[str, Any] | None:
        own = [f for f in several if f["method"] == base or f["method"].startswith(f"{base}-")]
        return max(own, key=lambda f: f["mean"], default=None)

    lines = []
    for claim, names in CLAIMS.items():
        one, other = map(best, names)
        if one is not None and other is not None:
            apart = 100 * (one["mean"] - other["mean"])
            error = 100 * math.hypot(*(f["spread"] / math.sqrt(f["seeds"]) for f in (one, other)))
            shown = f"{one['method']} less {other['method']}"
            lines.append(f"| {claim} | {shown} | {apart:+.2f} ± {error:.2f} |")
    if lines:
        head = "| claim | difference of means | points, with the standard error |"
        lines = ["", head, "|---|---|--:|", *lines, ""]
    return lines


def page(numbers: dict[str, Any]) -> str:
    """Return the page as Markdown."""
    s, found = numbers["settings"], summaries(numbers["rows"])
    scored = {f["method"]: f for f in found if "mean" in f}
    command = " ".join(
        f"--{name.replace('_', '-')} {value}" for name, value in s.items() if value is not None
    )
    seeds = sorted({r["seed"] for r in numbers["rows"]})
    length = f", {s['updates']} updates" if "updates" in s else ""
    lines = [
        f"# Distilled classifiers{length}\n",
        f"Made by `python -m experiments.classify {command} --seeds {' '.join(map(str, seeds))}`",
        f"on {numbers['machine']}. Accuracy on the test images in per cent, mean and standard",
        "deviation over seeds; parameters and millions of multiply-adds of what is evaluated;",
        "seconds of training, compilation included, on a machine that others used too. Students of",
        "every method made the same number of updates, far fewer than the papers'.\n",
        "| method | accuracy | seeds | parameters | multiply-adds | seconds | |",
        "|---|--:|--:|--:|--:|--:|---|",
        *(line(f) for f in found),
    ]
    if {"teacher", "vanilla"} <= set(scored):
        gap = scored["teacher"]["mean"] - scored["vanilla"]["mean"]
        best = sorted((f for f in found if "mean" in f and f["method"] not in
                       ("teacher", "vanilla")), key=lambda f: -f["mean"])  # fmt: skip
        count = s.get("test_images") or 10_000
        error = 100 * math.sqrt(scored["vanilla"]["mean"] * (1 - scored["vanilla"]["mean"]) / count)
        lines.append(
            f"\nOf {count} test images alone an accuracy has a standard error of {error:.2f}."
        )
        lines.append(f"The teacher is {100 * gap:.2f} above the student without one.")
        if best:
            names = ", ".join(f"{f['method']} ({100 * f['mean']:.2f})" for f in best[:5])
            lines.append(f"In the order of their means: {names}.")
    lines += differences(found)
    notes = numbers.get("notes", [])
    return "\n".join([*lines, *notes, "", PAPER])
