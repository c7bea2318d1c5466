"""Run by test_devices.py in a process of its own with eight simulated devices: every kind of player
has under jit and fsdp the numbers of one device, and under pmap those of the same step with its
eight parts in one vmap on one device (there, each part of a batch draws noise of its own).
"""

import json

import jax
import numpy as np
from recipes.test_recipes import TEACHER, make

jax.config.update("jax_enable_x64", True)

from jaxdiff.recipes import RECIPES, Goal  # noqa: E402
from jaxdiff.training import devices, due, fit, init_state, update  # noqa: E402
from jaxdiff.training.ema import constant  # noqa: E402

# a regression, a derivative's target, a kernel, three adversaries with their own periods
KINDS = ("easy_consistency", "mean_flow", "inductive_moments", "dmd2")
STEPS = 3


def network(labels, log_variance):
    apply, params = make(labels, log_variance)
    return apply, jax.tree.map(lambda x: x.astype(float), params)


def goal():
    return Goal(
        TEACHER.denoiser, network, (2,), STEPS, rate=1e-3, sigma_data=0.55,
        ema={"average": constant(0.9)},
    )  # fmt: skip


def batch(step):
    """On each of eight devices as many rows as the kernel compares with each other."""
    normal = np.random.default_rng(step).normal(size=(256, 2))
    return {"image": normal * [0.3, 0.7] + [0.2, -0.4]}


def train(method, parallel, where):
    return fit(
        method, batch, num_updates=STEPS, parallel=parallel, devices=where, progress=False, ahead=0
    )


def emulated(method):
    """pmap on eight devices as a vmap on one."""
    state = init_state(method, jax.random.key(0))
    for step in range(STEPS):
        cut = devices.place(
            jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch(step)),
            devices.replicated(devices.mesh(jax.devices()[:1])),
        )
        one = lambda part, now=state, n=step: update(  # noqa: E731
            method, now, part, due(method, n), "parts"
        )[0]
        states = jax.jit(jax.vmap(one, axis_name="parts", out_axes=0))(cut)
        state = jax.tree.map(lambda x: x[0], states)
    return state


def difference(a, b):
    """The largest difference of parameters, averages and moments, relative to their size."""
    trees = (jax.tree.map(np.asarray, state[1:4]) for state in (a, b))
    pairs = zip(*map(jax.tree.leaves, trees), strict=True)
    return max(float(np.max(np.abs(x - y)) / (np.max(np.abs(x)) + 1e-6)) for x, y in pairs)


def main():
    assert jax.device_count() == 8
    out = {}
    for name in KINDS:
        method = RECIPES[name].stages(goal())[-1].method(None)
        one = train(method, "jit", jax.devices()[:1])
        for parallel in ("jit", "fsdp"):
            out[f"{name}, {parallel}"] = difference(one, train(method, parallel, None))
        out[f"{name}, pmap"] = difference(emulated(method), train(method, "pmap", None))
    print(json.dumps(out))


if __name__ == "__main__":
    main()
