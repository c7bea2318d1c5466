"""``--cite``: BibTeX of the papers of what a command would do, which it then does not do."""

from pathlib import Path
from typing import Any

from jaxdiff.app import config as configs
from jaxdiff.app import config_file
from jaxdiff.citing import cite

ADAPTERS = {  # by kind, as jaxdiff adapt --help-all has them
    "lora": ["2106.09685"], "dora": ["2402.09353"], "svdiff": ["2303.11305"], "whole": [],
    "dreambooth": ["2208.12242"], "textual-inversion": ["2208.01618"], "custom": ["2212.04488"],
    "controlnet": ["2302.05543"], "t2i": ["2302.08453"], "ip": ["2308.06721"],
    "gligen": ["2301.07093"],
}  # fmt: skip


def cited(config: Any) -> str:
    """Return the BibTeX entries of a command's configuration.

    Raises:
        ValueError: for a command without methods of papers, and a sampler that nothing is known of.
    """
    parts = {
        configs.Train: _of_training, configs.Distill: lambda c: [c.method],
        configs.Tune: lambda c: [c.method], configs.Sample: _of_sampling,
        configs.Demo: _of_demo, configs.Adapt: lambda c: ADAPTERS[c.kind],
    }  # fmt: skip
    if type(config) not in parts:
        known = ", ".join(kind.__name__.lower() for kind in parts)
        raise ValueError(f"--cite goes with {known}; jaxdiff list has the papers of all else")
    found = parts[type(config)](config)
    if not found:
        raise ValueError("what is chosen is of no paper")
    return cite(*found)


def _of_training(config: Any) -> list[Any]:
    """Score matching, and what is said of the choices: process, prediction, network."""
    from jaxdiff import distill, networks, process

    kinds = {"edm": "EDM", "vp": "VP", "cosine": "Cosine", "flow": "RectifiedFlow"}
    chosen = getattr(process, kinds.get(config.process, "TrigFlow"))
    network = getattr(networks, type(config.network).__name__, None)
    return [distill.score_matching, chosen, *([network] if network else [])]


def _of_sampling(config: Any) -> list[Any]:
    """Return the table or solver, the grid and the guidance; of a student, its method."""
    from jaxdiff import grids, guidance
    from jaxdiff.sampling.table import load_table

    steered = [guidance.classifier_free] if config.guidance is not None else []
    if config.table:
        return [load_table(config.table), *steered]
    method = _method_of(config.run)
    if method and not config.solver:
        return [method, *steered]
    spaced = [getattr(grids, config.grid)] if config.grid == "karras" else []
    return [config.solver or "dpmpp", *spaced, *steered]


def _method_of(run: str) -> str:
    """Return the method that a run's student was made by, "" for all that is not a student."""
    if not (Path(run) / "config.json").exists():
        return ""
    return getattr(config_file.load_known(run)[0], "method", "")


def _of_demo(config: Any) -> list[Any]:
    """Return score matching, the method of distillation and every solver of the sweep."""
    from jaxdiff import distill
    from jaxdiff.solvers import SOLVERS

    return [distill.score_matching, config.method, *(s for s in SOLVERS if s.demo is not None)]
