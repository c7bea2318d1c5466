"""CLIP's encoders in transformers' folders: CLIPTextModel and CLIPVisionModel, each with or without
its projection, the tokenizer beside the first, and how the other takes images.

A text's names begin with text_model, or not, as the newest files have it. transformers writes many
general fields into a config.json; those that make the network are read.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.brief import short
from jaxdiff.files import read_json
from jaxdiff.networks.clip import ClipText, ClipVision, Encoded
from jaxdiff.networks.transformer_blocks import gelu, quick_gelu
from jaxdiff.pretrained.clip_tokenizer import ClipTokenizer
from jaxdiff.pretrained.fields import Fields
from jaxdiff.pretrained.layout import Layout, fill
from jaxdiff.pretrained.model import Source
from jaxdiff.typing import Array, Params

ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu}
OLD_END = 2  # in a config.json: the end token is the largest number
TEXT = {
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "projection_dim": 512,
    "num_hidden_layers": 12, "num_attention_heads": 8, "max_position_embeddings": 77,
    "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49407,
    "use_attention_mask": False,
}  # fmt: skip
VISION = {
    "hidden_size": 768, "intermediate_size": 3072, "projection_dim": 512, "num_hidden_layers": 12,
    "num_attention_heads": 12, "num_channels": 3, "image_size": 224, "patch_size": 32,
    "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
BLOCK = r"encoder\.layers\.(\d+)\."
BLOCKS = (
    (BLOCK + r"self_attn\.q_proj", r"block_\1/attention/heads/query"),
    (BLOCK + r"self_attn\.k_proj", r"block_\1/attention/heads/key"),
    (BLOCK + r"self_attn\.v_proj", r"block_\1/attention/heads/value"),
    (BLOCK + r"self_attn\.out_proj", r"block_\1/attention/out"),
    (BLOCK + r"layer_norm([12])", r"block_\1/norm_\2"),
    (BLOCK + r"mlp\.fc1", r"block_\1/feed_forward/hidden"),
    (BLOCK + r"mlp\.fc2", r"block_\1/feed_forward/out"),
)
TEXT_LAYOUT = Layout(
    (
        (r"embeddings\.token_embedding", "tokens"),
        (r"embeddings\.position_embedding\.weight", "positions"),
        *BLOCKS,
        ("final_layer_norm", "out_norm"),
        ("text_projection", "projected"),
    ),
    unused=(r"embeddings\.position_ids",),
)


def _unfold(name: str, value: np.ndarray) -> np.ndarray:
    """Return the kernel of the patches as (height, width, in, out)."""
    return value.transpose(2, 3, 1, 0) if name == "embeddings.patch_embedding.weight" else value


VISION_LAYOUT = Layout(
    (
        (r"embeddings\.class_embedding", "image_token"),
        (r"embeddings\.patch_embedding\.weight", "patches"),
        (r"embeddings\.position_embedding\.weight", "positions"),
        ("pre_layrnorm", "in_norm"),
        *BLOCKS,
        ("post_layernorm", "out_norm"),
        ("visual_projection", "projected"),
    ),
    unused=(r"embeddings\.position_ids",),
    change=_unfold,
)


@dataclasses.dataclass(frozen=True)
class TextEncoder:
    """A published text encoder.

    Attributes:
        params, network: a :class:`jaxdiff.networks.clip.ClipText`.
        tokenizer: that of its pipeline, or None.
        metadata: what else is known.
    """

    __repr__ = short

    params: Params
    network: ClipText
    tokenizer: ClipTokenizer | None = None
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, texts: str | Sequence[str] | Array | np.ndarray) -> Encoded:
        """Encode texts, or numbers of tokens (batch, tokens)."""
        if isinstance(texts, str) or isinstance(texts, Sequence):
            if self.tokenizer is None:
                raise ValueError("this encoder came without a tokenizer: give numbers of tokens")
            texts = self.tokenizer(texts)
        return _encode(self.network, self.params, jnp.asarray(texts))

    def final(self, hidden: Array) -> Array:
        """Return a hidden state after the last norm."""
        made: Any = self.network.apply({"params": self.params}, hidden, method="final")
        return made


@dataclasses.dataclass(frozen=True)
class ImageEncoder:
    """A published image encoder.

    Attributes:
        params, network: a :class:`jaxdiff.networks.clip.ClipVision`.
        mean, std: of the channels of images in [0, 1], as they are taken off and divided by.
        metadata: what else is known.
    """

    __repr__ = short

    params: Params
    network: ClipVision
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(self, images: Array) -> Encoded:
        """Encode prepared images (batch, size, size, channels)."""
        return _encode(self.network, self.params, images)

    def prepared(self, images: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
        """Return images, each (height, width, 3) in uint8, as the encoder takes them.

        Their shorter side is made ``size`` by a bicubic filter in uint8, their middle is cut out,
        mean and standard deviation of the channels are taken off. Raises ValueError for others.
        """
        return np.stack([self._one(image) for image in images])

    def _one(self, image: np.ndarray) -> np.ndarray:
        from PIL import Image

        image, size = np.asarray(image), self.network.size
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f"images are (height, width, 3) in uint8; got {image.shape} in {image.dtype}"
            )
        height, width = image.shape[:2]
        short = min(height, width)
        rows, columns = int(size * height / short), int(size * width / short)
        resized = Image.fromarray(image).resize((columns, rows), Image.Resampling.BICUBIC)
        top, left = (rows - size) // 2, (columns - size) // 2
        cut = np.asarray(resized)[top : top + size, left : left + size].astype(np.float32) / 255
        return (cut - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)


def _encode_plainly(network: Any, params: Params, x: Array) -> Encoded:
    return network.apply({"params": params}, x)


_encode = jax.jit(_encode_plainly, static_argnums=0)


def is_clip(source: Source) -> str:
    """Return "text" or "image" if a source is an encoder of CLIP's, "" otherwise."""
    kinds = {"clip_text_model": "text", "clip_vision_model": "image"}
    return kinds.get(source.config.get("model_type", ""), "")


def text_network(config: Mapping[str, Any], projected: bool, where: str) -> ClipText:
    """Return the network of a configuration. ValueError, by name, for what is not read."""
    own = Fields({k: v for k, v in config.items() if k in TEXT}, TEXT, where)
    own.plain("use_attention_mask", False)
    vocabulary, width, hidden, depth, heads, length, end = own.whole(
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "max_position_embeddings", "eos_token_id",
    )  # fmt: skip
    return ClipText(
        vocabulary=vocabulary, length=length, width=width, depth=depth, heads=_heads(own, heads),
        hidden=hidden, activation=ACTIVATIONS[own.of("hidden_act", *ACTIVATIONS)],
        epsilon=own.number("layer_norm_eps"), end=None if end == OLD_END else end,
        projection=own.whole("projection_dim")[0] if projected else 0,
    )  # fmt: skip


def vision_network(config: Mapping[str, Any], projected: bool, where: str) -> ClipVision:
    """Return the network of a configuration. ValueError, by name, for what is not read."""
    own = Fields({k: v for k, v in config.items() if k in VISION}, VISION, where)
    width, hidden, depth, heads, channels, size, patch = own.whole(
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_channels", "image_size", "patch_size",
    )  # fmt: skip
    if size % patch:
        own.refuse("image_size", f"divisible by patch_size, {patch}")
    return ClipVision(
        size=size, channels=channels, patch=patch, width=width, depth=depth,
        heads=_heads(own, heads), hidden=hidden,
        activation=ACTIVATIONS[own.of("hidden_act", *ACTIVATIONS)],
        epsilon=own.number("layer_norm_eps"),
        projection=own.whole("projection_dim")[0] if projected else 0,
    )  # fmt: skip


def _heads(own: Fields, heads: int) -> int:
    if own["hidden_size"] % heads:
        own.refuse("num_attention_heads", f"a divisor of hidden_size, {own['hidden_size']}")
    return heads


def read_text_encoder(source: Source, tokenizer: ClipTokenizer | None = None) -> TextEncoder:
    """Return the text encoder of a source. ValueError, by name, for what is not read."""
    where = str(source.path / "config.json")
    config = _part(source, "text_config", where)
    projected = "text_projection.weight" in source.tensors
    network = text_network(config, projected, where)
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    params = _filled(source, network, ids, TEXT_LAYOUT, "text_model.")
    said = {"name": source.path.name, "config": dict(source.config)}
    return TextEncoder(params, network, tokenizer, said)


def read_image_encoder(source: Source) -> ImageEncoder:
    """Return the image encoder of a source. ValueError, by name, for what is not read."""
    where = str(source.path / "config.json")
    config = _part(source, "vision_config", where)
    projected = "visual_projection.weight" in source.tensors
    network = vision_network(config, projected, where)
    x = jax.ShapeDtypeStruct((1, network.size, network.size, network.channels), jnp.float32)
    params = _filled(source, network, x, VISION_LAYOUT, "vision_model.")
    said = {"name": source.path.name, "config": dict(source.config)}
    numbers = _preparation(source.path / "preprocessor_config.json", network.size)
    return ImageEncoder(params, network, metadata=said, **numbers)


def _part(source: Source, part: str, where: str) -> Mapping[str, Any]:
    """Return the configuration of the encoder. ValueError for a model of both, and for others."""
    kind = "text" if part == "text_config" else "vision"
    if source.config.get("model_type") not in (f"clip_{kind}_model", None):
        raise ValueError(
            f"{where} is that of a {source.config['model_type']}; a clip_{kind}_model is read"
        )
    return source.config


def _filled(source: Source, network: Any, x: Any, layout: Layout, prefix: str) -> Params:
    shapes = jax.eval_shape(network.init, jax.random.key(0), x)["params"]
    tensors = source.tensors.renamed(lambda name: name.removeprefix(prefix))  # type: ignore[attr-defined]
    return fill(shapes, tensors, layout, dtype=source.dtype, put=source.put)


def _preparation(path: Path, size: int) -> dict[str, tuple[float, ...]]:
    """Return mean and standard deviation of a preprocessor_config.json, the rest being checked."""
    if not path.exists():
        return {}
    said = read_json(path)
    sizes = [said.get("size", size), said.get("crop_size", size)]
    for given in sizes:
        given = set(given.values()) if isinstance(given, dict) else {given}
        if given != {size}:
            raise ValueError(f"{path} has size {given}, but the network takes {size}")
    for name in ("do_resize", "do_center_crop", "do_normalize"):
        if said.get(name, True) is not True:
            raise ValueError(f"{path} has {name} {said[name]!r}; what is read is True")
    if said.get("resample", 3) != 3:
        raise ValueError(f"{path} has resample {said['resample']!r}; what is read is 3, bicubic")
    pairs = {"mean": "image_mean", "std": "image_std"}
    return {ours: tuple(said[theirs]) for ours, theirs in pairs.items() if theirs in said}
