"""The fifteen claims on the geometry of sampling: what is measured of each, and what follows.

Every claim has one number of a model, and says of which numbers it holds. Where it holds of the
Gaussian wherever it does of the networks, second-order statistics of the data suffice for it; where
only of the finite data set, it is of recalled data; else it needs a network. How far the Gaussian's
number is from the network's is another question, and stands beside.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

GAUSSIAN, FINITE, NETWORK = "Gaussian", "finite data set", "model"
SUFFICES = "second-order statistics suffice"
RECALLS = "memorisation"
NEEDS = "needs a network"
Numbers = Mapping[str, Any]


class Claim(NamedTuple):
    """name: G1 to G15. said: the claim. how: what is measured. of: its number of a model, from the
    numbers of a data set and the model's name, None where it has none. holds: whether the claim
    holds of a number, given the network's of the same data set. verdict: what follows where the
    rule of the module does not apply. reported: the number of EDM's network for CIFAR-10, from the
    authors' notebook.
    """

    name: str
    said: str
    how: str
    of: Callable[[Numbers, str], float | None]
    holds: Callable[[float, float | None], bool]
    verdict: str | None = None
    reported: float | None = None


def below(limit: float) -> Callable[[float, float | None], bool]:
    """Return whether numbers are below a limit."""
    return lambda value, network: value < limit


def above(limit: float) -> Callable[[float, float | None], bool]:
    """Return whether numbers are above a limit."""
    return lambda value, network: value > limit


def like_the_network(value: float, network: float | None) -> bool:
    """Return whether a level is at most one and a half times the network's, or that below it."""
    return network is None or max(value, network) <= 1.5 * min(value, network)


def summary(key: str) -> Callable[[Numbers, str], float | None]:
    """Return the reader of one quantity of a model's trajectories."""
    return lambda numbers, name: numbers["paths"][name]["summary"][key]


def shape_apart(numbers: Numbers, name: str) -> float | None:
    """Return the root mean square difference of the deviation's curve, its peak being 1, from the
    network's; None without a network.
    """
    if NETWORK not in numbers["paths"]:
        return None
    curves = [np.array(numbers["paths"][n]["deviation"]["mean"]) for n in (NETWORK, name)]
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
    """Return the level of the largest maximum, within the path, of the distance to the optimal
    denoiser on the optimal path; None without one.
    """
    models = numbers["optimal"].get("models", {GAUSSIAN: numbers["optimal"]})
    curve = models.get(name, {}).get("on the optimal path")
    if curve is None:
        return None
    inner = [n for n in range(1, len(curve) - 1) if curve[n] == max(curve[n - 1 : n + 2])]
    return numbers["levels"][max(inner, key=curve.__getitem__)] if inner else None


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
    if name in numbers.get("interpolation", {}):
        return numbers["interpolation"][name]["linear"]["end"]
    models = numbers.get("latent", {}).get("models", {})
    if name not in models:
        return None
    curve = models[name]["linear"]["end"]
    return curve[len(curve) // 2] / (0.5 * (curve[0] + curve[-1]))


def moved(numbers: Numbers, name: str) -> float | None:
    """Return students' distance to the end over their teacher's, in the mean over levels and over
    the students whose methods are meant to follow its flow.
    """
    models = numbers.get("distillation", {}).get("models", {}).values()
    shares = [one["share"] for one in models if one.get("follows")]
    return float(np.mean(shares)) if shares and name == NETWORK else None


CLAIMS = (
    Claim("G1", "sampling trajectories are nearly straight",
          "peak distance of x from its chord / chord", summary("peak deviation / chord"),
          below(0.05), reported=0.0032),
    Claim("G2", "all have one shape: straight, bent, straight",
          "rms distance of the deviation's curve, its peak 1, from the network's", shape_apart,
          below(0.1)),
    Claim("G3", "the denoising trajectory converges faster",
          "|D - last D| / |x - end| at the start", arrives, below(0.1), reported=0.00476),
    Claim("G4", "the norm of D grows along the way", "|D| at the end / at the start", grows,
          above(1.05), reported=4.36),
    Claim("G5", "|eps| is sqrt(d) on most of the way",
          "|eps| after half of the steps / at the start", still_noise, above(0.9)),
    Claim("G6", "a trajectory lies in a plane beside its chord",
          "share of two components, per trajectory", summary("top 2 of a path's rest"),
          above(0.95)),
    Claim("G6b", "all trajectories lie in the chord and two dimensions more",
          "share of two components, all trajectories pooled", summary("top 2 of all paths' rest"),
          above(0.85)),
    Claim("G7", "each denoising step raises the likelihood",
          "share of states with log p(D(x)) >= log p(x)", rises, above(0.95)),
    Claim("G8", "the score deviates from the optimal one at middle levels",
          "level of the largest maximum of |D(x*) - D*(x*)| within the path", deviates,
          lambda value, network: 0.1 < value < 5, reported=2.5),
    Claim("G9", "the optimal path ends in the data, the learned one does not",
          "median distance of ends to the data", nearest, above(0.0),
          "memorisation, of the finite data set alone"),
    Claim("G10", "stopping early with a jump is better than stopping",
          "share of levels at which D is nearer to data than x", jumps, above(0.5)),
    Claim("G11", "noises must be interpolated on the sphere",
          "spread of the ends in the middle of a straight line / at its ends", middle,
          below(0.99)),
    Claim("G12", "distillation moves D to the end of the path",
          "|D_student - end| / |D - end|, summed over levels, mean of students", moved, below(0.8),
          "needs a network: a student"),
    Claim("G13", "curvature peaks late on the path", "level of the largest curvature",
          lambda numbers, name: bends(numbers, name), below(1.0)),
    Claim("G14", "the path is hardly longer than its chord", "path length / chord",
          summary("path / chord"), below(1.05)),
    Claim("G15", "the shape is that of a simple model of data", "level of the peak deviation",
          summary("at level"), like_the_network, reported=12.4),
)  # fmt: skip


def bends(numbers: Numbers, name: str) -> float | None:
    """Return the level of the largest mean curvature."""
    one = numbers["paths"].get(name, {}).get("curvature")
    return None if one is None else one["levels"][int(np.argmax(one["mean"]))]


def verdict(claim: Claim, values: Sequence[Sequence[float | None]]) -> str:
    """Return what follows from (network, Gaussian, finite data set) of several data sets."""
    if claim.verdict is not None:
        return claim.verdict
    if not any(network is not None for network, *_ in values):
        return "not measured of a network"

    def holds(k: int) -> bool:
        known = [(v[k], v[0]) for v in values]
        return all(claim.holds(own, network) for own, network in known if own is not None)

    def measured(k: int) -> bool:
        return any(v[k] is not None for v in values)

    if not holds(0):
        also = ", but of the Gaussian" if measured(1) and holds(1) else ""
        return f"does not hold of every network here{also}"
    if measured(1) and holds(1):
        return SUFFICES
    return RECALLS if measured(2) and holds(2) else NEEDS


def apart(values: Sequence[Sequence[float | None]]) -> float | None:
    """Return how far the Gaussian's number is from the network's at most, relative to it."""
    pairs = [(v[0], v[1]) for v in values]
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    gaps = [abs(b - a) / abs(a) for a, b in known if a]
    return max(gaps) if gaps else None
