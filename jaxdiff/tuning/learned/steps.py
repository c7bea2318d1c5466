"""Learned steps that are no table: saved, loaded and sampled as a table is.

What :mod:`jaxdiff.tuning.learned.pas` and :mod:`jaxdiff.tuning.learned.amed` find depends on each
sample, so that no table holds it. A :class:`Learned` takes a table's place in a
:class:`jaxdiff.sampling.sampler.Sampler`; its file is JSON, as a table's is:

    format  "jaxdiff-steps-1"
    kind    "pas" or "amed"
    name, options, metadata as of a table: where it comes from, its model's fingerprint and scores
    nfe     evaluations of the network
    steps   of "pas": the corrections (``Corrections.to_dict``); of "amed": levels, the
            predictor's sizes, the solver's step and first step by name, and the predictor's
            parameters as nested lists
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxdiff.files import read_json, real_array, write_text
from jaxdiff.sampling.table import Label, Table, label_of, table_of_dict
from jaxdiff.solvers.amed import amed_dpm2_step, amed_step
from jaxdiff.solvers.amed_plugin import amed_dpmpp_step, amed_ipndm_step
from jaxdiff.solvers.scalar import check_levels
from jaxdiff.solvers.steps import unit_first
from jaxdiff.tuning.learned.amed import Predicted, Solve
from jaxdiff.tuning.learned.amed_network import Predictor, init
from jaxdiff.tuning.learned.pas import Corrections, corrections_of_dict
from jaxdiff.typing import Array, Cond, Denoiser, Params

FORMAT = "jaxdiff-steps-1"
STEPS: dict[str, Callable[..., Any]] = {
    "amed": amed_step,
    "amed_dpm2": amed_dpm2_step,
    "amed_ipndm": amed_ipndm_step,
    "amed_dpmpp": amed_dpmpp_step,
}
FIRSTS: dict[str | None, Callable[..., Any] | None] = {None: None, "unit_first": unit_first}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Learned:
    """Learned steps with their name and what they were made for: a pytree.

    steps: corrections of a solver, or predictions of its intermediate times. label: as of a table.
    """

    steps: Corrections | Predicted
    label: Label = dataclasses.field(default=Label(), metadata={"static": True})

    @property
    def kind(self) -> str:
        """Of its file: "pas" or "amed"."""
        return "pas" if isinstance(self.steps, Corrections) else "amed"

    @property
    def levels(self) -> Any:
        """(num_steps + 1,) noise levels of the start and of the states."""
        return self.steps.levels

    @property
    def nfe(self) -> int:
        """Number of network evaluations (an analytic first step costs none)."""
        return self.steps.nfe

    @property
    def stochastic(self) -> bool:
        """False: they draw no noise."""
        return False

    @property
    def name(self) -> str:
        """Return the method's name."""
        return self.label.name or self.kind

    @property
    def metadata(self) -> dict[str, Any]:
        """Return where they come from: their model, objective, scores."""
        return self.label.metadata

    def with_metadata(self, **metadata: Any) -> "Learned":
        """Return the same steps with more metadata, plain values that their file will hold."""
        label = Label(self.name, self.label.options, self.metadata | metadata)
        return dataclasses.replace(self, label=label)

    def __repr__(self) -> str:
        return f"Learned({self.name}, nfe={self.nfe})"

    def sample(self, denoiser: Denoiser, start: Array, cond: Cond = None) -> Array:
        """Return the samples of starts (batch, *shape) at the first level."""
        return self.steps.sample(denoiser, start, cond)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, everything needed to run them."""
        text = {"format": FORMAT, "kind": self.kind, "name": self.name}
        text |= {"options": self.label.options, "metadata": self.metadata, "nfe": self.nfe}
        steps = self.steps
        return text | {
            "steps": steps.to_dict()
            if isinstance(steps, Corrections)
            else _predicted_to_dict(steps)
        }

    def save(self, path: str | pathlib.Path) -> None:
        """Write them as JSON, whole or not at all. ValueError for numbers that are not finite."""
        write_text(path, json.dumps(self.to_dict(), indent=1, allow_nan=False))


def load_steps(path: str | pathlib.Path) -> Table | Learned:
    """Read a table, or what :meth:`Learned.save` wrote. ValueError if the file is neither, or
    damaged.
    """
    text = read_json(path)
    if not isinstance(text, dict) or text.get("format") != FORMAT:
        return table_of_dict(text, str(path))
    try:
        read = {"pas": corrections_of_dict, "amed": _predicted}[text["kind"]]
        label = label_of(text["name"], text["options"], text["metadata"])
        made = Learned(read(text["steps"]), label)
        if text["nfe"] != made.nfe:
            raise ValueError(f"it states {text['nfe']!r} evaluations, and makes {made.nfe}")
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{path} holds damaged steps: {error!r}") from error
    return made


def _predicted_to_dict(steps: Predicted) -> dict[str, Any]:
    solve = steps.solve
    step = next((name for name, f in STEPS.items() if f is solve.step), None)
    first = next((name for name, f in FIRSTS.items() if f is solve.first), None)
    if step is None or FIRSTS[first] is not solve.first:
        raise ValueError(f"a file names {', '.join(STEPS)} and unit_first, not what {solve} takes")
    params = jax.tree.map(lambda x: np.asarray(x, np.float64).tolist(), steps.params)
    return {
        "levels": list(map(float, solve.levels)), "predictor": solve.predictor._asdict(),
        "step": step, "first": first, "params": params,
    }  # fmt: skip


def _predicted(text: dict[str, Any]) -> Predicted:
    own = text["predictor"]
    if set(own) != set(Predictor._fields):
        raise ValueError(f"a predictor has {Predictor._fields}, not {sorted(own)}")
    for name in ("inputs", "index"):
        if own[name] is not None and type(own[name]) is not int:
            raise TypeError(f"{name} of the predictor is a whole number or null")
    ranges = {name: float(real_array([own[name]])[0]) for name in ("direction", "time")}
    predictor = Predictor(**own | ranges)
    levels = tuple(map(float, check_levels(real_array(text["levels"]))))
    solve = Solve(levels, predictor, STEPS[text["step"]], FIRSTS[text["first"]])
    return Predicted(_params(text["params"], predictor), solve)


def _params(text: Any, predictor: Predictor) -> Params:
    """Return the parameters of a predictor, of the shapes that it has."""
    wanted = jax.eval_shape(lambda: init(jax.random.key(0), predictor))
    shapes = {k: {n: a.shape for n, a in layer.items()} for k, layer in wanted.items()}
    read = {
        k: {n: real_array(a).astype(np.float32) for n, a in layer.items()}
        for k, layer in text.items()
    }
    stated = {k: {n: a.shape for n, a in layer.items()} for k, layer in read.items()}
    if stated != shapes:
        raise ValueError(f"parameters of shapes {stated} are not those of {predictor}")
    if not all(np.isfinite(a).all() for a in jax.tree.leaves(read)):
        raise ValueError("its parameters are not finite")
    return read
