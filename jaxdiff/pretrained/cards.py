"""Cards of published models: what they are and where their files lie; to add a model, add a card.

Two small models come with the package, so that nothing is fetched: their files are in ``shipped/``
and their cards are read from the JSON beside them, which ``python -m experiments.shipped`` writes.
Of the others facts are from the publishers' own pages, named as the source. A hash is only given
where it is publicly known; of other files it is computed as they arrive, printed, and kept beside
them.
Weights have licences of their own, several of which allow research only.
"""

from pathlib import Path
from typing import NamedTuple

from jaxdiff.files import read_json


class File(NamedTuple):
    """One file of a model.

    path: within the model's folder, with "/". url: where it is, "" for a file that comes with the
    package. sha256: in hexadecimal, None where
    it is not known. size: in bytes, None likewise.
    """

    path: str
    url: str
    sha256: str | None = None
    size: int | None = None


class Card(NamedTuple):
    """Facts about a published model.

    name: that ``load_pretrained`` takes. family: the reader of its files. files: all it needs; the
    first one is opened if it is the only one, else their folder. licence, source: of the weights,
    and the page that says so; of those of the package, of their data. shape: of a sample, channels
    last. prediction: what the network predicts. process: the process it was trained on, in words.
    classes: 0 without. guidance: what the score was measured with, in words. score: as published.
    """

    name: str
    family: str
    files: tuple[File, ...]
    licence: str
    source: str
    shape: tuple[int, ...]
    prediction: str
    process: str
    classes: int = 0
    guidance: str = ""
    score: str = ""


NVIDIA = "https://nvlabs-fi-cdn.nvidia.com"
OPENAI = "https://openaipublic.blob.core.windows.net"
HUB = "https://huggingface.co"
NON_COMMERCIAL = "CC BY-NC-SA 4.0"
IMAGENET = 1000


def _one(url: str, sha256: str | None = None, size: int | None = None) -> tuple[File, ...]:
    return (File(url.rpartition("/")[2], url, sha256, size),)


def _hub(repository: str, *paths: str) -> tuple[File, ...]:
    return tuple(File(path, f"{HUB}/{repository}/resolve/main/{path}") for path in paths)


def _edm(name: str, shape: tuple[int, ...], classes: int, score: str) -> Card:
    return Card(
        name, "edm", _one(f"{NVIDIA}/edm/pretrained/{name}.pkl"), NON_COMMERCIAL,
        "https://github.com/NVlabs/edm", shape, "edm", "EDM", classes, score=score,
    )  # fmt: skip


def _edm2(name: str, stem: str, score: str) -> Card:
    shape = (64, 64, 4) if "img512" in name else (64, 64, 3)
    return Card(
        name, "edm2", _one(f"{NVIDIA}/edm2/posthoc-reconstructions/{stem}.pkl"), NON_COMMERCIAL,
        "https://github.com/NVlabs/edm2", shape, "edm", "EDM", IMAGENET, score=score,
    )  # fmt: skip


def _adm(
    stem: str, side: int, classes: int, process: str, score: str, guidance: str = "",
    sha256: str | None = None, size: int | None = None,
) -> Card:  # fmt: skip
    return Card(
        f"adm-{stem.replace('_diffusion', '').replace('_', '-')}", "adm",
        _one(f"{OPENAI}/diffusion/jul-2021/{stem}.pt", sha256, size), "MIT",
        "https://github.com/openai/guided-diffusion", (side, side, 3), "eps", process, classes,
        guidance, score,
    )  # fmt: skip


def _consistency(stem: str, side: int, classes: int, score: str) -> Card:
    return Card(
        f"consistency-{stem.replace('_', '-')}", "consistency_models",
        _one(f"{OPENAI}/consistency/{stem}.pt"), "MIT",
        "https://github.com/openai/consistency_models", (side, side, 3), "edm", "EDM", classes,
        score=score,
    )  # fmt: skip


def _ddpm(name: str, side: int, score: str) -> Card:
    files = _hub(
        f"google/{name}", "config.json", "diffusion_pytorch_model.bin", "scheduler_config.json"
    )
    return Card(
        name, "diffusers", files, "Apache-2.0", f"{HUB}/google/{name}", (side, side, 3), "eps",
        "DDPM, linear betas", score=score,
    )  # fmt: skip


_TEXT = ("text_encoder/config.json", "text_encoder/model.safetensors")
_TOKENIZER = tuple(
    f"tokenizer/{name}"
    for name in ("vocab.json", "merges.txt", "special_tokens_map.json", "tokenizer_config.json")
)
_UNET = ("unet/config.json", "unet/diffusion_pytorch_model.safetensors")
_VAE = ("vae/config.json", "vae/diffusion_pytorch_model.safetensors")
_PIPELINE = ("model_index.json", "scheduler/scheduler_config.json")
_SECOND = tuple(
    path.replace("/", "_2/", 1).replace("tokenizer_2/tokenizer_", "tokenizer_2/tokenizer_")
    for path in (*_TEXT, *_TOKENIZER)
)
_TRANSFORMER = ("transformer/config.json", "transformer/diffusion_pytorch_model.safetensors")

_EDM = [
    _edm("edm-cifar10-32x32-uncond-vp", (32, 32, 3), 0, "FID 1.97 in 35 evaluations"),
    _edm("edm-cifar10-32x32-uncond-ve", (32, 32, 3), 0, "FID 1.98 in 35 evaluations"),
    _edm("edm-cifar10-32x32-cond-vp", (32, 32, 3), 10, "FID 1.79 in 35 evaluations"),
    _edm("edm-cifar10-32x32-cond-ve", (32, 32, 3), 10, "FID 1.79 in 35 evaluations"),
    _edm("edm-ffhq-64x64-uncond-vp", (64, 64, 3), 0, "FID 2.39 in 79 evaluations"),
    _edm("edm-ffhq-64x64-uncond-ve", (64, 64, 3), 0, "FID 2.53 in 79 evaluations"),
    _edm("edm-afhqv2-64x64-uncond-vp", (64, 64, 3), 0, "FID 1.96 in 79 evaluations"),
    _edm("edm-afhqv2-64x64-uncond-ve", (64, 64, 3), 0, "FID 2.16 in 79 evaluations"),
    _edm(
        "edm-imagenet-64x64-cond-adm", (64, 64, 3), IMAGENET,
        "FID 1.36 in 511 evaluations, stochastic",
    ),
]  # fmt: skip
_EDM2 = [
    _edm2(f"edm2-img512-{size}-fid", f"edm2-img512-{size}-{kimg}-{std}", f"FID {fid}")
    for size, kimg, std, fid in (
        ("xs", "2147483", "0.135", "3.53"), ("s", "2147483", "0.130", "2.56"),
        ("m", "2147483", "0.100", "2.25"), ("l", "1879048", "0.085", "2.06"),
        ("xl", "1342177", "0.085", "1.96"), ("xxl", "0939524", "0.070", "1.91"),
    )
] + [
    _edm2(f"edm2-img64-{size}-fid", f"edm2-img64-{size}-{kimg}-{std}", f"FID {fid}")
    for size, kimg, std, fid in (
        ("s", "1073741", "0.075", "1.58"), ("m", "2147483", "0.060", "1.43"),
        ("l", "1073741", "0.040", "1.33"), ("xl", "0671088", "0.040", "1.33"),
    )
] + [
    _edm2(f"edm2-img512-{name}", f"edm2-img512-{stem}", "")
    for name, stem in (  # the two networks of autoguidance, whose score is of both together
        ("s-autoguided", "s-2147483-0.070"), ("xs-autoguide", "xs-0134217-0.125"),
        ("xxl-autoguided", "xxl-0939524-0.075"), ("m-autoguide", "m-0268435-0.155"),
        ("xs-uncond", "xs-uncond-2147483-0.045"),
    )
]  # fmt: skip
_ADM = [
    _adm("64x64_diffusion", 64, IMAGENET, "DDPM, cosine betas", "FID 2.07"),
    _adm(
        "128x128_diffusion", 128, IMAGENET, "DDPM, linear betas", "FID 2.97", "classifier, 0.5"
    ),
    _adm(
        "256x256_diffusion", 256, IMAGENET, "DDPM, linear betas", "FID 4.59", "classifier, 1.0"
    ),
    _adm(
        "256x256_diffusion_uncond", 256, 0, "DDPM, linear betas", "",
        sha256="a37c32fffd316cd494cf3f35b339936debdc1576dad13fe57c42399a5dbc78b1",
        size=2_211_383_297,
    ),
    _adm(
        "512x512_diffusion", 512, IMAGENET, "DDPM, linear betas", "FID 7.72", "classifier, 4.0"
    ),
    _adm("lsun_bedroom", 256, 0, "DDPM, linear betas", "FID 1.90 in 1000 evaluations"),
    _adm("lsun_cat", 256, 0, "DDPM, linear betas", "FID 5.57 in 1000 evaluations"),
    _adm("lsun_horse", 256, 0, "DDPM, linear betas", "FID 2.57 in 1000 evaluations"),
]  # fmt: skip
_CONSISTENCY = [
    _consistency("edm_imagenet64_ema", 64, IMAGENET, "FID 2.44 in 79 evaluations"),
    _consistency("cd_imagenet64_l2", 64, IMAGENET, ""),
    _consistency("cd_imagenet64_lpips", 64, IMAGENET, "FID 6.20 in one evaluation, 4.70 in two"),
    _consistency("ct_imagenet64", 64, IMAGENET, "FID 13.0 in one evaluation, 11.1 in two"),
    _consistency("edm_bedroom256_ema", 256, 0, "FID 3.57 in 79 evaluations"),
    _consistency("cd_bedroom256_lpips", 256, 0, "FID 7.80 in one evaluation, 5.22 in two"),
    _consistency("edm_cat256_ema", 256, 0, "FID 6.69 in 79 evaluations"),
    _consistency("cd_cat256_lpips", 256, 0, "FID 11.0 in one evaluation, 8.84 in two"),
]
_DDPM = [
    _ddpm("ddpm-cifar10-32", 32, "FID 3.17 in 1000 evaluations"),
    _ddpm("ddpm-cat-256", 256, ""), _ddpm("ddpm-church-256", 256, ""),
    _ddpm("ddpm-bedroom-256", 256, ""), _ddpm("ddpm-celebahq-256", 256, ""),
]  # fmt: skip
_LATENT = [
    Card(
        f"dit-xl-2-{side}", "dit", _one(f"https://dl.fbaipublicfiles.com/DiT/models/{stem}.pt"),
        "CC BY-NC 4.0", "https://github.com/facebookresearch/DiT", (side // 8, side // 8, 4), "eps",
        "DDPM, linear betas", IMAGENET, "classifier-free, 1.5", f"FID {fid} in 250 steps",
    )
    for side, stem, fid in (
        (256, "DiT-XL-2-256x256", "2.27"), (512, "DiT-XL-2-512x512", "3.04"),
    )
] + [
    Card(
        "sit-xl-2-256", "sit",
        (File(
            "SiT-XL-2-256.pt", "https://www.dl.dropboxusercontent.com/scl/fi/as9oeomcbub47de5g4be0/"
            "SiT-XL-2-256.pt?rlkey=uxzxmpicu46coq3msb17b9ofa&dl=1",
        ),),
        "MIT", "https://github.com/willisma/SiT", (32, 32, 4), "flow", "flow", IMAGENET,
        "classifier-free, 1.5", "FID 2.06 in 250 steps, stochastic",
    ),
    Card(
        "stable-diffusion-1.5", "diffusers",
        _hub("stable-diffusion-v1-5/stable-diffusion-v1-5", *_PIPELINE, *_UNET, *_VAE, *_TEXT,
             *_TOKENIZER),
        "CreativeML Open RAIL-M", f"{HUB}/stable-diffusion-v1-5/stable-diffusion-v1-5",
        (64, 64, 4), "eps", "DDPM, betas linear in their roots", guidance="classifier-free, 7.5",
    ),
    Card(
        "stable-diffusion-xl", "diffusers",
        _hub("stabilityai/stable-diffusion-xl-base-1.0", *_PIPELINE, *_UNET, *_VAE, *_TEXT,
             *_TOKENIZER, *_SECOND),
        "CreativeML Open RAIL++-M", f"{HUB}/stabilityai/stable-diffusion-xl-base-1.0",
        (128, 128, 4), "eps", "DDPM, betas linear in their roots", guidance="classifier-free, 5.0",
    ),
    Card(
        "dit-xl-2-256-diffusers", "diffusers",
        _hub("facebook/DiT-XL-2-256", *_PIPELINE, "transformer/config.json",
             "transformer/diffusion_pytorch_model.bin", "vae/config.json",
             "vae/diffusion_pytorch_model.bin"),
        "CC BY-NC 4.0", f"{HUB}/facebook/DiT-XL-2-256", (32, 32, 4), "eps", "DDPM, linear betas",
        IMAGENET, "classifier-free, 1.5", "FID 2.27 in 250 steps",
    ),
]  # fmt: skip

INCEPTION = {
    "inception-fid": Card(
        "inception-fid", "inception",
        _one(
            "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
            "pt_inception-2015-12-05-6726825d.pth",
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2", 95_628_359,
        ),
        "Apache-2.0", "https://github.com/mseitzer/pytorch-fid", (299, 299, 3), "", "", 1008,
    ),
}  # fmt: skip
"""Networks that images are compared by, which ``load_inception`` takes."""


def _shipped(path: Path) -> Card:
    """Return the card that a file beside a model of the package says."""
    said = read_json(path)
    row = said["scores"][0]
    score = (
        f"{row['class_agreement']:.1%} of samples read as their class, Frechet distance "
        f"{row['frechet_distance']:.2f} (real images {row['real_images']:.2f}), in {row['nfe']} "
        "evaluations"
    )
    files = (File(f"{said['name']}.safetensors", "", said["sha256"], said["bytes"]),)
    return Card(
        said["name"], "jaxdiff", files, said["licence"], said["data_source"],
        tuple(said["shape"]), said["prediction"], said["process"], said["classes"],
        f"classifier-free, {row['guidance']:g}", score,
    )  # fmt: skip


SHIPPED = Path(__file__).with_name("shipped")
"""The folder of models that come with the package."""

CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        *map(_shipped, sorted(SHIPPED.glob("*.json"))),
        *_EDM,
        *_EDM2,
        *_ADM,
        *_CONSISTENCY,
        *_DDPM,
        *_LATENT,
    )
}
"""Models to sample from, by name."""

AUTOENCODERS: dict[str, Card] = {
    name: Card(
        name, "autoencoder",
        _hub(repository, "config.json", "diffusion_pytorch_model.safetensors"), "MIT",
        f"{HUB}/{repository}", (64, 64, 4), "", "",
    )
    for name, repository in (
        ("sd-vae-ft-mse", "stabilityai/sd-vae-ft-mse"), ("sdxl-vae", "stabilityai/sdxl-vae"),
        ("taesd", "madebyollin/taesd"), ("taesdxl", "madebyollin/taesdxl"),
    )
}  # fmt: skip
"""Autoencoders of images and latents, which ``load_autoencoder`` takes; shape: of a latent."""


def facts(card: Card) -> dict[str, str]:
    """Return what a card says of a model besides what its files say, without what it leaves out."""
    named = {"name": card.name, "licence": card.licence, "source": card.source}
    scored = {"guidance": card.guidance, "score": card.score}
    return {key: text for key, text in {**named, **scored}.items() if text}
