"""What the site is made of: files of the repository and the pages that they become.

Every Markdown file under ``docs`` is a page of the same name; notebooks are tutorials; results of
experiments, and the pages that explain them, keep their place in the repository and are pages too.
A link between two of them is a link between pages, one to any other file a link to the source.
"""

import os
import re
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/jaxdiff/jaxdiff"
ELSEWHERE = {  # files outside of docs that are pages
    "notebooks/README.md": "tutorials/index.md",
    "experiments/choosing_a_sampler.md": "howto/choose_a_solver.md",
    "experiments/choosing_a_method.md": "howto/choose_a_method.md",
    "experiments/running_a_table.md": "howto/run_a_table.md",
    "experiments/cluster/README.md": "howto/cluster.md",
    "CONTRIBUTING.md": "about/contributing.md",
    "CHANGELOG.md": "about/changelog.md",
    "CODE_OF_CONDUCT.md": "about/code_of_conduct.md",
}
LINK = re.compile(r"(!?\[(?:[^][]|\[[^]]*\])*\])\(([^)\s]+)\)")
CODE = re.compile(r"(^```.*?^```)", re.S | re.M)
PICTURES = (".png", ".svg", ".jpg", ".gif")


def pages() -> dict[str, str]:
    """Return the page of every file that is one, by path in the repository."""
    found = {}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        name = path.relative_to(ROOT / "docs").as_posix()
        if not name.startswith("_"):
            found[f"docs/{name}"] = name
    for path in sorted((ROOT / "notebooks").glob("*.py")):
        found[f"notebooks/{path.name}"] = f"tutorials/{path.name}"
    for path in sorted((ROOT / "experiments/results").glob("*.md")):
        found[f"experiments/results/{path.name}"] = f"results/{path.name}"
    return found | {name: page for name, page in ELSEWHERE.items() if (ROOT / name).exists()}


def is_outside(link: str) -> bool:
    """Whether a link leaves the repository, or is within its own page."""
    return bool(re.match(r"[a-z]+:|#|/", link))


def links(text: str) -> list[str]:
    """Return the targets of the links and pictures of a Markdown text, those in code left out."""
    return [link for part in CODE.split(text)[::2] for _, link in LINK.findall(part)]


def target(name: str, link: str) -> tuple[str, str]:
    """Return the file in the repository that a link in one of its files leads to, and the anchor.

    Raises:
        FileNotFoundError: where there is no such file.
    """
    path, _, anchor = link.partition("#")
    found = os.path.normpath(os.path.join(os.path.dirname(name), path))
    if not (ROOT / found).exists() and not found.startswith(("docs/figures/", "docs/api/")):
        raise FileNotFoundError(f"{name} links to {link}, which does not exist")
    return found, anchor


def relinked(name: str, text: str, known: dict[str, str]) -> tuple[str, set[str]]:
    """Return a file's text with its links led to pages or to the source, and the pictures it
    shows.
    """
    here, pictures = os.path.dirname(known[name]), set()

    def lead(found: re.Match[str]) -> str:
        label, link = found.groups()
        if is_outside(link):
            return found[0]
        path, anchor = target(name, link)
        after = f"#{anchor}" if anchor else ""
        if path.endswith(PICTURES) and label.startswith("!"):
            pictures.add(path)
            return f"{label}({os.path.relpath(picture(path), here)})"
        if path.startswith("docs/api/"):
            return f"{label}({os.path.relpath(path.removeprefix('docs/'), here)}{after})"
        if path in known:
            return f"{label}({os.path.relpath(known[path], here)}{after})"
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"{label}({REPOSITORY}/{kind}/main/{path}{after})"

    parts = CODE.split(text)
    parts[::2] = [LINK.sub(lead, part) for part in parts[::2]]
    return "".join(parts), pictures


def outside() -> list[str]:
    """Return the links of all pages that lead elsewhere, which nothing follows here."""
    found: set[str] = set()
    for name in pages():
        found |= {link for link in links((ROOT / name).read_text()) if "://" in link}
    return sorted(found)


def picture(path: str) -> str:
    """Return the place of a picture in the site."""
    return path.replace("docs/", "").replace("experiments/", "")


def write(path: Path, text: str) -> None:
    """Write a text unless the file has it already, so that Sphinx reads only what has changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def stage(folder: Path) -> set[Path]:
    """Write all pages and pictures into a folder; return what it then holds of them."""
    known, kept = pages(), set()
    for name, page in known.items():
        text, shown = relinked(name, (ROOT / name).read_text(), known)
        write(folder / page, with_toctree(page, text))
        kept.add(folder / page)
        for path in shown - {p for p in shown if p.startswith("docs/figures/")}:
            place = folder / picture(path)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / path, place)
            kept.add(place)
    return kept


def with_toctree(page: str, text: str) -> str:
    """Return a page with the tables of contents that the site needs and the repository does not:
    of the notebooks, and of results that no heading lists yet.
    """
    folder, own = Path(page).parent.as_posix(), pages().values()
    if page not in ("tutorials/index.md", "results/index.md"):
        return text
    names = [Path(p).stem for p in own if Path(p).parent.as_posix() == folder and p != page]
    names.sort(key=lambda name: text.find(f"({name}.py)"))  # as the list has them
    new = [name for name in names if not re.search(rf"^(?:.* <)?{name}>?$", text, re.M)]
    hidden = [":hidden:"] if folder == "tutorials" else [":maxdepth: 1"]
    heading = [] if folder == "tutorials" or not new else ["## Others", ""]
    return "\n".join([text, *heading, "```{toctree}", *hidden, *new, "```", ""])
