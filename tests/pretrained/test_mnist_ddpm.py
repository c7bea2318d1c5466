"""The MNIST models: real weights made by others, and what is refused of their files."""

import functools
import math

import jax
import numpy as np
import pytest
from helpers.published import SHARED, apart
from safetensors.numpy import save_file

import jaxdiff as jd
from jaxdiff.networks.cnn import CNN, waves
from jaxdiff.pretrained import load_pretrained

jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
SIDE, HIDDEN = 6, (3, 4)


@pytest.fixture
def tensors(rng):
    """A small file of this kind, of random numbers."""
    shapes, last = {}, 1
    for i, width in enumerate(HIDDEN):
        shapes |= {
            f"gt.blocks.{i}.net.0": (width, last, 5, 5),
            f"gt.blocks.{i}.net.1": (SIDE, SIDE),
        }
        last = width
    shapes[f"gt.blocks.{len(HIDDEN)}"] = (1, last, 3, 3)
    widths = (10, 128, 128, 128, HIDDEN[0])
    shapes |= {f"gt.time_embed.{2 * i}": (widths[i + 1], widths[i]) for i in range(4)}
    made = {}
    for name, shape in shapes.items():
        draw = lambda shape: rng.standard_normal(shape).astype(np.float32) / 4  # noqa: E731
        made[f"{name}.weight"] = draw(shape)
        made[f"{name}.bias"] = draw(shape if "net.1" in name else shape[:1])
    betas = np.linspace(1e-3, 0.1, 51, dtype=np.float32)
    return {**made, "gt.frequencies": waves(5).astype(np.float32), "beta_t": betas,
            "alpha_t": np.cumprod(1 - betas)}  # fmt: skip


def reference(tensors, x, t):
    """The network in NumPy, pixel by pixel, channels first: x (1, side, side)."""

    def conv(x, name):
        w, b = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
        k = w.shape[-1] // 2
        around = np.pad(x, ((0, 0), (k, k), (k, k)))
        windows = np.lib.stride_tricks.sliding_window_view(around, w.shape[-2:], axis=(1, 2))
        return np.einsum("chwij,dcij->dhw", windows, w) + b[:, None, None]

    erf = np.vectorize(math.erf)
    gelu = lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2)))  # noqa: E731
    angle = t * tensors["gt.frequencies"].astype(float)
    e = np.concatenate([np.sin(angle), np.cos(angle) - 1])
    for i in range(4):
        e = tensors[f"gt.time_embed.{2 * i}.weight"] @ e + tensors[f"gt.time_embed.{2 * i}.bias"]
        e = gelu(e) if i < 3 else e
    for i in range(len(HIDDEN)):
        x = conv(x, f"gt.blocks.{i}.net.0")
        x = x - x.mean((1, 2), keepdims=True)
        x = x / np.sqrt((x**2).mean((1, 2), keepdims=True) + 1e-5)
        x = x * tensors[f"gt.blocks.{i}.net.1.weight"] + tensors[f"gt.blocks.{i}.net.1.bias"]
        x = gelu(x) + (e[:, None, None] if i == 0 else 0)
    return conv(x, f"gt.blocks.{len(HIDDEN)}")


@pytest.mark.slow
def test_the_denoiser_is_that_of_the_file(tmp_path, tensors, rng):
    save_file(tensors, tmp_path / "x.safetensors")
    model = load_pretrained(tmp_path / "x.safetensors", dtype=np.float64)
    assert isinstance(model.network, CNN) and model.shape == (SIDE, SIDE, 1)
    products = np.cumprod(1 - tensors["beta_t"].astype(float))
    levels = np.sqrt((1 - products) / products)
    np.testing.assert_allclose(model.grid(50), [*levels[:0:-1], 0], rtol=1e-9)
    y = rng.standard_normal((2, SIDE, SIDE, 1))
    got, slope = jit(lambda y: jax.jvp(lambda y: model.denoiser(y, levels[[7, 20]]), (y,), (y,)))(y)
    for i, k in enumerate((7, 20)):
        alpha, sigma = math.sqrt(products[k]), math.sqrt(1 - products[k])
        eps = reference(tensors, alpha * y[i].transpose(2, 0, 1), k / 50)[0]
        assert apart(got[i, ..., 0], y[i, ..., 0] - sigma / alpha * eps) < 1e-5
    h = 1e-6
    run = jit(lambda y: model.denoiser(y, levels[[7, 20]]))
    assert apart(slope, (run((1 + h) * y) - run((1 - h) * y)) / (2 * h)) < 1e-6
    # above and below the steps it was trained on its label is the nearest of them
    t = np.array([0.0, 51.0, 1000.0])
    label = model.denoiser.func.label
    np.testing.assert_allclose(label(t / 51), [1 / 50, 49 / 50, 49 / 50])


@pytest.mark.parametrize("change,message", [
    ({"beta_t": None}, "displaces pixels"),
    ({"alpha_t": lambda a: a * 1.1}, "not the products"),
    ({"gt.frequencies": lambda f: f + 1}, "not 0 and 2 pi"),
    ({"gt.blocks.2.bias": None}, "conv_out/bias"),
    ({"gt.blocks.1.net.0.weight": lambda w: w[:, :2]}, "does not fit conv_1/kernel"),
    ({"gt.time_embed.8.bias": lambda _: np.zeros(3, np.float32)}, "without a place.*time_embed.8"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(tmp_path, tensors, change, message):
    for name, made in change.items():
        value = tensors.pop(name, None)
        tensors |= {name: made(value).copy()} if made else {}
    save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path / "x.safetensors")


def test_inputs_that_do_not_fit_are_refused_by_name():
    x = np.zeros((2, 28, 28, 1), np.float32)
    for args, message in (
        ((x[:, 1:], np.zeros(2)), "28, 28"),
        ((x, np.zeros(3)), "label"),
        ((x, np.zeros(2), np.zeros(2, int)), "without conditions"),
    ):
        with pytest.raises(ValueError, match=message):
            CNN().apply({}, *args)


@pytest.mark.slow
def test_ten_evaluations_make_digits():
    """The published weights: samples are as bright, as dark and as connected as digits are."""
    path = SHARED / "data" / "weights" / "mnist_ddpm_0001_0400.pt"
    if not path.exists():
        pytest.skip("the published weights are not beside this checkout")
    model = load_pretrained(path)
    assert model.metadata["epoch"] == 400 and model.metadata["licence"] == "MIT"
    D = jd.threshold.static(model.denoiser, -0.5, 0.5)
    table = jd.table(jd.solvers.dpmpp, jd.grids.log_snr(10, 0.05, 20.0))
    x = np.asarray(jd.sample(D, table, jd.start(jax.random.key(0), table, 8, model.shape)))[..., 0]
    assert np.abs(x).max() <= 0.5
    ink = (x > 0.2).mean((1, 2))
    assert ((0.03 < ink) & (ink < 0.3)).all()  # strokes, on an empty ground
    rough = np.abs(np.diff(x, axis=1)).mean((1, 2))  # noise would have 0.3 and more
    assert (rough < 0.15).all()
