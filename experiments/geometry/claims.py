"""The fifteen claims on the geometry of sampling: what is measured of each, and what follows.

Every claim has one number of a model. Where the Gaussian's differs from the network's by less than
``CLOSE`` of it on every data set, second-order statistics of the data suffice; where only the
finite data set's does, the claim is of recalled data; else it needs a network.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

CLOSE = 0.2
GAUSSIAN, FINITE, NETWORK = "Gaussian", "finite data set", "model"
SUFFICES = "second-order statistics suffice"
RECALLS = "memorisation"
NEEDS = "needs a network"
Numbers = Mapping[str, Any]


class Claim(NamedTuple):
    """name: G1 to G15. said: the claim. how: what is measured. of: its number of a model, from the
    numbers of a data set and the model's name, None where it has none. verdict: what follows, None
    for the rule of the module. percent: how the number is shown.
    """

    name: str
    said: str
    how: str
    of: Callable[[Numbers, str], float | None]
    verdict: str | None = None


def summary(key: str) -> Callable[[Numbers, str], float | None]:
    """Return the reader of one quantity of a model's trajectories."""
    return lambda numbers, name: numbers["paths"][name]["summary"][key]


def shape_apart(numbers: Numbers, name: str) -> float:
    """Return the root mean square difference of the deviation's curve, its peak being 1, from the
    curve of the first model.
    """
    first = next(iter(numbers["paths"]))
    curves = [np.array(numbers["paths"][n]["deviation"]["mean"]) for n in (first, name)]
    a, b = (curve / max(curve.max(), 1e-30) for curve in curves)
    return float(np.sqrt(np.mean((a - b) ** 2)))


def arrives(numbers: Numbers, name: str) -> float:
    """Return the denoised output's distance to its end over that of the state, at the start."""
    found = numbers["paths"][name]["summary"]
    return found["|D - last D| first"] / found["|x - end| first"]


def grows(numbers: Numbers, name: str) -> float:
    """Return how many times the norm of D grows."""
    found = numbers["paths"][name]["summary"]
    return found["|D| last"] / found["|D| first"]


def still_noise(numbers: Numbers, name: str) -> float:
    """Return |eps| at half of all levels over its value at the first."""
    curve = numbers["paths"][name]["norm of eps"]["mean"]
    return curve[len(curve) // 2] / curve[0]


def rises(numbers: Numbers, name: str) -> float | None:
    """Return at which share of states the density is higher at the denoised output."""
    known = numbers.get("likelihood", {}) or {
        n: one["density rises"] for n, one in numbers["optimal"].get("models", {}).items()
    }
    return known[name]["jump"] if name in known else None


def deviates(numbers: Numbers, name: str) -> float | None:
    """Return the largest distance to the optimal denoiser, on the optimal path."""
    models = numbers["optimal"].get("models", {GAUSSIAN: numbers["optimal"]})
    one = models.get(name, {})
    return max(one["on the optimal path"]) if "on the optimal path" in one else None


def nearest(numbers: Numbers, name: str) -> float | None:
    """Return the median distance of ends to the nearest of the data."""
    if "copies" in numbers:
        return numbers["copies"][name]["median"] if name in numbers["copies"] else None
    return numbers["nearest"].get(name)


def jumps(numbers: Numbers, name: str) -> float | None:
    """Return at which share of levels the denoised output is nearer to data than the state."""
    if "convergence" not in numbers:
        return None
    one = numbers["convergence"]["models"][name]
    return float(np.mean(np.array(one["D"]) <= np.array(one["x"])))


def middle(numbers: Numbers, name: str) -> float | None:
    """Return the spread of ends half-way on the straight line between noises, over that at its
    ends.
    """
    if "interpolation" in numbers and name == GAUSSIAN:
        return numbers["interpolation"]["linear"]["end"]
    models = numbers.get("latent", {}).get("models", {})
    if name not in models:
        return None
    curve = models[name]["linear"]["end"]
    return curve[len(curve) // 2] / (0.5 * (curve[0] + curve[-1]))


def moved(numbers: Numbers, name: str) -> float | None:
    """Return a student's distance to the end over its teacher's, in the mean over levels."""
    models = [one for n, one in numbers.get("distillation", {}).get("models", {}).items()
              if n != "teacher"]  # fmt: skip
    return models[0]["share"] if models and name == NETWORK else None


CLAIMS = (
    Claim("G1", "sampling trajectories are nearly straight",
          "peak distance of x from its chord / chord", summary("peak deviation / chord")),
    Claim("G2", "all have one shape: straight, bent, straight",
          "rms distance of the deviation's curve, its peak 1, from the network's", shape_apart,
          SUFFICES),
    Claim("G3", "the denoising trajectory converges faster",
          "|D - last D| / |x - end| at the start", arrives),
    Claim("G4", "the norm of D grows along the way", "|D| at the end / at the start", grows),
    Claim("G5", "|eps| is sqrt(d) on most of the way",
          "|eps| after half of the steps / at the start", still_noise),
    Claim("G6", "a trajectory lies in a plane beside its chord",
          "share of two components, per trajectory", summary("top 2 of a path's rest")),
    Claim("G6b", "all trajectories lie in few dimensions",
          "share of two components, all trajectories pooled", summary("top 2 of all paths' rest")),
    Claim("G7", "each denoising step raises the likelihood",
          "share of states with log p(D(x)) >= log p(x)", rises),
    Claim("G8", "the score deviates from the optimal one at middle levels",
          "largest |D(x*) - D*(x*)|", deviates),
    Claim("G9", "the optimal path ends in the data, the learned one does not",
          "median distance of ends to the data", nearest),
    Claim("G10", "stopping early with a jump is better than stopping",
          "share of levels at which D is nearer to data than x", jumps),
    Claim("G11", "noises must be interpolated on the sphere",
          "spread of the ends in the middle of a straight line / at its ends", middle),
    Claim("G12", "distillation moves D to the end of the path",
          "|D_student - end| / |D - end|, summed over levels", moved, NEEDS),
    Claim("G13", "curvature and torsion peak late on the path",
          "level of the largest curvature", lambda numbers, name: bends(numbers, name)),
    Claim("G14", "the path is hardly longer than its chord", "path length / chord",
          summary("path / chord")),
    Claim("G15", "shapes are those of a simple model of data",
          "level of the peak deviation", summary("at level")),
)  # fmt: skip


def bends(numbers: Numbers, name: str) -> float | None:
    """Return the level of the largest mean curvature."""
    one = numbers["paths"][name].get("curvature")
    return None if one is None else one["levels"][int(np.argmax(one["mean"]))]


def verdict(claim: Claim, values: Sequence[Sequence[float | None]]) -> str:
    """Return what follows from (network, Gaussian, finite data set) of several data sets."""
    if claim.verdict is not None:
        return claim.verdict

    def close(k: int) -> bool:
        pairs = [(v[0], v[k]) for v in values]
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        gaps = [abs(b - a) / max(abs(a), 1e-12) for a, b in known]
        return bool(gaps) and max(gaps) <= CLOSE

    if not any(network is not None for network, *_ in values):
        return "not measured of a network"
    return SUFFICES if close(1) else RECALLS if close(2) else NEEDS
