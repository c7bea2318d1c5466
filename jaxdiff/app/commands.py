"""The commands by name: how each reads its arguments, and what it runs."""

from collections.abc import Callable
from typing import Any

from jaxdiff.app import config as configs
from jaxdiff.app import parsing


def train(config: configs.Train) -> None:
    """Train a score network."""
    from jaxdiff.app.train import train

    model = train(config)
    size = "x".join(map(str, model.shape)) + (" arrays" if model.arrays else " images")
    print(f"trained on {size}; the run is in {config.run}\n{_next(config.run, model)}")


def _next(run: str, model: Any) -> str:
    """Return the command that a run is made for: that samples or, of one that is shown a
    measurement, restores.
    """
    if model.measure is None:
        return _sampling(run, model)
    from jaxdiff.app.shown import options_of

    text = "" if model.tokenizer is None else " --prompt TEXT"
    return f"next: jaxdiff restore --run {run} {options_of(model.measure)}{text}"


def _sampling(run: str, model: Any) -> str:
    """Return the command that samples a run."""
    text = "" if model.tokenizer is None else " --prompt TEXT"
    return f"next: jaxdiff sample --run {run}{text}{' --control IMAGE' if model.pairs else ''}"


def ema(config: configs.Ema) -> None:
    """Make a run's model of another average."""
    from jaxdiff.app.ema import ema

    ema(config)
    print(f"next: jaxdiff sample --run {config.out}")


def distill(config: configs.Distill) -> None:
    """Distil a run."""
    from jaxdiff.app.distill import distill

    student = distill(config)
    print(f"distilled; the run is in {config.run}\n{_next(config.run, student)}")


def tune(config: configs.Tune) -> None:
    """Tune a sampler."""
    from jaxdiff.app.tune import tune

    print(tune(config))


def discriminate(config: configs.Discriminate) -> None:
    """Train a discriminator of a run."""
    from jaxdiff.app.discriminate import discriminate

    last = discriminate(config)
    numbers = ", ".join(f"{name} {value:.3g}" for name, value in last.items() if name != "step")
    print(
        f"the discriminator is in {config.out} (last update: {numbers})\nnext: jaxdiff sample "
        f"--run {config.run} --discriminator {config.out}"
    )


def adapt(config: configs.Adapt) -> None:
    """Train an adapter of a run."""
    from jaxdiff.app.adapt import adapt

    model, last = adapt(config)
    numbers = ", ".join(f"{name} {value:.3g}" for name, value in last.items() if name != "step")
    shown = {"controlnet": " --control edges:IMAGE", "t2i": " --control edges:IMAGE"}
    shown |= {"ip": " --control IMAGE", "gligen": " --box LEFT,UPPER,RIGHT,LOWER"}
    if config.data.pairs:
        shown |= dict.fromkeys(("controlnet", "t2i"), " --control IMAGE")
    print(
        f"the adapter is in {config.out} (last update: {numbers})\n{_sampling(config.run, model)} "
        f"--adapter {config.out}{shown.get(config.kind, '')}"
    )


def sample(config: configs.Sample) -> None:
    """Sample a run."""
    from jaxdiff.app.sample import sample

    sample(config)


def optimise(config: configs.Optimise) -> None:
    """Optimise images."""
    from jaxdiff.app.optimise import optimise

    optimise(config)


def restore(config: configs.Restore) -> None:
    """Restore images from measurements."""
    from jaxdiff.app.restore import restore

    restore(config)


def edit(config: configs.Edit) -> None:
    """Edit images."""
    from jaxdiff.app.edit import edit

    edit(config)


def evaluate(config: configs.Evaluate) -> None:
    """Score a run."""
    from jaxdiff.app.evaluate import evaluate

    evaluate(config)


def analyse(config: configs.Analyse) -> None:
    """Analyse a run."""
    from jaxdiff.app.analyse import analyse

    print(analyse(config))


def export(config: configs.Export) -> None:
    """Export a sampler."""
    from jaxdiff.app.export import export

    export(config)


def inspect(config: configs.Inspect) -> None:
    """Say what a file is."""
    from jaxdiff.app.inspect import inspect

    print(inspect(config))


def runs(config: configs.Runs) -> None:
    """List runs."""
    from jaxdiff.app.runs import runs

    print(runs(config))


def compare(config: configs.Compare) -> None:
    """Put runs side by side."""
    from jaxdiff.app.compare import compare

    print(compare(config))


def listing(config: configs.List) -> None:
    """List what there is of a kind."""
    from jaxdiff.app.listing import listing

    print(listing(config))


def demo(config: configs.Demo) -> None:
    """Run the main job."""
    from jaxdiff.app.demo import demo

    print(demo(config))


COMMANDS: dict[str, tuple[parsing.Parse, Callable[[Any], None]]] = {
    "demo": (parsing.plain(configs.Demo), demo),
    "train": (parsing.preset, train),
    "ema": (parsing.plain(configs.Ema), ema),
    "distill": (parsing.plain(configs.Distill), distill),
    "tune": (parsing.plain(configs.Tune), tune),
    "discriminate": (parsing.plain(configs.Discriminate), discriminate),
    "adapt": (parsing.plain(configs.Adapt), adapt),
    "sample": (parsing.plain(configs.Sample), sample),
    "optimise": (parsing.plain(configs.Optimise), optimise),
    "restore": (parsing.around(configs.Restore, "images"), restore),
    "edit": (parsing.around(configs.Edit, "images"), edit),
    "evaluate": (parsing.plain(configs.Evaluate), evaluate),
    "analyse": (parsing.plain(configs.Analyse), analyse),
    "export": (parsing.plain(configs.Export), export),
    "inspect": (parsing.first(configs.Inspect, "path"), inspect),
    "runs": (parsing.first(configs.Runs, "folder"), runs),
    "compare": (parsing.around(configs.Compare, "runs"), compare),
    "list": (parsing.first(configs.List, "kind"), listing),
}
