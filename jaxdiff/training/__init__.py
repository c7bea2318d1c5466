"""Training: the one loop over a method's players, moving averages, checkpoints and devices."""

from jaxdiff.training.checkpoint import latest_step, load_params, restore, save, save_params
from jaxdiff.training.fit_stages import fit_stages, split_updates
from jaxdiff.training.history import read_history
from jaxdiff.training.loop import fit
from jaxdiff.training.nonfinite import replay
from jaxdiff.training.step import State, due, init_state, update

__all__ = [
    "State",
    "due",
    "fit",
    "fit_stages",
    "init_state",
    "latest_step",
    "load_params",
    "read_history",
    "replay",
    "restore",
    "save",
    "save_params",
    "split_updates",
    "update",
]
