"""Configuration of small changes of a trained model, trained and saved alone."""

import dataclasses
from typing import Literal

from jaxdiff.app.config_choices import Parallel
from jaxdiff.app.config_data import OtherData
from jaxdiff.ranges import Count, NotNegative, Positive, Seed

AdapterKind = Literal[
    "lora",
    "dora",
    "svdiff",
    "whole",
    "dreambooth",
    "textual-inversion",
    "custom",
    "controlnet",
    "t2i",
    "ip",
    "gligen",
]


@dataclasses.dataclass(frozen=True)
class AdaptData(OtherData):
    """Images to train on: the run's own data, but for what is given here; of published weights,
    which do not say theirs, what is given.
    """

    captions: bool | None = None
    """True to read what lies beside images of a text model, as jaxdiff train does."""
    pairs: str | None = None
    """A second folder or zip: the picture of each image's name there is what controlnet, t2i and ip
    are shown, in place of the image's edges or of itself; of a run that was trained on pairs, what
    it is shown.
    """


@dataclasses.dataclass(frozen=True)
class Adapt:
    """Train a small change of a run's model, whose parameters stay as they are, and save it alone:
    sample --adapter FILE puts it in.
    """

    run: str
    """The model, no student: a run, a file or folder of published weights or the name of their
    card, or module:FILE.py:FUNCTION, a function of yours that makes a model (the file is run).
    """
    out: str = "adapter.safetensors"
    """The file. LoRA and DoRA are in PEFT's layout, new tokens in diffusers'; of controlnet and t2i
    a folder in diffusers', of a small U-Net's ControlNet a file.
    """
    kind: AdapterKind = "lora"
    """What is trained: low-rank changes of kernels (lora, 2106.09685; dora, 2402.09353), their
    singular values (svdiff, 2303.11305), chosen parameters whole (whole), low-rank changes with the
    model's own samples beside the images (dreambooth, 2208.12242), a new token of a text model
    alone (textual-inversion, 2208.01618) or with keys and values of cross-attention and own samples
    (custom, 2212.04488); or what reads edges beside the network (controlnet, 2302.05543; t2i,
    2302.08453), or a picture as a prompt (ip, 2308.06721), by which sample --control steers it; or
    gated layers of a text model that attend to boxes (gligen, 2301.07093), which sample --box has.
    """
    rank: Count = 4
    """Rank of lora, dora and dreambooth."""
    alpha: Positive | None = None
    """Scale of these, times the rank: the rank by default, for a scale of 1."""
    layers: tuple[str, ...] = ()
    """Patterns of the paths of parameters, such as "*attention*kernel"; by default all kernels, of
    custom the keys and values of cross-attention, of whole everything.
    """
    features: str = "pixels"
    """What ip reads of a picture: its pixels, or what an image encoder of yours makes of images
    (n, height, width, channels) in [-1, 1], an array (n, d), module:FILE.py:FUNCTION (the file is
    run). Sampling needs the same.
    """
    label: str | None = None
    """Class that all images are given, by its name or number; by default that of the data."""
    prompt: str | None = None
    """Text that all images are given, of a text model; by default those of the data. With --token
    it may have {}, where the token goes.
    """
    token: str | None = None
    """New token of a text model, as it is written in prompts."""
    vectors: Count = 1
    """Rows that the new token stands for."""
    start: str | None = None
    """A known word that the new token starts as."""
    prior_count: Count = 64
    """Own samples of dreambooth and custom, made before training."""
    prior_weight: NotNegative = 1.0
    """Weight of the loss on them; 0 makes none."""
    prior_label: str | None = None
    """Class of the own samples; by default all in turn."""
    prior_prompt: str | None = None
    """Text of the own samples, of a text model; by default the prompt with the word that the token
    starts as.
    """
    num_steps: Count = 20
    """Sampling steps of DPM-Solver++ that make an own sample."""
    updates: Count = 500
    """Updates."""
    batch: Count = 16
    """Images per update."""
    learning_rate: Positive = 1e-3
    """Rate of Adam."""
    seed: Seed = 0
    parallel: Parallel = "jit"
    """Placement on several devices: parameters on every device (jit, pmap), or split over them
    (fsdp).
    """
    devices: Count | None = None
    """Use so many devices; by default all."""
    checkpoint: str | None = None
    """Instead of the finished model a checkpoint of the run: its step, or "latest". A run that is
    not finished gives its latest by default.
    """
    data: AdaptData = AdaptData()
