"""``jaxdiff export``: a sampler with its network as one file."""

from jaxdiff.app import config as configs
from jaxdiff.app.conditions import check_class_condition
from jaxdiff.app.load import load_model
from jaxdiff.app.samplers import make_sampler
from jaxdiff.app.text import away
from jaxdiff.files import check_writable
from jaxdiff.sampling.export import export_sampler


def export(config: configs.Export) -> None:
    """Export a sampler."""
    check_writable(config.out)
    model = load_model(config.run, config.checkpoint, progress=True)
    tokenizer = model.tokenizer
    if tokenizer is None:
        check_class_condition(model, "export")
    sampler = make_sampler(model, config, config.num_steps)
    export_sampler(
        config.out, sampler, model.shape, classes=model.classes, platforms=config.platforms,
        clip=model.bounds, cond=None if tokenizer is None else away(tokenizer, None),
    )  # fmt: skip
    print(f"{sampler.table!r} of {config.run} for {', '.join(config.platforms)}: {config.out}\n"
          "how to run it with jax alone: python -c 'import jaxdiff.sampling.export as e; "
          "help(e)'")  # fmt: skip
