"""Published names of the networks of :mod:`jaxdiff.networks.stages` (diffusers' own layout)."""

from jaxdiff.pretrained.layout import Layout
from jaxdiff.pretrained.names import Pair, rules

BLOCK: tuple[Pair, ...] = (
    ("norm1", "norm_in"), ("conv1", "conv_in"), ("time_emb_proj", "time"), ("norm2", "norm_out"),
    ("conv2", "conv_out"), ("conv_shortcut", "skip"),
)  # fmt: skip
# The first name of a layer is the newer one, which is written; old files have the second.
SELF: tuple[Pair, ...] = (
    ("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "out"),
    ("query", "q"), ("key", "k"), ("value", "v"), ("proj_attn", "out"),
)  # fmt: skip
JOINT: tuple[Pair, ...] = (
    ("add_k_proj", "cross_k"), ("add_v_proj", "cross_v"), ("norm_cross", "norm_cross"),
)  # fmt: skip
TOKENS: tuple[Pair, ...] = (("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "out"))
TRANSFORMER: tuple[Pair, ...] = (
    ("norm", "norm_in"), ("proj_in", "proj_in"), ("proj_out", "proj_out"),
    *((f"transformer_blocks.#.{t}", f"block_#/{o}") for t, o in (
        ("norm1", "norm_self"), ("norm2", "norm_cross"), ("norm3", "norm_mlp"),
        ("ff.net.0.proj", "mlp_in"), ("ff.net.2", "mlp_out"),
        *((f"attn1.{t}", f"self/{o}") for t, o in TOKENS),
        *((f"attn2.{t}", f"cross/{o}") for t, o in TOKENS),
        *((f"fuser.{t}", f"boxes/{o}") for t, o in (
            ("linear", "linear"), ("norm1", "norm_self"), ("norm2", "norm_mlp"),
            ("ff.net.0.proj", "mlp_in"), ("ff.net.2", "mlp_out"), ("alpha_attn", "gate_self"),
            ("alpha_dense", "gate_mlp"), *((f"attn.{t}", f"self/{o}") for t, o in TOKENS),
        )),
    )),
)  # fmt: skip
PERCEPTRON: tuple[Pair, ...] = (
    ("linear_1", "linear_in"), ("linear_2", "linear_out"), ("cond_proj", "guidance"),
)  # fmt: skip
POOL: tuple[Pair, ...] = (
    ("norm1", "norm_in"), ("pool.q_proj", "q"), ("pool.k_proj", "k"), ("pool.v_proj", "v"),
    ("pool.positional_embedding", "position"), ("proj", "proj"), ("norm2", "norm_out"),
)  # fmt: skip
EMBEDDINGS: tuple[Pair, ...] = (
    *((f"{t}.{a}", f"{o}/{b}") for t, o in (
        ("time_embedding", "time_embedding"), ("class_embedding", "class_embedding"),
        ("add_embedding", "added_embedding"),
    ) for a, b in PERCEPTRON),
    *((f"add_embedding.{a}", f"added_embedding/{b}") for a, b in POOL),
    ("class_embedding", "class_embedding"),
    ("add_embedding.text_proj", "added_embedding/text"),
    ("add_embedding.text_norm", "added_embedding/text_norm"),
    ("add_embedding.image_proj", "added_embedding/image"),
    ("add_embedding.image_norm", "added_embedding/image_norm"),
    ("encoder_hid_proj.image_embeds", "tokens_in/image"),
    ("encoder_hid_proj.text_proj", "tokens_in/text"),
    ("encoder_hid_proj.norm", "tokens_in/image_norm"),
    ("position_net.linears.0", "grounding/linear_0"),
    ("position_net.linears.2", "grounding/linear_1"),
    ("position_net.linears.4", "grounding/linear_2"),
    ("position_net.null_positive_feature", "grounding/no_token"),
    ("position_net.null_position_feature", "grounding/no_place"),
    ("encoder_hid_proj", "tokens_in/text"),
)  # fmt: skip
ENDS: tuple[Pair, ...] = (
    ("conv_in", "conv_in"),
    ("conv_norm_out", "norm_out"),
    ("conv_out", "conv_out"),
)


def stage(theirs: str, ours: str) -> list[Pair]:
    """Return the pairs of one stage, whatever its kind: "down_blocks.#" and "down_#"."""
    pairs = [(f"resnets.#.{t}", f"block_#/{o}") for t, o in BLOCK]
    pairs += [(f"attentions.#.{t}", f"attention_#/{o}") for t, o in SELF + JOINT + TRANSFORMER]
    for name, at in (("downsamplers.0", "halve"), ("upsamplers.0", "double")):
        pairs += [(f"{name}.{t}", f"{at}/{o}") for t, o in (*BLOCK, ("conv", "."))]
    for name, at in (("resnet_down", "halve"), ("resnet_up", "double")):
        pairs += [(f"{name}.{t}", f"{at}/{o}") for t, o in BLOCK]
    pairs += [("skip_conv", "image"), ("skip_norm", "image_norm")]
    return [(f"{theirs}.{t}", f"{ours}/{o}".removesuffix("/.")) for t, o in pairs]


def unet_pairs(levels: int, *, learned: bool = False) -> list[Pair]:
    """Return the pairs of a U-Net; its stages on the way up are published the coarsest first.

    learned: whether time is embedded by learned rows; where features are kept they are Fourier's.
    """
    features = ("time_proj", "time_features")
    features = features if learned else (f"{features[0]}.weight", f"{features[1]}/frequencies")
    pairs = [*ENDS, features, *EMBEDDINGS]
    pairs += [*stage("down_blocks.#", "down_#"), *stage("mid_block", "middle")]
    for level in range(levels):
        pairs += stage(f"up_blocks.{levels - 1 - level}", f"up_{level}")
    return pairs


def unet_layout(levels: int, *, learned: bool = False) -> Layout:
    """Return the layout of a U-Net of so many levels."""
    return Layout(rules(unet_pairs(levels, learned=learned)))


def autoencoder_pairs(levels: int) -> list[Pair]:
    """Return the pairs of an autoencoder."""
    pairs = [("quant_conv", "quant"), ("post_quant_conv", "post_quant")]
    for part in ("encoder", "decoder"):
        own = [*ENDS, *stage("down_blocks.#", "down_#"), *stage("mid_block", "middle")]
        for level in range(levels):
            own += stage(f"up_blocks.{levels - 1 - level}", f"up_{level}")
        pairs += [(f"{part}.{t}", f"{part}/{o}") for t, o in own]
    return pairs


def autoencoder_layout(levels: int) -> Layout:
    """Return the layout of an autoencoder of so many levels."""
    return Layout(rules(autoencoder_pairs(levels)))
