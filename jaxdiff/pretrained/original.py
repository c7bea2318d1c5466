"""Reader of Stable Diffusion's original files: U-Net and autoencoder in one file.

Levels, widths and the depth of transformers stand in names and shapes; what does not is known of
the published models by the width of their text: 768 (1.x: eight heads), 1024 (2.x), 2048 and 1280
(XL and its refiner: heads of 64 channels). Models of 2.x predict noise or v, which a file does not
say: config={"prediction_type": "epsilon"} or "v_prediction" does. Text encoders are left out.
"""

import re
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.denoisers import denoiser
from jaxdiff.networks import from_linen
from jaxdiff.networks.unet2d_condition import UNet2DCondition
from jaxdiff.pretrained.autoencoders import autoencoder_kl
from jaxdiff.pretrained.diffusers import natural_grid, said, unet_shapes
from jaxdiff.pretrained.layout import Layout, fill
from jaxdiff.pretrained.model import Autoencoder, Pretrained, Source
from jaxdiff.pretrained.names import rules
from jaxdiff.pretrained.original_names import original_autoencoder_pairs, original_unet_pairs
from jaxdiff.pretrained.tensors import Tensors
from jaxdiff.process import Discrete, discrete_label, scaled_linear_betas

UNET, CODER = "model.diffusion_model.", "first_stage_model."
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v"}
SIDES = {768: 64, 1024: 96, 2048: 128, 1280: 128}
KNOWN = {"prediction_type", "image_size"}


def read_original(source: Source) -> Pretrained | None:
    """Return the model of an original file, None for others.

    config may have "prediction_type" and "image_size", in pixels. Raises ValueError, by name, for a
    text of another width, for a model of 2.x whose prediction is not said, and for what the names
    do not explain.
    """
    if f"{UNET}input_blocks.1.0.in_layers.0.weight" not in source.tensors:
        return None
    path = str(source.path)
    if strange := sorted(set(source.config) - KNOWN):
        raise ValueError(f"{path}: config has {strange[0]!r}; it may have {', '.join(KNOWN)}")
    if "edm_mean" in source.tensors:
        raise ValueError(f"{path} is Playground 2.5, whose preconditioning is not supported")
    tensors = source.tensors.below(UNET)
    network, layout = network_of(tensors, path)
    width = network.token_width
    said_so = source.config.get("prediction_type", None if width == 1024 else "epsilon")
    if said_so not in PREDICTIONS:
        raise ValueError(
            f"{path} does not say whether it predicts noise or v: give config="
            "{'prediction_type': 'epsilon'} or 'v_prediction'"
        )
    params = fill(unet_shapes(network, network.in_channels), tensors, layout,
                  dtype=source.dtype, put=source.put)  # fmt: skip
    process: Any = Discrete.from_betas(scaled_linear_betas(1000))
    prediction = PREDICTIONS[said_so]
    D = denoiser(
        from_linen(network), params, prediction=prediction, process=process,
        label=discrete_label(1000),
    )  # fmt: skip
    side = source.config.get("image_size", 8 * SIDES[width]) // 8
    coder = source.tensors.below(CODER)
    parts = {"vae": _autoencoder(coder, source, width)} if coder else {}
    return Pretrained(
        D, params, network, (side, side, network.out_channels), prediction, process,
        natural_grid(process), 0, said(network),
        {"name": source.path.stem, "left_out": "text encoders"}, parts,
    )  # fmt: skip


def network_of(tensors: Tensors, path: str) -> tuple[UNet2DCondition, Layout]:
    """Return the U-Net of the names and shapes of an original file, and where they belong."""
    shapes = tensors.shapes
    texts = {s[1] for n, s in shapes.items() if n.endswith("attn2.to_k.weight")}
    if len(texts) != 1 or not texts <= set(SIDES):
        raise ValueError(f"{path}: texts of width {sorted(texts)} are of no model that is known")
    (width,) = texts
    halves = [n for n in shapes if re.fullmatch(r"input_blocks\.\d+\.0\.op\.weight", n)]
    levels = len(halves) + 1
    count = len({n.split(".")[1] for n in shapes if n.startswith("input_blocks.")})
    blocks, rest = divmod(count - levels, levels)
    if rest or blocks < 1:
        raise ValueError(f"{path}: {count} blocks do not divide into {levels} levels")
    first = [1 + level * (blocks + 1) for level in range(levels)]
    channels = tuple(shapes[f"input_blocks.{n}.0.out_layers.3.weight"][0] for n in first)
    depths = tuple(_depth(shapes, f"input_blocks.{n}.1.") for n in first)
    added = shapes.get("label_emb.0.0.weight")
    kinds = tuple("cross" if depth else "plain" for depth in depths)
    heads = tuple(8 if width == 768 else max(1, c // 64) for c in channels)
    network = UNet2DCondition(
        channels=channels, in_channels=shapes["input_blocks.0.0.weight"][1],
        out_channels=shapes["out.2.weight"][0], down=kinds, up=kinds, blocks=(blocks,) * levels,
        heads=heads, depth_down=tuple((max(d, 1),) * blocks for d in depths),
        depth_up=tuple((max(d, 1),) * (blocks + 1) for d in depths),
        depth_middle=_depth(shapes, "middle_block.1."), only_cross=(False,) * levels,
        added="text_time" if added else "", added_width=added[1] if added else 0,
        token_width=width,
    )  # fmt: skip
    return network, Layout(rules(original_unet_pairs(levels, blocks)))


def _depth(shapes: Any, prefix: str) -> int:
    """Return the number of transformer blocks below a prefix."""
    pattern = re.compile(re.escape(prefix) + r"transformer_blocks\.(\d+)\.")
    return len({m[1] for m in map(pattern.match, shapes) if m})


def _autoencoder(tensors: Tensors, source: Source, width: int) -> Autoencoder:
    """Return the autoencoder of an original file, in the scale of the models of a text's width."""
    shapes = tensors.shapes
    levels = len({n.split(".")[2] for n in shapes if n.startswith("encoder.down.")})
    widths = [shapes[f"encoder.down.{i}.block.0.conv1.weight"][0] for i in range(levels)]
    blocks = len({n.split(".")[4] for n in shapes if n.startswith("encoder.down.0.block.")})
    scale = 0.13025 if width in (2048, 1280) else 0.18215
    network = autoencoder_kl({
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels, "block_out_channels": widths,
        "layers_per_block": blocks, "latent_channels": shapes["decoder.conv_in.weight"][1],
        "use_quant_conv": "quant_conv.weight" in shapes,
        "use_post_quant_conv": "post_quant_conv.weight" in shapes,
    })  # fmt: skip
    side = 2 ** (levels - 1)
    x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    like = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
    unused = (r"(loss|model_ema)\..*",)
    layout = Layout(rules(original_autoencoder_pairs()), unused)
    params = fill(like, tensors, layout, dtype=source.dtype, put=source.put)
    metadata = {"name": "AutoencoderKL", "scale": "of the models of this family"}
    return Autoencoder(
        params, network, side, network.latent_channels, scale, 0.0, True, metadata
    )  # fmt: skip
