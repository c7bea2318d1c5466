"""The layers of the library: a module imports only from those above it."""

import ast
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1] / "jaxdiff"
LAYERS = [
    {"typing", "files"},
    {"method", "process"},
    {"prediction", "exact", "grids", "distance"},
    {"solvers"},
    {"sampling", "conditioning", "analysis", "metrics"},
    {"networks", "pretrained", "data"},
    {"distill", "tuning"},
    {"training"},
    {
        "config",
        "runs",
        "students",
        "tuned",
        "recipes",
        "evaluation",
        "demo",
        "demo_report",
        "cli",
        "report",
        "experiments",
    },
]
OWNERS = {  # third-party packages and the only parts that may import them
    "flax": {"networks"},
    "diffrax": {"sampling"},
    "orbax": {"training"},
    "optax": {"method", "metrics", "distill", "tuning", "training", "runs", "recipes"},
    "matplotlib": {"report"},
    "tyro": {"cli"},
}
LAZY = {"diffrax", "orbax", "matplotlib", "tyro", "sklearn", "PIL", "scipy", "tqdm"}


def part(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path, top_level_only=False):
    tree = ast.parse(path.read_text())
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def layer(name):
    (found,) = (i for i, names in enumerate(LAYERS) if name in names)
    return found


def modules():
    return [p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py"]


def test_every_module_imports_only_from_layers_above():
    for path in modules():
        own = part(path)
        for name in imports(path):
            pieces = name.split(".")
            if pieces[0] != "jaxdiff" or len(pieces) < 2 or pieces[1] == own:
                continue
            same_row_allowed = layer(own) == len(LAYERS) - 1
            assert layer(pieces[1]) < layer(own) + same_row_allowed, (
                f"{path.name} ({own}) imports {name}"
            )


def test_third_party_packages_stay_where_they_belong():
    for path in modules():
        for name in imports(path):
            owners = OWNERS.get(name.split(".")[0])
            assert owners is None or part(path) in owners, f"{path} imports {name}"


def test_importing_jaxdiff_is_light():
    code = "import sys, jaxdiff; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not LAZY & set(run.stdout.split()), LAZY & set(run.stdout.split())
