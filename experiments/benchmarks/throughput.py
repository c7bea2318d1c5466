"""Images per second of two networks of common size, sampling and training, and of the peak how
much.

    python -m experiments.benchmarks.throughput [--network unet dit] [--dtype float32 bfloat16]
        [--batch N] [--steps N] [--peak TFLOPS ...] [--profile DIR] [--json FILE] [--markdown FILE]

Measured, at CIFAR-10's size (32x32x3) and on one device: sampling, an evaluation of the denoiser
(a sampler of n evaluations makes 1/n as many images), and training, a step of score matching with
Adam and one average, as jaxdiff.training.fit runs it: the same compiled program, its state donated,
the batch placed beforehand. Both are called in turn, several times for each reading of the clock,
and the median of three readings is given, compilation apart. Their arithmetic is 2 per
multiply-add of convolutions and matrix products, counted by a closed form, three times that of
sampling in training; its share of the device's peak is what makes devices comparable. float32 is at
jax's default precision, which is TF32 on NVIDIA's tensor cores and one pass of bfloat16 on TPUs;
bfloat16 is the network's dtype alone, parameters, Adam and averages staying in float32.

The networks: dit is DiT-B/4, of 130.0 M parameters. unet, of 55.8 M, is as large as the DDPM++
network of EDM (Karras et al., arXiv 2206.00364), of 55.7 M: 128 channels, (2, 2, 2), 4 blocks,
attention at 16, dropout 0.13. It is not that network, and has 35.0 GFLOP per image where that has
40.2 by the same count. On the way up it has 4 blocks per level instead of 5; at the lowest map one,
without attention, instead of two, the first with it; maps are halved and doubled by a convolution
of their own instead of within a block; on the way up attention at 16 follows every block instead of
the last; the embedding scales and shifts instead of being added, and is 896 long instead of 512,
which makes up the count; skips are added without 1/sqrt(2).

The closed forms, per image, for maps of h x w, with c channels where not said otherwise:
    convolution 3x3    2 c_in c_out (3h - 2)(3w - 2): products with the padding are left out; with
                       stride 2 from an even h x w, (3h/2 - 1)(3w/2 - 1) instead
    linear layer       2 N c_in c_out for N positions
    attention          8 N c^2 for queries, keys, values and output, 4 N^2 c for the two products
    residual block     its two convolutions, the linear skip where c_in is not c_out, 4 E c_out of
                       the embedding of length E
    transformer block  (8 + 4 r) N c^2 + 4 N^2 c, 12 c^2 of the modulation; r: hidden units over c
XLA's own count, which has all elementwise operations too, is given beside it: that of the program
before it is optimised, since on GPUs the compiled one hands convolutions and products to libraries,
which XLA does not count; the compiled one's is in the JSON.

On an accelerator the batch is doubled until memory is full or neither rate grows by 5 %, and each
has its best; on CPU it is 2 and the whole takes minutes, nearly all of it compilation. Where the
peak of the device is not known, its share is left out: give --peak. The peak of a CPU is measured
by products of large float32 matrices, in turns with the networks, and is that of bfloat16 too.
"""

import argparse
import functools
import pathlib
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdiff as jd
from experiments.benchmarks.common import (
    alternate,
    is_accelerator,
    metadata,
    parser,
    publish,
    ratio,
    table,
)
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.score_matching import score_matching
from jaxdiff.networks import count_parameters, from_linen, init
from jaxdiff.networks.dit import DiT
from jaxdiff.networks.unet import UNet
from jaxdiff.training import ema, loop
from jaxdiff.training.step import due, init_state
from jaxdiff.typing import Params

SHAPE = (32, 32, 3)
READINGS = 3
NETWORKS: dict[str, Callable[[Any], UNet | DiT]] = {
    "unet": lambda dtype: UNet(
        128, (2, 2, 2), 4, (16,), heads=1, dropout=0.13, groups=32, embedding=896, dtype=dtype
    ),
    "dit": lambda dtype: DiT(4, 768, 12, 12, dtype=dtype),
}


class Peak(NamedTuple):
    """Dense arithmetic in TFLOPS: of bfloat16, of float32 at jax's default precision (TF32; one
    pass of bfloat16 on TPUs), and of float32 at precision "highest" (six passes).
    """

    bfloat16: float
    tf32: float
    float32: float


def _tpu(peak: float) -> Peak:
    return Peak(peak, peak, peak / 6)


# NVIDIA's data sheets, without sparsity: H100 Tensor Core GPU architecture (2022), table 2; H200
# (2023); A100 (2021). TPUs, per chip: cloud.google.com/tpu/docs/v4, v5e, v5p and v6e.
_H100, _A100 = Peak(989.4, 494.7, 66.9), Peak(312.0, 156.0, 19.5)
PEAKS = {
    "NVIDIA H100 80GB HBM3": _H100,
    "NVIDIA H100 PCIe": Peak(756.0, 378.0, 51.2),
    "NVIDIA H200": _H100,
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    "TPU v4": _tpu(275.0),
    "TPU v5 lite": _tpu(197.0),
    "TPU v5e": _tpu(197.0),
    "TPU v5": _tpu(459.0),
    "TPU v5p": _tpu(459.0),
    "TPU v6 lite": _tpu(918.0),
    "TPU v6e": _tpu(918.0),
}


def product(size: int = 2048) -> tuple[Callable[[], Any], int]:
    """Return a product of large float32 matrices as a function of nothing, and its operations."""
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
    run = jax.jit(jnp.matmul)
    return lambda: run(a, a), 2 * size**3


def peak_of(dtype: str, kind: str) -> float | None:
    """Return the peak in TFLOPS of a device kind that is in the table, else None."""
    if kind not in PEAKS:
        return None
    exact = jax.config.jax_default_matmul_precision in ("highest", "float32")  # type: ignore[attr-defined]
    own = PEAKS[kind]
    return own.bfloat16 if dtype == "bfloat16" else own.float32 if exact else own.tf32


def forward_flops(net: UNet | DiT, shape: tuple[int, ...]) -> int:
    """Operations of one evaluation for one image, by the closed forms of the module's text."""
    return _dit_flops(net, shape) if isinstance(net, DiT) else _unet_flops(net, shape)


def _dit_flops(net: DiT, shape: tuple[int, ...]) -> int:
    height, width, channels = shape
    n, c, ends = height * width // net.patch**2, net.width, net.patch**2 * channels
    block = (8 + 4 * net.mlp_ratio) * n * c**2 + 4 * n**2 * c + 12 * c**2
    embedding, last = 4 * c**2, 4 * c**2  # two layers, and the modulation of the output
    return round(net.depth * block + embedding + last + 2 * (2 * n * ends * c))


def _unet_flops(net: UNet, shape: tuple[int, ...]) -> int:
    height, width, channels = shape
    widths = [net.channels * m for m in net.multipliers]

    def conv(level: int, c_in: int, c_out: int) -> int:
        return 2 * c_in * c_out * (3 * (height >> level) - 2) * (3 * (width >> level) - 2)

    def halving(level: int, c_in: int, c_out: int) -> int:
        h, w = height >> level, width >> level
        return 2 * c_in * c_out * (3 * h - 1) * (3 * w - 1)

    def stage(level: int, c_in: int, c: int) -> int:
        n = (height >> level) * (width >> level)
        block = conv(level, c_in, c) + conv(level, c, c) + 4 * net.embedding * c
        skip = 2 * n * c_in * c if c_in != c else 0
        attends = height >> level in net.attention
        return block + skip + (8 * n * c**2 + 4 * n**2 * c if attends else 0)

    total = 4 * net.embedding**2 + conv(0, channels, widths[0]) + conv(0, widths[0], channels)
    for level, c in enumerate(widths):
        before = widths[max(level - 1, 0)]
        if level > 0:
            total += halving(level, before, c) + conv(level - 1, c, before)
        total += net.blocks * stage(level, c, c) + net.blocks * stage(level, 2 * c, c)
    return total + stage(len(widths) - 1, widths[-1], widths[-1])


def evaluation(net: UNet | DiT, params: Params, batch: int) -> tuple[Callable[[], Any], Any, Any]:
    """Return an evaluation of the denoiser as a function of nothing, and its operations by XLA's
    count, before and after optimisation, all images together.
    """
    D = jd.denoiser(from_linen(net), params)
    y = jd.start_noise(jax.random.key(1), batch, SHAPE)
    lowered = jax.jit(lambda D, y, s: D(y, s)).lower(D, y, jnp.float32(1.0))
    run = lowered.compile()
    counts: list[Any] = [made.cost_analysis() or {} for made in (lowered, run)]
    before, after = (count.get("flops") for count in counts)
    return lambda: run(D, y, jnp.float32(1.0)), before, after


def training(net: UNet | DiT, params: Params, batch: int) -> Callable[[], Any]:
    """Return a training step as a function of nothing, which keeps the state."""
    student = Student(
        from_linen(net), params, optimiser=optax.adam(1e-3), ema={"average": ema.constant(0.9999)}
    )
    method = score_matching(student)
    runner, active = loop.step_runner(method, "jit", jax.devices()[:1]), due(method, 0)
    image = 0.5 * np.random.default_rng(0).standard_normal((batch, *SHAPE), np.float32)
    held = [runner.enter(init_state(method, jax.random.key(2)))]
    placed = runner.feed({"image": image})

    def step() -> Any:
        held[0], metrics = runner.run(held[0], placed, active)
        return metrics

    return step


def measure(
    net: UNet | DiT,
    params: Params,
    batch: int,
    steps: int,
    peak: float | None,
    profile: pathlib.Path | None = None,
) -> list[dict[str, Any]]:
    """Return a row of sampling and a row of training, of the same batch. On CPU, and without a
    peak, its own is measured in turns with them, so that other work on the machine slows all down.
    """
    sample, *counts = evaluation(net, params, batch)
    calls = {"sampling": sample, "training": training(net, params, batch)}
    many = {
        what: lambda call=call: [call() for _ in range(steps)][-1] for what, call in calls.items()
    }
    large, operations = product()
    own = peak is None and not is_accelerator()
    times = alternate({**many, "product": large} if own else many, READINGS)
    if profile is not None:
        _trace(profile / f"batch-{batch}", many)
    peak = 1e-12 * operations / statistics.median(times["product"]) if own else peak
    lowered, compiled = (None if count is None else count / batch for count in counts)
    fields = {"batch": batch, "flops_xla": lowered, "flops_xla_compiled": compiled}
    rows = []
    for what, passes in (("sampling", 1), ("training", 3)):
        seconds, flops = statistics.median(times[what]) / steps, passes * forward_flops(net, SHAPE)
        tflops = 1e-12 * flops * batch / seconds
        row = {"what": what, **fields, "seconds": seconds, "images_per_s": batch / seconds}
        row |= {"flops": flops, "tflops": tflops, "peak_tflops": peak}
        rows.append({**row, "share": None if peak is None else tflops / peak})
    rows[1]["evaluations"] = ratio(times["training"], times["sampling"]).median
    return rows


def _trace(folder: pathlib.Path, calls: Mapping[str, Callable[[], Any]]) -> None:
    with jax.profiler.trace(folder):
        for what, call in calls.items():
            with jax.profiler.TraceAnnotation(what):
                jax.block_until_ready(call())


def grown(measure: Callable[[int], list[dict[str, Any]]], first: int) -> list[dict[str, Any]]:
    """Return each row at its best batch: doubled from ``first`` until memory is full, or no
    ``images_per_s`` grows by 5 %.
    """
    best, batch, more = measure(first), 2 * first, True
    while more:
        try:
            rows = measure(batch)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            break
        pairs = list(zip(best, rows, strict=True))
        more = any(r["images_per_s"] > 1.05 * b["images_per_s"] for b, r in pairs)
        best, batch = [max(p, key=lambda row: row["images_per_s"]) for p in pairs], 2 * batch
    return best


def rows(options: argparse.Namespace, peaks: dict[str, float | None]) -> Iterator[dict[str, Any]]:
    """Return all measurements, each with its share of the peak."""
    for name in options.network:
        params = init(NETWORKS[name](None), jax.random.key(0), SHAPE)
        fields = {"network": name, "parameters": count_parameters(params)}
        print(f"{name}: {fields['parameters'] / 1e6:.2f} M parameters", file=sys.stderr)
        for dtype in options.dtype:
            net = NETWORKS[name](jnp.dtype(dtype))
            fields["dtype"] = dtype
            at = functools.partial(
                measure, net, params, steps=options.steps, peak=peaks[dtype],
                profile=options.profile and options.profile / f"{name}-{dtype}",
            )  # fmt: skip
            for row in at(options.batch) if options.batch else grown(at, options.first):
                rate = f"{row['images_per_s']:.4g} images/s at batch {row['batch']}"
                print(f"{name} {dtype} {row['what']}: {rate}", file=sys.stderr)
                yield {**fields, **row}


def lines(found: Sequence[dict[str, Any]], peak: str) -> list[str]:
    """Return what was found: a table, and in words what a training step costs in evaluations."""
    header = [
        "network",
        "dtype",
        "",
        "batch",
        "images/s",
        "GFLOP per image",
        "by XLA",
        "TFLOPS",
        "peak",
    ]
    cells = []
    for r in found:
        first = r["what"] == "sampling" and r["flops_xla"]
        xla = f"{r['flops_xla'] / 1e9:.1f}" if first else ""
        share = ["", ""] if r["share"] is None else [f"{r['peak_tflops']:.3g}", f"{r['share']:.0%}"]
        fields = [r["network"], r["dtype"], r["what"], r["batch"], f"{r['images_per_s']:.4g}"]
        cells.append([*fields, f"{r['flops'] / 1e9:.1f}", xla, f"{r['tflops']:.3g}", *share])
    trained = [r for r in found if r["what"] == "training"]
    ratios = ", ".join(f"{r['network']} {r['dtype']} {r['evaluations']:.1f}" for r in trained)
    last = f"Evaluations in the time of a training step of the same batch: {ratios}."
    return [peak, "", *table([*header, "share"], cells), "", last]


def find_peaks(
    dtypes: Sequence[str], given: Sequence[float] | None, device: Any
) -> tuple[dict[str, float | None], str]:
    """Return the peak of each dtype in TFLOPS, and in words where it is from."""
    if given:
        return dict(zip(dtypes, given, strict=True)), "Peaks as given."
    if device.platform == "cpu":
        return dict.fromkeys(dtypes), "Peaks: products of float32 matrices, measured."
    found = {dtype: peak_of(dtype, device.device_kind) for dtype in dtypes}
    if None in found.values():
        return found, "The device's peak is not known; give --peak."
    listed = ", ".join(f"{dtype} {peak:g}" for dtype, peak in found.items())
    return found, f"Peak by the data sheet, TFLOPS: {listed}."


def arguments(cpu: bool) -> argparse.ArgumentParser:
    """Return the command line, with the defaults of the kind of device."""
    made = parser(__doc__)
    more: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    made.add_argument(
        "--network", **more, choices=[*NETWORKS], default=[*NETWORKS], help="unet, dit (both)"
    )
    dtypes = ["float32", "bfloat16"]
    made.add_argument(
        "--dtype", **more, choices=dtypes, default=dtypes,
        help="what the networks compute in: float32, bfloat16 (both)",
    )  # fmt: skip
    made.add_argument(
        "--batch", type=int, metavar="N", default=2 if cpu else None,
        help="images per call (2 on CPU; elsewhere found by doubling)",
    )  # fmt: skip
    made.add_argument(
        "--first", type=int, metavar="N", default=64, help="batch that doubling starts from (64)"
    )
    made.add_argument(
        "--steps", type=int, metavar="N", default=1 if cpu else 20,
        help="calls per reading of the clock, of which there are three (1 on CPU, else 20)",
    )  # fmt: skip
    made.add_argument(
        "--peak", type=float, nargs="+", metavar="TFLOPS",
        help="the device's peak for each --dtype, in their order, where the table lacks it",
    )  # fmt: skip
    made.add_argument(
        "--profile", type=pathlib.Path, metavar="DIR",
        help="write a trace of as many calls as a reading has, for each network, dtype and batch, "
        "to a folder of its own in DIR: open it with xprof or TensorBoard's profiler",
    )  # fmt: skip
    return made


def options_of(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the command line. Errors for numbers below 1 and peaks that do not go with dtypes."""
    made = arguments(cpu=not is_accelerator())
    options = made.parse_args(given)
    if options.peak and len(options.peak) != len(options.dtype):
        made.error(f"--peak has {len(options.peak)} numbers for {len(options.dtype)} dtypes")
    if min(options.steps, options.first, 1 if options.batch is None else options.batch) < 1:
        made.error("--batch, --first and --steps are at least 1")
    return options


def main() -> None:
    """Measure, print and write."""
    options = options_of()
    peaks, words = find_peaks(options.dtype, options.peak, jax.devices()[0])
    found = list(rows(options, peaks))
    machine = metadata(steps=options.steps, peak=words)
    publish(options, "Throughput", __doc__, machine, lines(found, words), rows=found)


if __name__ == "__main__":
    main()
