"""Parse a command's arguments into its configuration."""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxdiff.app import config as configs
from jaxdiff.app import config_network


def presets() -> dict[str, tuple[str, configs.Train]]:
    """Return the presets of jaxdiff train."""
    from jaxdiff.app.presets import PRESETS

    return PRESETS


def plain(kind: type) -> Callable[[str, Sequence[str]], Any]:
    """Return a parser of every field of a configuration."""

    def parse(command: str, arguments: Sequence[str]) -> Any:
        import tyro

        return tyro.cli(kind, prog=f"jaxdiff {command}", args=list(arguments))

    return parse


def first(kind: type, name: str) -> Callable[[str, Sequence[str]], Any]:
    """Return a parser of fields of which the one of this name may be the first argument."""

    def parse(command: str, arguments: Sequence[str]) -> Any:
        bare = bool(arguments) and not arguments[0].startswith("-")
        return plain(kind)(command, [f"--{name}", *arguments] if bare else arguments)

    return parse


def around(kind: type, name: str) -> Callable[[str, Sequence[str]], Any]:
    """Return a parser of fields of which the one of this name, a tuple of texts, may be the
    arguments that are no options, before or after these.
    """

    def parse(command: str, arguments: Sequence[str]) -> Any:
        import tyro

        def made(
            options: tyro.conf.OmitArgPrefixes[kind],  # type: ignore[valid-type]
            bare: tyro.conf.Positional[tuple[str, ...]] = (),
        ) -> Any:
            return dataclasses.replace(options, **{name: getattr(options, name) + bare})

        prog, text = f"jaxdiff {command}", kind.__doc__
        return tyro.cli(made, prog=prog, description=text, args=list(arguments))

    return parse


def choosing(
    kind: type, methods: Callable[[], Mapping[str, Any]]
) -> Callable[[str, Sequence[str]], Any]:
    """Add the choices of the named method where help is requested."""

    def parse(command: str, arguments: Sequence[str]) -> Any:
        import tyro

        text = kind.__doc__ or ""
        if {"-h", "--help"} & set(arguments):
            from jaxdiff.recipes.choices import listed

            known = methods()
            last = [b for a, b in zip(arguments, arguments[1:], strict=False) if a == "--method"]
            method = last[-1] if last and last[-1] in known else kind.method
            text += f"\n\nChoices of {method}, for --choices NAME VALUE ...\n"
            text += (
                f"{listed(known[method])}\n\n--method NAME --help lists those of another method."
            )
        return tyro.cli(kind, prog=f"jaxdiff {command}", description=text, args=list(arguments))

    return parse


def recipes() -> Mapping[str, Any]:
    """Return the recipes of distillation."""
    from jaxdiff.recipes import RECIPES

    return RECIPES


def tuners() -> Mapping[str, Any]:
    """Return the ways of tuning."""
    from jaxdiff.recipes.tuning import TUNERS

    return TUNERS


def of_images() -> Mapping[str, Any]:
    """Return the methods of score distillation of images."""
    from jaxdiff.recipes.scenes import OF_IMAGES

    return OF_IMAGES


def preset(command: str, arguments: Sequence[str]) -> configs.Train:
    """Parse a preset's options; those of the network are the chosen kind's, at its defaults."""
    import tyro

    known = presets()
    arguments, network = _network_named(arguments)
    if network is not None:
        try:
            chosen = config_network.network_named(network)
        except ValueError as error:
            print(f"jaxdiff {command}: {error}", file=sys.stderr)
            raise SystemExit(2) from error
        known = {k: (t, dataclasses.replace(c, network=chosen)) for k, (t, c) in known.items()}
    return tyro.extras.overridable_config_cli(
        known,
        prog=f"jaxdiff {command}",
        description=configs.Train.__doc__,
        args=arguments,
        config=(tyro.conf.AvoidSubcommands,),
    )


def _network_named(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """Return arguments without "--network KIND", and that kind; "--dtype" written out."""
    left, network = [], None
    given = iter(arguments)
    for argument in given:
        name, equals, value = argument.partition("=")
        if name == "--network":
            network = value if equals else next(given, "")
        else:
            left.append("--network.dtype" + equals + value if name == "--dtype" else argument)
    return left, network
