"""Students of one to four evaluations under guidance and corrections, beside their exact teacher.

    python -m experiments.posteriors.students [--seeds 2] [--updates 3000]

Data are a mixture of :mod:`experiments.posteriors.problems`, its components 0 and 1 one class, 2
and 3 the other; the teacher is its exact denoiser. A network trained by score matching becomes a
consistency student (consistency distillation) and one that matches distributions (SIM), a fifth of
the classes dropped. What takes a denoiser takes them: each is steered by classifier-free guidance,
PiGDM, DPS, and by replacing the known half of the coordinates, and scored by the sliced Wasserstein
distance to the exact answer: the accurate guided flow's ends, or samples of the exact posterior.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxdiff as jd
from experiments.numbers import count
from experiments.posteriors.problems import (
    COMPONENTS,
    DIMENSION,
    SMALLEST,
    Problem,
    problem,
    scores,
)
from jaxdiff import posterior
from jaxdiff.conditioning import corrections
from jaxdiff.distill import consistency_distillation
from jaxdiff.distill.parts.student import Student
from jaxdiff.distill.score_matching import score_matching
from jaxdiff.exact import GaussianMixture
from jaxdiff.files import write_text
from jaxdiff.metrics import sliced_wasserstein
from jaxdiff.networks import MLP, from_linen, init
from jaxdiff.recipes import RECIPES, Goal
from jaxdiff.sampling.sampler import Sampler
from jaxdiff.training import fit
from jaxdiff.training.ema import ramped

COUNT, BATCH, DROP, RATE = 2048, 256, 0.2, 2e-3
LOW, HIGH, BETWEEN = 0.01, 40.0, (2.0, 0.7, 0.25)  # levels of students, and of several evaluations
WEIGHT, NOISE = 2.0, 0.3  # of guidance; of measurements

READING = """\
What holds: a student is a denoiser, and all of these take it. By PiGDM without the Jacobian a
consistency student restores in four evaluations as well as the teacher (0.35 beside 0.33 to 0.37),
in one not much worse (0.45). By DPS and replacement it is behind (0.47 beside 0.33, 0.66 beside
0.49), less so the more evaluations it has; one evaluation with what is known put in (0.86) is
hardly better than nothing put in.

What does not: PiGDM with the Jacobian takes the denoiser's derivative for a covariance, which a
student's is not. From level s its step is sqrt(1 + s^2/v) times too long, v the data's variance,
and samples leave. Classifier-free guidance of students blends ends of flows in place of their
velocities, which is the same for Gaussians of one variance only: of this consistency student two
evaluations are as near to the guided flow as four of the teacher (0.23 and 0.20), one is not
(0.49). Outputs of a student that matches distributions, from one noise, have nothing to do with
each other (0.82, where unguided it is the best of all): distil a guided teacher instead.
"""


class Kind(NamedTuple):
    """A way to steer: the noise of its problem, None for the classes', and what makes it, a guide
    ``guide(D, seen, table)`` of denoisers and a correction ``correct(seen)``.
    """

    noise: float | None
    guide: Callable[[Any, Any, Any], Any]
    correct: Callable[[Any], Any] | None = None


def dps(D: Any, seen: Any, table: Any, step: float = 1.0) -> Any:
    """Return DPS for any sampler that goes on from D: D' is D less the step's gradient."""
    misfit = lambda x: jnp.linalg.norm(seen.residual(x), axis=1)  # noqa: E731
    if table.name.startswith("ddim"):
        return posterior.dps(D, seen, tuple(map(float, table.levels)), step)
    return posterior.energy(D, misfit, lambda s: step / s**2)


KINDS = {
    "classes": Kind(None, lambda D, seen, table: D),
    "classifier-free, weight 2": Kind(
        None, lambda D, seen, table: jd.guidance.classifier_free(D, WEIGHT, 2)
    ),
    "PiGDM": Kind(NOISE, lambda D, seen, table: posterior.pigdm(D, seen)),
    "PiGDM without Jacobian": Kind(
        NOISE, lambda D, seen, table: posterior.pigdm(D, seen, jacobian=False)
    ),
    "DPS, zeta 1": Kind(NOISE, dps),
    "replacement": Kind(
        0.0, lambda D, seen, table: D,
        lambda seen: corrections.replacement(seen.observation, seen.operator.support),
    ),
}  # fmt: skip


def prior(seed: int) -> GaussianMixture:
    """Return the mixture of a problem as one of two classes, each of two components."""
    whole = problem(seed, NOISE).prior
    weights = np.zeros((2, COMPONENTS))
    for c in range(2):
        own = np.asarray(whole.weights, float)[2 * c : 2 * c + 2]
        weights[c, 2 * c : 2 * c + 2] = own / own.sum()
    return GaussianMixture(weights, whole.means, whole.variances)


def measured(seed: int, noise: float) -> Problem:
    """Return a problem's measurement of a sample, and the posterior of :func:`prior`."""
    given, classes = problem(seed, noise), prior(seed)
    matrix = np.asarray(given.seen.operator.apply(jnp.eye(DIMENSION))).T
    u, seen = given.seen.observation, given.seen
    whole = GaussianMixture(classes.weights.mean(0), classes.means, classes.variances)
    if not noise:
        known = jnp.arange(DIMENSION) < 4
        u = jnp.zeros(DIMENSION).at[:4].set(u)
        seen = jd.operators.Measurement(jd.operators.mask(known), u, 0.0)
        u = u[:4]
    exact = whole.posterior(jnp.asarray(matrix), u, max(noise, SMALLEST) ** 2)
    return Problem(whole, seen, exact)


def batches(classes: GaussianMixture, seed: int) -> Callable[[int], dict[str, Any]]:
    """Return batches of the mixture, some of whose classes are that of none."""
    draw = jax.jit(lambda key, c: classes.sample(key, BATCH, c))

    def data(step: int) -> dict[str, Any]:
        rng = np.random.default_rng((seed, step))
        c = rng.integers(0, 2, BATCH).astype(np.int32)
        x = np.asarray(draw(jax.random.key(rng.integers(2**31)), c), np.float32)
        return {
            "image": x,
            "label": np.where(rng.uniform(size=BATCH) < DROP, 2, c).astype(np.int32),
        }

    return data


def students(classes: GaussianMixture, updates: int, seed: int) -> dict[str, Sampler]:
    """Train the two students; return their samplers by name."""
    module, data = (
        MLP(128, 3, embedding=64, num_classes=2, label_scale=16.0),
        batches(classes, seed),
    )
    network, average = from_linen(module), {"average": ramped(0.998)}
    rate = optax.adam(optax.cosine_decay_schedule(RATE, updates))
    first = Student(
        network, lambda key: init(module, key, (DIMENSION,)), sigma_data=1.0, low=LOW, high=HIGH,
        classes=2, optimiser=rate, ema=average,
    )  # fmt: skip
    run = lambda method: fit(method, data, num_updates=updates, key=seed, progress=False)  # noqa: E731
    began = run(score_matching(first._replace(label_drop=0.0), mean=0.0, std=1.6))
    begun = first._replace(params=began.ema["student"]["average"])
    teacher = classes.denoiser
    own = consistency_distillation(teacher, begun, scales=40, intermediate=BETWEEN)
    goal = Goal(
        teacher, lambda labels, log_variance: (network, begun.params), (DIMENSION,), updates,
        rate=RATE / 2, classes=2, sigma_data=1.0, low=LOW, high=HIGH, seed=seed, ema=average,
    )  # fmt: skip
    (stage,) = RECIPES["sim"].stages(goal)
    matched = stage.method(None)
    states = run(own), run(matched)
    found = {
        f"consistency, {n}": own.sampler(states[0], num_steps=n, ema="average") for n in (1, 2, 4)
    }
    return found | {"SIM, 1": matched.sampler(states[1], num_steps=1, ema="average")}


def teachers(classes: GaussianMixture, kind: str) -> dict[str, Sampler]:
    """Return samplers of the exact denoiser: in many evaluations, and in four."""
    grid = lambda n: jd.grids.karras(n, LOW, HIGH)  # noqa: E731
    noisy = kind in ("DPS, zeta 1", "replacement")  # of the ancestral sampler
    many = jd.table(jd.solvers.ddim, grid(256), eta=1.0)
    many = many if noisy else jd.table(jd.solvers.heun, grid(64))
    few = (
        jd.table(jd.solvers.ddim, grid(4), eta=1.0)
        if noisy
        else jd.table(jd.solvers.dpmpp, grid(4))
    )
    D = classes.denoiser
    return {"teacher, 127 or 256": Sampler(D, many), "teacher, 4": Sampler(D, few)}


def sampled(sampler: Sampler, kind: str, given: Problem | None, cond: Any, seed: int) -> Any:
    """Return steered samples, by one compiled program."""
    steer = KINDS[kind]
    table: Any = sampler.table
    seen = None if given is None else given.seen
    guided = steer.guide(sampler.denoiser, seen, table)
    fix = None if steer.correct is None else steer.correct(seen)
    key, first = jax.random.split(jax.random.key(1000 + seed))
    start = jd.start(first, table, COUNT, (DIMENSION,))
    run = jax.jit(lambda D, y, c: jd.sample(D, table, y, c, key=key, correct=fix))
    return run(guided, start, cond)


def measure(seed: int, updates: int) -> list[dict[str, Any]]:
    """Train on a mixture and score everything on it."""
    classes, rows = prior(seed), []
    trained = students(classes, updates, seed)
    labels = jnp.arange(COUNT, dtype=jnp.int32) % 2
    for kind, steer in KINDS.items():
        given = None if steer.noise is None else measured(seed, steer.noise)
        cond = labels if given is None else jnp.full(COUNT, 2, jnp.int32)
        every = teachers(classes, kind) | trained
        found = {name: sampled(s, kind, given, cond, seed) for name, s in every.items()}
        for name, x in found.items():
            row = {"kind": kind, "sampler": name, "seed": seed} | score(
                x, kind, given, classes, seed
            )
            rows.append(row)
            print(row, flush=True)
    return rows


def score(
    x: Any, kind: str, given: Problem | None, classes: GaussianMixture, seed: int
) -> dict[str, float]:
    """Return the sliced distance to the exact answer, and the misfit of a measurement."""
    if given is not None:
        exact = given.posterior.sample(jax.random.key(2000 + seed), COUNT)
        return {k: v for k, v in scores(x, exact, given).items() if k in ("sliced", "misfit")}
    labels = jnp.arange(COUNT, dtype=jnp.int32) % 2
    exact = classes.sample(jax.random.key(2000 + seed), COUNT, labels)
    if kind != "classes":  # the guided flow's, of other starts
        exact = sampled(
            teachers(classes, kind)["teacher, 127 or 256"], kind, None, labels, seed + 500
        )
    both = [[np.asarray(a, np.float64)[c::2] for a in (x, exact)] for c in range(2)]
    return {"sliced": float(np.mean([sliced_wasserstein(a, b, count=256) for a, b in both]))}


def page(rows: list[dict[str, Any]], settings: dict[str, Any]) -> str:
    """Return the page: means over the mixtures."""
    names = list(dict.fromkeys(r["sampler"] for r in rows))
    text = [
        "# Students under guidance and corrections", "",
        f"Made by `python -m experiments.posteriors.students --seeds {settings['seeds']} --updates "
        f"{settings['updates']}`: so many mixtures, of eight dimensions and two classes; {COUNT} "
        "samples. A consistency student in 1, 2 and 4 evaluations, and one that matches "
        "distributions (SIM) in 1, both made of a small network with so many updates, beside their "
        "exact teacher in many and in 4. In a cell: sliced Wasserstein distance to the exact "
        "answer / root mean square of u - A x, means over the mixtures. The answer is samples of "
        "the class (*classes*), the ends of the accurate guided flow (*classifier-free*), or "
        f"samples of the exact posterior of three projections with noise {NOISE}, or of four "
        "coordinates (*replacement*).", "",
        "| steered by | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|",
    ]  # fmt: skip
    for kind in KINDS:
        cells = []
        for name in names:
            own = [r for r in rows if (r["kind"], r["sampler"]) == (kind, name)]
            numbers = [np.mean([r[k] for r in own]) for k in ("sliced", "misfit") if k in own[0]]
            cells.append(" / ".join(f"{n:.3g}" for n in numbers))
        text.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join([*text, "", READING])


def main(given: Sequence[str] | None = None) -> None:
    """Train, measure, and write the numbers and the page."""
    parser = argparse.ArgumentParser(prog="python -m experiments.posteriors.students")
    parser.add_argument("--seeds", type=count, default=2)
    parser.add_argument("--updates", type=count, default=3000)
    here = Path("experiments/results")
    parser.add_argument("--json", type=Path, default=here / "guided_students.json")
    parser.add_argument("--markdown", type=Path, default=here / "guided_students.md")
    options = parser.parse_args(given)
    settings = {"seeds": options.seeds, "updates": options.updates}
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        rows += measure(seed, options.updates)
        write_text(options.json, json.dumps({"settings": settings, "rows": rows}, indent=1) + "\n")
    write_text(options.markdown, page(rows, settings))


if __name__ == "__main__":
    main()
