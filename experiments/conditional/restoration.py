"""Super-resolution: a network that is shown the small image, bicubic, and methods without training.

    python -m experiments.conditional.restoration --folder ../shared/data

Two small U-Nets of MNIST, with equally many updates: one is shown 14x14 averages of 28x28 images
with noise of a random level (Palette, arXiv 2111.05826), the other nothing: it is the prior
of methods that need no training for the task. Pictures of the test set are measured with one
level of noise; all methods restore the same measurements in equally many steps. Scores are those
of ``jaxdiff restore``: PSNR of single samples and of the mean of a measurement's samples, SSIM,
and the root mean square of what a restoration leaves of the measurement. Rows are kept in the JSON
file as they are made.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.classify.__main__ import Kept
from jaxdiff.app import config as configs
from jaxdiff.app.restoration_scores import scores
from jaxdiff.app.restore import prepared, restored_by
from jaxdiff.app.train import train

METHODS = ("bicubic", "network", "pigdm", "diffpir", "ddrm")
SCORES = ("psnr", "psnr of mean", "ssim", "misfit", "spread", "nfe")


def main(given: Sequence[str] | None = None) -> int:
    """Measure, and keep the rows."""
    options = arguments_of(given)
    names = ("updates", "channels", "count", "samples", "steps", "noise")
    kept = Kept(options.out, {name: getattr(options, name) for name in names})
    for name in METHODS:
        if not kept.has(name, options.seed):
            kept({"method": name, "seed": options.seed} | row_of(name, options))
    return 0


def row_of(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Return a method's scores, training whichever network it needs if it is not there."""
    own = run_of("super" if name == "network" else "plain", options)
    train(own, progress=False)
    config = configs.Restore(
        own.run, task="super", methods=name, noise=options.noise, count=options.count,
        samples=options.samples, num_steps=options.steps, seed=options.seed,
    )  # fmt: skip
    setting, _, _ = prepared(config, progress=False)
    began = time.process_time()
    found, more = restored_by(name, setting, config)
    seconds = round(time.process_time() - began, 1)
    made = scores(found, setting) | more
    return {key: made[key] for key in SCORES} | {"processor_seconds": seconds}


def run_of(name: str, options: argparse.Namespace) -> configs.Train:
    """Return the configuration of one of the two networks."""
    return configs.Train(
        run=str(options.runs / name),
        data=configs.Data(str(options.folder / "mnist.npz"), labels="none"),
        network=configs.UNet(options.channels, (1, 2, 2), embedding=64),
        updates=options.updates, warmup=100, level_mean=-0.4, level_std=1.4,
        measure=configs.Measure("super") if name == "super" else None,
    )  # fmt: skip


def arguments_of(given: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, checked."""
    parser = argparse.ArgumentParser(prog="python -m experiments.conditional.restoration")
    parser.add_argument("--folder", type=Path, default=Path("../shared/data"), help="of mnist.npz")
    parser.add_argument("--updates", type=int, default=2000)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--count", type=int, default=32, help="pictures of the test set")
    parser.add_argument("--samples", type=int, default=4, help="restorations of each")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--noise", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/restoration"), help="checkpoints")
    here = Path("experiments/results/restoration.json")
    parser.add_argument("--out", type=Path, default=here, help="rows, as JSON")
    options = parser.parse_args(given)
    for name in ("updates", "channels", "count", "samples", "steps"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be positive")
    if not 0 <= options.noise <= 0.2:
        parser.error("--noise must be from 0 to 0.2, which the network is trained for")
    if not (options.folder / "mnist.npz").exists():
        parser.error(f"--folder {options.folder} has no mnist.npz")
    return options


if __name__ == "__main__":
    sys.exit(main())
