"""The usual classifiers on scikit-learn's data sets: one table per data set.

    python -m experiments.classification --json experiments/results/classification.json

Stratified folds, the same for all classifiers (five of each of two permutations); settings are
chosen inside the training folds. Rows are kept as soon as they are made, and the same command goes
on; a Markdown page is written beside them. The control has labels permuted: whatever then does
better than the largest class has seen what it should not.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.model_selection import RepeatedStratifiedKFold

from experiments.benchmarks.common import metadata
from experiments.classification.classifiers import CLASSIFIERS, make
from experiments.classification.scores import scores
from jaxdiff.classify.interactions.scores import interval
from jaxdiff.files import check_writable, read_json, write_text

SETS = {"breast_cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}
CONTROL = "logistic"
Row = dict[str, Any]


def measured(
    name: str, data: str, *, permuted: bool = False, folds: int = 5, repeats: int = 2
) -> Row:
    """Return mean and half of the interval of every score of a classifier, and seconds of fits."""
    x, y = SETS[data](return_X_y=True)
    if permuted:
        y = np.random.default_rng(0).permutation(y)
    splits = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=0)
    found, used = [], time.process_time()
    for seed, (train, test) in enumerate(splits.split(x, y)):
        model: Any = make(CLASSIFIERS[name], seed)
        model.fit(x[train], y[train])
        found.append(scores(y[test], model.predict_proba(x[test])))
    used = time.process_time() - used
    pairs = {k: list(interval(np.array([s[k] for s in found]))) for k in found[0]}
    return {
        "scores": pairs,
        "processor_seconds_per_fit": used / len(found),
        "largest_class": float(np.bincount(y).max() / len(y)),
        "samples": len(y),
        "features": x.shape[1],
        "folds": len(found),
    }


def page(rows: dict[str, Row]) -> str:
    """Return the Markdown page."""
    lines = [
        "# Classifiers\n",
        "`python -m experiments.classification --json experiments/results/classification.json`\n",
        "Means over ten stratified test folds (five of each of two permutations), the same for all "
        "classifiers, ± half of the interval of 95 %. Scaling and the choice of settings see "
        "training folds only. Precision, recall, F, ROC-AUC and AUPR are means over classes. "
        "Seconds are of processor time, of a fit with its inner cross-validation.\n",
    ]
    for data in SETS:
        shown = {k.split("/")[1]: row for k, row in rows.items() if k.startswith(f"{data}/")}
        if not shown:
            continue
        first = next(iter(shown.values()))
        lines.append(
            f"## {data.replace('_', ' ')}: {first['samples']} samples of {first['features']} "
            f"features, largest class {first['largest_class']:.3f}\n"
        )
        names = list(first["scores"])
        lines.append(f"| classifier | {' | '.join(names)} | s |")
        lines.append("|---" * (len(names) + 2) + "|")
        for name, row in shown.items():
            title = CLASSIFIERS[name].title if name in CLASSIFIERS else f"control: {name}"
            cells = " | ".join(f"{a:.3f} ± {b:.3f}" for a, b in row["scores"].values())
            lines.append(f"| {title} | {cells} | {row['processor_seconds_per_fit']:.2f} |")
        lines.append("")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the rows that are not there yet."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    names = list(CLASSIFIERS)
    parser.add_argument("--classifiers", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="numbers; the page goes beside it"
    )
    options = parser.parse_args(arguments)
    rows: dict[str, Row] = {}
    if options.json:
        check_writable(options.json)
        rows = read_json(options.json)["rows"] if options.json.exists() else {}
    for data in options.sets:
        for name in (*options.classifiers, "permuted labels"):
            key = f"{data}/{name}"
            if key not in rows:
                permuted = name == "permuted labels"
                rows[key] = measured(CONTROL if permuted else name, data, permuted=permuted)
                print(key, {k: round(v[0], 3) for k, v in rows[key]["scores"].items()}, flush=True)
            if options.json:
                text = json.dumps({"machine": metadata(), "rows": rows}, indent=1) + "\n"
                write_text(options.json, text)
                write_text(options.json.with_suffix(".md"), page(rows))
    print(page(rows))


if __name__ == "__main__":
    main()
