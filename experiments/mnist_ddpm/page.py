"""The page of the published MNIST model: numbers as Markdown."""

from collections.abc import Iterator
from typing import Any

from experiments.mnist_ddpm.ends import ACCURATE, START

PARTS = ("distance", "quarter", "median", "three quarters")


def page(numbers: dict[str, Any], command: str, stem: str) -> str:
    """Return the page as Markdown; ``stem``: of its pictures' names."""
    parts = (_begin(numbers, command), _solvers(numbers), _reasons(numbers), _guided(numbers),
             _students(numbers), _scores(numbers), _pictures(stem))  # fmt: skip
    return "\n".join([*(line for part in parts for line in part), ""])


def _begin(numbers: dict[str, Any], command: str) -> Iterator[str]:
    low, high = numbers["levels"]
    yield "# Real weights from elsewhere: MNIST digits in ten evaluations and fewer\n"
    yield f"Made by `{command}` on {numbers['machine']};"
    yield f"{numbers['seconds']:.0f} s of processor time, a command that was stopped included."
    yield f"{numbers['count']} samples of held-out noise; values lie in [-0.5, 0.5].\n"
    yield "## Where sampling starts\n"
    yield f"The model's levels reach from {low:.3g} to {high:.4g}. The error of a network of eps is"
    yield "multiplied by the level: from the highest, the flow leaves the data. *outside*: the"
    yield "share of pixels beyond +-0.6. UniPC of order 3 with 10 evaluations of the model as it"
    yield "is; DPM-Solver++ of order 2 with 10 of `jd.threshold.static(D, -0.5, 0.5)`, which holds"
    yield "every output within the data's range, as samplers of such models usually do.\n"
    yield "| from level | outside | standard deviation | outside, held | standard deviation, held |"
    yield "|--:|--:|--:|--:|--:|"
    for r, held in zip(numbers["start"][::2], numbers["start"][1::2], strict=True):
        cells = (f"{x['outside']:.4f} | {x['std']:.3f}" for x in (r, held))
        yield f"| {r['high']:.4g} | {' | '.join(cells)} |"
    yield "\nWhat follows is of the model as it is, but for two rows of the last table."


def _solvers(numbers: dict[str, Any]) -> Iterator[str]:
    yield f"\n## Distance to accurate end points, from level {START:g}\n"
    yield f"Root mean square, to UniPC's with {ACCURATE} evaluations, which are"
    yield f"{numbers['accuracy']:.4f} from those with {numbers['longer']}.\n"
    rows = numbers["solvers"]
    each = sorted({r["nfe"] for r in rows})
    yield "| sampler | " + " | ".join(map(str, each)) + " |"
    yield "|---|" + "--:|" * len(each)
    for name in dict.fromkeys(r["sampler"] for r in rows):
        known = {r["nfe"]: r["distance"] for r in rows if r["sampler"] == name}
        cells = (f"{known[n]:.4f}" if n in known else "" for n in each)
        yield f"| {name} | " + " | ".join(cells) + " |"
    known = {(r["sampler"], r["nfe"]): r["distance"] for r in rows}
    tuned = [n for name, n in known if name == "tuned"]
    cells = (f"{known['tuned', n] / known['best baseline', n]:.2f}" if n in tuned else ""
             for n in each)  # fmt: skip
    yield "| tuned / best | " + " | ".join(cells) + " |"
    tuning = numbers["tuning"]
    yield "\nThe best baseline is, on other noise, the best of all solvers on all grids that"
    yield "`jaxdiff tune` ranks. From it all weights, levels and conditioning levels are tuned"
    yield f"(`gs`): {tuning['updates']} updates of {tuning['batch']} of {tuning['count']} pairs,"
    yield f"the best of them by {tuning['count']} others; a rate of {tuning['rate']:g}. Root mean"
    yield "squares of all, and quartiles over samples:\n"
    yield "| NFE | sampler | all | quarter | median | three quarters |"
    yield "|--:|---|--:|--:|--:|--:|"
    for r in rows:
        if r["sampler"] in ("best baseline", "tuned"):
            name = r["name"] if r["sampler"] == "best baseline" else "tuned from it"
            cells = (f"{r[k]:.4f}" for k in PARTS)
            yield f"| {r['nfe']} | {name} | " + " | ".join(cells) + " |"


def _reasons(numbers: dict[str, Any]) -> Iterator[str]:
    known = {(r["sampler"], r["nfe"]): r["distance"] for r in numbers["solvers"]}
    yield "\n## How far any rule could come\n"
    yield "The aim, half of the best baseline's distance, beside what richer rules make of a"
    yield "table's own evaluations: *filters*, a 5x5 filter in the place of each of its last"
    yield "weights, by least squares on the pairs that tables are tuned on; *hindsight*, last"
    yield "weights of its own for every sample, by least squares on that sample's own accurate end,"
    yield "which is below every sum of these outputs.\n"
    yield "| NFE | evaluations of | half of the best | the table | filters | hindsight |"
    yield "|--:|---|--:|--:|--:|--:|"
    for r in numbers["reasons"]:
        half = known["best baseline", r["nfe"]] / 2
        cells = (f"{x:.4f}" for x in (half, r["table"], r["filters"], r["hindsight"]))
        yield f"| {r['nfe']} | {r['table of']} | " + " | ".join(cells) + " |"
    for r in numbers["reasons"]:
        if "own table, few" in r:
            yield f"\nWith {r['nfe']} evaluations all numbers of the {r['table of']}, tuned for one"
            yield f"sample alone and by its own end, for {numbers['alone']} samples: distance"
            yield f"{r['own table, few']:.4f}, where the one table has {r['table, few']:.4f}."
    yield from _verdict(numbers, known)


def _verdict(numbers: dict[str, Any], known: dict[tuple[str, int], float]) -> Iterator[str]:
    """What the two tables say of the aim, at 4 to 6 evaluations."""
    aimed = [n for n in (4, 5, 6) if ("tuned", n) in known]
    missed = [n for n in aimed if known["tuned", n] > known["best baseline", n] / 2]
    if not missed:
        return
    least = {n: min(r["hindsight"] for r in numbers["reasons"] if r["nfe"] == n) for n in missed}
    beyond = [n for n in missed if least[n] > known["best baseline", n] / 2]
    yield f"\nThe aim is missed at {_listed(missed)} evaluations."
    if beyond:
        yield f"At {_listed(beyond)} not even hindsight reaches it: no weights of these outputs,"
        yield "not a sample's own, come to half of the best baseline's distance. What is missing is"
        yield "in the evaluations, not in how they are added up, and a filter in the place of every"
        yield "weight does not make up for it."


def _listed(each: list[int]) -> str:
    return ", ".join(map(str, each[:-1])) + (" and " if each[1:] else "") + str(each[-1])


def _guided(numbers: dict[str, Any]) -> Iterator[str]:
    yield "\n## Autoguidance by the early checkpoint\n"
    yield "| model | outside | std |\n|---|--:|--:|"
    for r in numbers["guidance"]:
        yield f"| {r['model']} | {r['outside']:.4f} | {r['std']:.3f} |"


def _students(numbers: dict[str, Any]) -> Iterator[str]:
    yield "\n## Students in one and two evaluations\n"
    yield "Regression from stored paths of the teacher, of which the two evaluations' student"
    yield "keeps the network as it is, and that of one evaluation has a new last layer, which"
    yield f"predicts the image in units of the data: at level {START:g} an error of eps is ten"
    yield f"times as large in the image. {numbers['paths']} paths.\n"
    yield "| student | updates | images per update | one evaluation's distance to the ends |"
    yield "|---|--:|--:|--:|"
    for r in numbers["students"]:
        yield f"| NFE {r['nfe']} | {r['updates']} | {r['batch']} | {r['distance']:.4f} |"


def _scores(numbers: dict[str, Any]) -> Iterator[str]:
    found = numbers["scores"]
    real = found["real"]
    yield "\n## Samples beside test digits\n"
    yield f"{found['samples']} samples each, features of a small classifier, against {real['of']}."
    yield "Frechet distance, precision and recall; *outside* as above. A sample whose background"
    yield "ends in white has features a hundred times as far from the mean as a digit's: a few of"
    yield "them are nearly all of a Frechet distance, and precision counts each of them once.\n"
    yield "| sampler | NFE | Frechet distance | precision | recall | outside |"
    yield "|---|--:|--:|--:|--:|--:|"
    for r in [*found["rows"], {"sampler": "other real digits", **real["mean"]}]:
        cells = (f"{r['precision']:.2f}", f"{r['recall']:.2f}")
        out = f"{r['outside']:.3f}" if "outside" in r else ""
        distance = f"{r['Frechet distance']:.4g}"
        distance += "" if "outside" in r else f" +- {real['std']:.2g}"
        yield f"| {r['sampler']} | {r.get('nfe', '')} | {distance} | {' | '.join(cells)} | {out} |"


def _pictures(stem: str) -> Iterator[str]:
    yield f"\n![Samples of the students]({stem}_students.png)"
    yield "\nTwelve samples each, of the same noise: the teacher; the students; the best baselines"
    yield "of as many evaluations."
    yield f"\n![Samples from several levels]({stem}.png)"
    yield "\nTwelve samples each, of the same noise, by ten evaluations: from several levels; the"
    yield "same, held within the data's range; by the early checkpoint; by autoguidance."
    yield f"\n![Samples of the best baselines and tuned tables]({stem}_tuned.png)"
    yield "\nFour samples each, of the same noise: accurate ends; the best baseline and the tuned"
    yield "table of so many evaluations."
