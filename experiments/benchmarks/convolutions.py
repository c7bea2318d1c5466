"""Convolutions on a CPU: XLA's own, ours, and PyTorch's where it is installed.

    python -m experiments.benchmarks.convolutions [--json FILE] [--markdown FILE]

For single 3x3 convolutions, and for whole U-Nets, the time of a forward pass and of a forward pass
with the gradient, in processor milliseconds (of all threads together, the least of several calls):
that hardly depends on what else the machine does. ``lax`` calls XLA's plain convolution,
``ours`` is :mod:`jaxdiff.networks.conv`, ``torch`` is PyTorch with channels last. The U-Net in
PyTorch is the same network, written there with its own layers.

On another device than a CPU ours is lax, and there is nothing to compare. Takes about three minutes
on two cores.
"""

import functools
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks.common import metadata, parser, publish, table
from jaxdiff.networks import UNet, conv, count_parameters, from_linen, init

LAYERS = [(64, 32, 32, 32), (16, 32, 128, 128), (64, 28, 32, 32), (64, 16, 64, 64),
          (64, 8, 128, 128), (64, 8, 32, 32), (64, 4, 64, 64), (64, 2, 64, 64)]  # fmt: skip
UNETS = {
    "8x8, 2 levels": (8, 64, {}),
    "8x8, 3 levels": (8, 64, {"multipliers": (1, 2, 2)}),
    "16x16, 3 levels": (16, 64, {"multipliers": (1, 2, 2)}),
    "28x28, 3 levels": (28, 64, {"multipliers": (1, 2, 2)}),
    "32x32, 64 channels": (32, 16, {"channels": 64}),
}
WAYS = ("lax", "ours", "torch")


def least(call: Callable[[], Any], calls: int) -> float:
    """Return the least processor time of several calls, in milliseconds."""
    call()
    times = []
    for _ in range(calls):
        began = time.process_time()
        call()
        times.append(time.process_time() - began)
    return 1e3 * min(times)


def timed(f: Callable[..., Any], *args: Any, calls: int = 5) -> float:
    """Return the time of a jitted function."""
    run = jax.jit(f)
    return least(lambda: jax.block_until_ready(run(*args)), calls)


def way(name: str) -> Any:
    """Return a context in which convolutions are lax's, or ours."""
    return mock.patch.object(conv, "_on_cpu", lambda: name == "ours")


def layers() -> Iterator[dict[str, Any]]:
    """Single convolutions."""
    random = np.random.default_rng(0)
    for batch, size, channels, features in LAYERS:
        x = random.standard_normal((batch, size, size, channels)).astype(np.float32)
        w = random.standard_normal((3, 3, channels, features)).astype(np.float32)
        row: dict[str, Any] = {"shape": f"{batch}x{size}x{size}, {channels} to {features}"}
        for name in ("lax", "ours"):
            with way(name):
                f = functools.partial(conv.convolve, stride=1)
                loss = lambda x, w, f=f: jnp.sum(f(x, w) ** 2)  # noqa: E731
                row[f"{name} forward"] = timed(f, x, w)
                row[f"{name} with gradient"] = timed(jax.value_and_grad(loss, (0, 1)), x, w)
        yield row | torch_layer(x, w)


def unets() -> Iterator[dict[str, Any]]:
    """Whole networks, at parameters moved away from zero."""
    for label, (size, batch, options) in UNETS.items():
        module = UNet(**options)
        network = from_linen(module)
        params = jax.tree.map(lambda x: x + 0.01, init(module, jax.random.key(0), (size, size, 1)))
        x = jax.random.normal(jax.random.key(1), (batch, size, size, 1))
        s = jnp.ones(batch)
        loss = lambda params, x, s, f=network: jnp.mean((f(params, x, s) - x) ** 2)  # noqa: E731
        row: dict[str, Any] = {"shape": f"{label}, batch {batch}"}
        for name in ("lax", "ours"):
            with way(name):
                # one function object each: what is traced in one way is not to serve the other
                row[f"{name} forward"] = timed(lambda p, x, s, f=network: f(p, x, s), params, x, s)
                gradient = jax.value_and_grad(lambda p, x, s, f=loss: f(p, x, s))
                row[f"{name} with gradient"] = timed(gradient, params, x, s)
        yield row | torch_unet(size, batch, options, count_parameters(params))


def torch_layer(x: np.ndarray, w: np.ndarray) -> dict[str, float]:
    """Return the same convolution in PyTorch; nothing where that is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    torch.set_num_threads(1)  # its threads wait busily, which would count
    a = torch.tensor(x.transpose(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)
    b = torch.tensor(w.transpose(3, 2, 0, 1)).contiguous(memory_format=torch.channels_last)
    convolve = functools.partial(torch.nn.functional.conv2d, padding=1)

    def gradient() -> None:
        given = a.clone().requires_grad_(), b.clone().requires_grad_()
        convolve(*given).square().sum().backward()

    def forward() -> None:
        with torch.no_grad():
            convolve(a, b)

    return {"torch forward": least(forward, 5), "torch with gradient": least(gradient, 5)}


def torch_unet(size: int, batch: int, options: dict[str, Any], parameters: int) -> dict[str, float]:
    """Return the same U-Net in PyTorch; nothing where that is not installed."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return {}
    torch.set_num_threads(1)
    nn, silu = torch.nn, torch.nn.functional.silu
    channels, multipliers = options.get("channels", 32), options.get("multipliers", (1, 2))
    widths = [channels * m for m in multipliers]
    conv3 = functools.partial(nn.Conv2d, kernel_size=3, padding=1)
    norm = functools.partial(nn.GroupNorm, 8)

    class Block(nn.Module):
        def __init__(self, before: int, width: int) -> None:
            super().__init__()
            self.first, self.second = conv3(before, width), conv3(width, width)
            self.norms = nn.ModuleList([norm(before), norm(width)])
            self.modulation = nn.Linear(128, 2 * width)
            self.skip = nn.Identity() if before == width else nn.Conv2d(before, width, 1)

        def forward(self, x: Any, e: Any) -> Any:
            h = self.first(silu(self.norms[0](x)))
            scale, shift = self.modulation(e)[:, :, None, None].chunk(2, 1)
            return self.skip(x) + self.second(silu(self.norms[1](h) * (1 + scale) + shift))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # the label's embedding: two layers on 128 sines and cosines
            self.embed = nn.Sequential(nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 128))
            self.begin, self.end = conv3(1, widths[0]), conv3(widths[0], 1)
            pairs = list(zip(widths, widths[1:], strict=False))
            self.down = nn.ModuleList([conv3(a, b, stride=2) for a, b in pairs])
            self.up = nn.ModuleList([conv3(b, a) for a, b in pairs])
            self.before = nn.ModuleList([Block(w, w) for w in widths])
            self.middle = Block(widths[-1], widths[-1])
            self.after = nn.ModuleList([Block(2 * w, w) for w in widths])
            self.norm = norm(widths[0])

        def forward(self, x: Any, features: Any) -> Any:
            e, skips = silu(self.embed(features)), []
            h = self.begin(x)
            for level in range(len(widths)):
                h = self.before[level](h if level == 0 else self.down[level - 1](h), e)
                skips.append(h)
            h = self.middle(h, e)
            for level in reversed(range(len(widths))):
                h = self.after[level](torch.cat([h, skips.pop()], 1), e)
                if level:
                    h = self.up[level - 1](nn.functional.interpolate(h, scale_factor=2))
            return self.end(silu(self.norm(h)))

    net = Net().to(memory_format=torch.channels_last)
    count = sum(p.numel() for p in net.parameters())
    assert abs(count / parameters - 1) < 0.01, f"{count} parameters there, {parameters} here"
    x = torch.randn(batch, 1, size, size).contiguous(memory_format=torch.channels_last)
    features = torch.randn(batch, 128)

    def gradient() -> None:
        net.zero_grad()
        (net(x, features) - x).square().mean().backward()

    def forward() -> None:
        with torch.no_grad():
            net(x, features)

    return {"torch forward": least(forward, 5), "torch with gradient": least(gradient, 5)}


def lines(found: list[dict[str, Any]]) -> list[str]:
    """Return a table of processor milliseconds, and of ours against the others."""
    kinds = ("forward", "with gradient")
    head = ["", *(f"{way}, {kind}" for kind in kinds for way in WAYS)]
    rows = []
    for row in found:
        cells = [row.get(f"{way} {kind}") for kind in kinds for way in WAYS]
        rows.append([row["shape"], *("-" if x is None else f"{x:.1f}" for x in cells)])
    return ["Processor milliseconds.", "", *table(head, rows)]


def main() -> None:
    """Run both and write them."""
    options = parser(__doc__).parse_args()
    found = [*layers(), *unets()]
    try:
        import torch  # pyright: ignore[reportMissingImports]

        versions = {"torch": torch.__version__}
    except ImportError:
        versions = {}
    publish(
        options, "Convolutions on a CPU", __doc__, metadata(**versions), lines(found), rows=found
    )


if __name__ == "__main__":
    main()
