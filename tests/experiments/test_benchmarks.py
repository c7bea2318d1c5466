"""Benchmarks: what they count and choose, without measuring anything for long."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from experiments.benchmarks import throughput
from jaxdiff.networks import DiT, UNet, conv, count_parameters, from_linen, init

SHAPE = (8, 12, 3)
UNET = {"groups": 4, "embedding": 24, "heads": 2}
NETWORKS = {
    "one level": UNet(16, (1,), 2, (8,), **UNET),
    "three levels": UNet(8, (1, 2, 3), 1, (8, 2), **UNET),
    "four blocks": UNet(8, (2, 2), 4, (4,), **UNET),
    "dit": DiT(2, 32, 3, 4),
    "wide perceptron": DiT(4, 16, 2, 2, 6),
}


def params_of(net, shape):
    return jax.eval_shape(lambda key: init(net, key, shape), jax.random.key(0))


def products(jaxpr):
    """Twice the multiply-adds of matrix products and convolutions, from the program itself."""
    total = 0
    for eqn in jaxpr.eqns:
        for inner in jaxprs_in_params(eqn.params):
            total += products(inner)
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            summed = [eqn.invars[0].aval.shape[i] for i in contracted]
            total += 2 * np.prod([*eqn.outvars[0].aval.shape, *summed])
        if eqn.primitive.name == "conv_general_dilated":
            ones = [np.ones(v.aval.shape, np.float32) for v in eqn.invars]  # padding adds nothing
            total += 2 * float(np.sum(eqn.primitive.bind(*map(jnp.asarray, ones), **eqn.params)))
    return total


@pytest.mark.parametrize("net", NETWORKS.values(), ids=NETWORKS)
def test_the_closed_forms_count_every_product_of_the_network(net, monkeypatch):
    monkeypatch.setattr(conv, "_on_cpu", lambda: False)  # there small maps multiply zeros, too
    like = params_of(net, SHAPE)
    x, label = np.zeros((1, *SHAPE), np.float32), np.zeros(1, np.float32)
    program = jax.make_jaxpr(from_linen(net))(like, x, label)
    assert throughput.forward_flops(net, SHAPE) == products(program.jaxpr)


@pytest.mark.parametrize("net", [UNet(32, (1,), **UNET), DiT(2, 64, 2, 2)], ids=["unet", "dit"])
def test_the_closed_forms_agree_with_the_count_of_the_compiler(net, monkeypatch):
    """Which has the elementwise operations too: a few percent of small networks."""
    monkeypatch.setattr(throughput, "SHAPE", (8, 8, 3))
    params = jax.tree.map(lambda p: jnp.zeros(p.shape, p.dtype), params_of(net, (8, 8, 3)))
    call, before, after = throughput.evaluation(net, params, 2)
    own = 2 * throughput.forward_flops(net, (8, 8, 3))
    assert own < before < 1.05 * own
    assert own < after < 1.06 * own
    assert call().shape == (2, 8, 8, 3)


def test_the_networks_are_of_the_sizes_claimed():
    counts = {
        name: count_parameters(params_of(make(None), throughput.SHAPE))
        for name, make in throughput.NETWORKS.items()
    }
    assert abs(counts["unet"] / 55.7e6 - 1) < 0.002
    assert counts["dit"] == 129_977_136
    flops = [
        throughput.forward_flops(f(None), throughput.SHAPE) for f in throughput.NETWORKS.values()
    ]
    np.testing.assert_allclose(flops, [34.97e9, 11.12e9], rtol=1e-3)


def rates(full=None, **by_name):
    """A measurement of rates by batch, out of memory at ``full``; and the batches requested for."""
    requested = []

    def measure(batch):
        requested.append(batch)
        if batch == full:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: 80 GiB are not enough")
        return [
            {"what": name, "batch": batch, "images_per_s": rate(batch)}
            for name, rate in by_name.items()
        ]

    return measure, requested


def test_the_batch_grows_until_neither_rate_does():
    measure, requested = rates(sampling=lambda b: min(b, 100), training=lambda b: min(b, 40))
    best = throughput.grown(measure, 16)
    assert requested == [16, 32, 64, 128, 256]
    assert [(row["what"], row["batch"]) for row in best] == [("sampling", 128), ("training", 64)]
    measure, requested = rates(sampling=lambda b: b**0.05, training=lambda b: 1 / b)
    best = throughput.grown(measure, 16)  # 3.5 % is not worth the memory
    assert requested == [16, 32] and [row["batch"] for row in best] == [32, 16]


def test_the_batch_grows_until_memory_is_full_and_other_errors_are_raised():
    measure, requested = rates(full=64, sampling=float)
    assert throughput.grown(measure, 16)[0]["batch"] == 32 and requested == [16, 32, 64]
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE"):
        throughput.grown(rates(full=16, sampling=float)[0], 16)

    def broken(batch):
        if batch > 16:
            raise jax.errors.JaxRuntimeError("INTERNAL: no such instruction")
        return [{"images_per_s": 1.0}]

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        throughput.grown(broken, 16)


class Device:
    platform, device_kind = "gpu", "NVIDIA H100 80GB HBM3"


def test_peaks_are_by_dtype_and_precision_and_unknown_ones_are_said_to_be():
    both = ["float32", "bfloat16"]
    found, words = throughput.find_peaks(both, None, Device)
    assert found == {"float32": 494.7, "bfloat16": 989.4} and "989.4" in words
    with jax.default_matmul_precision("highest"):
        found, _ = throughput.find_peaks(both, None, Device)
        assert found == {"float32": 66.9, "bfloat16": 989.4}
    assert throughput.find_peaks(both, [1.0, 2.0], Device)[0] == {"float32": 1.0, "bfloat16": 2.0}
    found, words = throughput.find_peaks(both, None, type("Other", (Device,), {"device_kind": "X"}))
    assert found == {"float32": None, "bfloat16": None} and "--peak" in words


@pytest.mark.slow
@pytest.mark.parametrize("peak", [None, 0.5])
def test_the_peak_of_a_cpu_is_measured_unless_it_is_given(monkeypatch, peak):
    monkeypatch.setattr(throughput, "SHAPE", (8, 8, 3))
    net = DiT(4, 8, 1, 2)
    params = init(net, jax.random.key(0), throughput.SHAPE)
    for row in throughput.measure(net, params, 2, 1, peak):
        assert 1e-3 < row["peak_tflops"] < 100 and (row["peak_tflops"] == 0.5) == (peak == 0.5)
        np.testing.assert_allclose(row["share"], row["tflops"] / row["peak_tflops"], rtol=1e-9)
    found, words = throughput.find_peaks(["float32"], None, jax.devices("cpu")[0])
    assert found == {"float32": None} and "measured" in words


@pytest.mark.parametrize(
    "words, message",
    [
        (["--peak", "1", "--dtype", "float32", "bfloat16"], "1 numbers for 2 dtypes"),
        (["--batch", "0"], "at least 1"),
        (["--network", "vit"], "invalid choice"),
    ],
)
def test_the_command_refuses_what_does_not_fit(words, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["throughput", *words])
    with pytest.raises(SystemExit):
        throughput.main()
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_throughput_of_tiny_networks(tmp_path, monkeypatch, capsys):
    """The whole command, with traces: rates, shares and operations fit together."""
    tiny = {
        "unet": lambda dtype: UNet(8, (1,), groups=4, embedding=8, dtype=dtype),
        "dit": lambda dtype: DiT(4, 8, 1, 2, dtype=dtype),
    }
    monkeypatch.setattr(throughput, "NETWORKS", tiny)
    monkeypatch.setattr(throughput, "SHAPE", (8, 8, 3))
    files = {name: tmp_path / name for name in ("json", "markdown", "profile")}
    words = [w for name, path in files.items() for w in (f"--{name}", str(path))]
    monkeypatch.setattr(
        sys, "argv", ["throughput", "--peak", "0.001", "0.002", "--batch", "3", *words]
    )
    throughput.main()
    found = json.loads(files["json"].read_text())
    assert {"device", "jax", "python", "date"} <= found["machine"].keys()
    named = [(r["network"], r["dtype"], r["what"]) for r in found["rows"]]
    assert named == [
        (network, dtype, what)
        for network in ("unet", "dit")
        for dtype in ("float32", "bfloat16")
        for what in ("sampling", "training")
    ]
    for row in found["rows"]:
        once = throughput.forward_flops(tiny[row["network"]](None), (8, 8, 3))
        assert row["flops"] == once * (3 if row["what"] == "training" else 1)
        np.testing.assert_allclose(row["images_per_s"], 3 / row["seconds"], rtol=1e-9)
        peak = 1e9 if row["dtype"] == "float32" else 2e9
        achieved = row["flops"] * row["images_per_s"]
        np.testing.assert_allclose(row["share"], achieved / peak, rtol=1e-9)
        folder = files["profile"] / f"{row['network']}-{row['dtype']}" / "batch-3"
        assert list(folder.rglob("*.xplane.pb"))
    page = files["markdown"].read_text()
    assert page == capsys.readouterr().out.removesuffix("\n")
    assert page.count("\n| ") == 2 + len(named) and found["machine"]["date"] in page
