"""Every method of drug-target prediction on nuclear receptors, GPCRs, ion channels and kinases.

    python -m experiments.drug_target --data DIR --json experiments/results/drug_target.json
    python -m experiments.drug_target --data DIR --sets ic --settings pairs --folds 10
    python -m experiments.drug_target predict --known Y.txt --drugs D.txt --targets T.txt --count 20

The first makes one table: AUC and AUPR with intervals of 95 % over five permutations and ten folds,
of pairs (CVS1), new drugs (CVS2) and new targets (CVS3); on Davis's kinases over five seeds with a
fifth held out, for binding and for affinities. Every row is kept in the JSON file as soon as it is
made, and the same command goes on from there; a Markdown page is written beside it. The second is
one setting of one data set by the first ten folds, in some two minutes on two cores. The third
lists the pairs that a method thinks likeliest among those not known, from three text files.
"""

import argparse
import functools
import json
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.benchmarks.common import metadata
from experiments.drug_target import data
from experiments.drug_target.methods import METHODS, plain_rls_kron
from experiments.drug_target.page import page
from experiments.numbers import count, natural
from jaxdiff.classify.interactions import (
    Problem,
    cross_validate,
    held_out,
    new_interactions,
    predict_folds,
    problem,
    read_matrix,
)
from jaxdiff.classify.interactions.new_interactions import check_names
from jaxdiff.classify.interactions.scores import concordance, interval
from jaxdiff.files import check_writable, read_json, write_text

SETTINGS = ("pairs", "drugs", "targets")
Row = dict[str, Any]


def problem_of(folder: Path, name: str, *, binary: bool) -> Problem:
    """Return a data set; of Davis's kinases interactions or affinities."""
    if name in data.GOLD:
        return data.gold_standard(folder, name)
    return data.davis(folder, binary=binary)


def folds_of(whole: Problem, name: str, setting: Any, first: int | None = None) -> np.ndarray:
    """Return the folds: all fifty, or, of the large matrix, the first fifth of every seed; or the
    first of these.
    """
    shape = np.shape(whole.known)
    if name in data.GOLD:
        return held_out((shape[0], shape[1]), setting)[:first]
    return held_out((shape[0], shape[1]), setting, num_folds=5)[::5][:first]


def classified(whole: Problem, folds: np.ndarray, method: str) -> Row:
    """Return AUC and AUPR of a method, with the seconds they took, compilation included."""
    entry = METHODS[method]
    begun, used = time.perf_counter(), time.process_time()
    found = cross_validate(
        entry.predict, whole, folds, jax.random.key(0), folds_at_once=entry.at_once,
        dtype=entry.dtype,
    )  # fmt: skip
    auc, aupr = found.intervals
    return {
        "auc": list(auc),
        "aupr": list(aupr),
        "folds": len(folds),
        "seconds": time.perf_counter() - begun,
        "processor_seconds": time.process_time() - used,
    }


def regressed(whole: Problem, folds: np.ndarray, method: str) -> Row:
    """Return concordance, and mean squared error where scores are affinities."""
    entry = METHODS[method]
    begun, used = time.perf_counter(), time.process_time()
    scores = predict_folds(
        entry.predict, whole, folds, jax.random.key(0), folds_at_once=entry.at_once,
        dtype=entry.dtype,
    )  # fmt: skip
    known = np.asarray(whole.known)
    pairs = [(known[mask], F[mask]) for F, mask in zip(scores, folds, strict=True)]
    squares = np.array([np.mean((y - f) ** 2) for y, f in pairs])
    constant = np.array([np.var(y) for y, _ in pairs])
    return {
        "concordance": list(interval(np.array([concordance(*pair) for pair in pairs]))),
        "mse": list(interval(squares)) if entry.error else None,
        "variance": float(constant.mean()),
        "folds": len(folds),
        "seconds": time.perf_counter() - begun,
        "processor_seconds": time.process_time() - used,
    }


def speed(whole: Problem) -> Row:
    """Return seconds of RLS-Kron over all folds: one program, and a loop in NumPy."""
    folds = folds_of(whole, "gpcr", "pairs")
    method = METHODS["rls_kron"].predict
    ours = predict_folds(method, whole, folds, jax.random.key(0))  # compiles
    times: dict[str, list[float]] = {"jax": [], "numpy": []}
    for _ in range(3):
        for name in times:
            used = time.process_time()
            if name == "jax":
                predict_folds(method, whole, folds, jax.random.key(0))
            else:
                theirs = plain_rls_kron(whole, folds)
            times[name].append(time.process_time() - used)
    return {
        "folds": len(folds),
        "largest_difference": float(np.abs(ours - theirs).max()),
        **{f"{name}_processor_seconds": min(values) for name, values in times.items()},
    }


def study(options: argparse.Namespace) -> None:
    """Make the rows that are not there yet, and the page of all."""
    if options.json:
        check_writable(options.json)
    rows: dict[str, Row] = {}
    if options.json and options.json.exists():
        rows = read_json(options.json)["rows"]
    read = functools.cache(lambda name, binary: problem_of(options.data, name, binary=binary))
    wanted = [
        (name, setting, method)
        for setting in options.settings
        for name in options.sets
        for method in options.methods
    ]
    for name, setting, method in wanted:
        tasks = ("binding",) if name in data.GOLD else ("binding", "affinity")
        for task in tasks:
            key = f"{name}/{setting}/{task}/{method}"
            if task == "affinity" and not METHODS[method].affinities:
                continue
            binary = task == "binding"
            whole = read(name, binary)
            folds = folds_of(whole, name, setting, options.folds)
            if key in rows and rows[key]["folds"] == len(folds):
                continue
            rows[key] = (classified if binary else regressed)(whole, folds, method)
            print(key, {k: v for k, v in rows[key].items() if k != "variance"}, flush=True)
            save(options.json, rows)
    for name in options.speed:
        key = f"{name}/speed"
        if key not in rows:
            rows[key] = speed(read(name, True))
            save(options.json, rows)
    print(page(rows))


def save(path: Path | None, rows: dict[str, Row]) -> None:
    """Write the numbers, and then the page."""
    if path is not None:
        write_text(path, json.dumps({"machine": metadata(), "rows": rows}, indent=1) + "\n")
        write_text(path.with_suffix(".md"), page(rows))


def predict(options: argparse.Namespace) -> None:
    """Print the likeliest new interactions of three files."""
    known, drugs, targets = (
        read_matrix(p) for p in (options.known, options.drugs, options.targets)
    )
    values, rows, columns = known
    if options.transpose:
        values, rows, columns = values.T, columns, rows
    for what, known_names, given in (("drugs", rows, drugs), ("targets", columns, targets)):
        check_names(what, known_names, given.rows)
        check_names(what, given.rows, given.columns)
    whole = problem(values, drugs.values, targets.values)
    best = new_interactions(
        METHODS[options.method].predict, whole, jax.random.key(options.seed), options.count
    )
    print("drug\ttarget\tscore")
    for drug, target, score in best:
        names = rows[drug] if rows else drug, columns[target] if columns else target
        print(f"{names[0]}\t{names[1]}\t{score:.6g}")


def _say(message: Warning | str, *more: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the study, or predict."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    warnings.simplefilter("always", UserWarning)
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    names = sorted(METHODS)
    if given[:1] == ["predict"]:
        parser.add_argument("command", choices=["predict"])
        for name, text in (("known", "interactions, 0 or 1, drugs by targets"),
                           ("drugs", "similarities of drugs"),
                           ("targets", "similarities of targets")):  # fmt: skip
            parser.add_argument(f"--{name}", type=Path, required=True, metavar="FILE", help=text)
        parser.add_argument("--transpose", action="store_true", help="known is targets by drugs")
        parser.add_argument("--method", choices=names, default="rls_kron")
        parser.add_argument("--count", type=count, default=20, help="how many pairs")
        parser.add_argument(
            "--seed", type=natural, default=0, help="of methods that start at random"
        )
        options = parser.parse_args(given)
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _say
                predict(options)
        except (OSError, ValueError) as error:
            parser.error(str(error))
        return
    parser.add_argument(
        "--data", type=Path, required=True, metavar="DIR", help="folder of the data"
    )
    parser.add_argument("--sets", nargs="+", choices=[*data.GOLD, "davis"], default=[*data.GOLD])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--methods", nargs="+", choices=names, default=list(METHODS))
    parser.add_argument(
        "--folds", type=count, metavar="N",
        help="the first so many only, for a sooner and rougher table (all); rows that were made of "
        "another number are made anew",
    )  # fmt: skip
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="numbers; the page goes beside it"
    )
    parser.add_argument(
        "--speed", nargs="*", choices=data.GOLD, default=["nr"], help="compared with a NumPy loop"
    )
    options = parser.parse_args(given)
    try:
        study(options)
    except OSError as error:  # no data there, or no folder for the numbers
        parser.error(str(error))


if __name__ == "__main__":
    main()
