"""Boxes that say where: how often samples are there (GLIGEN, arXiv 2301.07093).

    python -m experiments.conditional.boxes --folder ../shared/data

The run of texts of :mod:`experiments.conditional.text`, trained if it is not there, learns boxes by
``jaxdiff adapt --kind gligen``: gated layers beside its own, which stay as they are. Prompts then
say class and colour alone, "a red seven", and a box says where the digit is and how large: of five
places and two sizes. Of each row, the shares of samples whose place, size, class and colour are
read as they should be, by the reader of that experiment. "Text alone" is the run without boxes,
which puts digits where it likes. Rows are kept in the JSON file as they are made.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.classify.__main__ import Kept
from experiments.conditional import text
from jaxdiff import grids, solvers
from jaxdiff.app import config as configs
from jaxdiff.app.adapt import adapt
from jaxdiff.app.adapters import with_adapters
from jaxdiff.app.boxes import grounding
from jaxdiff.app.generate import generate
from jaxdiff.app.models import Model
from jaxdiff.app.presets import PRESETS
from jaxdiff.app.samplers import guided
from jaxdiff.app.text import texts_condition
from jaxdiff.data import compose
from jaxdiff.data.composed import Composed
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.sampling.trace import table


def hits(
    model: Model, made: Composed, weight: float, read: text.Reader, steps: int, boxes: bool
) -> dict[str, float]:
    """Return shares of samples that have what pictures ``made`` have, given their class and colour
    in words, and their boxes, or not.
    """
    assert model.tokenizer is not None
    names = made.values
    nouns = [names["class"][i] for i in made.attributes["class"]]
    colours = [names["colour"][i] for i in made.attributes["colour"]]
    prompts = [f"a {colour} {noun}" for colour, noun in zip(colours, nouns, strict=True)]
    cond = texts_condition(model.tokenizer, prompts)
    cond |= grounding(model, made.boxes(), [[noun] for noun in nouns]) if boxes else {}
    D = model.denoiser if weight == 1 else guided(model, model.denoiser, weight)
    sampler = Sampler(D, table(solvers.dpmpp, grids.karras(steps)))
    x = generate(sampler, len(prompts), model.shape, cond, progress=False, seed=1, batch=128)
    found = text.accuracies(read, x, made.attributes)
    return {name: found[name] for name in ("position", "scale", "class", "colour")}


def main(given: Sequence[str] | None = None) -> int:
    """Measure, and keep the rows."""
    options, rest = arguments_of(given)
    names = ("text_updates", "updates", "batch", "learning_rate", "test", "steps")
    kept = Kept(options.out, {name: getattr(options, name) for name in names})
    folder = [] if options.folder is None else ["--folder", str(options.folder)]
    own = ["--run", str(options.run), "--updates", str(options.text_updates)]
    base = text.arguments_of([*folder, *own, *rest])
    model = text.trained(base)
    other = text.symbols(options.folder, "test")
    made = compose(other, options.test, size=base.size, seed=7)
    train = text.symbols(options.folder, "train")
    shown = compose(train, base.pictures, size=base.size, seed=11, held_out=None)
    read = text.reader(shown)
    weights = (1.0, 3.0)
    for weight in weights:
        method = f"text alone, guidance {weight:g}"
        if not kept.has(method, options.seed):
            found = hits(model, made, weight, read, options.steps, False)
            kept({"method": method, "seed": options.seed} | found)
    if all(kept.has(f"boxes, guidance {weight:g}", options.seed) for weight in weights):
        return 0
    file, begun = options.run.parent / f"{options.run.name}-boxes.safetensors", time.process_time()
    config = configs.Adapt(
        str(options.run), str(file), "gligen", updates=options.updates, batch=options.batch,
        learning_rate=options.learning_rate, seed=options.seed,
    )  # fmt: skip
    adapt(config, progress=sys.stderr.isatty())
    seconds = round(time.process_time() - begun)
    boxed = with_adapters(model, [str(file)])
    for weight in weights:
        found = hits(boxed, made, weight, read, options.steps, True)
        row = {"method": f"boxes, guidance {weight:g}", "seed": options.seed} | found
        kept(row | {"processor_seconds": seconds, "bytes": file.stat().st_size})
    return 0


def arguments_of(given: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Return the options, checked, and those of the run's training."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.conditional.boxes",
        epilog="--pictures, --size and --channels are those of the run, as in python -m "
        "experiments.conditional.text.",
    )
    add = parser.add_argument
    add("--folder", type=Path, help="of mnist.npz; by default the digits of scikit-learn")
    add("--updates", type=int, default=3000, help="of the gated layers")
    add("--text-updates", type=int, default=PRESETS["text"][1].updates, help="of the run of texts")
    add("--batch", type=int, default=32)
    add("--learning-rate", type=float, default=2e-3)
    add("--test", type=int, default=512, help="samples of each row")
    add("--steps", type=int, default=12, help="of DPM-Solver++")
    add("--seed", type=int, default=0)
    add("--run", type=Path, default=Path("runs/conditional-text"), help="folder of the run")
    add("--out", type=Path, default=Path("experiments/results/boxes.json"), help="rows, as JSON")
    options, rest = parser.parse_known_args(given)
    for name in ("updates", "text_updates", "batch", "test", "steps"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be positive")
    return options, rest


if __name__ == "__main__":
    sys.exit(main())
