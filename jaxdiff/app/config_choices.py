"""Names that options of several commands are chosen by."""

from typing import TYPE_CHECKING, Literal

from jaxdiff.recipes import RECIPES
from jaxdiff.recipes.scenes import OF_IMAGES
from jaxdiff.recipes.tuning import TUNERS
from jaxdiff.solvers import SOLVERS

Parallel = Literal["jit", "fsdp", "pmap"]
if TYPE_CHECKING:  # names of the lists of solvers, recipes and tuners
    SolverName = str
    MethodName = str
    TunerName = str
    SceneMethodName = str
else:
    SolverName = Literal[tuple(known.name for known in SOLVERS if known.command_line)]
    MethodName = Literal[tuple(RECIPES)]
    TunerName = Literal[tuple(TUNERS)]
    SceneMethodName = Literal[tuple(OF_IMAGES)]
ProcessName = Literal["edm", "vp", "cosine", "flow", "trig"]
PredictionName = Literal["edm", "eps", "x0", "v", "flow", "score"]
LevelsName = Literal["log_normal", "uniform", "logit_normal"]
WeightingName = Literal[
    "prediction", "edm", "uniform", "snr", "snr_plus_one", "truncated_snr", "min_snr", "sigmoid"
]
LogName = Literal["tensorboard", "wandb", "trackio"]
GridName = Literal["karras", "log_snr", "vp_time", "arctan", "cosine"]
EndName = Literal["zero", "lowest", "denoise"]
