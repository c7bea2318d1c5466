"""Choices of a method: names, defaults and meanings, read off signatures and docstrings.

A recipe of distillation is a function ``stages(goal, **choices)``, one of tuning
``plan(task, **choices)``. Its choices are its keywords, whose defaults suit a few
thousand updates, and, if it passes ``**options`` on, the keywords of the functions it passes them
to (``of``) that are numbers, words or well-known functions, whose defaults are the paper's.
"""

import inspect
import math
import re
import types
from collections.abc import Callable, Mapping, Sequence
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    Protocol,
    Union,
    get_args,
    get_origin,
)

from jaxdiff import distance, prediction
from jaxdiff.distill.adversarial import adversarial_distillation
from jaxdiff.distill.consistency import schedules
from jaxdiff.distill.score import score_distillation, swift_brush
from jaxdiff.distill.trajectory import progressive, rectified_flow
from jaxdiff.ranges import range_of
from jaxdiff.solvers.adjusted_ddim import adjusted_ddim_step
from jaxdiff.solvers.steps import euler_step, heun_step

Value = bool | int | float | str
SIMPLE = (bool, int, float, str, tuple, Sequence, types.NoneType, Literal)
# Functions that are chosen by name: with one of these as the default, another of its kind.
FUNCTIONS: tuple[dict[str, Callable[..., Any]], ...] = (
    {f.__name__: f for f in (distance.squared, distance.absolute, distance.norm)},
    {
        f.__name__: f
        for f in (
            prediction.uniform_weight, prediction.snr_weight, prediction.snr_plus_one_weight,
            prediction.truncated_snr_weight, prediction.edm_weight,
        )
    },
    {
        f.__name__: f
        for f in (
            schedules.inverse_gap, schedules.inverse_root_gap, schedules.inverse_level,
        )
    },
    {
        f.__name__: f
        for f in (
            score_distillation.variance, score_distillation.inverse_square, swift_brush.faded,
            adversarial_distillation.amplitude, prediction.uniform_weight,
        )
    },
    {
        f.__name__: f
        for f in (euler_step, heun_step, adjusted_ddim_step)
    },
    {f.__name__: f for f in (progressive.cosine_levels, progressive.karras_levels)},
    {f.__name__: f for f in (rectified_flow.uniform_times, rectified_flow.u_shaped_times)},
)  # fmt: skip


class Chooses(Protocol):
    """A method by name: :class:`jaxdiff.recipes.goal.Recipe` or
    :class:`jaxdiff.recipes.tuning.task.Tuner`.
    """

    @property
    def makes(self) -> Callable[..., Any]:
        """Return the function whose keywords are choices."""
        ...

    @property
    def of(self) -> tuple[Callable[..., Any], ...]:
        """Return the functions that others are passed on to."""
        ...

    @property
    def fixed(self) -> tuple[str, ...]:
        """Keywords of these that it sets itself."""
        ...


class Choice(NamedTuple):
    """One thing to choose.

    default: of the recipe. kind: its type, float | None and the like included; for a function,
    those of its kind by name. meaning: from the method's docstring, "" if it does not say.
    """

    default: Any
    kind: Any
    meaning: str

    def __str__(self) -> str:
        value = getattr(self.default, "__name__", self.default)
        if isinstance(value, tuple | list):
            value = ",".join(map(str, value))
        words = self.kind if isinstance(self.kind, dict) else _words(self.kind)
        of = f" ({' | '.join(words)})" if words else ""
        return f"{value}{of}" + (f": {self.meaning}" if self.meaning else "")


def choices(recipe: Chooses) -> dict[str, Choice]:
    """Return what a recipe lets one choose, by name."""
    own = list(inspect.signature(recipe.makes).parameters.values())[1:]
    passes = any(p.kind is p.VAR_KEYWORD for p in own)
    named = {p.name: p for p in own if p.kind is not p.VAR_KEYWORD}
    for method in recipe.of if passes else ():
        for p in inspect.signature(method).parameters.values():
            if p.kind is p.KEYWORD_ONLY and p.name not in recipe.fixed:
                named.setdefault(p.name, p)
    sources = (*reversed(recipe.of), recipe.makes)
    meanings = {name: text for f in sources for name, text in documented(f).items()}
    found = {name: _choice(p, meanings.get(name, "")) for name, p in named.items()}
    return {name: choice for name, choice in found.items() if choice is not None}


def _choice(p: inspect.Parameter, meaning: str) -> Choice | None:
    """Return a parameter as a choice; None for one that cannot be written as words or numbers, and
    for one without a default, which the recipe must give.
    """
    if p.default is p.empty:
        return None
    for known in FUNCTIONS:
        if any(p.default is f for f in known.values()):
            return Choice(p.default, known, meaning)
    simple = all(_origin(kind) in SIMPLE for kind in _kinds(p.annotation))
    return Choice(p.default, p.annotation, meaning) if simple else None


def _kinds(annotation: Any) -> tuple[Any, ...]:
    """Return the types of a union, or the one."""
    union = isinstance(annotation, types.UnionType) or get_origin(annotation) is Union
    return get_args(annotation) if union else (annotation,)


def _origin(kind: Any) -> Any:
    return get_origin(_plain(kind)) or _plain(kind)


def _plain(kind: Any) -> Any:
    """Return a type without the range (:mod:`jaxdiff.ranges`) that it may be declared with."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _words(annotation: Any) -> tuple[str, ...]:
    """Return the words that a Literal may be."""
    return tuple(str(w) for k in _kinds(annotation) if _origin(k) is Literal for w in get_args(k))


def _type_in_words(kind: Any) -> str:
    """Return a type in words."""
    if words := _words(kind):
        return " or ".join(words)
    if kind is types.NoneType:
        return "none"
    name, allowed = getattr(_plain(kind), "__name__", str(kind)), range_of(kind)
    return name if allowed is None else f"{name} {allowed}"


def documented(method: Callable[..., Any]) -> dict[str, str]:
    """Return what a docstring says of each parameter, as one line: "name: text" or "a, b: text",
    indented below "Args:" where there is such a section.
    """
    whole = inspect.getdoc(method) or ""
    _, section, text = whole.rpartition("Args:\n")
    indent = " " * 4 if section else ""
    text = re.split(r"\n\n|\n *(?:Recipe|Deviations?|Failure modes?|Cost)\b[^\n]*:", text)
    heads_of = re.compile(rf"(?m)(?:^{indent}|(?<=\. ))((?:\w+, )*\w+):\s")
    found = {}
    for part in text if not section else text[:1]:
        heads = list(heads_of.finditer(part))
        ends = [*(head.start() for head in heads), len(part)][1:]
        for head, end in zip(heads, ends, strict=True):
            plain = re.sub(r":\w+:`~?\.?([^`]*)`|``([^`]*)``", r"\1\2", part[head.end() : end])
            found |= dict.fromkeys(head[1].split(", "), " ".join(plain.split()))
    return found


def chosen(name: str, recipe: Chooses, given: Mapping[str, Value]) -> dict[str, Any]:
    """Return the given choices as what the recipe takes.

    Raises ValueError naming the choices there are for one that the recipe does not have, and what
    is meant for a value of another kind.
    """
    known = choices(recipe)
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(
            f"{name} has no choice {unknown[0]!r}; it has: {', '.join(known) or 'none'}"
        )
    return {k: _read(f"{k} of {name}", v, known[k]) for k, v in given.items()}


def _read(where: str, value: Any, choice: Choice) -> Any:
    if isinstance(choice.kind, dict):
        if value not in choice.kind:
            raise ValueError(f"{where} is one of {', '.join(choice.kind)}; not {value!r}")
        return choice.kind[value]
    kinds = _kinds(choice.kind)
    for kind in kinds:
        try:
            return _as(kind, value)
        except (TypeError, ValueError, StopIteration):
            continue
    named = " or ".join(map(_type_in_words, kinds))
    raise ValueError(f"{where} should be {named}, like {choice.default!r}; not {value!r}")


def _as(kind: Any, value: Any) -> Any:
    """Return the value as this kind. ValueError or TypeError if it is another."""
    word = str(value).strip()
    if _plain(kind) is not kind and (allowed := range_of(kind)) is not None:
        number = _as(_plain(kind), value)
        if not allowed.holds(number):
            raise ValueError(word)
        return number
    if _origin(kind) is Literal:
        return next(w for w in get_args(kind) if str(w) == word)
    if _origin(kind) in (tuple, Sequence):
        of, *_ = get_args(kind)
        parts = value if isinstance(value, tuple | list) else word.split(",")
        return tuple(_as(of, part) for part in parts)
    if kind in (types.NoneType, bool):
        words = {"none": None} if kind is types.NoneType else {"true": True, "false": False}
        if word.lower() not in words:
            raise ValueError(word)
        return words[word.lower()]
    if kind is float and math.isnan(float(word)):
        raise ValueError(word)
    if kind is int:
        number = float(word)
        if number != int(number):
            raise ValueError(word)
        return int(number)
    return kind(word)


def listed(recipe: Chooses) -> str:
    """Return the choices of a recipe, a line each."""
    lines = [f"  {name} {choice}" for name, choice in choices(recipe).items()]
    return "\n".join(lines or ["  none"])
