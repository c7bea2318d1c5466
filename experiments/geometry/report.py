"""The page and the figure of experiments.geometry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from experiments.geometry.claims import CLAIMS, FINITE, GAUSSIAN, NETWORK, Claim, apart, verdict
from experiments.geometry.closed import EXACT, HIGH, LOW, STEPS
from experiments.geometry.report_learned import TITLES, learned
from jaxdiff.app.step_errors import SOLVERS, convexity
from jaxdiff.grids import karras
from jaxdiff.report.geometry import Curve, Panel, panels
from jaxdiff.report.terminal import cell_text
from jaxdiff.sampling.trace import table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Numbers = Mapping[str, Any]
# by Euler's 20 steps on CIFAR-10's original images, EDM's network: the authors' notebook
REPORTED = {
    "peak deviation of x": "14.0 ± 3.7", "at level": "12.4", "peak deviation / chord": "0.0032",
    "peak deviation of D": "5.5", "at level (D)": "5.8", "|D| first": "5.5", "|D| last": "24",
    "|D - last D| first": "21.1", "|eps| first": "55.4", "|eps| last": "38.6 (at level 0.0063)",
    "least cos(eps, x - end)": "0.9963", "share of steps with |D| rising": "about 1",
}  # fmt: skip
REPORTED_OPTIMAL = {
    "states": "0.4 / 1.0 / 2 / 20.5", "of both": "1.15 / 2.0 / 8.5 / 20.5",
    "on the model's path": "- / - / - / 16.7",
}  # fmt: skip
NAMES = {
    "images": "CIFAR-10", "MNIST": "MNIST", "published MNIST": "MNIST DDPM",
    "digits": "digits",
}  # fmt: skip
WITHOUT = """Where a cell is "-" there is no number. EDM's network for CIFAR-10 is not at hand: its
numbers are those that the notebook reports (G1, G3, G4, G8, G15), and nothing else of it is
known. Without a network there is no curve to compare with (G2), and the network's own distance is
0. The finite data set is what G8 measures from. G12 needs students, which were trained of the
digits alone; a null model has none. The lowest levels are left out of G13 where the curvature is
rounding."""
WORDS = {
    "states": "|x - x*|", "of both": "|D(x) - D*(x*)|", "on the model's path": "|D(x) - D*(x)|",
    "on the optimal path": "|D(x*) - D*(x*)|",
}  # fmt: skip
PLACES = (33.0, 12.4, 5.84, 0.0)  # levels of the columns of distances


def page(numbers: Numbers) -> str:
    """Return the page as Markdown."""
    lines = [
        "# How much of the geometry of sampling needs a network\n",
        "Published statistics of sampling trajectories, measured on denoisers that are no networks",
        "(the Gaussian with the data's mean and covariance, and the optimal denoiser of the finite",
        "data set) and on networks beside them, all from the same noises. Euler's method on 21",
        "levels, Karras's grid, unless said otherwise; means over trajectories. x*, D* are of the",
        "finite data set.\n",
    ]
    for name in (s for s in NAMES if s in numbers):
        one = numbers[name]
        lines.append(
            f"- {NAMES[name]}: {one['seconds']:.0f} s on {one['machine']}, `{one['command']}`"
        )
    lines += ["", *_claims(numbers)]
    lines += _convex()
    if "images" in numbers:
        lines += _closed(numbers["images"])
    for name in TITLES:
        if name in numbers:
            lines += learned(name, numbers[name])
    return "\n".join([*lines, "\n![Deviation and norms](geometry.png)", ""])


def _claims(numbers: Numbers) -> list[str]:
    """Return the table of claims, and what its verdicts mean."""
    sets = [s for s in NAMES if s in numbers]
    lines = [
        "## The claims\n",
        f"Cells are {' / '.join(NAMES[s] for s in sets)}; CIFAR-10's network is the authors', as",
        "they report it, and the copy of CIFAR-10 went through JPEG. Second-order statistics",
        "suffice for a claim that holds of the Gaussian wherever it does of the networks; it is",
        "memorisation where it holds of the finite data set only; else it needs a network.",
        "*apart*: how far the Gaussian's number is from the network's at most. Pooled over",
        "trajectories, few dimensions are not enough for any model (G6b).\n",
        "| | claim | measured | network | Gaussian | finite data set | verdict | apart |",
        "|---|---|---|---|---|---|---|--:|",
    ]
    for claim in CLAIMS:
        values = [
            tuple(_of(claim, numbers[s], m) for m in (NETWORK, GAUSSIAN, FINITE)) for s in sets
        ]
        cells = [" / ".join(cell_text(v[k]) for v in values) for k in range(3)]
        measured = f"{claim.how}".replace("|", "\\|")
        gap = apart(values)
        last = [verdict(claim, values), "" if gap is None else f"{100 * gap:.0f} %"]
        row = [claim.name, claim.said.replace("|", "\\|"), measured, *cells, *last]
        lines.append("| " + " | ".join(row) + " |")
    some = [NAMES[s] for s in sets if "latent" not in numbers[s] and s != "images"]
    said = f"\nOf {', '.join(some)} trajectories and ends alone were measured." if some else ""
    return [*lines, "", WITHOUT + said, ""]


def _convex() -> list[str]:
    """Return what solvers' steps are combinations of: of their weights alone, whatever the data."""
    levels = karras(STEPS, LOW, HIGH, zero=False)
    lines = [
        "## Steps as combinations of denoised outputs\n",
        "Every step goes towards a combination of denoised outputs whose weights sum to 1 (arXiv",
        "2405.11326, proposition 4.1). Shares of steps in which all are positive, and the least of",
        f"all weights, on Karras's grid of {STEPS} steps.\n",
        "| solver | steps towards a convex combination | least weight |", "|---|--:|--:|",
    ]  # fmt: skip
    for name, (solver, options, _) in SOLVERS.items():
        found = convexity(table(solver, levels, **options))
        lines.append(
            f"| {name} | {100 * found['convex']:.0f} % | {round(found['least'], 2) + 0.0:.2f} |"
        )
    return [*lines, ""]


def _of(claim: Claim, numbers: Numbers, model: str) -> float | None:
    """Return the number of a model; of a network that was not measured what is reported."""
    if model in numbers["paths"]:
        return claim.of(numbers, model)
    return claim.reported if model == NETWORK else None


def _closed(one: Numbers) -> list[str]:
    """Return the tables of a data set without a network."""
    data, models = one["data"], one["paths"]
    values = ", ".join(f"{v:.1f}" for v in data["eigenvalues"])
    lines = [
        "## CIFAR-10 without a network\n",
        f"{data['points']} training images in [-1, 1], a copy that went through JPEG: what depends",
        "on the smallest eigenvalues (|eps| and D at the lowest levels) is not that of the",
        f"original images. Variance per number {data['variance per number']:.4f}, norm of the mean",
        f"{data['|mean|']:.2f}, mean norm {data['mean |y|']:.2f}, largest eigenvalues {values},",
        f"slope over ranks 10 to 1000 {cell_text(data['slope of ranks 10 to 1000'])}.",
        f"{one['count']} trajectories. The network's column is the authors' notebook on the",
        "original images (EDM's network, other noises).\n",
        "| quantity | network, reported | " + " | ".join(models) + " |",
        "|---|---|" + "--:|" * len(models),
    ]
    for quantity in next(iter(models.values()))["summary"]:
        cells = (cell_text(m["summary"][quantity]) for m in models.values())
        name = quantity.replace("|", "\\|")
        lines.append(f"| {name} | {REPORTED.get(quantity, '')} | " + " | ".join(cells) + " |")
    lines += ["", *_distances(one), *_more(one)]
    return lines


def _distances(one: Numbers) -> list[str]:
    """Return the distances of the Gaussian from the optimal denoiser at some levels."""
    levels = one["levels"]
    rows = [min(range(len(levels)), key=lambda n: abs(levels[n] - s)) for s in PLACES]
    head = " / ".join(f"{levels[n]:.3g}" for n in rows)
    lines = [f"| at levels {head} | network, reported | Gaussian |", "|---|---|---|"]
    for key, word in WORDS.items():
        cells = " / ".join(cell_text(one["optimal"][key][n]) for n in rows)
        word = word.replace("|", "\\|")
        lines.append(f"| {word} | {REPORTED_OPTIMAL.get(key, '')} | {cells} |")
    curve = one["optimal"]["on the optimal path"]
    peak = max(range(len(curve)), key=curve.__getitem__)
    few = one["optimal"]["effective neighbours"]
    counts = ", ".join(f"{levels[n]:.3g}: {few[n]:.3g}" for n in range(0, len(levels), 2))
    return [
        *lines,
        f"\nThe last of these is largest at level {levels[peak]:.3g}: {curve[peak]:.2f}; the",
        "network's was reported as 13.7 at 2.5. It is where the optimal denoiser collapses onto",
        f"one image: effective neighbours along x*, by level, {counts}.\n",
    ]


def _more(one: Numbers) -> list[str]:
    """Return what else is known without a network."""
    traces, gits, like = one["traces"], one["gits"], one["likelihood"][GAUSSIAN]
    lines = ["| trace of dD/dx on x* at level | " + " | ".join(f"{s:.3g}" for s in traces["levels"])
             + " |", "|---|" + "--:|" * len(traces["levels"])]  # fmt: skip
    for name in (GAUSSIAN, FINITE):
        lines.append(f"| {name} | " + " | ".join(cell_text(v) for v in traces[name]) + " |")
    lines += _slopes(one["lipschitz"]) if "lipschitz" in one else []
    found = "; ".join(f"{path} with discount {g}" for g, path in gits["found"].items())
    few = "; ".join(f"{n}: {path}" for n, path in gits.get("of a few", {}).items())
    line, root = (one["interpolation"][GAUSSIAN][m] for m in ("linear", "square root"))
    own = one["interpolation"].get(FINITE)
    return [
        *lines,
        "\nGITS on exact trajectories of the Gaussian, indices of 61 levels for 6 steps:",
        f"{found}; the schedule published for CIFAR-10, searched with a network, is",
        f"{gits['published']}."
        + (f" With discount 1.15 from so many trajectories alone: {few}." if few else ""),
        f"\nThe kernel density of the data rises from x to D(x) at {100 * like['jump']:.1f} % of",
        "the Gaussian's states at levels from 0.1 on and from x to the next state at",
        f"{100 * like['step']:.1f} %; the largest mean of \\|D - D*\\| / \\|D* - x\\| is "
        f"{like['ratio']:.3f}.",
        f"\nEnds of trajectories are {one['nearest'][FINITE]:.3f} from an image for the finite",
        f"data set, and {one['nearest'][GAUSSIAN]:.2f} for the Gaussian (medians).",
        f"\nHalf-way between two noises on a straight line the noise has {line['norm']:.3f} of its",
        f"norm and the Gaussian's exact end {line['end']:.3f} of its distance from the mean; with",
        f"weights whose squares sum to 1, {root['norm']:.3f} and {root['end']:.3f}."
        + (
            f" Of the finite data set's end it is {own['linear']['end']:.3f} and "
            f"{own['square root']['end']:.3f}."
            if own
            else ""
        ),
        "",
    ]


def _slopes(slopes: Numbers) -> list[str]:
    """Return the local Lipschitz constants."""
    lines = ["", "| largest singular value of dD/dx | "
             + " | ".join(f"{s:.3g}" for s in slopes["levels"]) + " |",
             "|---|" + "--:|" * len(slopes["levels"])]  # fmt: skip
    for name in (GAUSSIAN, FINITE):
        lines.append(f"| {name} | " + " | ".join(cell_text(v) for v in slopes[name]) + " |")
    return [
        *lines,
        "\nIt is the local Lipschitz constant of D; J of the finite data set is the covariance of",
        "the data near x over the level squared. Both are symmetric by their form; a network for",
        "CIFAR-10 is not at hand, and the asymmetry of networks is below, of other data.",
    ]


def figure(numbers: Numbers) -> Figure:
    """Return deviation, norms of D and distance to the optimal denoiser, a row per data set."""
    drawn, order = [], [NETWORK, GAUSSIAN, EXACT, FINITE]
    for name in (s for s in NAMES if s in numbers):
        one = numbers[name]
        shown = {n: m for n, m in one["paths"].items() if n in order}
        for key, title in (("deviation", "distance of x from its chord"), ("norm of D", "|D|")):
            curves = {
                n: Curve(m[key]["levels"], m[key]["mean"], m[key]["std"]) for n, m in shown.items()
            }
            drawn.append(Panel(f"{NAMES[name]}: {title}", curves))
        optimal = one["optimal"].get("models") or {GAUSSIAN: one["optimal"]}
        curves = {
            n: Curve(one["levels"], m["on the optimal path"])
            for n, m in optimal.items()
            if n in order and "on the optimal path" in m
        }
        drawn.append(Panel(f"{NAMES[name]}: |D(x*) - D*(x*)|", curves))
    return panels(drawn, 3, order)
