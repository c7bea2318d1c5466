"""Published transformers of images: every tensor in its place, their publisher's numbers."""

import functools
import json
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.golden_numbers import SHARED, load
from helpers.published_keys import published
from safetensors.numpy import save_file

from jaxdiff.denoisers import description
from jaxdiff.networks import from_linen
from jaxdiff.networks.flux import angles, pack_latents, unpack_latents
from jaxdiff.pretrained import dit_embedders, flux, pixart, sd3
from jaxdiff.pretrained.assembly import shapes_of
from jaxdiff.pretrained.layout import check_layout
from jaxdiff.pretrained.opening import load_pretrained

# tensors and parameters; SD3's table of positions is kept beside its parameters by the publisher
ANCHORS = [
    ("dit_xl_2_256", dit_embedders, 538, 749_826_464, 0),
    ("pixart", pixart, 611, 611_349_152, 0),
    ("pixart_sigma512", pixart, 603, 610_856_096, 0),
    ("sd3_medium", sd3, 683, 2_028_328_000, 192**2 * 1536),
    ("sd35_medium", sd3, 909, 2_243_171_520, 384**2 * 1536),
    ("flux_dev", flux, 1160, 11_901_408_320, 0),
    ("flux_schnell", flux, 1156, 11_891_178_560, 0),
]


def layout(family, module):
    return family.layout_of(module) if hasattr(family, "layout_of") else family.LAYOUT


def shapes(family, module):
    cond = family.example_of(module) if hasattr(family, "example_of") else None
    channels = module.channels // 4 if family is flux else module.channels
    return shapes_of(module, (2, 2, channels), cond)


@pytest.mark.slow
@pytest.mark.parametrize("name, family, tensors, parameters, table", ANCHORS)
def test_every_tensor_of_a_published_model_has_its_place(name, family, tensors, parameters, table):
    keys, config = published(name)
    module = family.module_of(config)
    found = shapes(family, module)
    check_layout(found, keys, layout(family, module))
    assert len(keys) == len(jax.tree.leaves(found)) == tensors
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(found)) == parameters + table


@pytest.mark.parametrize("name, family", [("dit_xl_2_256", dit_embedders), ("flux_dev", flux)])
def test_tensors_too_many_too_few_or_of_another_shape_are_refused_by_name(name, family):
    """On the first three blocks of a published model."""
    keys, config = published(name)
    counts = {"num_layers": 3, "num_single_layers": 3}
    module = family.module_of({**config, **{k: n for k, n in counts.items() if k in config}})
    numbers = {key: re.search(r"blocks\.(\d+)\.", key) for key in keys}
    kept = {key: s for key, s in keys.items() if not (m := numbers[key]) or int(m[1]) < 3}
    found = shapes(family, module)
    check_layout(found, kept, family.LAYOUT)
    first, *rest = kept
    with pytest.raises(ValueError, match="parameters without a tensor.*1"):
        check_layout(found, {key: kept[key] for key in rest}, family.LAYOUT)
    with pytest.raises(ValueError, match=r"tensors without a place.*other\.weight"):
        check_layout(found, {**kept, "other.weight": [3]}, family.LAYOUT)
    with pytest.raises(ValueError, match=f"{first} has shape"):
        check_layout(found, {**kept, first: [3, *kept[first]]}, family.LAYOUT)


REFUSED = [
    (dit_embedders, {"norm_type": "layer_norm"}, "norm_type"),
    (dit_embedders, {"activation_fn": "geglu"}, "activation_fn must be"),
    (dit_embedders, {"in_channels": 4, "out_channels": 12}, "out_channels must be.*12"),
    (pixart, {"caption_channels": 12, "cross_attention_dim": 7}, "cross_attention_dim must be.*7"),
    (pixart, {"attention_type": "gated-text-image"}, "attention_type"),
    (sd3, {"qk_norm": "layer_norm"}, "qk_norm"),
    (sd3, {"caption_projection_dim": 7}, "caption_projection_dim must be.*7"),
    (sd3, {"dual_attention_layers": 3}, "dual_attention_layers must be.*3"),
    (flux, {"patch_size": 2}, "patch_size must be 1"),
    (flux, {"num_layers": True}, "num_layers must be.*True"),
    (flux, {"in_channels": 64, "out_channels": 128}, "out_channels must be.*128"),
    (flux, {"pooled": 3}, "no field 'pooled'"),
]


@pytest.mark.parametrize("family, options, message", REFUSED)
def test_what_is_not_read_is_refused_by_name(family, options, message):
    with pytest.raises(ValueError, match=message):
        family.module_of(options)


def folder(name):
    path = SHARED / "networks_transformers" / name
    if not path.exists():
        pytest.skip(f"the golden networks ({name}) are not beside this checkout")
    return path


def test_what_a_folder_says_of_its_model():
    """Process, prediction, label, classes, grid and shape, of each family."""
    for name, prediction, shape, classes in (
        ("dit_0/transformer", "eps", (8, 8, 4), 1000), ("pixart_0", "eps", (8, 8, 4), 0),
        ("sd35_0", "flow", (8, 8, 4), 0), ("flux_dev_0", "flow", (128, 128, 4), 0),
    ):  # fmt: skip
        model = load_pretrained(folder(name), put=lambda path, value: value)
        assert (model.prediction, model.shape, model.classes) == (prediction, shape, classes)
        made = description(model.denoiser)
        levels = model.grid(5)
        if prediction == "eps":  # the betas' ends, the label counts from 0
            assert made["label"](0.25) == 249 and levels[-2] < 2 < 20 < levels[0]
        else:
            assert made["label"](0.25) == 250
        assert levels[-1] == 0 and len(levels) == 6 and "assumed" in model.metadata


def test_grids_of_flows_are_their_schedulers():
    numbers = load("solvers_diffusers")
    seen = 0
    for case in numbers.cases:
        if case["scheduler"] == "FlowMatchEulerDiscreteScheduler" and case["config"]["shift"] == 3:
            theirs = numbers.get(case, "sched_sigmas")
            levels = sd3.grid(len(theirs) - 1)
            np.testing.assert_allclose(levels[1:] / (1 + levels[1:]), theirs[1:], rtol=1e-6)
            assert levels[0] == pytest.approx(3 * 999)
            seen += 1
    assert seen
    times = lambda levels: levels[1:-1] / (1 + levels[1:-1])  # noqa: E731
    np.testing.assert_allclose(times(flux.grid_of(False, 128)(4)), [0.75, 0.5, 0.25], rtol=1e-8)
    by = np.exp(1.15)
    shifted = by * 0.5 / (1 + (by - 1) * 0.5)  # 4096 tokens
    np.testing.assert_allclose(times(flux.grid_of(True, 128)(2)), [shifted], rtol=1e-8)


def cases():
    numbers = load("networks_transformers_io", full=True)
    return numbers, [c for c in numbers.cases if c.get("cls", "").endswith("2DModel")]


GIVEN = {
    "encoder_hidden_states": "tokens", "encoder_attention_mask": "mask",
    "pooled_projections": "pooled", "guidance": "guidance",
}  # fmt: skip
INNER = {
    "DiT": {},
    "PixArt": {
        "adaln_single.0": "modulation", "adaln_single.1": "embedding", "caption_projection": "text"
    },
    "SD3": {"time_text_embed": "embedding", "context_embedder": "text"},
    "Flux": {
        "x_embedder": "image", "time_text_embed": "embedding", "context_embedder": "text"
    },
}  # fmt: skip


def close(found, expected, what, tolerance=1e-4):
    size = np.abs(expected).max()
    found = np.asarray(found).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * size, err_msg=what)


def inner(kind, name, kept):
    """What a network here has at a place that its publisher calls so."""
    names = {"pos_embed": "patches", "norm_out": "out_norm", **INNER[kind]}
    if name in names:
        return kept[names[name]]["__call__"][0]
    part, number, *rest = name.split(".")
    prefix = "single_block" if part.startswith("single") else "block"
    made = kept[f"{prefix}_{number}"]["__call__"][0]
    return made[int(rest[0])] if rest else made


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
def test_published_networks_give_their_publishers_numbers(number):
    """Outputs, also without a mask, of rectangles and with blocks left out, and every block."""
    numbers, every = cases()
    case = every[number]
    kind = case["cls"].split("Transformer")[0]
    get = lambda name: numbers.get(case, name)  # noqa: E731
    model = load_pretrained(SHARED / case["folder"])
    module, variables = model.network, {"params": model.params}
    label, cond = jnp.asarray(get("t"), jnp.float32), {}
    label = 1000 * label if kind == "Flux" else label
    for theirs, ours in GIVEN.items():
        cond |= {ours: get(theirs)} if theirs in case["arrays"] else {}
    cond = get("y").astype(np.int32) if kind == "DiT" else cond
    options = {"variance": True} if kind in ("DiT", "PixArt") else {}

    @functools.partial(
        jax.jit, static_argnames="skip_blocks",
        compiler_options={"xla_backend_optimization_level": 0},
    )  # fmt: skip
    def run(x, cond, **more):
        out, kept = module.apply(
            variables, x, label, cond, **options, **more, capture_intermediates=True,
            mutable=["intermediates"],
        )  # fmt: skip
        return jnp.concatenate(out, axis=-1) if options else out, kept

    if kind == "Flux":
        x = unpack_latents(get("x"), 6, 8)
        back = pack_latents
        np.testing.assert_array_equal(
            pack_latents(get("latents_unpacked").transpose(0, 2, 3, 1)), get("latents_packed")
        )
        ids = np.concatenate([get("txt_ids"), get("img_ids")])[None]
        turn = np.repeat(angles(jnp.asarray(ids), module.axes), 2, axis=-1)[0]
        close(np.cos(turn), get("rope_cos"), "cosines", 1e-6)
        close(np.sin(turn), get("rope_sin"), "sines", 1e-6)
        where = {
            "text_ids": np.repeat(get("txt_ids")[None], 2, axis=0),
            "image_ids": np.repeat(get("img_ids")[None], 2, axis=0),
        }
        close(run(get("x"), {**cond, **where})[0], get("out"), "tokens")
    else:
        x, back = get("x").transpose(0, 2, 3, 1), lambda out: out.transpose(0, 3, 1, 2)
    out, kept = run(x, cond)
    close(back(out), get("out"), "out")
    for name in case["arrays"]:
        if name.startswith("act:"):
            close(inner(kind, name[4:], kept["intermediates"])[:1], get(name), name)
    if "out_nomask" in case["arrays"]:
        close(back(run(x, {"tokens": cond["tokens"]})[0]), get("out_nomask"), "no mask")
    if "out_rect" in case["arrays"]:
        wide = get("x_rect").transpose(0, 2, 3, 1)
        close(back(run(wide, cond)[0]), get("out_rect"), "rectangle")
    if "out_skip_layers_1" in case["arrays"]:
        close(back(run(x, cond, skip_blocks=(1,))[0]), get("out_skip_layers_1"), "skipped")


GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "networks_transformers"
CASES = json.loads(GOLDEN.with_suffix(".json").read_text())["cases"]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4), ids=[case["id"] for case in CASES])
def test_other_options_give_their_publishers_numbers(number, tmp_path):
    """Without biases, of another size, conditioned on the image's size, with two attentions, with
    further channels; of weights that are drawn by a rule.
    """
    case, numbers = CASES[number], np.load(GOLDEN.with_suffix(".npz"))
    get = lambda name: numbers[f"{case['id']}/{name}"]  # noqa: E731
    values = {
        name: (0.3 * np.random.default_rng([number, i]).standard_normal(shape)).astype(np.float32)
        for i, (name, shape) in enumerate(case["shapes"].items())
    }
    (tmp_path / "config.json").write_text(json.dumps(case["config"]))
    save_file(values, tmp_path / "diffusion_pytorch_model.safetensors")
    model = load_pretrained(tmp_path)
    cond = {n: get(n) for n in case["arrays"] if n not in ("x", "label", "out", "classes")}
    cond = get("classes").astype(np.int32) if case["id"] == "dit" else cond
    x = get("x")
    if case["id"] == "flux":
        x, back = unpack_latents(x, 4, 6), pack_latents
    else:
        x, back = x.transpose(0, 2, 3, 1), lambda out: out.transpose(0, 3, 1, 2)
    network = from_linen(model.network)
    run = jax.jit(network, compiler_options={"xla_backend_optimization_level": 0})
    out = run(model.params, jnp.asarray(x), jnp.asarray(get("label")), cond)
    expected = get("out") if case["id"] == "flux" else get("out")[:, : out.shape[-1]]
    close(back(out), expected, case["id"])
