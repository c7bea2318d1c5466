"""Run by test_survival.py in a process of its own: jobs that are killed at random moments.

    python kill_and_resume.py JOB KILLS FOLDER

This process imports everything and computes nothing; every attempt at the job is a fork of it that
goes on in FOLDER, and is killed (SIGKILL) after a random time, until KILLS are counted. Then the
job is left to end, and so is another that nobody disturbs. Both leave their numbers, which are
printed as equal or not.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import jax
import numpy as np
import optax

from jaxdiff import grids, solvers, table, tuning
from jaxdiff.exact import Gaussian
from jaxdiff.method import Method, Player
from jaxdiff.recipes import RECIPES, Goal
from jaxdiff.training import checkpoint, ema, fit
from jaxdiff.training.tune import held_out, tune

EVERY = 3  # steps between checkpoints: most kills fall into the writing of one
QUIET = {"progress": False, "log_every": 3}


def model():
    return Gaussian(np.array([0.3, -0.2]), np.array([0.5, 0.1]))


def regression():
    def loss(params, context, batch, key):
        h = jax.numpy.tanh((batch["x"] + 0.1 * jax.random.normal(key, (8, 4))) @ params["in"])
        return jax.numpy.mean((h @ params["out"] - batch["x"]) ** 2), {}

    def init(key):
        a, b = jax.random.normal(key, (2, 4, 64))
        return {"net": {"in": a, "out": b.T}}

    averages = {"half": ema.halflife(10.0), "power": ema.power(3.0)}
    player = Player(loss, optax.adam(1e-2), ema=averages)
    return Method(init, {"net": player}, lambda state: None)


def draws(step):
    return {"x": np.random.default_rng(step).standard_normal((8, 4)).astype(np.float32)}


def train(folder, often):
    """A network with two averages."""
    return fit(regression(), draws, num_updates=80, checkpoint=folder, save_every=often, **QUIET)[
        :4
    ]


def distill(folder, often):
    """A generator, its fake score and a discriminator, with periods of their own."""
    from recipes.test_recipes import data, make

    goal = Goal(model().denoiser, make, (2,), 80, rate=1e-3, sigma_data=0.55,
                ema={"average": ema.constant(0.9)})  # fmt: skip
    method = RECIPES["dmd2"].stages(goal)[-1].method(None)
    return fit(method, data, num_updates=80, checkpoint=folder, save_every=often, **QUIET)[:4]


def search(folder, often):
    """A sampler's levels and weights, with the best table so far beside the checkpoints."""
    known = model()
    family = tuning.of_weights(tuning.of_grid(solvers.euler, grids.karras(4, 0.1)))
    method = tuning.tuning(
        known.denoiser, family, tuning.end_point(), optimiser=optax.adam(1e-2), shape=(2,)
    )

    def pairs(step):
        start = 80.0 * np.random.default_rng(step).standard_normal((16, 2)).astype(np.float32)
        ends = known.flow(jax.numpy.asarray(start), 80.0, 0.0)
        return {"start": start, "image": np.asarray(ends)}

    score = held_out(known.denoiser, pairs(10**6))
    start = table(solvers.euler, grids.karras(4, 0.1))
    found = tune(method, pairs, score, start, num_updates=80, every=EVERY, folder=folder, **QUIET)
    return found.score, found.step, found.table.nodes, found.table.denoised


JOBS = {"train": train, "distill": distill, "search": search}


def work(job, folder, often, out):
    """The job in this process, its numbers left in ``out``."""
    leaves = jax.tree.leaves(JOBS[job](folder, often))
    partial = out.with_suffix(".tmp.npz")
    np.savez(partial, **{str(i): np.asarray(x) for i, x in enumerate(leaves)})
    partial.replace(out)


def fork(job, folder, often, out):
    child = os.fork()
    if child == 0:
        code = 1
        try:
            sys.stderr = (folder.parent / f"{folder.name}.err").open("a")
            work(job, folder, often, out)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return child


def ended(child):
    """The exit code of a child, or None while it runs."""
    done, status = os.waitpid(child, os.WNOHANG)
    return None if not done else os.waitstatus_to_exitcode(status)


def wait(child, folder, patience, progress):
    """Wait so many seconds, counted from the first new checkpoint if ``progress`` is requested
    for."""
    before, began = newest(folder), time.monotonic()
    while (code := ended(child)) is None:
        if progress and newest(folder) == before:
            began = time.monotonic()
        if time.monotonic() - began > patience:
            break
        time.sleep(0.002)
    return code


def newest(folder):
    return max(checkpoint.latest_step(p) or 0 for p in (folder, folder / "checkpoints"))


def main(job, kills, root):
    random.seed(job)
    killed = number = partial = 0  # partial: kills that left something half written
    while True:
        folder, out = root / f"killed-{number}", root / f"killed-{number}.npz"
        child = fork(job, folder, EVERY, out)
        patience = random.uniform(0.0, 1.5) if killed < kills else 300.0
        code = wait(child, folder, patience, progress=killed % 2 == 1)
        if code is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed += 1
            partial += bool([*folder.glob("**/*.orbax-checkpoint-tmp*"), *folder.glob("**/*.tmp")])
        elif code != 0:
            print((root / f"{folder.name}.err").read_text()[-3000:], file=sys.stderr)
            sys.exit(f"the job failed after {killed} kills")
        elif killed < kills:
            number += 1  # it ended by itself: begin another
        else:
            break
    whole = fork(job, root / "whole", 10**6, root / "whole.npz")
    assert os.waitstatus_to_exitcode(os.waitpid(whole, 0)[1]) == 0
    with np.load(root / "whole.npz") as a, np.load(out) as b:
        same = set(a) == set(b) and all(a[k].tobytes() == b[k].tobytes() for k in a)
    print(json.dumps({"same": same, "kills": killed, "partial": partial, "runs": number + 1}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
