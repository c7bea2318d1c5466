"""The published models of guided diffusion, improved diffusion and consistency models, as data.

Shapes distinguish them; what shapes do not determine (image size, heads, order of q, k and v,
the schedule) stands beside it, from the publishers' README files and launch scripts.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxdiff.pretrained.guided_layout import Found

LEVELS = {
    32: (1, 2, 2, 2), 64: (1, 2, 3, 4), 128: (1, 1, 2, 3, 4), 256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}  # fmt: skip
"""Multipliers by image size, in all three repositories."""


class Published(NamedTuple):
    """A model, or several of the same shapes: what distinguishes it, and the publisher's options.

    names: its files. kind: "guided", "improved", "consistency" or "classifier". size: of the
    images. at: sizes of the maps with attention. options: by the publisher's names, the schedule
    and the heads.
    """

    names: tuple[str, ...]
    kind: str
    size: int
    channels: int
    blocks: int
    at: tuple[int, ...]
    options: Mapping[str, Any]
    num_classes: int = 0
    scale_shift: bool = True
    inputs: int = 3
    outputs: int = 6

    @property
    def attention(self) -> tuple[int, ...]:
        """Numbers of the levels with attention."""
        heights = [self.size >> i for i in range(len(LEVELS[self.size]))]
        return tuple(i for i, height in enumerate(heights) if height in self.at)

    def fits(self, found: Found) -> bool:
        """Return whether shapes are those of this model."""
        return (
            found.channels, found.multipliers, found.blocks, found.attention, found.num_classes,
            found.scale_shift, found.size_by, found.inputs, found.outputs, found.planar,
            bool(found.tokens),
        ) == (
            self.channels, LEVELS[self.size], self.blocks, self.attention, self.num_classes,
            self.scale_shift, "conv" if self.kind == "improved" else "block", self.inputs,
            self.outputs, self.kind == "consistency", self.kind == "classifier",
        )  # fmt: skip


COARSE = (32, 16, 8)
HEADS = {"num_head_channels": 64}
FOUR = {"num_heads": 4}
COSINE = {"noise_schedule": "cosine", "diffusion_steps": 4000}
UNET = (
    Published(
        ("64x64_diffusion",), "guided", 64, 192, 3, COARSE,
        {**HEADS, "noise_schedule": "cosine", "use_new_attention_order": True}, 1000,
    ),
    Published(("128x128_diffusion",), "guided", 128, 256, 2, COARSE, FOUR, 1000),
    Published(("256x256_diffusion",), "guided", 256, 256, 2, COARSE, HEADS, 1000),
    Published(
        ("256x256_diffusion_uncond", "lsun_bedroom", "lsun_cat", "lsun_horse",
         "lsun_horse_nodropout"),
        "guided", 256, 256, 2, COARSE, HEADS,
    ),
    Published(("512x512_diffusion",), "guided", 512, 256, 2, COARSE, HEADS, 1000),
    Published(("64_256_upsampler",), "guided", 256, 192, 2, COARSE, FOUR, 1000, inputs=6),
    Published(("128_512_upsampler",), "guided", 512, 192, 2, (32, 16), HEADS, 1000, inputs=6),
    Published(
        ("imagenet64_uncond_100M_1500K", "imagenet64_uncond_vlb_100M_1500K"),
        "improved", 64, 128, 3, (16, 8), {**FOUR, **COSINE, "rescale_timesteps": True},
    ),
    Published(
        ("cifar10_uncond_50M_500K", "cifar10_uncond_vlb_50M_500K"),
        "improved", 32, 128, 3, (16, 8), {**FOUR, **COSINE, "rescale_timesteps": True},
    ),
    Published(
        ("imagenet64_cond_270M_250K",), "improved", 64, 192, 3, (16, 8),
        {**FOUR, **COSINE, "rescale_timesteps": False}, 1000,
    ),
    Published(
        ("upsample_cond_500K",), "improved", 256, 192, 2, (16, 8),
        {**FOUR, "diffusion_steps": 4000, "rescale_timesteps": False}, 1000, inputs=6,
    ),
    Published(
        ("lsun_uncond_100M_1200K_bs128", "lsun_uncond_100M_2400K_bs64"),
        "improved", 256, 128, 2, (16,), {"num_heads": 1}, scale_shift=False,
    ),
    Published(
        ("edm_imagenet64_ema", "cd_imagenet64_l2", "cd_imagenet64_lpips", "ct_imagenet64"),
        "consistency", 64, 192, 3, COARSE, HEADS, 1000, outputs=3,
    ),
    Published(
        ("edm_bedroom256_ema", "cd_bedroom256_l2", "cd_bedroom256_lpips", "ct_bedroom256",
         "edm_cat256_ema", "cd_cat256_l2", "cd_cat256_lpips", "ct_cat256"),
        "consistency", 256, 256, 2, COARSE, HEADS, scale_shift=False, outputs=3,
    ),
)  # fmt: skip
CLASSIFIER = tuple(
    Published(
        (f"{size}x{size}_classifier",), "classifier", size, 128, 4 if size == 64 else 2, COARSE,
        {**HEADS, "noise_schedule": "cosine" if size == 64 else "linear"}, outputs=1000,
    )
    for size in (64, 128, 256, 512)
)  # fmt: skip


def published(found: Found, name: str) -> Published | None:
    """Return the published model of these shapes, that of the file's name if there are several."""
    fitting = [one for one in (*UNET, *CLASSIFIER) if one.fits(found)]
    named = [one for one in fitting if name in one.names]
    return (named or fitting or [None])[0]
