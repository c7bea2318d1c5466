"""Published tensors, channels first, as variables of the modules here, and gradients back."""

import jax
import jax.numpy as jnp
import numpy as np


def last(x):
    """Maps with their channels last; anything else as it is."""
    return jnp.asarray(np.moveaxis(x, 1, -1) if np.ndim(x) == 4 else x)


def first(x):
    x = np.asarray(x)
    return np.moveaxis(x, -1, 1) if x.ndim == 4 else x


def kernel(w, transposed=False):
    """A kernel (height, width, in, out) of one (out, in, height, width), or of a matrix (in, out).

    A transposed convolution's is (in, out, height, width), and turned by half a turn.
    """
    w = np.asarray(w)
    if transposed:
        return np.transpose(w, (2, 3, 0, 1))[::-1, ::-1]
    return np.transpose(w, (2, 3, 1, 0)) if w.ndim == 4 else w.T


def variables(get, rules, transposed=False):
    """{"params": ..., "batch_stats": ...} of ``get(name)`` by rules {our path: published name}."""
    made = {"params": {}, "batch_stats": {}}
    for path, name in rules.items():
        for theirs, (tree, ours) in _leaves(get, name).items():
            value = np.asarray(get(f"{name}.{theirs}"))
            value = kernel(value, transposed) if ours == "kernel" else value
            node = made[tree]
            for key in path.split("/"):
                node = node.setdefault(key, {})
            node[ours] = jnp.asarray(value)
    return made


def _leaves(get, name):
    norm = get(f"{name}.running_mean") is not None
    found = {"weight": ("params", "scale" if norm else "kernel")}
    if get(f"{name}.bias") is not None:
        found["bias"] = ("params", "bias")
    if norm:
        found |= {"running_mean": ("batch_stats", "mean"), "running_var": ("batch_stats", "var")}
    return found


def close(found, wanted, rtol=1e-8):
    wanted = np.asarray(wanted)
    np.testing.assert_allclose(
        np.asarray(found).reshape(wanted.shape), wanted, rtol=rtol, atol=rtol * np.abs(wanted).max()
    )


def gradients_close(grads, get, rules, transposed=False):
    """Every published gradient ``grad_w:`` of the rules is that found."""
    count = 0
    for path, name in rules.items():
        node = grads
        for key in path.split("/"):
            node = node[key]
        for ours, value in node.items():
            wanted = get(f"{name}.{'bias' if ours == 'bias' else 'weight'}")
            wanted = kernel(wanted, transposed) if ours == "kernel" else wanted
            wanted, scale = np.reshape(wanted, np.shape(value)), np.abs(np.asarray(wanted)).max()
            np.testing.assert_allclose(
                value, wanted, rtol=1e-7, atol=1e-7 * scale, err_msg=f"{path}/{ours}"
            )
            count += 1
    assert count


def statistics_close(after, before, get, rules, count):
    """Running averages after one batch: ``count`` numbers a channel, var by n - 1 in PyTorch's."""
    for path, name in rules.items():
        mean = get(f"{name}.running_mean")
        if mean is None:
            continue
        a, b = after, before
        for key in path.split("/"):
            a, b = a[key], b[key]
        close(a["mean"], mean)
        n = count(path)
        own = (np.asarray(get(f"{name}.running_var")) - 0.9 * b["var"]) * (n - 1) / n
        close(a["var"], 0.9 * np.asarray(b["var"]) + own)


def float64(tree):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)
