"""The pictures of the concept pages, drawn from the library when the site is built."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import jaxdiff as jd

BLUE, ORANGE, GREEN, GREY = "#1f6feb", "#d9730d", "#2da44e", "#6e7781"


def frame() -> Figure:
    """Draw the same paths in the coordinates of three processes and in the frame."""
    truth = jd.exact.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [0.01, 0.01])
    table = jd.table(jd.solvers.unipc, jd.grids.karras(60, 0.01, 60.0), order=2)
    start = jnp.linspace(-1.8, 1.8, 15)[:, None] * 60.0
    path = jd.trajectory(truth.denoiser, table, start)
    y, levels = np.asarray(path.states)[:-1, :, 0], np.asarray(path.levels)[:-1]
    figure = Figure(figsize=(11, 2.9), layout="constrained")
    axes = figure.subplots(1, 4)
    kinds: Mapping[str, Any] = {
        "variance preserving": jd.process.VP(),
        "rectified flow": jd.process.RectifiedFlow(),
        "TrigFlow": jd.process.TrigFlow(),
    }
    for axis, (name, process) in zip(axes, kinds.items(), strict=False):
        t = np.asarray(jd.process.time(process, jnp.asarray(levels)))
        axis.plot(t, np.asarray(process.alpha(jnp.asarray(t)))[:, None] * y, color=GREY, lw=0.9)
        axis.set(title=name, xlabel="t", ylabel="x")
    axes[3].semilogx(levels, y / np.sqrt(1 + levels[:, None] ** 2), color=BLUE, lw=0.9)
    axes[3].set(title="one frame", xlabel="noise level s", ylabel="y / sqrt(1 + s²)")
    return figure


def table() -> Figure:
    """Draw how much of every denoised output is in every state of three solvers."""
    levels = jd.grids.karras(8, 0.02, 40.0)
    solvers: Mapping[str, tuple[Callable, Any]] = {
        "euler": (jd.solvers.euler, {}),
        "dpmpp, order 2": (jd.solvers.dpmpp, {"order": 2}),
        "unipc, order 3": (jd.solvers.unipc, {"order": 3}),
    }
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    axes = figure.subplots(1, 3)
    for axis, (name, (solver, options)) in zip(axes, solvers.items(), strict=True):
        made = jd.table(solver, levels, **options)
        nodes = jnp.asarray(made.nodes)

        def output(y: Any, level: Any, cond: Any = None, nodes: jax.Array = nodes) -> jax.Array:
            return jnp.broadcast_to(
                jax.nn.one_hot(jnp.argmin(abs(nodes - level)), len(nodes)), y.shape
            )

        parts = jd.trajectory(output, made, jnp.zeros((1, len(nodes)))).states[:, 0]
        shown = axis.imshow(np.asarray(parts)[1:], cmap="RdBu_r", vmin=-1.2, vmax=1.2)
        axis.set(title=name, xlabel="denoised output of evaluation", ylabel="state after step")
    figure.colorbar(shown, ax=axes, label="weight")
    return figure


def method() -> Figure:
    """Draw the one-step map of a student as it learns, beside the flow's own."""
    truth = jd.exact.GaussianMixture([0.4, 0.6], [[-0.6], [0.6]], [0.01, 0.01])
    high = 20.0
    accurate = jd.table(jd.solvers.unipc, jd.grids.karras(60, 0.02, high), order=3)
    flow = jax.jit(lambda noise: jd.sample(truth.denoiser, accurate, high * noise))
    noise = np.random.default_rng(0).standard_normal((4096, 1)).astype(np.float32)
    pairs = {"start": high * noise, "image": np.asarray(flow(noise))}
    shown = np.linspace(-2.5, 2.5, 300, dtype=np.float32)[:, None]

    module = jd.networks.MLP(width=48, depth=2)
    params = jd.networks.init(module, jax.random.key(0), (1,))
    student = jd.distill.Student(
        jd.networks.from_linen(module), params, high=high, optimiser=optax.adam(2e-3)
    )
    learning = jd.distill.knowledge_distillation(student)
    maps = {}

    def watch(step: int, state: Any) -> bool:
        D = student.denoiser(state.params["student"])
        maps[step] = D(high * jnp.asarray(shown), high)
        return False

    def data(step: int) -> dict[str, np.ndarray]:
        rows = np.random.default_rng(step).integers(0, len(noise), 256)
        return {name: array[rows] for name, array in pairs.items()}

    jd.fit(learning, data, num_updates=400, progress=False, watch=watch, watch_every=100)
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axis = figure.subplots()
    colours = matplotlib.colormaps["viridis"](np.linspace(0.9, 0.2, len(maps)))
    for colour, (step, found) in zip(colours, sorted(maps.items()), strict=True):
        axis.plot(shown, np.asarray(found), color=colour, label=f"student, {step} updates")
    axis.plot(shown, np.asarray(flow(shown)), "k--", lw=1, label="the exact flow")
    axis.set(xlabel="noise", ylabel="sample in one evaluation")
    axis.legend(frameon=False, fontsize=8)
    return figure


def run() -> Figure:
    """Draw what makes a run and what takes one."""
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axis = figure.subplots()
    axis.set(xlim=(0, 9), ylim=(0, 2.6))
    axis.axis("off")

    def box(x: float, y: float, text: str, colour: str, width: float = 1.9) -> None:
        patch = FancyBboxPatch(
            (x, y), width, 0.5, "round,pad=0.06", fc=colour, ec=colour, alpha=0.15
        )
        axis.add_patch(patch)
        axis.text(x + width / 2, y + 0.25, text, ha="center", va="center", fontsize=10)

    def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
        axis.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=12, color=GREY))

    box(0.1, 1.75, "jaxdiff train", BLUE)
    box(0.1, 0.35, "jaxdiff distill", ORANGE)
    box(3.3, 1.05, "a run: folder with\nconfig, weights, history", GREEN, 2.2)
    uses = ("jd.load_run in Python", "evaluate, analyse", "tune, export", "sample, restore, edit")
    for y, text in zip((0.05, 0.7, 1.35, 2.0), uses, strict=True):
        box(6.7, y, text, GREY, 2.1)
        arrow((5.6, 1.3), (6.6, y + 0.25))
    arrow((2.1, 2.0), (3.2, 1.45))
    arrow((2.1, 0.6), (3.2, 1.15))
    arrow((3.2, 1.3), (1.1, 0.95))
    return figure


DRAWN = {"frame": frame, "table": table, "method": method, "run": run}


def draw_all(folder: Path) -> set[Path]:
    """Draw every picture into a folder; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWN.items():
        draw().savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
    return {folder / f"{name}.png" for name in DRAWN}
