"""Checkpoints of score_sde: outputs of its authors' code, and what is refused."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest
from helpers.published import apart

from jaxdiff.pretrained.model import Source
from jaxdiff.pretrained.score_sde import read_score_sde
from jaxdiff.pretrained.tensors import tensors_of
from jaxdiff.process import SubVP, time

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "networks_score_sde"
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
NAMES = ["vp", "ve", "ve_skip"]


def checkpoint(name, prefix="module."):
    """A checkpoint as the authors save it: the average holds the numbers, the model zeros."""
    cases = json.loads(GOLDEN.with_suffix(".json").read_text())["cases"]
    (k, case) = next((k, case) for k, case in enumerate(cases) if case["id"] == name)
    model, shadows = {}, []
    for i, (key, shape) in enumerate(case["shapes"].items()):
        made = 0.3 * np.random.default_rng([k, i]).standard_normal(shape)
        made = made.astype(np.float32)
        if key.endswith("all_modules.0.W"):  # not trained, and not averaged
            model[prefix + key] = made
        else:
            model[prefix + key] = np.zeros_like(made)
            shadows.append(made)
    model[f"{prefix}sigmas"] = np.geomspace(case["sigma_max"], case["sigma_min"], 1000)
    return {"model": model, "ema": {"decay": 0.999, "shadow_params": shadows}, "step": 7}


def opened(made, **config):
    path = pathlib.Path("checkpoint_8.pth")
    return read_score_sde(Source(path, config, made, tensors_of(made["model"])))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_denoiser_is_that_of_the_authors_code(name):
    arrays = np.load(GOLDEN.with_suffix(".npz"))
    x, label, out = (arrays[f"{name}/{key}"] for key in ("x", "label", "out"))
    x, out = np.moveaxis(x, 1, -1), np.moveaxis(out, 1, -1)
    model = opened(checkpoint(name), **({"sde": "vpsde"} if name == "vp" else {}))
    assert model.metadata["averaged"] and model.shape == (32, 32, 3)
    if name == "vp":
        t = label / 999
        alpha, sigma = (np.asarray(f(t)) for f in (model.process.alpha, model.process.sigma))
        got = jit(model.denoiser)(x / alpha, sigma / alpha)
        expected = (x - sigma * out) / alpha
    else:  # images in [0, 1] there, and the score as output: Tweedie's formula
        got = jit(model.denoiser)(2 * x - 1, 2 * label)
        expected = 2 * (x + label**2 * out) - 1
    assert apart(got, expected.astype(np.float32)) < 1e-4


@pytest.mark.slow
def test_sub_vp_has_a_process_of_its_own():
    model = opened(checkpoint("vp"), sde="subvpsde")
    assert isinstance(model.process, SubVP) and model.prediction == "eps"
    np.testing.assert_allclose(time(model.process, model.grid(3)[:3]), [1, 0.5005, 1e-3], rtol=1e-6)


def test_which_sde_it_is_is_said():
    for config, message in (
        ({}, "'vpsde' or 'subvpsde'; not None"),
        ({"sde": "vesde"}, "not 'vesde'"),
        ({"sde": "vpsde", "continuous": False}, "table of steps"),
        ({"sde": "vpsde", "nf": 8}, "config has nf"),
    ):
        with pytest.raises(ValueError, match=message):
            opened(checkpoint("vp"), **config)
    with pytest.raises(ValueError, match="'vesde', by its Fourier features; not 'vpsde'"):
        opened(checkpoint("ve"), sde="vpsde")


def changed(made, **names):
    """The checkpoint with modules' tensors renamed, or left out."""
    made["model"] = {
        new: value
        for name, value in made["model"].items()
        if (new := names.get(name.removeprefix("module."), name)) is not None
    }
    made.pop("ema")
    return made


def test_files_that_do_not_fit_are_refused_by_name():
    made = checkpoint("vp")
    made["ema"]["shadow_params"].pop()
    with pytest.raises(ValueError, match="its average does not hold"):
        opened(made, sde="vpsde")
    lost = changed(checkpoint("vp"), **{"all_modules.3.Conv_1.weight": None})
    with pytest.raises(ValueError, match=r"module 3 is other .*DDPM\+\+ with BigGAN's blocks"):
        opened(lost, sde="vpsde")
    extra = changed(checkpoint("vp"))
    count = 1 + max(int(n.split(".")[2]) for n in extra["model"] if "all_modules" in n)
    extra["model"][f"module.all_modules.{count}.weight"] = np.zeros(3, np.float32)
    with pytest.raises(ValueError, match=f"module {count} is norm"):
        opened(extra, sde="vpsde")
    assert (
        read_score_sde(Source(pathlib.Path("x"), {}, None, tensors_of({"w": np.zeros(2)}))) is None
    )
