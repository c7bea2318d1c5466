"""LCM-LoRA on digits: a few-step student as a LoRA, put into another model of the same base.

    python -m experiments.conditional.personalisation      # the base, and DreamBooth's symbol
    python -m experiments.conditional.lcm_lora

The text-to-image network of the digits is distilled into a consistency student whose weights are
its own and a LoRA's, W + dW. The same dW is then added to the network that DreamBooth taught a new
symbol, W_special + dW (Luo et al., arXiv 2311.05556, section 3.2). Scores are those of
:mod:`experiments.conditional.personalisation`, in as many evaluations with dW and without, where
DPM-Solver++ is what samples.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

import optax

from experiments.classify.__main__ import Kept
from experiments.conditional.personalisation import (
    NAMES,
    WORD,
    Captioned,
    arguments_of,
    base_of,
    classifier,
    put_in,
    scores,
    words,
)
from jaxdiff import grids, solvers
from jaxdiff.adapt import LowRank, adapted, adapter_only, merged, moved, save_adapter
from jaxdiff.data.dataset import to_float
from jaxdiff.data.digits import load_digits
from jaxdiff.denoisers import description
from jaxdiff.distill import Student, easy_consistency
from jaxdiff.networks import count_parameters
from jaxdiff.sampling.trace import table
from jaxdiff.training.loop import fit

STEPS = (1, 2)


def main(given: Sequence[str] | None = None) -> int:
    """Distil, move, measure, and keep the rows."""
    options = arguments_of(given, "lcm_lora")
    special = options.runs / "DreamBooth.safetensors"
    if not special.exists():
        print(f"there is no {special}: run experiments.conditional.personalisation first")
        return 2
    tokenizer = words()
    settings = {"updates": options.updates, "batch": options.batch, "count": options.count}
    kept = Kept(options.out, settings)
    D, predict = base_of(options, tokenizer), classifier()
    begun = time.process_time()
    student = Student.of(
        adapted(D, LowRank(8)), optimiser=adapter_only(optax.adam(2e-3)), label_drop=0.0
    )
    method = easy_consistency(student, teacher=D, stage_updates=max(1, options.updates // 8))
    data = load_digits("train")
    names = [NAMES[i] for i in data.labels] if data.labels is not None else []
    batches = Captioned(to_float(data.images), names, tokenizer, options.batch)
    state = fit(
        method, batches, num_updates=options.updates, key=options.seed,
        checkpoint=options.runs / "lcm", save_every=200, progress=False,
    )  # fmt: skip
    small = state.params["student"]["adapter"]
    file, base = options.runs / "lcm_lora.safetensors", description(D)
    assert base is not None
    save_adapter(file, base["params"], LowRank(8), small)
    seconds = round(time.process_time() - begun)
    if not kept.has("LoRA", options.seed):
        row = {"method": "LoRA", "seed": options.seed, "processor_seconds": seconds}
        kept(row | {"trained": count_parameters(small), "bytes": file.stat().st_size})
    other, _ = put_in(D, tokenizer, special)
    for steps in STEPS:
        measure(kept, options, method.sampler(state, num_steps=steps), D, other, predict, steps)
    return 0


def measure(
    kept: Kept, options: Any, few: Any, D: Any, other: Any, predict: Any, steps: int
) -> None:
    """Keep the rows of a number of evaluations: base and special model, with dW and without."""
    there: Any = description(other)
    plain = table(solvers.dpmpp, grids.karras(steps), order=2)
    rows = {
        "base": (D, plain), "base + dW": (merged(few.denoiser), few.table),
        "special": (other, plain),
        "special + dW": (merged(moved(few.denoiser, there["params"])), few.table),
    }  # fmt: skip
    for name, (denoise, made) in rows.items():
        title = f"{name}, {made.nfe} evaluations"
        if kept.has(title, options.seed):
            continue
        found = scores(denoise, words(), WORD, made, predict, options.count)
        kept({"method": title, "seed": options.seed, "nfe": made.nfe} | found)


if __name__ == "__main__":
    sys.exit(main())
