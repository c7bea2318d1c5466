"""Configurations of tuning samplers and of measuring samples, models and trajectories."""

import dataclasses
from typing import Literal

from jaxdiff.app.config_choices import (
    Parallel,
    SolverName,
    TunerName,
)
from jaxdiff.app.config_data import OtherData
from jaxdiff.ranges import (
    Count,
    Number,
    Positive,
    Scored,
    Seed,
    Several,
)


@dataclasses.dataclass(frozen=True)
class Tune:
    """Find the best sampler of a few evaluations for a trained run, or for an exact problem. The
    network stays as it is; the sampler is a small JSON table.
    """

    run: str | None = None
    """The model, no student: a run, a file or folder of published weights or the name of their
    card, or module:FILE.py:FUNCTION, a function of yours that makes a model (the file is run).
    """
    problem: str | None = None
    """Instead of a run, an exact problem of experiments.gym: mixture-2d, mixture-8d, gaussian."""
    nfe: tuple[Count, ...] = (5,)
    """Numbers of network evaluations, one sampler for each."""
    method: TunerName = "gs"
    """How. Levels: gits, ays, elbo, dmn (searched), ld3 (learned). Weights: s4s. Both: s4s_alt,
    bns, gs. Steps with learned intermediate times: bespoke, amed, epd. For the kernel distance to
    data, with
    noise: ggdm. Steps that depend on each sample, in a file that is used as a table is: pas (a
    solver's directions corrected), amed_predictor (intermediate times predicted from the network's
    own features).
    """
    choices: dict[str, bool | int | float | str] = dataclasses.field(default_factory=dict)
    """Choices of the method, such as "fine 80 measure l1" for gits; "--method NAME --help"
    lists the choices of a method. Several numbers are joined by commas: "discounts 1,1.15".
    """
    out: str = "runs/tuned"
    """Folder for the tables, one folder "nfe-N" for each number of evaluations."""
    solver: SolverName | None = None
    """Solver to start from; the best one by default."""
    order: Count | None = None
    """Its order."""
    pairs: Count = 256
    """Accurate trajectories to tune on; as many more are held out to choose by."""
    teacher_steps: Count = 40
    """Steps of UniPC that make an accurate trajectory."""
    updates: Count = 400
    """Updates of a method that learns."""
    batch: Several = 32
    """Trajectories per update."""
    rate: Positive | None = None
    """Learning rate, which falls to zero; by default 0.02, and in proportion less for batches below
    32, whose gradients have more noise: 0.005 for 8.
    """
    patience: Count | None = None
    """Stop after so many updates without a better held-out score."""
    distance: Literal["squared", "huber", "features"] = "squared"
    """Objective: squared or pseudo-Huber distance of samples, or the squared distance of
    what a classifier trained on the run's data sees.
    """
    guidance: Number | None = None
    """Classifier-free guidance weight to tune for."""
    low: Positive | None = None
    """Lowest noise level of the baselines' grids, by default 0.002, or that of published weights.
    """
    high: Positive | None = None
    """Noise level to start from, by default 80, or that of published weights."""
    remat: bool = False
    """Recompute evaluations in the gradient pass instead of storing them: memory hardly grows with
    the number of evaluations, for a third more time (on CPU, for several times the time).
    """
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


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Score a model's samples against real images."""

    run: str
    """The model: a run, a file or folder of published weights or the name of their card, or
    module:FILE.py:FUNCTION, a function of yours that makes a model (the file is run).
    """
    data: OtherData = OtherData()
    """Reference images; by default the part of the run's data that it was not trained on (the test
    split), or, where there is none, a third of those that it was.
    """
    reference: str | None = None
    """Reference, in place of the data: an .npz of statistics (mu and sigma of features,
    as pytorch-fid and EDM have them), or a folder, zip or .npz of images.
    """
    reference_count: Scored = 5000
    """Compare with so many real images at most, chosen at random."""
    save_statistics: str | None = None
    """Write the statistics of the reference's features to this .npz, a --reference of later."""
    labels: Literal["reference", "uniform"] = "reference"
    """Classes of the samples: each as often as in the reference, or all that are there as often.
    Runs of texts, pairs and measurements are given those of the reference's images.
    """
    out: str | None = None
    """File for the report (HTML, numbers beside it as JSON); evaluation.html in the run's folder
    by default, and here for published weights.
    """
    count: Scored = 1000
    """Samples."""
    batch: Count = 256
    """Samples at a time."""
    solver: SolverName | None = None
    """Solver of a teacher, dpmpp by default."""
    num_steps: tuple[Count, ...] = ()
    """Numbers of sampling steps to score: 5, 10 and 20 for a teacher, 1, 2 and 4 for a student by
    default.
    """
    table: str | None = None
    """A saved sampler table (JSON) to score, instead of solver and numbers of steps."""
    features: str = "classifier"
    """Features of the comparison: "classifier", a small one trained on other images with labels;
    "pixels"; "inception", for FID, KID and the Inception score; or a function of yours,
    "module:FILE.py:FUNCTION", of images (batch, height, width, channels), floats in [-1, 1], to
    features (batch, d).
    """
    inception_weights: str = "inception-fid"
    """Inception's weights: a file (.pth, .pt, .safetensors, .npz, .pickle) or an address; by
    default pytorch-fid's, fetched once.
    """
    inception_resize: Literal["tensorflow", "pytorch"] = "tensorflow"
    """Resizing to Inception's 299 x 299: as the distance was defined, and EDM and
    torch-fidelity compute it, or as pytorch-fid does.
    """
    guidance: Number | None = None
    """Classifier-free guidance weight."""
    discriminator: str | None = None
    """A discriminator of this run (jaxdiff discriminate), whose gradient corrects the score."""
    discriminator_weight: Number = 1.0
    """Weight of the discriminator's gradient."""
    seed: Seed = 0
    parallel: Parallel = "jit"
    """Placement on several devices: each makes its part of the samples, by jit or pmap; with fsdp
    the parameters are split over them, too. The samples do not depend on it.
    """
    devices: Count | None = None
    """Use so many devices; by default all."""
    checkpoint: str | None = None
    """Instead of the finished model a checkpoint of the run: its step, or "latest". A run that is
    not finished gives its latest by default.
    """


@dataclasses.dataclass(frozen=True)
class Analyse:
    """Show how a model samples: the geometry of its trajectories, step by step, each number beside
    that of a Gaussian with the data's mean and covariance and of the optimal denoiser of the finite
    data set, on the same noise (arXiv 2305.19947, 2405.11326, 2506.10177).

    Models are evaluated without a class where they can be, since the null models know of none.
    """

    run: str | None = None
    """The model: a run, a file or folder of published weights or the name of their card, or
    module:FILE.py:FUNCTION, a function of yours that makes a model (the file is run). A student is
    shown beside its teacher, which is the model.
    """
    problem: str | None = None
    """Instead of a run, an exact problem: mixture-2d, mixture-8d, gaussian."""
    students: tuple[str, ...] = ()
    """Runs of students of this model, to be compared with it."""
    out: str | None = None
    """File for the report (HTML, numbers beside it as JSON); analysis.html in the run's folder by
    default, and here for published weights and problems.
    """
    count: Several = 128
    """Trajectories."""
    num_steps: Several = 20
    """Euler's steps of a trajectory, as the papers have them."""
    label: str | None = None
    """Analyse one class, by its name or number, against the data of this class."""
    guidance: tuple[Number, ...] = (1.0, 2.0, 4.0, 7.5)
    """Classifier-free guidance weights to compare, for models that can be guided."""
    nfe: Several = 5
    """Evaluations for which levels are recommended and solvers compared."""
    metric: Literal["sliced Wasserstein", "Frechet distance", "MMD^2"] = "sliced Wasserstein"
    """Features that compare states and denoised outputs of every level with data, number by
    number."""
    low: Positive | None = None
    """Lowest noise level, by default 0.002, or that of published weights."""
    high: Positive | None = None
    """Noise level to start from, by default 80, or that of published weights."""
    seed: Seed = 0
    checkpoint: str | None = None
    """Instead of the finished model a checkpoint of the run: its step, or "latest". A run that is
    not finished gives its latest by default.
    """
    data: OtherData = OtherData()
    """Data of the null models: by default those the model was trained on; where that is
    not known, 2048 samples of the model itself.
    """
