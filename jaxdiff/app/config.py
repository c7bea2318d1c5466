"""Typed configurations of the command line, one a command: frozen dataclasses of plain values."""

import dataclasses

from jaxdiff.app.config_adapt import Adapt as Adapt
from jaxdiff.app.config_adapt import AdaptData as AdaptData
from jaxdiff.app.config_adapt import AdapterKind as AdapterKind
from jaxdiff.app.config_choices import EndName as EndName
from jaxdiff.app.config_choices import GridName as GridName
from jaxdiff.app.config_choices import LevelsName as LevelsName
from jaxdiff.app.config_choices import LogName as LogName
from jaxdiff.app.config_choices import MethodName as MethodName
from jaxdiff.app.config_choices import Parallel as Parallel
from jaxdiff.app.config_choices import PredictionName as PredictionName
from jaxdiff.app.config_choices import ProcessName as ProcessName
from jaxdiff.app.config_choices import SceneMethodName as SceneMethodName
from jaxdiff.app.config_choices import SolverName as SolverName
from jaxdiff.app.config_choices import TunerName as TunerName
from jaxdiff.app.config_choices import WeightingName as WeightingName
from jaxdiff.app.config_data import Data as Data
from jaxdiff.app.config_data import OtherData as OtherData
from jaxdiff.app.config_data import of_run as of_run
from jaxdiff.app.config_evaluate import Analyse as Analyse
from jaxdiff.app.config_evaluate import Evaluate as Evaluate
from jaxdiff.app.config_evaluate import Tune as Tune
from jaxdiff.app.config_latent import Latent as Latent
from jaxdiff.app.config_measure import Measure as Measure
from jaxdiff.app.config_network import MLP as MLP
from jaxdiff.app.config_network import DiT as DiT
from jaxdiff.app.config_network import Module as Module
from jaxdiff.app.config_network import Network as Network
from jaxdiff.app.config_network import TextUNet as TextUNet
from jaxdiff.app.config_network import UNet as UNet
from jaxdiff.app.config_restore import Edit as Edit
from jaxdiff.app.config_restore import Restore as Restore
from jaxdiff.app.config_runs import Compare as Compare
from jaxdiff.app.config_runs import Runs as Runs
from jaxdiff.app.config_sample import Export as Export
from jaxdiff.app.config_sample import Inspect as Inspect
from jaxdiff.app.config_sample import List as List
from jaxdiff.app.config_sample import Optimise as Optimise
from jaxdiff.app.config_sample import Sample as Sample
from jaxdiff.app.config_train import Discriminate as Discriminate
from jaxdiff.app.config_train import Distill as Distill
from jaxdiff.app.config_train import Ema as Ema
from jaxdiff.app.config_train import Train as Train
from jaxdiff.ranges import (
    Count,
    Seed,
)


@dataclasses.dataclass(frozen=True)
class Demo:
    """The main job on real images: train, sample with every solver, distil, measure, report.
    Minutes on two cores; a minute with --quick.
    """

    quick: bool = False
    """Start from the model of digits that comes with the package, compare five solvers at three
    numbers of evaluations, and distil for 200 updates.
    """
    out: str = "runs/demo"
    """Folder for the report and the runs. Finished parts found there are not made again."""
    train_updates: Count = 2000
    """Updates of the teacher."""
    method: MethodName = "easy_consistency"
    """Configuration of the distillation."""
    distill_updates: Count | None = None
    """Updates of the student; by default 1500, or 200 with --quick."""
    count: Count = 360
    """Samples per score."""
    nfe: tuple[Count, ...] | None = None
    """Numbers of network evaluations to sample with, by default 3 5 7 11 35, or 3 5 9 with
    --quick; odd, so that solvers of two evaluations per step have them too.
    """
    seed: Seed = 0
    fresh: bool = False
    """Start anew: do not use what an earlier call left in the folder."""
