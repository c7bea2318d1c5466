"""Configurations of training: a score network, a student, a discriminator; averages of a run."""

import dataclasses
from typing import Literal

from jaxdiff.app.config_choices import (
    LevelsName,
    LogName,
    MethodName,
    Parallel,
    PredictionName,
    ProcessName,
    WeightingName,
)
from jaxdiff.app.config_data import Data, OtherData
from jaxdiff.app.config_latent import Latent
from jaxdiff.app.config_measure import Measure
from jaxdiff.app.config_network import Network, UNet
from jaxdiff.ranges import (
    Below1,
    Count,
    Fraction,
    Natural,
    NotNegative,
    Number,
    Positive,
    Seed,
    Width,
)


@dataclasses.dataclass(frozen=True)
class Train:
    """Train a score network on images.

    The network is chosen by "--network unet", "dit", "mlp", "text" or "module:FILE.py:CLASS"; the
    options --network.* are those of the chosen one, shown by "--network dit --help". "--dtype
    bfloat16" is short for --network.dtype.
    """

    run: str
    """Folder of the run: checkpoints, history and configuration. An unfinished run there is
    resumed.
    """
    data: Data = Data()
    network: Network = UNet()
    process: ProcessName = "edm"
    """Diffusion process: edm (noise is added, 2206.00364), vp (linear beta, 2011.13456),
    cosine (2102.09672), flow (straight lines, 2209.03003), trig (2410.11081).
    """
    prediction: PredictionName | None = None
    """Prediction of the network: edm with process edm, eps with vp and cosine, flow (the velocity)
    with flow and trig, by default.
    """
    levels: LevelsName | None = None
    """Distribution of noise levels in training: log_normal (EDM's; with edm and trig by default),
    uniform in the process's time (with vp, cosine and flow by default), or logit_normal in it
    (Stable Diffusion 3's).
    """
    weighting: WeightingName = "prediction"
    """Weight of a level's error: the plain squared error of what the network predicts
    (prediction; of a score times sigma), of x0 (uniform), of eps (snr), of v (snr_plus_one), EDM's
    (edm), truncated_snr (2202.00512), min_snr (2303.09556) or sigmoid (2303.00848).
    """
    snr_limit: Positive = 5.0
    """Largest weight of min_snr."""
    sigmoid_bias: Number = 2.0
    """Centre of the weight sigmoid, in units of the logarithm of the signal-to-noise ratio."""
    updates: Count = 3000
    """Updates in all. More than a run has made lengthen it: it goes on from its last checkpoint,
    and its learning rate is that of a run of so many steps; if it had fallen to zero, it rises at
    once and falls again.
    """
    batch: Count = 32
    """Images per update."""
    learning_rate: Positive = 3e-3
    """Peak rate, after the warm-up."""
    schedule: Literal["cosine", "constant", "inverse_sqrt"] = "cosine"
    """Learning rate after the warm-up: falls to zero by a cosine, stays, or falls as
    1/sqrt(update) from --decay-after on (EDM2, 2312.02696).
    """
    decay_after: Count | None = None
    """Updates at the peak rate, of inverse_sqrt; by default a fifteenth of all, as EDM2's 70,000
    are of about a million.
    """
    warmup: Natural = 200
    """Steps of warm-up."""
    weight_decay: NotNegative = 0.0
    """Decoupled weight decay (AdamW, 1711.05101) of weights of two axes or more, in units of the
    learning rate.
    """
    ema: tuple[Below1, ...] = (0.998,)
    """Decay of the averaged parameters that sampling uses; less at first, so that its
    half-life is at most a fifth of the updates made. Of several, such as 0.998 0.9995, sampling
    uses the first, and "jaxdiff ema --decay" makes the model of another.
    """
    ema_std: tuple[Width, ...] = ()
    """Keep power-function averages of these relative widths, too, such as 0.05 0.1, and snapshots
    of them, of which "jaxdiff ema" makes averages of other widths afterwards (2312.02696).
    """
    snapshot_every: Count | None = None
    """Updates between snapshots; as --save-every by default. The last update always is one."""
    clip: Positive | None = 1.0
    """Largest norm of the gradient; None for any."""
    label_drop: Fraction = 0.1
    """Fraction of labels, and of measurements, dropped, for guidance."""
    measure: Measure | None = None
    """Train a restoration network, shown a measurement of each image (arXiv 2111.05826): of the
    presets super, deblur, inpaint and colour. jaxdiff restore --method network uses it.
    """
    latent: Latent | None = None
    """Train on the latents of an autoencoder (arXiv 2112.10752): of the preset latent."""
    sigma_data: Positive = 0.5
    """Standard deviation of the data, as EDM's preconditioning, its weight and trig assume it."""
    level_mean: Number | None = None
    """Mean of the log noise level in training, -1.2 by default, or of logit_normal's logit, 0."""
    level_std: Positive | None = None
    """Standard deviation of the log noise level in training, 1.2 by default, or of the logit, 1."""
    seed: Seed = 0
    save_every: Count = 500
    """Steps between checkpoints."""
    log: tuple[LogName, ...] = ()
    """Log to tensorboard, wandb (Weights & Biases) or trackio, beside the history: losses, norms of
    gradients, learning rate, samples per second, memory, samples and their distance to the data.
    """
    log_every: Count = 50
    """Updates between two rows of the history and the logs."""
    sample_every: Count | None = None
    """Updates between two looks at samples of the averaged parameters: a picture, and distances at
    several numbers of evaluations, in quality/ and the logs. By default a tenth of all with --log,
    else never.
    """
    parallel: Parallel = "jit"
    """Placement on several devices: parameters on every device (jit, pmap), or split over them
    (fsdp), which takes less memory and more communication.
    """
    devices: Count | None = None
    """Use so many devices; by default all."""
    gradient_accumulation: Count = 1
    """Take the batch in so many parts, one after the other: memory for one part is enough."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradient is not finite ends the run, its batch kept for a replay, or is
    skipped and counted.
    """
    init: str | None = None
    """Start from the parameters of this run (finished, or its latest checkpoint)."""


@dataclasses.dataclass(frozen=True)
class Distill:
    """Distil a trained run, or published weights, into a student that samples in one or two
    evaluations.
    """

    teacher: str
    """The teacher: a run, a file or folder of published weights or the name of their card, or
    module:FILE.py:FUNCTION, a function of yours that makes a model (the file is run).
    """
    run: str
    """Folder of the student's run."""
    method: MethodName = "easy_consistency"
    """How: any recipe of jaxdiff.recipes, with choices for a few thousand updates."""
    updates: Count = 2000
    """Updates in all. More than a run of one stage has made lengthen it, as in training."""
    batch: Count = 32
    """Images per update."""
    learning_rate: Positive = 1e-3
    """Rate of RAdam, after which it decays to zero by a cosine."""
    choices: dict[str, bool | int | float | str] = dataclasses.field(default_factory=dict)
    """Choices of the method, such as "q 2 stages 8" for easy_consistency; "--method NAME
    --help" lists the choices of a method. Several numbers are joined by commas: "windows 4,1".
    """
    ema: Below1 = 0.998
    """Decay of the averaged parameters that sampling uses; less at first, so that its
    half-life is at most a fifth of the updates made.
    """
    seed: Seed = 0
    save_every: Count = 500
    """Steps between checkpoints."""
    log: tuple[LogName, ...] = ()
    """Log to tensorboard, wandb (Weights & Biases) or trackio, beside the history: losses, norms of
    gradients, learning rate, samples per second, memory, samples and their distance to the data.
    """
    log_every: Count = 50
    """Updates between two rows of the history and the logs."""
    sample_every: Count | None = None
    """Updates between two looks at samples of the averaged parameters: a picture, and distances at
    several numbers of evaluations, in quality/ and the logs. By default a tenth of all with --log,
    else never.
    """
    parallel: Parallel = "jit"
    """Placement on several devices: parameters on every device (jit, pmap), or split over them
    (fsdp), which takes less memory and more communication.
    """
    devices: Count | None = None
    """Use so many devices; by default all."""
    gradient_accumulation: Count = 1
    """Take the batch in so many parts, one after the other: memory for one part is enough."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """A step whose loss or gradient is not finite ends the run, its batch kept for a replay, or is
    skipped and counted.
    """
    checkpoint: str | None = None
    """Instead of the finished teacher a checkpoint of its run: its step, or "latest". A teacher
    that is not finished gives its latest by default.
    """
    data: OtherData = OtherData()


@dataclasses.dataclass(frozen=True)
class Ema:
    """Make the model of a run whose parameters are another average than the run's own: a
    power-function average of any width, of the snapshots of a run trained with --ema-std (arXiv
    2312.02696), or a plain one that was kept with it, trained with several --ema.
    """

    run: str
    """Folder of the trained run."""
    out: str
    """Folder for the model, a run for every other command."""
    std: Width | None = None
    """Relative width of the average: its standard deviation as a fraction of the run."""
    decay: Below1 | None = None
    """Instead of a width, the decay of one of the averages of a run trained with several --ema, as
    it is in the last checkpoint.
    """
    updates: Count | None = None
    """Updates after which the average is taken, one of the snapshots; the last by default."""


@dataclasses.dataclass(frozen=True)
class Discriminate:
    """Train a discriminator that distinguishes a run's data with noise from the run's own samples
    with
    noise, for discriminator guidance: sample --discriminator FILE corrects the run's score by it.
    It is a head on the frozen features of the run's network.
    """

    run: str
    """The model, no student: a run, a file or folder of published weights or the name of their
    card, or module:FILE.py:FUNCTION, a function of yours that makes a model (the file is run).
    """
    out: str = "discriminator.npz"
    """The file."""
    count: Count = 4096
    """Images of the run's data, and as many samples of the same classes, to learn from. Of few it
    learns these by heart.
    """
    num_steps: Count = 20
    """Sampling steps of DPM-Solver++ that make a sample."""
    updates: Count = 1000
    """Updates of the discriminator."""
    batch: Count = 64
    """Images, and samples, per update, and samples made at a time."""
    learning_rate: Positive = 3e-4
    """Rate of Adam."""
    width: Count = 64
    """Hidden channels of the head."""
    low: Positive = 1e-3
    """Lowest noise level in training; they are even in their logarithm."""
    high: Positive = 152.0
    """Highest noise level in training."""
    seed: Seed = 0
    parallel: Parallel = "jit"
    """Placement on several devices: parameters on every device, or split over them (fsdp)."""
    devices: Count | None = None
    """Use so many devices; by default all."""
    checkpoint: str | None = None
    """Instead of the finished model a checkpoint of the run: its step, or "latest". A run that is
    not finished gives its latest by default.
    """
    data: OtherData = OtherData()
