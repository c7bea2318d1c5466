"""Run by test_survival.py in a process of its own: 10 000 steps, and the memory after some of them.

Prints the process's resident memory in MB after 2 000, 4 000, ... steps.
"""

import gc
import json
import os
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from helpers import kill_and_resume

from jaxdiff.training import fit


def resident():
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main(folder):
    seen = []
    state = fit(
        kill_and_resume.regression(), kill_and_resume.draws, num_updates=10_000, checkpoint=folder,
        save_every=500, log_every=10, progress=False, watch_every=2_000,
        watch=lambda step, state: seen.append(resident()) or False,
    )  # fmt: skip
    averages = state.ema["net"]
    assert int(state.step) == int(state.opt_state["net"][0].count) == 10_000
    assert all(np.isfinite(leaf["in"]).all() for leaf in averages.values())
    assert jnp.any(averages["half"]["in"] != averages["power"]["in"])
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1])
