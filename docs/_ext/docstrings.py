"""The house's docstrings for Sphinx.

They are plain text with ``literals``, roles and Google's sections. So asterisks and bars are
themselves, an indented block that no section owns is shown as it stands, and lines "name: what it
is" about the fields of a record become a list. A role that names what is not public is shown
without a link; one that names what does not exist fails the build.
"""

import importlib
import inspect
import re
from typing import Any

from docs.reference import escape, imported, public_name, public_names, qualified

SECTIONS = ("Args", "Returns", "Yields", "Raises", "Attributes", "Example", "Examples", "Note")
ARRAY = r"~?jax\.jaxlib\._jax\.Array"
SHORT = {  # names of unions of types, by what annotations are read as
    ARRAY + r" \| ~?numpy\.ndarray \| ~?numpy\.bool \| ~?numpy\.number \| bool \| int \| float"
    r" \| complex": "ArrayLike",
    r"str \| type\[~?typing\.Any\] \| ~?numpy\.dtype \| ~?jax\._src\.typing\.SupportsDType":
    "DTypeLike",
    ARRAY: "Array",
    r"~?jaxtyping\.|jaxlib\._jax\.": "",
    r"<class '[\w.]*?(\w+)'>": r"\1",
}  # fmt: skip
FIELD = re.compile(r"(\w+(?:, \w+)*): \S")


def indent(line: str) -> int:
    """Return how far a line is indented."""
    return len(line) - len(line.lstrip())


def shown(lines: list[str], fields: frozenset[str] = frozenset()) -> list[str]:
    """Return a docstring's lines as reStructuredText."""
    out: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        head = line.rstrip().rstrip(":")
        if indent(line) == 0 and line.rstrip().endswith(":") and head in SECTIONS:
            out += ["", line]
            at += 1
            while at < len(lines) and (not lines[at].strip() or indent(lines[at])):
                out.append(escape(lines[at]))
                at += 1
            out.append("")
        elif indent(line) and not (out and FIELD.match(out[-1].removeprefix("* "))):
            block = []
            while at < len(lines) and (not lines[at].strip() or indent(lines[at])):
                block.append(lines[at])
                at += 1
            out += ["", "::", "", *block, ""]
        else:
            found = FIELD.match(line)
            if found and set(found[1].split(", ")) & fields:
                at = add_field(lines, at, out)
            else:
                if out and out[-1].startswith(("* ", "  ")):
                    out.append("")
                out.append(escape(line))
                at += 1
    return out


def add_field(lines: list[str], at: int, out: list[str]) -> int:
    """Add the entry of a field, with the lines that go on with it, as an item of a list."""
    name, _, rest = lines[at].partition(": ")
    if out and out[-1] and not out[-1].startswith(("* ", "  ")):
        out.append("")
    out.append(f"* ``{name}``: {escape(rest)}")
    at += 1
    while at < len(lines) and lines[at].strip() and not FIELD.match(lines[at]):
        out.append("  " + escape(lines[at].strip()))
        at += 1
    return at


def process(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Rewrite a docstring that autodoc has read."""
    fields = frozenset(getattr(obj, "__annotations__", {}) if inspect.isclass(obj) else ())
    home = importlib.import_module(getattr(obj, "__module__", None) or "jaxdiff")
    lines[:] = shown(qualified("\n".join(lines), home).split("\n"), fields)


def shortened(text: str | None) -> str | None:
    """Return a signature, or a part of it, with the names that types have in the code."""
    for long, short in SHORT.items():
        text = re.sub(long, short, text) if text else text
    return text


def sign(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returned: str
) -> tuple[str | None, str | None]:
    """Shorten what autodoc has read of a signature."""
    return shortened(signature), shortened(returned)


def skip(app: Any, what: str, name: str, obj: Any, skipped: bool, options: Any) -> bool | None:
    """Leave out the fields of records, which the docstring of the record explains."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def resolve(app: Any, env: Any, node: Any, contnode: Any) -> Any:
    """Lead a reference to an object's documented name, or show it without a link."""
    if node.get("refdomain") != "py":
        return None
    path = node.get("reftarget", "")
    path = next((name for name in public_names() if name.endswith(f".{path}")), path)
    if not path.startswith("jaxdiff"):
        return None
    try:
        item = imported(path)
    except AttributeError:
        return None  # Sphinx warns, which is an error
    known = public_name(item)
    if known is None:
        return contnode
    domain = env.get_domain("py")
    return (
        domain.resolve_xref(env, node["refdoc"], app.builder, "obj", known, node, contnode)
        or contnode
    )


def setup(app: Any) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("autodoc-process-docstring", process, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", sign)
    app.connect("autodoc-skip-member", skip)
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
