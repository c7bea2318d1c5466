"""One of several processes with two simulated devices each, started by test_devices.py.

    python one_of_two_processes.py JOB FOLDER

with the variables of a launcher set. JOB "train" trains and samples in every way and leaves the
numbers in FOLDER; "long" trains until it is stopped; "meet" notes who launched whom.
"""

import os
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdiff import grids, solvers, table
from jaxdiff.exact import Gaussian
from jaxdiff.method import Method, Player
from jaxdiff.sampling.adaptive.probability_flow import adaptive
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.training import checkpoint, ema, fit, hosts, read_history
from jaxdiff.training.devices import over_batch

WAYS = ("jit", "fsdp", "pmap")
STEPS, ROWS = 4, 16


class Data:
    """Batches of which a process takes its own rows; in ``requested``, which those were."""

    batch_size = ROWS

    def __init__(self):
        self.requested = []

    def __call__(self, step, rows=slice(None)):
        self.requested.append(rows)
        x, eps = np.random.default_rng(step).standard_normal((2, ROWS, 4))
        return {"x": x[rows], "eps": eps[rows]}


def method():
    """Two players with frozen numbers; a loss is a mean over the batch, whose noise it brings."""

    def first(params, context, batch, key):
        error = jnp.tanh((batch["x"] + batch["eps"]) @ params["in"]) @ params["out"] - batch["x"]
        return jnp.mean(error**2 * context.frozen[None, :]), {"error": jnp.mean(error)}

    def second(params, context, batch, key):
        return jnp.mean((batch["x"] @ context.params["first"]["in"] - params[None, :]) ** 2), {}

    def start(key):
        own = np.random.default_rng(0).standard_normal((2, 4, 512)) / 4
        return {"first": {"in": own[0], "out": own[1].T}, "second": np.zeros(512)}

    optimiser = optax.sgd(1e-3, momentum=0.9)
    players = {
        "first": Player(first, optimiser, ema={"power": ema.power(1.0)}),
        "second": Player(second, optimiser, every=2),
    }
    return Method(start, players, lambda state: None, jnp.arange(1.0, 5.0))


def samples(given, numbers, *, steps):
    """Stochastic samples by a table, and the adaptive solution from the same starts."""
    denoiser, key = given
    drawn = Sampler(denoiser, table(solvers.churn, grids.karras(steps), amount=5.0))
    x = 80.0 * jax.random.normal(key, (1, 2)) * (1.0 + numbers.astype(float)[:, None])
    return {
        "samples": drawn(key, numbers, (2,)),
        "solution": adaptive(denoiser, x, 80.0, 0.1).states,
    }


def everything(folder, data=None):
    """Numbers by name: trained parameters and samples, in every way."""
    made = {}
    for way in WAYS:
        own = data or Data()
        state = fit(
            method(), own, num_updates=STEPS, parallel=way, checkpoint=folder / way, log_every=2,
            gradient_accumulation=2, progress=False,
        )  # fmt: skip
        leaves = jax.tree.leaves(hosts.whole((state.params, state.opt_state, state.ema)))
        made |= {f"{way}, leaf {i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        model = Gaussian(np.array([0.3, -0.2]), np.array([0.5, 0.1]))
        given = (model.denoiser, jax.random.key(3))
        drawn = over_batch(samples, given, parallel=way, steps=4)(np.arange(10, dtype=np.int32))
        made |= {f"{way}, {name}": np.asarray(x) for name, x in drawn.items()}
    return made


def train(folder):
    assert jax.process_count() == 2 and jax.device_count() == 4
    assert hosts.gather({"process": jax.process_index()}) == [{"process": 0}, {"process": 1}]
    assert hosts.anyone(jax.process_index() == 1) and not hosts.anyone(False)
    requested = Data()
    made = everything(folder, requested)
    half = slice(0, 8) if jax.process_index() == 0 else slice(8, 16)
    assert set(map(str, requested.requested)) == {str(half)}
    checkpoint.save_params(folder / "params.npz", {"w": jnp.arange(3.0)})
    assert [row["step"] for row in read_history(folder / "jit")] == [2, 4]
    np.savez(folder / f"process-{jax.process_index()}.npz", **made)


def long(folder):
    def note(step, row):
        (folder / "running").touch()

    kinds = {"checkpoint": folder / "long", "log_every": 5, "progress": False, "log": note}
    fit(method(), Data(), num_updates=1_000_000, save_every=1_000_000, **kinds)


def meet(folder):
    (folder / f"process-{jax.process_index()}").write_text(str(hosts.gather(hosts.launched())))


def main():
    os.environ["JAX_PLATFORMS"] = "cpu"
    jax.config.update("jax_enable_x64", True)
    kind = hosts.connect()
    assert kind is not None and hosts.connect() == kind
    {"train": train, "long": long, "meet": meet}[sys.argv[1]](Path(sys.argv[2]))


if __name__ == "__main__":
    main()
