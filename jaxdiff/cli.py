"""The command line: ``jaxdiff demo | train | distill | tune | sample | evaluate | export``.

Each command is a function of one typed configuration (:mod:`jaxdiff.config`), every field of which
is an option.
"""

import difflib
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jaxdiff import config as configs

OVERVIEW = """\
jaxdiff: fast sampling and distillation of diffusion models

  jaxdiff demo                     the main job on real images, in minutes: train, sample, distil,
      measure, report
  jaxdiff train PRESET --run DIR   train a score network; PRESET is one of {presets}
  jaxdiff distill --teacher DIR --run DIR
                                   make a student that samples in one or two network evaluations
  jaxdiff tune --run DIR --nfe 5   find the best sampler of 5 evaluations for a run, in minutes
  jaxdiff sample --run DIR         pictures from a run, with any solver
  jaxdiff evaluate --run DIR       score a run against real images
  jaxdiff export --run DIR         a sampler with its network as one file that needs only jax

jaxdiff COMMAND --help explains a command's options. --traceback, with any command, shows where an
error comes from. Compiled programs are kept for the next command in ~/.cache/jaxdiff, 2 GB at most;
JAXDIFF_CACHE=DIR keeps them elsewhere, JAXDIFF_CACHE=off nowhere. Started as several processes (by
srun, mpirun, a Kubernetes job, on a TPU slice, or with JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES
and JAX_PROCESS_ID), a command is one run on all their devices.
"""
CACHED = 2 << 30  # bytes of compiled programs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    traceback = "--traceback" in arguments
    arguments = [a for a in arguments if a != "--traceback"]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(OVERVIEW.format(presets=", ".join(_presets())))
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        close = difflib.get_close_matches(command, COMMANDS, 1)
        print(
            f"jaxdiff: no command {command!r}{f'; did you mean {close[0]!r}?' if close else ''}",
            file=sys.stderr,
        )
        print("The commands are: " + ", ".join(COMMANDS), file=sys.stderr)
        return 2
    parse, run = COMMANDS[command]
    config = parse(command, rest)
    use_cache()
    from jaxdiff.training import hosts

    try:
        hosts.connect()  # before anything is computed
    except (ValueError, RuntimeError) as error:
        print(f"jaxdiff: several processes, but {error}", file=sys.stderr)
        return 2
    if hosts.several() and command in ("demo", "export"):
        print(
            f"jaxdiff: {command} is for one process; JAXDIFF_HOSTS=off makes it one",
            file=sys.stderr,
        )
        return 2
    if not hosts.speaks():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if traceback:
        run(config)
        return 0
    try:
        run(config)
    except KeyboardInterrupt as stopped:
        print(f"\njaxdiff: {stopped or 'stopped'}", file=sys.stderr)
        return 130
    except (ValueError, OSError, FloatingPointError) as error:
        print(f"jaxdiff {command}: {error}", file=sys.stderr)
        return 2
    return 0


def use_cache() -> None:
    """Keep compiled programs on disk, unless the user has said where, or that they be not kept.

    By version of jaxlib and kind of processor, for whose programs no other can be taken. What the
    environment says of the size and of the programs worth keeping (jax's own variables) holds.
    """
    import jax
    import jaxlib

    chosen = os.environ.get("JAXDIFF_CACHE", "")
    if getattr(jax.config, "jax_compilation_cache_dir", None) or chosen == "off":
        return
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jaxdiff"
    folder = Path(chosen or home) / f"{jaxlib.__version__}-{platform.machine()}"
    jax.config.update("jax_compilation_cache_dir", str(folder))
    ours = {
        "jax_compilation_cache_max_size": CACHED,
        "jax_persistent_cache_min_compile_time_secs": 0.5,
    }
    for name, value in ours.items():
        if name.upper() not in os.environ:
            jax.config.update(name, value)


def _presets() -> dict[str, tuple[str, configs.Train]]:
    from experiments.presets import PRESETS

    return PRESETS


def _plain(kind: type) -> Callable[[str, Sequence[str]], Any]:
    def parse(command: str, arguments: Sequence[str]) -> Any:
        import tyro

        return tyro.cli(kind, prog=f"jaxdiff {command}", args=list(arguments))

    return parse


def _preset(command: str, arguments: Sequence[str]) -> configs.Train:
    import tyro

    return tyro.extras.overridable_config_cli(
        _presets(),
        prog=f"jaxdiff {command}",
        description=configs.Train.__doc__,
        args=list(arguments),
    )


def train(config: configs.Train) -> None:
    """Train a score network."""
    from jaxdiff import runs

    model = runs.train(config)
    size = "x".join(map(str, model.shape))
    print(
        f"trained on {size} images; the run is in {config.run}\nnext: jaxdiff sample --run "
        f"{config.run}"
    )


def distill(config: configs.Distill) -> None:
    """Distil a run."""
    from jaxdiff import students

    students.distill(config)
    print(f"distilled; the run is in {config.run}\nnext: jaxdiff sample --run {config.run}")


def sample(config: configs.Sample) -> None:
    """Sample a run."""
    import numpy as np

    from jaxdiff import runs
    from jaxdiff.report.images import image_grid
    from jaxdiff.training import hosts

    model = runs.load_model(config.run)
    sampler = runs.make_sampler(model, config, config.steps)
    labels = runs.class_labels(config.count, model.classes, config.label)
    folder = Path(config.out)
    folder.mkdir(parents=True, exist_ok=True)
    images = runs.generate(
        sampler, config.count, model.shape, labels, batch=config.batch, seed=config.seed,
        **runs.placed(config),
    )  # fmt: skip
    if not hosts.speaks():
        return
    image_grid(images[:100], columns=10).savefig(folder / "samples.png")
    arrays: dict[str, Any] = {"images": images} | ({} if labels is None else {"labels": labels})
    np.savez(folder / "samples.npz", **arrays)
    sampler.table.save(folder / "sampler.json")
    print(
        f"{len(images)} samples by {sampler.table!r}: {folder}/samples.png, samples.npz; "
        "sampler.json"
    )


def tune(config: configs.Tune) -> None:
    """Tune a sampler."""
    from jaxdiff import tuned

    print(tuned.tune(config))


def export(config: configs.Export) -> None:
    """Export a sampler."""
    from jaxdiff import runs
    from jaxdiff.sampling.export import export_sampler

    model = runs.load_model(config.run)
    sampler = runs.make_sampler(model, config, config.steps)
    export_sampler(
        config.out, sampler, model.shape, classes=model.classes, platforms=config.platforms
    )
    print(f"{sampler.table!r} of {config.run} for {', '.join(config.platforms)}: {config.out}\n"
          "how to run it with jax alone: python -c 'import jaxdiff.sampling.export as e; "
          "help(e)'")  # fmt: skip


def evaluate(config: configs.Evaluate) -> None:
    """Score a run."""
    from jaxdiff.evaluation import evaluate

    print(evaluate(config))


def demo(config: configs.Demo) -> None:
    """Run the main job."""
    from jaxdiff.demo import demo

    print(demo(config))


COMMANDS: dict[str, tuple[Callable[[str, Sequence[str]], Any], Callable[[Any], None]]] = {
    "demo": (_plain(configs.Demo), demo),
    "train": (_preset, train),
    "distill": (_plain(configs.Distill), distill),
    "tune": (_plain(configs.Tune), tune),
    "sample": (_plain(configs.Sample), sample),
    "evaluate": (_plain(configs.Evaluate), evaluate),
    "export": (_plain(configs.Export), export),
}

if __name__ == "__main__":
    sys.exit(main())
