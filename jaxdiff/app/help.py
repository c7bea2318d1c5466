"""``jaxdiff COMMAND --help``: the options by groups, on one screen.

Every option is there: with a line of its own as far as there is room, and else by its name.
``--help-all`` explains each in full.
"""

import ast
import dataclasses
import functools
import inspect
import shutil
import textwrap
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jaxdiff.app import config as configs
from jaxdiff.app import config_network

LINES = 45  # of a page where the terminal does not say its own
GROUPS: dict[str, tuple[str, ...]] = {  # what is in none of them comes first
    "other models": ("adapter", "control", "box", "base", "base_noise"),
    "sampler": (
        "solver", "order", "num_steps", "grid", "noise_levels", "end", "low", "high", "table",
        "guidance", "discriminator", "discriminator_weight",
    ),
    "objective": (
        "process", "prediction", "levels", "weighting", "snr_limit", "sigmoid_bias", "sigma_data",
        "level_mean", "level_std", "label_drop", "measure",
    ),
    "optimiser": (
        "learning_rate", "schedule", "decay_after", "warmup", "weight_decay", "clip", "ema",
        "ema_std", "snapshot_every",
    ),
    "images": ("size", "grayscale", "range"),
    "run": (
        "seed", "init", "checkpoint", "save_every", "log", "log_every", "sample_every", "nonfinite",
    ),
    "devices": ("parallel", "devices", "gradient_accumulation", "remat"),
}  # fmt: skip
BARE: dict[type, tuple[str, str]] = {  # options whose names may be left out, as they are written
    configs.Inspect: ("path", "PATH"), configs.Runs: ("folder", "[FOLDER]"),
    configs.Compare: ("runs", "RUN RUN ..."), configs.List: ("kind", "[KIND]"),
    configs.Restore: ("images", "[IMAGES ...]"), configs.Edit: ("images", "[IMAGES ...]"),
}  # fmt: skip
TEXTS = {  # of options without one of their own
    "network": "unet, dit, mlp or module:FILE.py:CLASS; --network.* are its options",
    "seed": "Seed of all that is random",
}
PLAIN = ("", "None", "()", "{}", "False", "unet")  # defaults that say nothing
WHOLE = ("--config FILE", "--print-config", "--cite", "--traceback", "--help-all")


class Option(NamedTuple):
    """An option of a command: its field's name, what it takes, what it is for, its default."""

    name: str
    takes: str
    text: str
    default: str

    @property
    def flag(self) -> str:
        """Return its name as it is written."""
        return "--" + self.name.replace("_", "-")


def brief(command: str, kind: Any, more: str = "", lines: int | None = None) -> str:
    """Return the page of a command.

    command: its name. kind: its configuration, or a preset's. more: what is said below the options.
    lines: of the screen; by default the terminal's.
    """
    size = shutil.get_terminal_size((100, LINES))
    config = kind if isinstance(kind, type) else type(kind)
    bare, shown = BARE.get(config, ("", ""))
    needed = [f"{o.flag} {o.takes}" for o in options(kind) if not o.default and o.name != bare]
    usage = " ".join([f"usage: jaxdiff {command}", *([shown] if shown else []), *needed])
    wide = max(60, min(size.columns, 120))
    about = inspect.cleandoc(config.__doc__ or "").partition("\n\n")[0]
    foot = [
        *([""] if more else []),
        *_wrapped(more, wide),
        "",
        f"with any command: {', '.join(WHOLE)}",
    ]
    head = [f"{usage} [OPTIONS]", "", *_wrapped(about, wide)]
    room = (lines or size.lines) - len(head) - len(foot) - 1
    return "\n".join([*head, *_groups(grouped(kind), room, wide), *foot])


def page(command: str, kind: type, arguments: Sequence[str]) -> str:
    """Return the page that arguments with ``--help`` ask for: of a preset, a network or a method,
    where they name one.
    """
    from jaxdiff.app import parsing

    if kind is configs.Train:
        known, (left, network) = parsing.presets(), parsing.network_of(arguments)
        named = left[0] if left and left[0] in known else None
        base = known[named or "images"][1]
        chosen = {} if network is None else {"network": config_network.network_named(network)}
        more = "" if named else f"PRESET is {' or '.join(known)}: jaxdiff train PRESET --help"
        text = f"train {named or 'PRESET'}"
        return brief(text, dataclasses.replace(base, **chosen), more)
    if kind not in parsing.CHOOSING:
        return brief(command, kind)
    from jaxdiff.recipes.choices import choices, listed

    known = parsing.CHOOSING[kind]()
    pairs = zip(arguments, arguments[1:], strict=False)
    named = [name for option, name in pairs if option == "--method" and name in known]
    if named:
        return (
            f"usage: jaxdiff {command} --method {named[-1]} --choices NAME VALUE ...\n\n"
            f"{listed(known[named[-1]])}\n\njaxdiff {command} --help is of the other options"
        )
    own = ", ".join(choices(known[kind.method])) or "none"
    more = f"choices of {kind.method}: {own}; --method NAME --help explains those of a method"
    return brief(command, kind, more)


def grouped(kind: Any) -> dict[str, list[Option]]:
    """Return the options of a configuration by group, in the order of their use; nested ones by
    the name of their field.
    """
    found: dict[str, list[Option]] = {"": []}
    for option in options(kind):
        outer, dot, _ = option.name.partition(".")
        group = outer if dot else next((g for g, own in GROUPS.items() if option.name in own), "")
        found.setdefault(group, []).append(option)
    nested = [group for group in found if group and group not in GROUPS]
    own = [group for group in GROUPS if group in found]
    order = [*nested, *own] if "network" in nested else [*own, *nested]  # of training, or of less
    return {group: found[group] for group in ["", *order] if found[group]}


def _groups(groups: Mapping[str, list[Option]], room: int, wide: int) -> list[str]:
    """Return the lines of groups, the first with a line for every option, and the others as long
    as there is room: then names alone.
    """
    short = {
        g: _wrapped(f"{g}: {' '.join(o.flag for o in own)}", wide) for g, own in groups.items()
    }
    spare = room - sum(len(short[g]) + 1 for g in groups)
    made = []
    for group, own in groups.items():
        extra = len(own) + bool(group) - len(short[group])
        if group and extra > spare:
            made += ["", *short[group]]
            continue
        spare -= extra
        width = min(30, max(len(f"{o.flag} {o.takes}") for o in own))
        lines = [_line(o, width, wide) for o in own]
        made += ["", *([f"{group}:"] if group else []), *lines]
    return made


def _wrapped(text: str, wide: int) -> list[str]:
    one = " ".join(text.split())
    return textwrap.wrap(one, wide, subsequent_indent="  ", break_on_hyphens=False) if one else []


def _line(option: Option, width: int, wide: int) -> str:
    """Return an option with what it is for, cut where the line ends, and its default."""
    known = "" if option.default in PLAIN or len(option.default) > 12 else f" [{option.default}]"
    start = f"  {f'{option.flag} {option.takes}':{width}}  "
    text, room = option.text.partition(". ")[0].rstrip("."), wide - len(start) - len(known)
    short = text if len(text) <= room else text[: room - 3].rstrip(" ,;:") + "..."
    return (start + short + known).rstrip()


def options(kind: Any, prefix: str = "") -> Iterator[Option]:
    """Yield the options of a configuration or of a kind of them, the nested ones too."""
    config = kind if isinstance(kind, type) else type(kind)
    hints, texts = typing.get_type_hints(config), documented(config)
    for field in dataclasses.fields(config):
        own = getattr(kind, field.name, dataclasses.MISSING)
        if not isinstance(own, type) and dataclasses.is_dataclass(own):
            if field.name == "network":
                yield Option("network", "KIND", TEXTS["network"], "unet")
            yield from options(own, f"{prefix}{field.name}.")
            continue
        made = field.default_factory is not dataclasses.MISSING
        given = own is not dataclasses.MISSING and repr(own) != "tyro.MISSING"
        text = " ".join(texts.get(field.name, TEXTS.get(field.name, "")).split())
        default = str(own) if given else ("{}" if made else "")
        yield Option(prefix + field.name, _takes(hints[field.name]), text, default)


def _takes(hint: Any) -> str:
    """Return what stands for an option's value."""
    of = [h for h in typing.get_args(hint) if h is not type(None)]
    origin = typing.get_origin(hint)
    if hint is bool:
        return ""
    if origin is typing.Literal:
        words = "|".join(map(str, of))
        return words if len(words) <= 16 else "NAME"
    if origin is tuple:
        return f"{_takes(of[0])} ..." if Ellipsis in of else " ".join(map(_takes, of))
    if origin is dict:
        return "NAME VALUE ..."
    if of and origin is not None:
        return _takes(of[0])
    return {int: "N", float: "X", str: "TEXT"}.get(hint, "...")


@functools.lru_cache
def documented(kind: type) -> dict[str, str]:
    """Return the text below every field of a configuration, those that it inherits among them."""
    (tree,) = ast.parse(inspect.getsource(kind)).body
    body = typing.cast(ast.ClassDef, tree).body
    found = {k: v for base in kind.__bases__ if base is not object
             for k, v in documented(base).items()}  # fmt: skip
    for field, text in zip(body, body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            name, value = field.target, text.value
            if isinstance(name, ast.Name) and isinstance(value, ast.Constant):
                found[name.id] = inspect.cleandoc(str(value.value))
    return found
