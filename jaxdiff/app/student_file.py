"""Metadata of a student's file: how it samples, as plain values that name nothing but what is
listed here, and no code.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.app.network import with_log_variance
from jaxdiff.denoisers import conditioned_call, denoiser, description
from jaxdiff.distill.flow_map.times import saturating
from jaxdiff.distill.parts.guidance_weights import range_of
from jaxdiff.distill.trajectory.trajectory_operator import nearest
from jaxdiff.files import real_array
from jaxdiff.pretrained.model import Pretrained
from jaxdiff.process import EDM, VP, Cosine, RectifiedFlow, TrigFlow
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.typing import Denoiser, Params

STEPS = (1, 2, 3, 4, 5, 6, 8)
WRAPPERS: dict[str, Callable[..., Any]] = {
    "conditioned": conditioned_call,
    "flow map of trajectories": nearest,
}
LABELS: dict[str, Any] = {"default": None, "saturating": saturating}
PARTS = {"table", "denoiser", "latent", "guidance", "guidance_range"}  # of a sampler
SOURCE = "source"  # what a student has in common with the published model it comes from
PROCESSES: dict[str, Any] = {p.__name__: p for p in (EDM, VP, Cosine, RectifiedFlow, TrigFlow)}


def sampler_metadata(
    sampler: Callable[..., Sampler], source: Pretrained | None = None
) -> dict[str, Any]:
    """Return what ``sampler(num_steps=n)`` gives, as plain values, by steps. Numbers of steps that
    the method refuses are left out; for a sampler with an option ``guidance`` there is what weights
    0 and 1 give, between and beyond which its numbers are linear, and the range of weights that it
    takes. source: the published model of
    which it is a student.
    """
    guided = "guidance" in inspect.signature(sampler).parameters
    samplers: dict[str, Any] = {}
    for num_steps in STEPS:
        try:
            made = sampler(num_steps=num_steps, ema="average")
        except ValueError:
            continue
        entry: dict[str, Any] = {
            "table": made.table.to_dict(), "denoiser": encode(made.denoiser, source),
            "latent": made.latent,
        }  # fmt: skip
        if guided:
            known = range_of(sampler)
            low, high = known or (0.0, 1.0)
            ends = [sampler(num_steps=num_steps, ema="average", guidance=w) for w in (low, high)]
            first, last = (encode(one.denoiser, source) for one in ends)
            apart = (high - low) or 1.0
            entry["guidance"] = [blend(first, last, (w - low) / apart) for w in (0.0, 1.0)]
            entry |= {} if known is None else {"guidance_range": [low, high]}
        samplers[str(num_steps)] = entry
    if not samplers:
        raise ValueError(f"the method samples in none of {STEPS} steps")
    return samplers


def encode(D: Any, source: Pretrained | None = None) -> dict[str, Any]:
    """Return how a denoiser is made of its network's parameters, as plain values. TypeError for one
    that is made of anything unknown.

    source: the published model whose network, label and process are named as its own.
    """
    if (name := next((n for n, f in WRAPPERS.items() if f is D.func), None)) is not None:
        first, *rest = D.args
        plain = jax.tree.map(lambda x: np.asarray(x, np.float64).tolist(), rest)
        return {"wrapper": name, "of": encode(first, source), "arguments": plain}
    made = {} if source is None else description(source.denoiser) or {}
    label = next((n for n, f in LABELS.items() if f is D.func.label), None)
    label = SOURCE if made and D.func.label == made["label"] else label
    network = SOURCE if made and D.func.apply == made["network"] else type(D.func.apply).__name__
    if label is None or network not in ((SOURCE,) if made else ("Linen", "Temporal")):
        raise TypeError(f"a student of network {network} and label {D.func.label} cannot be saved")
    _, process, sigma_data, sigma_min = D.args
    return {
        "prediction": D.func.prediction,
        "process": _process(process, made),
        "label": label,
        "sigma_data": float(sigma_data),
        "sigma_min": float(sigma_min),
        "network": network,
        "log_variance": network != SOURCE and getattr(D.func.apply.module, "log_variance", False),
    }


def _process(process: Any, made: dict[str, Any]) -> str | list[Any]:
    """Return a process by its name and numbers, or as the source's own."""
    if made and _same(process, made["process"]):
        return SOURCE
    if type(process).__name__ not in PROCESSES:
        raise TypeError(f"a student of process {type(process).__name__} cannot be saved")
    fields = {f.name: float(getattr(process, f.name)) for f in dataclasses.fields(process)}
    return [type(process).__name__, fields]


def _same(a: Any, b: Any) -> bool:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=False)
    return type(a) is type(b) and all(np.array_equal(x, y) for x, y in pairs)


def decode(
    text: dict[str, Any], module: Any, params: Params, source: Pretrained | None = None
) -> Any:
    """Return the denoiser of the output of :func:`encode`. ValueError for any other value."""
    try:
        return _decoded(text, module, params, source)
    except Exception as error:  # as many types as there are mistakes
        raise ValueError(f"a student's denoiser cannot be {text!r:.60}: {error!r}") from error


def _decoded(text: dict[str, Any], module: Any, params: Params, source: Pretrained | None) -> Any:
    from jaxdiff.networks.adapters import from_linen
    from jaxdiff.networks.temporal import Temporal

    if "wrapper" in text:
        numbers = [_arrays(given) for given in text["arguments"]]
        first = _decoded(text["of"], module, params, source)
        return jax.tree_util.Partial(WRAPPERS[text["wrapper"]], first, *numbers)
    if type(text["log_variance"]) is not bool:
        raise TypeError("'log_variance' should be true or false")
    own = {} if source is None else description(source.denoiser) or {}
    network, label, process = (text[name] for name in ("network", "label", "process"))
    if network == SOURCE:
        apply = own["network"]
    else:
        made = {"Linen": from_linen, "Temporal": Temporal}[network]
        apply = made(with_log_variance(module, text["log_variance"]))
    return denoiser(
        apply, params, prediction=text["prediction"],
        process=own["process"] if process == SOURCE else _process_of(*process),
        sigma_data=_number(text["sigma_data"]), sigma_min=_number(text["sigma_min"]),
        label=own["label"] if label == SOURCE else LABELS[label],
        compute_dtype=own.get("compute_dtype"),
    )  # fmt: skip


def _process_of(name: str, fields: dict[str, Any]) -> Any:
    return PROCESSES[name](**{k: _number(v) for k, v in fields.items()})


def _number(given: Any) -> float:
    if type(given) not in (int, float) or not math.isfinite(given):
        raise TypeError(f"{given!r:.60} is not a number")
    return float(given)


def _arrays(given: Any) -> Any:
    """Return an argument of a wrapper: an array, or a dictionary of arrays."""
    if isinstance(given, dict):
        return {k: _arrays(v) for k, v in given.items()}
    numbers = real_array(given)
    if not (np.abs(numbers) < np.finfo(np.float32).max).all():
        raise ValueError(f"{given!r:.60} is not finite in single precision")
    return jnp.asarray(numbers, jnp.float32)


def blend(a: Any, b: Any, w: float) -> Any:
    """Return a + w (b - a) for every float in two trees of plain values that agree in the rest."""
    if isinstance(a, dict):
        return {k: blend(a[k], b[k], w) for k in a}
    if isinstance(a, list):
        return [blend(x, y, w) for x, y in zip(a, b, strict=True)]
    return a + w * (b - a) if isinstance(a, float) else a


def load_denoiser(
    metadata: dict[str, Any], params: Params, module: Any, source: Pretrained | None = None
) -> Denoiser:
    """Return the denoiser of a saved student, as it samples in the fewest steps. ValueError if it
    does not say how it samples.
    """
    first = next(iter(_samplers(metadata).values()))
    return decode(first["denoiser"], module, params, source)


def _samplers(metadata: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the output of :func:`sampler_metadata`. ValueError for any other value."""
    try:
        samplers = {
            str(int(num_steps)): dict(entry) for num_steps, entry in metadata["samplers"].items()
        }
        whole = bool(samplers) and type(metadata["method"]) is str
    except Exception as error:  # as many types as there are mistakes
        raise ValueError(f"it does not say how the student samples: {error!r}") from error
    if not whole or not all(_whole(entry) for entry in samplers.values()):
        raise ValueError(f"so no student samples: {samplers!r:.60}")
    return samplers


def _whole(entry: dict[str, Any]) -> bool:
    """Return whether an entry has its parts, of which table and denoiser say themselves if they
    cannot be read.
    """
    latent, ends = entry.get("latent", 0), entry.get("guidance", [0, 1])
    known = entry.get("guidance_range", [0.0, 1.0])
    return (
        {"table", "denoiser"} <= {*entry} <= PARTS
        and type(known) is list
        and [type(w) for w in known] == [float, float]
        and type(latent) is int
        and latent >= 0
        and type(ends) is list
        and len(ends) == 2
    )
