"""Report of the gym's rows: lines for the terminal, a Markdown page."""

from collections.abc import Sequence
from typing import Any

from experiments.gym.reference_metrics import NFES, VERSION
from experiments.gym.train import MOST, NEARER
from jaxdiff.recipes import FAMILIES

Row = dict[str, Any]
MODES, WIDTHS, MOMENTS = 0.25, 0.25, 0.02
# what is known of exact samples: the aim
KNOWN = {"modes": MODES, "widths": WIDTHS, "mean": MOMENTS, "std": MOMENTS}
UNMEASURED = "not among the metrics of this row"
NO_ONE = "it has no NFE 1"

LEGEND = f"""\
Every method starts from one pretrained network and distils the problem's exact denoiser. Distances
are means over 4 sets of 4096 samples, each against as many exact ones.

- **ratio**: sliced Wasserstein distance to exact samples, divided by the real-data score, which is
  that of exact samples to exact samples. 1 is indistinguishable from exact; the aim is at most
  {MOST:g} at the method's own best number of evaluations (NFE), in bold. A star: by the student of
  an earlier stage, as the last one does not sample in so many.
- **Euler**: how many times nearer the method is than Euler's method with the exact denoiser and the
  same NFE, on the best of five grids. The aim is at least {NEARER:g} at NFE 1.
- **MMD**: squared maximum mean discrepancy (Gaussian kernel, median bandwidth) at the best NFE,
  divided by its real-data score; below 1, or negative, is as good as exact.
- **flow**: root mean square distance of each sample at NFE 1 to where the exact probability flow
  takes its noise, and how many times less that is than Euler's; of the methods that promise to
  follow the flow and draw no noise. The aim is at least {NEARER:g} times.
- **near**, of a mixture: the squared MMD with the width of a mode as bandwidth, which sees what
  happens within modes, at the best NFE, divided by its real-data score. The aim is at most
  {MOST**2:g}, as of a square.
- **modes, widths**, of a mixture: the largest relative error of a mode's weight, and the largest,
  over modes, of the root mean square relative error of the standard deviations within it along the
  axes of its covariance, at the best NFE; their real-data scores are given above the table. Half
  the true widths would be 0.5. The aims are at most {MODES:g} and {WIDTHS:g}.
- **mean, std**, of a Gaussian: the error of the mean, relative to the whole standard deviation, and
  the root mean square of the relative errors of the standard deviations along the principal axes,
  at the best NFE. The aim is at most {MOMENTS:g} for both.
- **aims**: those missed, or "all"; what a row cannot have, or what was not among its metrics,
  is named. Several seeds of a method stand in one row, with slashes between.
- **seconds**: of processor time, on all cores, of the method, compilation and pairs within, the
  pairs apart, too; the pretrained start, common to all, is not in it. **cost**: of an update, in
  multiplications relative to score matching with the same network; the exact teacher is nearly free
  here.
- **updates**: fewer for methods whose update is so dear that as many as the others make would take
  more than a minute on two cores.
"""


def lines(row: Row) -> list[str]:
    """Return a row for the terminal."""
    if row["error"]:
        return [f"{row['method']}: failed: {row['error']}"]
    text = [
        f"{row['method']}: {row['seconds']:.0f} s (pairs {row['pair_seconds']:.0f}; start "
        f"{row['start_seconds']:.0f}), {row['parameters']} parameters, {row['updates']} updates of "
        f"cost {row['cost']:.2f}"
    ]
    for nfe, found in row["nfe"].items():
        line = (
            f"  NFE {nfe}: sliced {found['sliced']:.4f}, {found['sliced/real_data']:.2f} times "
            f"real data, {found['euler/sliced']:.1f} x nearer than Euler; MMD^2 {found['mmd2']:.1e}"
        )
        line += "".join(f"; {name} {found[name]:.3f}" for name in KNOWN if name in found)
        if "to_flow" in found:
            line += f"; off the flow {found['to_flow']:.3f} ({found['euler/to_flow']:.1f} x nearer)"
        text.append(line)
    return [*text, f"  aims: {aims(row)}"]


def aims(row: Row) -> str:
    """Return, in words, which aims a row reaches."""
    words: dict[bool | str, str] = {True: "reached", False: "missed"}
    text = ", ".join(f"{name} {words.get(v, v)}" for name, v in reached(row).items())
    return f"{text} (best NFE {row['best']})"


def by_problem(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by problem, in their order."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["problem"], []).append(row)
    return found


def by_family(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows by the family of their method (:data:`jaxdiff.recipes.FAMILIES`), in the order of these;
    those of a method that is not there by "", the last.
    """
    families = {name: family for family, recipes in FAMILIES.items() for name in recipes}
    found: dict[str, list[Row]] = {family: [] for family in [*FAMILIES, ""]}
    for row in rows:
        found[families.get(row["method"], "")].append(row)
    return {family: own for family, own in found.items() if own}


def markdown(rows: Sequence[Row], metadata: dict[str, Any]) -> str:
    """Return one table per problem with what its columns mean."""
    whole = [r for r in rows if not r["error"]]
    every = [set(reached(r).values()) for r in whole]
    best, able = (sum(v <= known for v in every) for known in ({True}, {True, NO_ONE}))
    before = sum(r.get("reference_metrics", 1) < VERSION for r in whole)
    slow = sum(r["seconds"] > 120 for r in whole)
    machines = sorted({r["machine"] for r in rows})
    text = [
        "# Every method of distillation against exact answers",
        "",
        f"Made by `{metadata['command']}`.",
        f"jax {metadata['jax']}, {metadata['device']}; rows made on: {'; '.join(machines)}.",
        "",
        LEGEND,
        f"{len(rows)} rows, of which {len(whole)} finished, {best} reach all aims, {able - best} "
        f"all that they can have, and {len(whole) - slow} took at most two minutes of processor "
        "time.",
    ]
    if before:
        text.append(
            f"{before} rows were measured by earlier reference metrics, without the widths of "
            "modes and with a unit that varied with the seed: they are to be made again."
        )
    if len({r["code"] for r in rows}) > 1:
        text.append("Rows were made by several versions of the code.")
    for name, own in by_problem(rows).items():
        text += ["", f"## {name}", "", *_table(own)]
    return "\n".join(text) + "\n"


def _table(rows: list[Row]) -> list[str]:
    whole = [r for r in rows if not r["error"]]
    head = ["method", *[f"ratio, NFE {n}" for n in NFES], *[f"Euler, NFE {n}" for n in NFES]]
    known = "mean, std" if any("mean" in r["real_data"] for r in whole) else "modes, widths"
    head += ["MMD", "near", "flow", known, "updates", "seconds", "cost", "aims"]
    text = []
    if whole:
        one = max(
            whole, key=lambda row: len(row["real_data"])
        )  # rows of earlier versions know less
        real_data, euler = one["real_data"], one["euler"]
        numbers = ", ".join(f"{euler[n]['sliced']:.3f} at NFE {n}" for n in euler)
        seeds = " and ".join(map(str, sorted({r["seed"] for r in whole})))
        count = one.get("components", 1)
        components = f"{count} components, " if count > 1 else ""
        text += [
            f"{one['dimension']} dimensions, {components}problem seed "
            f"{one.get('problem_seed', 0)}, seed {seeds}, updates of 128 samples. "
            f"Real-data score: sliced Wasserstein {real_data['sliced']:.4f} (standard deviation of "
            f"a set {one['real_data_std']:.4f}), squared MMD {real_data['mmd2']:.1e}"
            + "".join(f", {name} {real_data[name]:.3f}" for name in KNOWN if name in real_data)
            + f". Euler's method: {numbers}.",
            "",
        ]
    text += ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 2) + "|---|"]
    for family, own in by_family(rows).items():
        title = family.replace("_", " ") or "other"
        text.append(f"| **{title}** |" + " |" * (len(head) - 1))
        methods = dict.fromkeys(row["method"] for row in own)
        groups = [[row for row in own if row["method"] == method] for method in methods]
        text += ["| " + " | ".join(_line(group, len(head))) + " |" for group in groups]
    short = {row["method"]: row for row in whole if missed(row)}.values()
    reasons = [f"- `{row['method']}`: {row['weakness'] or 'reason not known'}." for row in short]
    return text + (["", "What misses an aim, and why:", "", *reasons] if reasons else [])


def _line(rows: list[Row], count: int) -> list[str]:
    """Return the cells of a method: of several seeds with slashes between, where they differ."""
    each = [_cells(row, count) for row in rows]
    return [
        " / ".join(cells if len({*cells}) > 1 else cells[:1]) for cells in zip(*each, strict=True)
    ]


def reached(row: Row) -> dict[str, bool | str]:
    """Return whether each aim is reached, or why that cannot be said."""
    best, one = row["nfe"][row["best"]], row["nfe"].get(1)
    euler = row["nearer_than_euler"]
    aims: dict[str, bool | str] = {
        "Euler": NO_ONE if euler is None else euler, "ratio": row["near_real_data"]
    }  # fmt: skip
    if row.get("follows_flow") and one is None:
        aims["flow"] = NO_ONE
    elif row.get("follows_flow") and "to_flow" in one:
        aims["flow"] = one["euler/to_flow"] >= NEARER
    names = ("modes", "widths") if "modes" in best else ("mean", "std")
    for name in names:
        aims[name] = best[name] <= KNOWN[name] if name in best else UNMEASURED
    if "modes" in best:
        aims["near"] = best["near/real_data"] <= MOST**2 if "near" in best else UNMEASURED
    return aims


def missed(row: Row) -> list[str]:
    """Return the aims that a row misses."""
    return [name for name, value in reached(row).items() if value is False]


def _verdict(row: Row) -> str:
    """Return the aims that a row misses, and those of which nothing can be said."""
    found = reached(row)
    text = f"misses {' and '.join(missed(row))}" if missed(row) else "all"
    for reason in (NO_ONE, UNMEASURED):
        if names := [name for name, value in found.items() if value == reason]:
            text = text.replace("all", "all others")
            text += f"; {' and '.join(names)}: {reason}"
    return text


def _cells(row: Row, count: int) -> list[str]:
    if row["error"]:
        reason = " ".join(row["error"].split()).replace("|", "\\|")
        return [f"`{row['method']}`", *["-"] * (count - 2), f"failed: {reason}"]
    found, best = row["nfe"], row["nfe"][row["best"]]
    cells = [f"`{row['method']}`"]
    for name in ("sliced/real_data", "euler/sliced"):
        for nfe in NFES:
            value = _number(found[nfe][name]) if nfe in found else "-"
            own_best = name == "sliced/real_data" and nfe == row["best"]
            value = f"**{value}**" if own_best else value
            cells.append(f"{value} *" if nfe in row["earlier"] and nfe in found else value)
    cells.append(_number(best["mmd2/real_data"]))
    cells.append(_number(best["near/real_data"]) if "near" in best else "-")
    at_one = found.get(1, {})
    follows = "to_flow" in at_one
    cells.append(f"{at_one['to_flow']:.3f} ({at_one['euler/to_flow']:.1f} x)" if follows else "-")
    cells.append(", ".join(f"{best[name]:.3f}" for name in KNOWN if name in best) or "-")
    seconds = f"{row['seconds']:.0f} ({row['pair_seconds']:.0f} pairs)"
    cells += [f"{row['updates']}", seconds, f"{row['cost']:.2f}"]
    return [*cells, _verdict(row)]


def _number(x: float) -> str:
    return f"{x:.2f}" if abs(x) < 10 else f"{x:.0f}"
