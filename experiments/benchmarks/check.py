"""Check of a device: samples of a Gaussian against closed forms.

    python -m experiments.benchmarks.check [--json FILE] [--markdown FILE]

A Gaussian's probability-flow ODE has a solution in closed form. Solvers of several orders take 64
steps on it, in float32, with products at the precision "highest" and at the device's own default;
the error is the largest over samples, in units of the largest sample, and mostly that of the steps.
A U-Net is evaluated in float32 and bfloat16, and compared with the CPU's float32. Takes a minute.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import common
from jaxdiff import grids, solvers
from jaxdiff.exact import Gaussian
from jaxdiff.networks import UNet
from jaxdiff.sampling.sample import sample
from jaxdiff.sampling.trace import table

SOLVERS = ("heun", "dpmpp", "unipc", "deis")
MOST = {"highest": 4e-3, "default": 2e-2, "float32": 1e-4, "bfloat16": 5e-2}  # what is accepted


def solved(name: str, precision: str) -> dict[str, Any]:
    """Return the error of a solver on a Gaussian in 8 dimensions."""
    rng = np.random.default_rng(0)
    root = rng.standard_normal((8, 8)) / 4
    truth = Gaussian(
        jnp.asarray(rng.standard_normal(8), jnp.float32), jnp.asarray(root @ root.T, jnp.float32)
    )
    made = table(getattr(solvers, name), grids.karras(64))
    levels = np.asarray(made.levels)
    start = jnp.asarray(levels[0] * rng.standard_normal((256, 8)), jnp.float32)
    with jax.default_matmul_precision(precision):
        found = jax.jit(lambda y: sample(truth.denoiser, made, y))(start)
        exact = truth.flow(start, levels[0], 0.0)
    error = float(jnp.abs(found - exact).max() / jnp.abs(exact).max())
    return {"what": f"{name}, 64 steps, {precision}", "error": error, "most": MOST[precision]}


def evaluated(dtype: str) -> dict[str, Any]:
    """Return how far a U-Net on this device is from the same on the CPU in float32."""
    rng = np.random.default_rng(0)
    x = np.asarray(rng.standard_normal((4, 16, 16, 3)), np.float32)
    label = np.linspace(-1, 1, 4, dtype=np.float32)
    network = UNet(channels=16, dtype=jnp.dtype(dtype))
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, label)["params"]
    params = jax.tree.map(
        lambda s: np.asarray(
            rng.standard_normal(s.shape) / max(1, np.prod(s.shape[:-1])) ** 0.5, np.float32
        ),
        shapes,
    )

    def run(module: UNet, device: Any) -> np.ndarray:
        apply = jax.jit(lambda p, x: module.apply({"params": p}, x, jnp.asarray(label)))
        out = apply(jax.device_put(params, device), jax.device_put(x, device))
        return np.asarray(out, np.float32)

    exact = run(network.clone(dtype=jnp.float32), jax.devices("cpu")[0])
    with jax.default_matmul_precision("highest"):
        found = run(network, jax.devices()[0])
    error = float(np.abs(found - exact).max() / np.abs(exact).max())
    return {"what": f"U-Net, {dtype}", "error": error, "most": MOST[dtype]}


def rows() -> list[dict[str, Any]]:
    """Return all checks."""
    found = [solved(name, precision) for name in SOLVERS for precision in ("highest", "default")]
    return found + [evaluated(dtype) for dtype in ("float32", "bfloat16")]


def lines_of(found: Sequence[dict[str, Any]]) -> list[str]:
    """Return the page's findings as a table."""
    cells = [
        [r["what"], f"{r['error']:.1e}", f"{r['most']:.0e}"]
        + ["right" if r["error"] <= r["most"] else "WRONG"]
        for r in found
    ]
    return common.table(["what", "error", "accepted", ""], cells)


def options_of(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line."""
    return common.parser(__doc__).parse_args(arguments)


def main() -> None:
    """Check, print and write; the exit status is 1 if anything is wrong."""
    options = options_of()
    found = rows()
    title = "A device's numbers"
    common.publish(options, title, __doc__, common.metadata(), lines_of(found), rows=found)
    if any(not row["error"] <= row["most"] for row in found):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
