"""Guided diffusion's family: anchors, golden outputs, and what is refused."""

import functools
import json
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.published import apart, file, golden, last
from helpers.published_keys import published as shapes_of_published
from safetensors.numpy import save_file

import jaxdiff as jd
from jaxdiff.conditioning.correction import discriminator_guidance
from jaxdiff.conditioning.variance import learned_variance
from jaxdiff.networks.guided_unet import GuidedUNet
from jaxdiff.pretrained import load_guided_classifier, load_pretrained
from jaxdiff.pretrained.guided import network_of, read_guided, shapes_of
from jaxdiff.pretrained.guided_classifier import classifier_of
from jaxdiff.pretrained.guided_layout import found_in
from jaxdiff.pretrained.guided_options import options_of
from jaxdiff.pretrained.guided_published import CLASSIFIER, UNET, published
from jaxdiff.pretrained.layout import check_layout
from jaxdiff.pretrained.model import Source
from jaxdiff.pretrained.tensors import open_tensors, tensors_of

slow = pytest.mark.slow
# Compilation is what costs here, so do without the optimisations.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
EPS = 1e-4
ANCHORS = [
    pytest.param("adm64", "64x64_diffusion", 541, 295_904_454, marks=slow),
    pytest.param("adm128_cond", "128x128_diffusion", 493, 421_529_606, marks=slow),
    pytest.param("adm256_cond", "256x256_diffusion", 567, 553_838_086, marks=slow),
    pytest.param("adm256_uncond", "lsun_cat", 566, 552_814_086, marks=slow),
    pytest.param("adm64_classifier", "64x64_classifier", 307, 65_438_568, marks=slow),
    pytest.param("adm256_classifier", "256x256_classifier", 249, 54_096_360, marks=slow),
]


@pytest.mark.parametrize("name,published_name,tensors,parameters", ANCHORS)
def test_every_published_tensor_finds_its_place(name, published_name, tensors, parameters):
    shapes, _ = shapes_of_published(name)
    assert len(shapes) == tensors and sum(map(math.prod, shapes.values())) == parameters
    found = found_in(shapes, name, {})
    options = options_of(found, published(found, published_name), {}, name)
    assert published_name in published(found, published_name).names
    network, layout = (classifier_of if "classifier" in name else network_of)(found, options, name)
    size = options["image_size"]
    check_layout(shapes_of(network, (size, size, 3)), shapes, layout)


def test_published_models_are_distinguished():
    """No two entries have the same shapes, but for models whose options are the same too."""
    seen = [
        (m.kind, m.size, m.channels, m.blocks, m.at, m.num_classes, m.scale_shift, m.inputs)
        for m in (*UNET, *CLASSIFIER)
    ]
    assert len(set(seen)) == len(seen)


# --- golden outputs


def case(name):
    return next(c for c in golden("networks_adm_io") if c.get("name") == name)


@functools.cache
def opened(name, **more):
    chosen = case(name)
    load = load_guided_classifier if "classifier" in name else load_pretrained
    return load(file(f"golden/{chosen['file']}"), config={**chosen["init_kwargs"], **more})


def published_names(blocks):
    return [*(f"input_blocks.{i}" for i in range(blocks)), "middle_block",
            *(f"output_blocks.{i}" for i in range(blocks))]  # fmt: skip


def check_features(arrays, features, blocks):
    names = [name for name in published_names(blocks) if f"act:{name}" in arrays]
    assert names
    for name in names:
        own = features[published_names(blocks).index(name)]
        assert apart(own[:1], arrays[f"act:{name}"]) < EPS, name


@slow
def test_the_super_resolution_model_has_the_golden_output():
    model, a = opened("adm_sr_0"), case("adm_sr_0")["a"]
    assert model.network.low_res and model.network.learned_variance and model.shape == (16, 16, 3)
    run = jit(functools.partial(model.network.apply, variance=True))
    pair = run(
        {"params": model.params}, a["x"], a["t"].astype(np.float32), {"low_res": a["low_res"]}
    )
    assert apart(np.concatenate(pair, axis=-1), a["out"]) < EPS


@slow
def test_the_u_net_has_the_golden_output_and_maps():
    model, a = opened("adm_cond_0"), case("adm_cond_0")["a"]
    t = a["t"].astype(np.float32)
    run = jit(functools.partial(
        model.network.apply, variance=True, full=True,
        capture_intermediates=lambda module, _: module.name == "dense_1", mutable="intermediates",
    ))  # fmt: skip
    (out, v), kept = run({"params": model.params}, a["x"], t, a["y"])
    assert apart(np.concatenate([out.value, v], axis=-1), a["out"]) < EPS
    check_features(a, out.features, 4)
    (e,) = kept["intermediates"]["embedding"]["dense_1"]["__call__"]
    assert apart(e[:1], a["act:time_embed"]) < EPS
    with pytest.raises(ValueError, match="none for no condition"):
        model.denoiser(a["x"], 1.0)


@slow
def test_the_classifier_has_the_golden_logits_and_gradient():
    model, a = opened("adm_classifier_0"), case("adm_classifier_0")["a"]
    t = a["t"].astype(np.float32)
    out = jit(functools.partial(model.network.apply, full=True))(
        {"params": model.params}, a["x"], t
    )
    assert apart(out.value, a["logits"]) < EPS
    check_features(a, out.features, 4)
    alpha, sigma = model.process.alpha((t + 1) / 1000), model.process.sigma((t + 1) / 1000)
    column = np.asarray(alpha)[:, None, None, None]
    total = lambda y: model.log_probability(y, sigma / alpha, a["y"]).sum()  # noqa: E731
    slope = jit(jax.grad(total))(a["x"] / column)
    assert apart(slope / column, a["grad_logprob_x"]) < EPS


@slow
@pytest.mark.parametrize("mode,boundary", [("consistency_training", True), ("edm", False)])
def test_consistency_models_have_the_golden_output(mode, boundary):
    model, a = opened("cm_0", training_mode=mode), case("cm_0")["a"]
    run = jit(model.denoiser)
    out = run(a["x"], a["sigma"], a["y"])
    assert apart(out, a[f"denoised_distillation_{boundary}"]) < EPS
    if boundary:  # the identity at the lowest level
        assert apart(run(a["x"], np.full(3, 0.002, np.float32), a["y"]), a["x"]) < 1e-6


GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "networks_guided"


@slow
@pytest.mark.parametrize("name", ["improved", "new_order", "adaptive"])
def test_further_options_have_the_output_of_the_authors_code(name, tmp_path):
    """Convolutions that halve and double, added embeddings, heads of the way up, the new order of
    q, k and v, and the pool that takes the mean.
    """
    cases = json.loads(GOLDEN.with_suffix(".json").read_text())["cases"]
    (k, chosen) = next((k, case) for k, case in enumerate(cases) if case["id"] == name)
    draw = lambda i, shape: np.random.default_rng([k, i]).standard_normal(shape) * 0.1  # noqa: E731
    made = {
        n: draw(i, shape).astype(np.float32)
        for i, (n, shape) in enumerate(chosen["shapes"].items())
    }
    save_file(made, tmp_path / "x.safetensors")
    load = load_guided_classifier if name == "adaptive" else load_pretrained
    model = load(tmp_path / "x.safetensors", config=chosen["init_kwargs"])
    arrays = np.load(GOLDEN.with_suffix(".npz"))
    a = {key.partition("/")[2]: last(arrays[key]) for key in arrays if key.startswith(f"{name}/")}
    learned = getattr(model.network, "learned_variance", False)
    run = jit(functools.partial(model.network.apply, **({"variance": True} if learned else {})))
    out = run({"params": model.params}, a["x"], a["t"], a.get("y"))
    assert apart(np.concatenate(out, axis=-1) if learned else out, a["out"]) < EPS


# --- golden sampling


SAMPLING = ["c0003", "c0005", "c0006", "c0007", "c0009", "c0010"]  # of each of two schedules


@slow
@pytest.mark.parametrize("number", SAMPLING)
def test_its_own_samplers_are_ours(number):
    """ddpm with learned variance, and ddim with and without a classifier, of guided diffusion."""
    chosen = next(c for c in golden("networks_adm_io") if c["id"] == number)
    model, a = opened("adm_cond_0", noise_schedule=chosen["noise_schedule"]), chosen["a"]
    steps = np.asarray(a["timestep_map"])[::-1]
    levels = jd.grids.of_timesteps(model.process, steps)
    if "ddim" not in chosen["timestep_respacing"]:
        np.testing.assert_allclose(levels, model.grid(len(steps)), rtol=1e-12)
    # noise is drawn in the last step, too, and not used there
    draws = len(steps) - 1 if chosen["method"] == "ddpm" or chosen["eta"] else 0
    options = {"noise": a["noise"][:draws]}
    start = a["z"] / np.float32(model.process.alpha((steps[0] + 1) / 1000))
    bounds = (-1.0, 1.0) if chosen["clip_denoised"] else (None, None)
    if chosen["method"] == "ddpm":
        D, solver = learned_variance(model.denoiser, *bounds), jd.solvers.ddpm_learned
    else:
        D, solver = model.denoiser, jd.solvers.ddim
        D = jd.threshold.static(D, *bounds) if chosen["clip_denoised"] else D
        options["eta"] = chosen["eta"]
    if chosen["classifier"]:
        guide = opened("adm_classifier_0", noise_schedule=chosen["noise_schedule"])
        D = discriminator_guidance(D, guide.log_probability, chosen["classifier_scale"])
    got = jd.direct(D, solver, levels, start, a["y"], **options)
    largest = np.max(np.abs(a["traj"]))
    assert np.max(np.abs(got - a["traj"][-1])) < 1e-3 * largest


# --- what a network of this kind must do


@slow
def test_it_is_differentiable_mapped_and_computes_in_bfloat16(rng):
    """On a small network, computing in float64."""
    module = GuidedUNet(32, (1,), 1, (0,), 2, num_classes=3, learned_variance=True, dropout=0.5)
    shapes = shapes_of(module, (4, 4, 2))
    params = jax.tree.map(lambda p: 0.2 * rng.standard_normal(p.shape), shapes)
    x, t, y = rng.standard_normal((3, 4, 4, 2)), np.array([3.0, 50.0, 700.0]), np.array([0, 2, 1])

    def apply(x, t, y=y, module=module, **options):
        return module.apply({"params": params}, x, t, y, **options)

    @jit
    def everything(x, t, h):
        out, slope = jax.jvp(apply, (x, t), (x, jnp.ones_like(t)))
        difference = (apply((1 + h) * x, t + h) - apply((1 - h) * x, t - h)) / (2 * h)
        one = jax.vmap(lambda x, t, y: apply(x[None], t[None], y[None])[0])(x, t, y)
        again = module.clone(remat=True)
        gradients = jax.grad(lambda *at: apply(*at, module=again).sum(), (0, 1))(x, t)
        return out, slope, difference, one, gradients, apply(x, t, attention=other)

    seen = []

    def other(q, k, v, place):
        seen.append(place)
        return jnp.zeros_like(v)

    out, slope, difference, one, (by_x, by_t), changed = everything(x, t, 1e-5)
    assert apart(slope, difference) < 1e-6 and apart(one, out) < 1e-9
    np.testing.assert_allclose((by_x * x).sum() + by_t.sum(), slope.sum(), rtol=1e-9)
    assert apart(changed, out) > 1e-3
    assert {p.stage for p in seen} == {"down_0", "middle", "up_0"}
    assert len({p.path for p in seen}) == len(seen) == 4
    half = jit(lambda x, t: apply(x, t, module=module.clone(dtype=jnp.bfloat16)))(x, t)
    assert half.dtype == jnp.float64 and 1e-4 < apart(half, out) < 0.1


def small(**changes):
    """Tensors of a golden file, some of them changed, as a source."""
    path = file("golden/networks_adm/adm_sr_0.pt")
    tensors = {name: value for name, value in open_tensors(path).items()}
    tensors.update({name: value for name, value in changes.items() if value is not None})
    kept = {name: value for name, value in tensors.items() if changes.get(name, value) is not None}
    return lambda **config: read_guided(
        Source(path, {"image_size": 16, "num_heads": 2, **config}, None, tensors_of(kept))
    )


NAME = "middle_block.0.in_layers.2.bias"


def test_files_that_do_not_fit_are_refused_by_name():
    with pytest.raises(ValueError, match=r"without a place.*extra\.bias"):
        small(**{"extra.bias": np.zeros(3)})()
    with pytest.raises(ValueError, match="without a tensor.*middle_0/block/conv_in/bias"):
        small(**{NAME: None})()
    with pytest.raises(ValueError, match=re.escape(f"{NAME} has shape [5]")):
        small(**{NAME: np.zeros(5)})()
    assert read_guided(Source(None, {}, None, tensors_of({"w": np.zeros(3)}))) is None


@pytest.mark.parametrize("config,message", [
    ({"num_channels": 64}, r"num_channels = 64, by its shapes 32"),
    ({"learn_sigma": False}, r"learn_sigma = False"),
    ({"channel_mult": "1,2"}, r"channel_mult"),
    ({"timestep_respacing": "250"}, r"timestep_respacing, which this family does not have"),
    ({"diffusion_steps": 4000}, r"do not say rescale_timesteps"),
    ({"noise_schedule": "sqrt"}, r"'linear' or 'cosine', not 'sqrt'"),
    ({"num_heads": 3}, r"32 channels do not divide into 3 heads"),
    ({"in_channels": 1}, r"images of 1 channels"),
])  # fmt: skip
def test_options_that_do_not_fit_are_refused_by_name(config, message):
    with pytest.raises(ValueError, match=message):
        small()(**config)


def test_what_shapes_do_not_say_must_be_said():
    path = file("golden/networks_adm/adm_sr_0.pt")
    with pytest.raises(ValueError, match="do not say image_size, num_heads"):
        load_pretrained(path)
    with pytest.raises(ValueError, match="training_mode"):
        opened("cm_0")
    with pytest.raises(ValueError, match="load_guided_classifier opens it"):
        load_pretrained(file("golden/networks_adm/adm_classifier_0.pt"))
    with pytest.raises(ValueError, match="is not a classifier"):
        load_guided_classifier(path)


def test_inputs_that_do_not_fit_are_refused_by_name():
    model = opened("adm_sr_0")
    call = lambda x, *rest, **more: model.network.apply({"params": model.params}, x, *rest, **more)  # noqa: E731
    x, t = np.zeros((2, 16, 16, 3), np.float32), np.zeros(2, np.float32)
    with pytest.raises(ValueError, match=r'is \{"low_res"'):
        call(x, t)
    with pytest.raises(ValueError, match="low_res has shape"):
        call(x, t, {"low_res": x[:1]})
    with pytest.raises(ValueError, match="label"):
        call(x, t[:1], {"low_res": x})
    with pytest.raises(ValueError, match="no learned variance"):
        model.network.clone(learned_variance=False).apply({}, x, t, variance=True)
    with pytest.raises(ValueError, match="divisible by 2"):
        model.network.clone(multipliers=(1, 1)).apply({}, x[:, :15], t)
