"""The objective of a score network, its prediction, process, levels and weights: the
names of a configuration turned into the library's objects, and combinations without meaning
refused.
"""

from typing import Any, NamedTuple

from jaxdiff.app import config as configs
from jaxdiff.app.options import refuse
from jaxdiff.distill.parts import level_distributions as distributions
from jaxdiff.distill.parts import weightings
from jaxdiff.distill.parts.level_distributions import LevelDistribution
from jaxdiff.distill.parts.weightings import Weight
from jaxdiff.prediction import (
    edm_weight,
    snr_plus_one_weight,
    snr_weight,
    truncated_snr_weight,
    uniform_weight,
)
from jaxdiff.process import EDM, VP, Cosine, Process, RectifiedFlow, TrigFlow

PREDICTED = {"edm": "edm", "vp": "eps", "cosine": "eps", "flow": "flow", "trig": "flow"}
WEIGHTS: dict[str, Weight] = {
    "edm": edm_weight, "uniform": uniform_weight, "snr": snr_weight,
    "snr_plus_one": snr_plus_one_weight, "truncated_snr": truncated_snr_weight,
}  # fmt: skip
OF_TIMES = ("uniform", "logit_normal")
OBJECTIVE = ("levels", "level_mean", "level_std", "weighting", "snr_limit", "sigmoid_bias")
"""Options of the levels and of the weights of their errors, which a run keeps."""


class Objective(NamedTuple):
    """The objective of a run. prediction, process: how its network is made a denoiser. levels,
    weight: of :func:`jaxdiff.distill.score_matching.score_matching`.
    """

    prediction: str
    process: Process
    levels: LevelDistribution
    weight: Weight


def process_named(name: str, sigma_data: float) -> Process:
    """Return the process of a name, with its paper's numbers."""
    made: dict[str, Any] = {"edm": EDM, "vp": VP, "cosine": Cosine, "flow": RectifiedFlow}
    return TrigFlow(sigma_data) if name == "trig" else made[name]()  # type: ignore[return-value]


def predicted(config: configs.Train) -> str:
    """Return what a configuration's network predicts: as it says, or as its process's paper."""
    return config.prediction or PREDICTED[config.process]


def _levels_name(config: configs.Train) -> str:
    by_default = "log_normal" if config.process in ("edm", "trig") else "uniform"
    return config.levels or by_default


def objective(config: configs.Train) -> Objective:
    """Return the objective of a configuration.

    Raises ValueError for options that have no effect or no meaning together.
    """
    check_objective(config)
    process, prediction = process_named(config.process, config.sigma_data), predicted(config)
    levels = _levels(config, process)
    return Objective(prediction, process, levels, _weight(config, prediction, process, levels))


def check_objective(config: configs.Train) -> None:
    """Raise ValueError, naming them, for options without effect or meaning together."""
    prediction, levels = predicted(config), _levels_name(config)
    if config.process == "edm":
        if prediction != "edm":
            raise ValueError(
                f"--prediction {prediction} has no meaning with --process edm, whose network would "
                "see noise of standard deviation 80: give --process vp, cosine, flow or trig"
            )
        if levels in OF_TIMES:
            raise ValueError(
                f"--levels {levels} has no meaning with --process edm, whose time is the level "
                "itself: give another --process, or --levels log_normal"
            )
    elif prediction == "edm" and levels == "log_normal":
        raise ValueError(
            f"--process {config.process} would have no effect with --prediction edm and --levels "
            "log_normal: give another --prediction (eps, x0, v, flow, score), or --levels uniform"
        )
    if levels == "uniform":
        refuse(config, "uniform times have neither", "level_mean", "level_std")
    if config.weighting != "min_snr":
        refuse(config, "only --weighting min_snr has a limit", "snr_limit")
    if config.weighting != "sigmoid":
        refuse(config, "only --weighting sigmoid has a bias", "sigmoid_bias")
    if prediction != "edm" and config.process != "trig" and config.weighting != "edm":
        refuse(config, f"prediction {prediction} does not depend on it", "sigma_data")


def objective_text(config: configs.Train) -> str:
    """Return an objective in words."""
    return (
        f"the network predicts {predicted(config)} of the process {config.process}; "
        f"levels: {_levels_name(config)}; weight: {config.weighting}"
    )


def _levels(config: configs.Train, process: Process) -> LevelDistribution:
    name = _levels_name(config)
    if name == "uniform":
        return distributions.uniform_times(process)
    logit = name == "logit_normal"
    mean, std = (0.0, 1.0) if logit else (-1.2, 1.2)
    mean = mean if config.level_mean is None else config.level_mean
    std = std if config.level_std is None else config.level_std
    if logit:
        return distributions.logit_normal_process_times(process, mean, std)
    return distributions.log_normal(mean, std)


def _weight(
    config: configs.Train, prediction: str, process: Process, levels: LevelDistribution
) -> Any:
    if config.weighting == "prediction":
        return weightings.prediction_weight(prediction, process)
    if config.weighting == "min_snr":
        return weightings.min_snr(config.snr_limit)
    if config.weighting == "sigmoid":
        return weightings.sigmoid(levels, config.sigmoid_bias)
    return WEIGHTS[config.weighting]
