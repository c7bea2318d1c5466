"""Parse a command's arguments into its configuration."""

import dataclasses
import difflib
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxdiff.app import config as configs
from jaxdiff.app import config_network
from jaxdiff.app.config_given import filled, with_pairs, with_values, without_pairs


def presets() -> dict[str, tuple[str, configs.Train]]:
    """Return the presets of jaxdiff train."""
    from jaxdiff.app.presets import PRESETS

    return PRESETS


Parse = Callable[[str, Sequence[str], "FromFile"], Any]


class FromFile(NamedTuple):
    """What a file says of a command's configuration, and what names the file in errors. printing:
    what must be given may be missing, as the configuration is printed.
    """

    values: Mapping[str, Any] = {}
    where: str = ""
    printing: bool = False

    def over(self, base: Any) -> Any:
        """Return a configuration, or a kind of them, with what the file says."""
        made = with_values(base, self.values, self.where)
        return filled(made) if self.printing else made

    def parsed(self, base: Any, parse: Callable[[Any], Any]) -> Any:
        """Return what ``parse(default)`` makes of arguments, over what the file says."""
        made = self.over(base)
        return with_pairs(parse(without_pairs(made)), made)


NOTHING = FromFile()


def plain(kind: type) -> Parse:
    """Return a parser of every field of a configuration."""

    def parse(command: str, arguments: Sequence[str], given: FromFile = NOTHING) -> Any:
        import tyro

        options = {"prog": f"jaxdiff {command}", "args": list(arguments)}
        return given.parsed(kind, lambda default: tyro.cli(kind, default=default, **options))

    return parse


def first(kind: type, name: str) -> Parse:
    """Return a parser of fields of which the one of this name may be the first argument."""

    def parse(command: str, arguments: Sequence[str], given: FromFile = NOTHING) -> Any:
        bare = bool(arguments) and not arguments[0].startswith("-")
        return plain(kind)(command, [f"--{name}", *arguments] if bare else arguments, given)

    return parse


def around(kind: type, name: str) -> Parse:
    """Return a parser of fields of which the one of this name, a tuple of texts, may be the
    arguments that are no options, before or after these.
    """

    def parse(command: str, arguments: Sequence[str], given: FromFile = NOTHING) -> Any:
        import tyro

        def read(default: Any) -> Any:
            def made(
                options: tyro.conf.OmitArgPrefixes[kind] = default,  # type: ignore[valid-type]
                bare: tyro.conf.Positional[tuple[str, ...]] = (),
            ) -> Any:
                return dataclasses.replace(options, **{name: getattr(options, name) + bare})

            prog, text = f"jaxdiff {command}", kind.__doc__
            return tyro.cli(made, prog=prog, description=text, args=list(arguments))

        return given.parsed(kind, read)

    return parse


def kinds_of_lists() -> tuple[str, ...]:
    """Return what jaxdiff list lists."""
    return typing.get_args(typing.get_type_hints(configs.List)["kind"])


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


CHOOSING: dict[type, Callable[[], Mapping[str, Any]]] = {  # commands with methods and choices
    configs.Distill: recipes,
    configs.Tune: tuners,
    configs.Optimise: of_images,
}


def preset(command: str, arguments: Sequence[str], given: FromFile = NOTHING) -> configs.Train:
    """Parse a preset's options; those of the network are the chosen kind's, at its defaults. What a
    file says takes the place of the preset's; with a file, the preset may be left out.
    """
    import tyro

    known = presets()
    arguments, network = network_of(arguments)
    if network is not None:
        chosen = config_network.network_named(network)
        known = {k: (t, dataclasses.replace(c, network=chosen)) for k, (t, c) in known.items()}
        given = given._replace(values=_without_other(given.values, chosen))
    named = bool(arguments) and not arguments[0].startswith("-")
    if (given.where or given.printing) and not named:
        arguments = ["images", *arguments]
    elif not arguments or (named and arguments[0] not in known):
        close = difflib.get_close_matches(arguments[0], known, 1) if named else []
        hint = f"; did you mean {close[0]}?" if close else f": one of {', '.join(known)}"
        said = f"no preset {arguments[0]!r}{hint}" if named else f"give a preset{hint}"
        raise ValueError(f"{said} (jaxdiff list presets)")
    options: dict[str, Any] = {
        "prog": f"jaxdiff {command}", "description": configs.Train.__doc__, "args": arguments,
        "config": (tyro.conf.AvoidSubcommands,),
    }  # fmt: skip
    if not arguments or arguments[0] not in known:
        return tyro.extras.overridable_config_cli(known, **options)
    text, base = known[arguments[0]]

    def read(default: Any) -> Any:
        one = {arguments[0]: (text, default)}
        return tyro.extras.overridable_config_cli(one, **options)

    return given.parsed(base, read)


def refuse_without_value(
    parse: Parse, command: str, arguments: Sequence[str], given: FromFile, config: Any
) -> None:
    """Raise ValueError for an option of several values that is given none, and so has no effect on
    the configuration that ``parse`` made of the arguments.
    """
    for place, (argument, after) in enumerate(zip(arguments, [*arguments[1:], "--"], strict=False)):
        if not (argument.startswith("--") and after.startswith("--")):
            continue
        value = config
        for name in argument[2:].replace("-", "_").split("."):
            value = getattr(value, name, None)
        left = [*arguments[:place], *arguments[place + 1 :]]
        if value == () and parse(command, left, given) == config:
            raise ValueError(f"{argument} has no value: give one or more, or leave it out")


def _without_other(values: Mapping[str, Any], chosen: Any) -> dict[str, Any]:
    """Return what a file says without the network, if that is of another kind than the chosen."""
    network = values.get("network")
    other = isinstance(network, Mapping) and network.get("kind", "") != type(chosen).__name__
    return {k: v for k, v in values.items() if k != "network" or not other}


def network_of(arguments: Sequence[str]) -> tuple[list[str], str | None]:
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
