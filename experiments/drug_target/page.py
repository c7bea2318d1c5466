"""The page of drug-target prediction, from the rows of the study."""

from collections.abc import Iterator
from typing import Any

from experiments.drug_target.methods import KNOWN, KNOWN_NEW, METHODS

Row = dict[str, Any]
SETS = {"nr": "NR", "gpcr": "GPCR", "ic": "IC", "davis": "DAVIS"}
TITLES = {
    "pairs": "Pairs at random (CVS1)",
    "drugs": "New drugs (CVS2)",
    "targets": "New targets (CVS3)",
}
HEAD = """# Drug-target prediction

`python -m experiments.drug_target --data DIR --sets nr gpcr ic davis --json \
experiments/results/drug_target.json`

AUC / AUPR of held-out pairs, mean ± half of the interval of 95 % over folds (five permutations of
ten folds each; of DAVIS a fifth held out by each of five seeds, bound being Kd < 30 nM). All
methods have their defaults, none was tuned on these folds. A value with a star lies within its
interval of what an independent NumPy implementation gave on the same folds.
The neighbours' weights of WNN-GIP are 1, T, T^2, ... in its paper and by default here, and T, T^2,
... in that implementation ("weights from T"): its AUPR on GPCR and IC is higher by 0.03 for that.
"Means of neighbours" are weights that sum to 1.
CMF is above that implementation's on GPCR and IC (0.930 / 0.632 and 0.863 / 0.598);
tuned, it has 0.940 / 0.745 and 0.981 / 0.923 in Liu et al. (PLoS Comput. Biol. 12, 2016, e1004760).
"Profiles only" is the negative control: it knows nothing of new drugs, and gives all of them the
scores of what is popular among targets.
"""


def page(rows: dict[str, Row]) -> str:
    """Return the Markdown page."""
    return "\n".join([HEAD, *_fewer(rows), *_bindings(rows), *_affinities(rows), *_speed(rows), ""])


def _fewer(rows: dict[str, Row]) -> Iterator[str]:
    """Say which rows are of some folds only."""
    for name, title in SETS.items():
        whole = 5 if name == "davis" else 50
        some = {k: r["folds"] for k, r in _of_set(rows, name) if r["folds"] != whole}
        for count in sorted({*some.values()}):
            which = sorted({_in_words(k) for k, folds in some.items() if folds == count})
            yield f"Of {title} by the first {count} folds of {whole} only: {', '.join(which)}.\n"


def _of_set(rows: dict[str, Row], name: str) -> Iterator[tuple[str, Row]]:
    """The rows of a data set's methods."""
    yield from ((k, r) for k, r in rows.items() if k.startswith(f"{name}/") and k.count("/") == 3)


def _in_words(key: str) -> str:
    """Return the title of a row's method, and its setting."""
    _, setting, _, method = key.split("/")
    return f"{METHODS[method].title} ({setting})"


def _bindings(rows: dict[str, Row]) -> Iterator[str]:
    for setting, title in TITLES.items():
        shown = [s for s in SETS if any(k.startswith(f"{s}/{setting}/binding/") for k in rows)]
        if not shown:
            continue
        yield f"## {title}\n"
        yield f"| method | {' | '.join(f'{SETS[s]} AUC | {SETS[s]} AUPR' for s in shown)} |"
        yield "|---" * (1 + 2 * len(shown)) + "|"
        for name, entry in METHODS.items():
            cells = [_cells(rows, s, setting, name) for s in shown]
            if any(cell != "- | -" for cell in cells):
                yield f"| {entry.title} | {' | '.join(cells)} |"
        yield ""


def _cells(rows: dict[str, Row], data: str, setting: str, name: str) -> str:
    row = rows.get(f"{data}/{setting}/binding/{name}")
    if row is None:
        return "- | -"
    table: dict[str, Any] = KNOWN_NEW.get(setting, KNOWN)
    known = table.get(name, {}).get(data)
    pairs = [row["auc"], row["aupr"]]
    within = [known is not None and abs(p[0] - k) <= p[1] for p, k in zip(pairs, known or (0, 0))]  # noqa: B905
    return " | ".join(
        f"{mean:.3f} ± {half:.3f}{'*' if inside else ''}"
        for (mean, half), inside in zip(pairs, within, strict=True)
    )


def _affinities(rows: dict[str, Row]) -> Iterator[str]:
    shown = [s for s in TITLES if any(k.startswith(f"davis/{s}/affinity/") for k in rows)]
    if not shown:
        return
    yield "## Affinities of DAVIS\n"
    yield (
        "-log10 Kd (M), of which 5 is no binding and stands for what is held out. Concordance "
        "index and mean squared error (- where scores are no affinities). NRLMF, KBMF2K and SVM "
        "are classifiers, BLM-NII scales profiles to [0, 1]: none of them takes affinities. Of "
        "affinities CMF's 30 rounds are too few, and its factors still oscillate: 0.47 to 0.83 "
        "over the folds of CVS1, 0.82 to 0.83 after 200, 0.89 to 0.90 with a ridge of 4 in place "
        "of 0.5.\n"
    )
    yield f"| method | {' | '.join(f'{TITLES[s]} | error' for s in shown)} |"
    yield "|---" * (1 + 2 * len(shown)) + "|"
    for name, entry in METHODS.items():
        found = [rows.get(f"davis/{s}/affinity/{name}") for s in shown]
        if not any(found):
            continue
        cells = [
            "- | -" if row is None else f"{_number(row['concordance'])} | {_number(row['mse'])}"
            for row in found
        ]
        yield f"| {entry.title} | {' | '.join(cells)} |"
    variances = [next(iter(_of(rows, f"davis/{s}/affinity/")))["variance"] for s in shown]
    cells = " | ".join(f"0.500 | {v:.3f}" for v in variances)
    yield f"| the mean of the held-out affinities | {cells} |\n"


def _of(rows: dict[str, Row], start: str) -> Iterator[Row]:
    yield from (row for key, row in rows.items() if key.startswith(start))


def _number(pair: list[float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.3f} ± {pair[1]:.3f}"


def _speed(rows: dict[str, Row]) -> Iterator[str]:
    shown = [s for s in SETS if f"{s}/pairs/binding/rls_kron" in rows and s != "davis"]
    if not shown:
        return
    yield "## Cost\n"
    yield (
        "Seconds of processor time for all folds of CVS1, compilation and scoring included, on two "
        "shared cores.\n"
    )
    yield f"| method | {' | '.join(SETS[s] for s in shown)} |"
    yield "|---" * (1 + len(shown)) + "|"
    totals = dict.fromkeys(shown, 0.0)
    for name, entry in METHODS.items():
        cells = []
        for s in shown:
            row = rows.get(f"{s}/pairs/binding/{name}")
            totals[s] += row["processor_seconds"] if row else 0
            cells.append(f"{row['processor_seconds']:.1f}" if row else "-")
        yield f"| {entry.title} | {' | '.join(cells)} |"
    yield f"| all | {' | '.join(f'{totals[s]:.0f}' for s in shown)} |\n"
    for s in shown:
        if row := rows.get(f"{s}/speed"):
            yield (
                f"RLS-Kron on {SETS[s]}, {row['folds']} folds, compiled: "
                f"{row['jax_processor_seconds']:.2f} s of processor time; a plain NumPy loop over "
                f"folds, in double precision: {row['numpy_processor_seconds']:.2f} s; largest "
                f"difference of a score {row['largest_difference']:.1e}.\n"
            )
