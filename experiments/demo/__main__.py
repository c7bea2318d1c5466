"""Make a page of the numbers of a demo: every solver at every number of evaluations.

    jaxdiff demo --out runs/demo
    python -m experiments.demo --report runs/demo/report.json --json FILE --markdown FILE \
        --pictures FOLDER

Keeps the demo's report without its pictures, and writes the scores of all solvers on real images,
those of the student beside them, and the seconds that each part took. Of the pictures it keeps two,
``digits.png`` (the first of the report's page) and ``quality.png`` (drawn from the numbers).
"""

import argparse
import base64
import json
import re
from pathlib import Path
from typing import Any

from jaxdiff.files import read_json, write_text
from jaxdiff.report.demo import quality_figure

QUALITY = "Frechet distance"


def page(numbers: dict[str, Any]) -> str:
    """Return the page of a report's numbers."""
    made, scores = numbers["experiment"], numbers["scores"]
    real = scores["teacher, NFE 35"][QUALITY]["real_data"]
    facts = "; ".join(f"{name}: {value}" for name, value in made.items())
    lines = [
        "# The demo: every solver on real images", "",
        f"`{made['command']}`, then `python -m experiments.demo`. {facts[0].upper()}{facts[1:]}.",
        f"Fréchet distances of {numbers['config']['count']} samples from "
        f"{scores['teacher, NFE 35'][QUALITY]['reference']}, by the features of a small "
        f"classifier; real digits that the classifier has not seen score {real['value']:.2f} ± "
        f"{real['std']:.2f}. Numbers on so few images of 8 by 8 pixels compare samplers with each "
        "other, not with anything published.", "",
        "| evaluations | solvers, the best first |", "| --- | --- |",
    ]  # fmt: skip
    for name in ("student, NFE 1", "Euler, NFE 1", "student, NFE 2"):
        if name in scores:
            lines.append(f"| {name.rsplit(' ', 1)[1]} | {_one(name, scores[name])} |")
    for nfe in sorted({row["nfe"] for row in numbers["sweep"]}):
        rows = [row for row in numbers["sweep"] if row["nfe"] == nfe]
        rows.sort(key=lambda row: row[QUALITY])
        text = ", ".join(f"`{row['solver']}` {row[QUALITY]:.3g}" for row in rows)
        lines.append(f"| {nfe} | {text} |")
    lines += ["", "| part | seconds | processor seconds |", "| --- | --- | --- |"]
    for part, seconds in numbers["seconds"].items():
        lines.append(f"| {part} | {seconds:.0f} | {numbers['processor seconds'][part]:.0f} |")
    machine = numbers["machine"]
    lines += ["", f"On {machine['device']}, jax {machine['jax']}.", ""]
    return "\n".join(lines)


def _one(name: str, scores: dict[str, Any]) -> str:
    said = f"{name.split(',')[0]} {scores[QUALITY]['value']:.3g}"
    return f"{said}; {scores['agreement']['value']:.0%} read as the class requested"


def first_picture(html: str) -> bytes:
    """Return the first picture of a report's page: real digits, the teacher's, the student's.

    Raises ValueError for a page without one.
    """
    found = re.search(r"data:image/png;base64,([^\"']+)", html)
    if found is None:
        raise ValueError("the report's page shows no picture")
    return base64.b64decode(found[1])


def write_pictures(report: Path, numbers: dict[str, Any], folder: Path) -> None:
    """Write digits.png and quality.png of the page beside a report and of its numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    html = report.with_suffix(".html").read_text(encoding="utf-8")
    (folder / "digits.png").write_bytes(first_picture(html))
    quality_figure(numbers).savefig(folder / "quality.png")


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--report", type=Path, required=True, help="report.json of a demo")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers to this file")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the page to this file")
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="write digits.png and quality.png there"
    )
    options = parser.parse_args()
    numbers = read_json(options.report)
    numbers["config"]["out"] = "runs/demo"
    command = numbers["experiment"]["command"]
    numbers["experiment"]["command"] = re.sub(r" --out \S+", "", command)  # wherever it was
    if options.json is not None:
        write_text(options.json, json.dumps(numbers, indent=1) + "\n")
    if options.markdown is not None:
        write_text(options.markdown, page(numbers))
    if options.pictures is not None:
        write_pictures(options.report, numbers, options.pictures)


if __name__ == "__main__":
    main()
