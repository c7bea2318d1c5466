"""Published networks here and in their publishers' PyTorch code: the same numbers, and how fast.

    python -m experiments.benchmarks.publishers --edm FOLDER --dit FOLDER [--json FILE]

FOLDER is a checkout of github.com/NVlabs/edm (its DDPM++ for CIFAR-10, 56 million parameters) or
github.com/facebookresearch/DiT (DiT-B/4 on 32x32 latents, 131 million); one of the two is enough.
PyTorch and what the folders import (requests, timm) are installed by the user; nothing of jaxdiff
needs them.

Weights are drawn by the publisher's class, saved as a checkpoint and opened by ``load_pretrained``.
Both then take the same steps of Euler's method from the same start, in float32 and with bfloat16
inside the network (PyTorch by autocast), in turns: seconds per evaluation are a solve's divided by
its steps. "Difference" is the largest between the two results, in units of the largest number of
PyTorch's. Aim: not slower than PyTorch, forward, on the same device. ``--small`` is a form of it
that takes a minute on two CPU cores.

What is lost on CPUs: XLA computes products of bfloat16 in float32 there, so that bfloat16 saves no
time, where PyTorch's oneDNN has the processor's own instructions for it; and convolutions of
float32 are Eigen's here and oneDNN's there.
"""

import argparse
import functools
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import common
from experiments.numbers import count
from jaxdiff import grids, solvers
from jaxdiff.denoisers import denoiser, description
from jaxdiff.networks.adapters import from_linen
from jaxdiff.pretrained import load_pretrained
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table

MOST = 1.0  # the aim: our time in units of PyTorch's
DTYPES = ("float32", "bfloat16")
Denoise = Callable[[Any, float], Any]


class Pair(NamedTuple):
    """A network in both libraries: PyTorch's denoiser of states, channels first, and levels; the
    model opened here; the levels of a solve; the condition here.
    """

    torch: Denoise
    model: Any
    levels: np.ndarray
    cond: Any


def edm(folder: Path, small: bool, batch: int, num_steps: int, work: Path) -> Pair:
    """Return DDPM++ as EDM trains it on CIFAR-10."""
    import torch  # type: ignore[import-not-found]

    sys.path.insert(0, str(folder))
    from training.networks import EDMPrecond  # type: ignore[import-not-found]

    width = 32 if small else 128
    net = EDMPrecond(
        32, 3, model_type="SongUNet", augment_dim=9, model_channels=width, channel_mult=[2, 2, 2]
    )
    _draw(net)
    torch.save(net.state_dict(), work / "edm.pt")
    config = {"class_name": "EDMPrecond", "sigma_data": 0.5, "img_resolution": 32}
    net = net.eval().to(_torch_device())

    def denoise(y: Any, s: float) -> Any:
        """By the inner network: the outer one refuses what autocast returns."""
        total, label = (s * s + 0.25) ** 0.5, torch.full((len(y),), float(np.log(s)) / 4)
        F = net.model(y / total, label.to(y.device), None).float()
        return 0.25 / total**2 * y + 0.5 * s / total * F

    return Pair(
        denoise,
        load_pretrained(work / "edm.pt", config=config),
        np.asarray(grids.karras(num_steps)), None,
    )  # fmt: skip


def dit(folder: Path, small: bool, batch: int, num_steps: int, work: Path) -> Pair:
    """Return DiT-B/4 on latents of images of 256x256; D(y, s) = y - s eps in the variance-exploding
    frame.
    """
    import torch  # type: ignore[import-not-found]

    sys.path.insert(0, str(folder))
    from models import DiT  # type: ignore[import-not-found]

    width, depth, heads = (192, 3, 3) if small else (768, 12, 12)
    net = DiT(input_size=32, patch_size=4, hidden_size=width, depth=depth, num_heads=heads)
    _draw(net)
    torch.save(net.state_dict(), work / "dit.pt")
    net = net.eval().to(_torch_device())
    model = load_pretrained(work / "dit.pt", config={"num_heads": heads})
    steps = np.linspace(999, 0, num_steps, dtype=int)
    process: Any = model.process
    levels = np.asarray(grids.of_timesteps(process, steps), np.float64)
    step_of = dict(zip(levels.tolist(), steps.tolist(), strict=False))
    labels = torch.arange(batch, device=_torch_device())

    def denoise(y: Any, s: float) -> Any:
        times = torch.full((len(y),), step_of[s], device=y.device)
        return y - s * net(y / (1 + s * s) ** 0.5, times, labels)[:, :4].float()

    return Pair(denoise, model, levels, jnp.arange(batch))


NETWORKS = {"edm": edm, "dit": dit}
NAMES = {"edm": "DDPM++", "dit": "DiT-B/4"}


def _draw(net: Any) -> None:
    """Draw parameters that publishers start at 0 too, so that every layer counts."""
    import torch  # type: ignore[import-not-found]

    torch.manual_seed(0)
    for value in net.parameters():
        if value.requires_grad and value.ndim > 1:  # positions are fixed
            torch.nn.init.normal_(value, std=float(value[0].numel()) ** -0.5)


def _torch_device() -> str:
    import torch  # type: ignore[import-not-found]

    return "cuda" if torch.cuda.is_available() and common.is_accelerator() else "cpu"


def euler(denoise: Denoise, start: Any, levels: np.ndarray, dtype: str) -> Any:
    """Return PyTorch's samples by Euler's method, as NumPy."""
    import torch  # type: ignore[import-not-found]

    y, device = start, _torch_device()
    low = torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16")
    with torch.inference_mode(), low:
        for s, r in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
            y = y + (r - s) / s * (y - denoise(y, s).to(y.dtype))
    return y.cpu().numpy()


def ours(model: Any, dtype: str) -> Any:
    """Return the model's denoiser, its network computing in ``dtype``."""
    made = description(model.denoiser)
    assert made is not None  # load_pretrained makes it by denoiser
    network, params = made.pop("network"), made.pop("params")
    computing = network.module.clone(dtype=jnp.dtype(dtype))
    return denoiser(from_linen(computing), params, **made)


def measure(
    name: str, folder: Path, small: bool, batch: int, num_steps: int, repeats: int
) -> list[dict[str, Any]]:
    """Return rows, one for each dtype."""
    import torch  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as work:
        pair = NETWORKS[name](folder, small, batch, num_steps, Path(work))
    rng = np.random.default_rng(0)
    start = pair.levels[0] * rng.standard_normal((batch, *pair.model.shape))
    start = np.asarray(start, np.float32)
    first = torch.from_numpy(start.transpose(0, 3, 1, 2).copy()).to(_torch_device())
    made = table(solvers.euler, pair.levels)
    found = []
    for dtype in DTYPES:
        D = ours(pair.model, dtype)
        run = jax.jit(lambda D, y, cond: sample(D, made, y, cond=cond))
        calls = {
            "torch": functools.partial(euler, pair.torch, first, pair.levels, dtype),
            "jax": functools.partial(run, D, start, pair.cond),
        }
        theirs = calls["torch"]()
        own = np.asarray(calls["jax"]()).transpose(0, 3, 1, 2)
        times = common.alternate(calls, repeats)
        ratio = common.ratio(times["jax"], times["torch"])
        found.append(
            {
                "network": NAMES[name] + (" (small)" if small else ""), "dtype": dtype,
                "batch": batch, "num_steps": num_steps, "torch": torch.__version__,
                "device": _torch_device(),
                "difference": float(np.abs(own - theirs).max() / np.abs(theirs).max()),
                "jax_s": [t / num_steps for t in times["jax"]],
                "torch_s": [t / num_steps for t in times["torch"]], "ratio": ratio,
                "verdict": common.verdict(ratio, MOST),
            }
        )  # fmt: skip
    return found


def lines_of(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return the page's findings, in words and as a table."""
    header = ["network", "inside", "batch", "PyTorch (s)", "here (s)", "ratio", "difference"]
    cells = [
        [r["network"], r["dtype"], r["batch"], f"{np.median(r['torch_s']):.3f}"]
        + [f"{np.median(r['jax_s']):.3f}", "{:.2f} ({:.2f} to {:.2f})".format(*r["ratio"])]
        + [f"{r['difference']:.1e}"]
        for r in found
    ]
    lines = [
        f"- {r['network']}, {r['dtype']}: at most PyTorch's time: {r['verdict']}, with "
        f"{r['ratio'][0]:.2f} times it."
        for r in found
    ]
    lines += ["", f"Seconds per evaluation; PyTorch {found[0]['torch']} on {found[0]['device']}."]
    return [*lines, "", *common.table(header, cells), "", *_halves(found)]


def _halves(found: Sequence[dict[str, Any]]) -> list[str]:
    """Say what bfloat16 takes of float32's time, here and there."""
    known = {(r["network"], r["dtype"]): r for r in found}
    lines = []
    for (name, dtype), half in known.items():
        wide = known.get((name, "float32"))
        if dtype == "float32" or wide is None:
            continue
        here, there = (float(np.median(half[k]) / np.median(wide[k])) for k in ("jax_s", "torch_s"))
        lines.append(f"{name}, {dtype}: {here:.2f} of float32's time here, {there:.2f} in PyTorch.")
    return lines


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    parser = common.parser(__doc__)
    for name in NETWORKS:
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER", help="the publisher's code")
    parser.add_argument("--small", action="store_true", help="narrower networks")
    parser.add_argument("--batch", type=count, default=4, help="samples (4)")
    parser.add_argument("--num-steps", type=count, default=4, help="of a solve (4)")
    parser.add_argument("--repeats", type=count, default=9, help="solves that are timed (9)")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print and write."""
    options = options_of()
    given = {name: getattr(options, name) for name in NETWORKS if getattr(options, name)}
    if not given:
        raise SystemExit("give --edm or --dit, the folder of the publisher's code; see --help")
    found = []
    for name, folder in given.items():
        more = options.small, options.batch, options.num_steps, options.repeats
        found += measure(name, folder, *more)
    title = "Published networks beside PyTorch"
    common.publish(options, title, __doc__, common.metadata(), lines_of(found), rows=found)


if __name__ == "__main__":
    main()
