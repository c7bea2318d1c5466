"""A new symbol learnt of five pictures, by every method of specialisation.

    python -m experiments.conditional.personalisation

A small text-to-image network (:mod:`experiments.conditional.small_text`) learns scikit-learn's
digits with captions, "a seven" or "one seven" (so that "one" is an article, too). Then five
pictures of a symbol that is no digit are shown to it with the word "zorp", which no caption of the
digits has (or with a new token), by each method with equally many updates. Of each:

    fidelity    share of samples of "a zorp" that a classifier calls the symbol
    prior       share of samples of "a zero", ..., "a nine" that it calls that digit
    bytes       of the file that keeps what was learnt
    trained     numbers that were trained

Imagic is shown one of the pictures: its own samples are of the mixture of its condition and that of
"a zorp", its prior that of the network it changes. An encoder of pictures (their pixels) learns to
make digits' words of them first; its seconds are with that, and its samples are shown the pictures.

The classifier is a linear one of real digits and of the symbol, moved and with noise. Rows are
kept in the JSON file as they are made; a run that was stopped goes on with the method where it was.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax

from experiments.classify.__main__ import Kept
from experiments.conditional.embedding_methods import Measure, encoder_rows, imagic_row
from experiments.conditional.small_text import SmallTextToImage, Words
from experiments.conditional.symbols import (
    NAMES,
    SHAPE,
    TOKEN,
    WORD,
    Captioned,
    classifier,
    drawn,
    scores,
    symbol,
    words,
)
from jaxdiff import grids, solvers
from jaxdiff.adapt import (
    Adapter,
    LowRank,
    SpectralShift,
    TextualInversion,
    Whole,
    adapted,
    adapter_only,
    custom_diffusion,
    dreambooth,
    save_adapter,
    with_adapter,
    with_prior,
)
from jaxdiff.data.dataset import to_float
from jaxdiff.data.digits import load_digits
from jaxdiff.data.words import WordTokenizer
from jaxdiff.denoisers import description
from jaxdiff.distill import Student, score_matching
from jaxdiff.networks import count_parameters, from_linen, init
from jaxdiff.sampling.trace import table
from jaxdiff.training.ema import constant
from jaxdiff.training.loop import fit
from jaxdiff.typing import Denoiser

SETTINGS = ("base_updates", "updates", "domain_updates", "batch", "adapt_batch", "count")
ENCODERS = ("encoder of digits", "encoder, then of the symbol")
CROSS = ("*cross/k/kernel", "*cross/v/kernel")


class Entry(NamedTuple):
    """A method. adapter: of the learning rate. prior: whether own samples are kept."""

    adapter: Adapter
    rate: float
    prior: bool = False
    token: str = ""


def methods(start: tuple[int, ...]) -> dict[str, Entry]:
    """Return what is compared. start: number of the word that a new token starts as."""
    return {
        "textual inversion": Entry(TextualInversion(start), 3e-2, token=TOKEN),
        "Custom Diffusion": Entry(custom_diffusion(start, layers=CROSS), 3e-3, True, TOKEN),
        "SVDiff": Entry(SpectralShift(), 1e-2),
        "LoRA": Entry(LowRank(4), 3e-3),
        "DoRA": Entry(LowRank(4, dora=True), 3e-3),
        "DreamBooth, LoRA": Entry(LowRank(4), 3e-3, True),
        "all parameters": Entry(Whole(), 3e-4),
        "DreamBooth": Entry(Whole(), 3e-4, True),
    }


def base_of(options: argparse.Namespace, tokenizer: WordTokenizer) -> Denoiser:
    """Return the text-to-image network of the digits; its checkpoints are kept."""
    data = load_digits("train")
    words = Words(len(tokenizer), tokenizer.length, 32)
    module = SmallTextToImage(words, tokenizer.empty)
    student = Student(
        from_linen(module), lambda key: init(module, key, SHAPE), null=module.null(),
        label_drop=0.1, ema={"average": constant(0.99)},
        optimiser=optax.adam(optax.cosine_decay_schedule(3e-3, options.base_updates)),
    )  # fmt: skip
    names = [NAMES[i] for i in np.asarray(data.labels)]
    batches = Captioned(to_float(data.images), names, tokenizer, options.batch)
    state = fit(
        score_matching(student), batches, num_updates=options.base_updates, key=options.seed,
        checkpoint=options.runs / "base", save_every=500, progress=False,
    )  # fmt: skip
    return student.denoiser(state.ema["student"]["average"])


def learnt(
    options: argparse.Namespace, D: Denoiser, tokenizer: WordTokenizer, entry: Entry, file: Path
) -> int:
    """Train an adapter on five pictures and save it; return how many numbers were trained."""
    known = tokenizer.with_token(entry.token) if entry.token else tokenizer
    word = entry.token or WORD
    start = adapted(D, entry.adapter)
    student = Student.of(
        start, label_drop=0.0, optimiser=adapter_only(optax.adam(entry.rate))
    )  # fmt: skip
    data: Any = Captioned(symbol(5, 3), [word] * 5, known, options.adapt_batch)
    method = score_matching(student)
    if entry.prior:
        texts = [f"a {NAMES[i % 10]}" for i in range(options.count)]
        own = drawn(D, tokenizer, texts, table(solvers.dpmpp, grids.karras(8), order=2), seed=9)
        data, method = with_prior(data, own, {"text": tokenizer(texts)}), dreambooth(student)
    state = fit(method, data, num_updates=options.updates, key=options.seed, progress=False)
    small = state.params["student"]["adapter"]
    made: Any = description(D)
    save_adapter(file, made["params"], entry.adapter, small, token=entry.token)
    return count_parameters(small)


def put_in(D: Denoiser, tokenizer: WordTokenizer, file: Path) -> tuple[Denoiser, WordTokenizer]:
    """Return the base with a file's adapter in it, and the tokenizer that goes with it."""
    made, loaded = with_adapter(D, file)
    token = loaded.token if loaded is not None else ""
    return made, tokenizer.with_token(token) if token else tokenizer


def main(given: Sequence[str] | None = None) -> int:
    """Measure, and keep the rows."""
    options = arguments_of(given)
    tokenizer = words()
    settings = {name: getattr(options, name) for name in SETTINGS}
    kept = Kept(options.out, settings)
    options.runs.mkdir(parents=True, exist_ok=True)
    begun = time.process_time()
    D, predict = base_of(options, tokenizer), classifier()
    made = table(solvers.dpmpp, grids.karras(8), order=2)
    if not kept.has("base", options.seed):
        seconds = round(time.process_time() - begun)
        row = {"method": "base", "seed": options.seed, "processor_seconds": seconds}
        kept(row | scores(D, tokenizer, WORD, made, predict, options.count))
    start = (tokenizer.vocabulary["seven"],)
    for name, entry in methods(start).items():
        if kept.has(name, options.seed):
            continue
        file = options.runs / f"{name.replace(', ', '-').replace(' ', '-')}.safetensors"
        begun = time.process_time()
        trained = learnt(options, D, tokenizer, entry, file)
        seconds = round(time.process_time() - begun)
        own, known = put_in(D, tokenizer, file)
        found = scores(own, known, entry.token or WORD, made, predict, options.count)
        row = {"method": name, "seed": options.seed, "trained": trained}
        kept(row | {"bytes": file.stat().st_size, "processor_seconds": seconds} | found)
    common = (options, D, tokenizer, Measure(made, predict, options.count))
    if not kept.has("Imagic", options.seed):
        found = imagic_row(*common, options.runs / "Imagic.npz")
        kept({"method": "Imagic", "seed": options.seed} | found)
    if not kept.has(ENCODERS[-1], options.seed):
        each = encoder_rows(*common, options.runs / "encoder.npz")
        for name, found in zip(ENCODERS, each, strict=True):
            kept({"method": name, "seed": options.seed} | found)
    return 0


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, checked."""
    parser = argparse.ArgumentParser(prog="python -m experiments.conditional.personalisation")
    parser.add_argument("--base-updates", type=int, default=3000)
    parser.add_argument("--updates", type=int, default=300, help="of each method")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--adapt-batch", type=int, default=16)
    parser.add_argument("--domain-updates", type=int, default=1000, help="of an encoder, of digits")
    parser.add_argument("--count", type=int, default=100, help="samples of each score")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/personalisation"))
    here = Path("experiments/results/personalisation.json")
    parser.add_argument("--out", type=Path, default=here, help="rows, as JSON")
    options = parser.parse_args(given)
    for field in SETTINGS:
        if getattr(options, field) < 1:
            parser.error(f"--{field.replace('_', '-')} must be positive")
    return options


if __name__ == "__main__":
    sys.exit(main())
