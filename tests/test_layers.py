"""The layers of the library: a module imports only from those above it."""

import ast
import importlib
import pathlib
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).parents[1] / "jaxdiff"
LAYERS = [  # from below; a module imports only from rows above its own
    {"brief", "ranges", "inline"},
    {"typing", "files"},
    {"arrays"},
    {"noise", "method", "process"},
    {"prediction", "distance", "power_average"},
    {"denoisers", "exact", "grids"},
    {"solvers"},
    {"sampling"},
    {"analysis", "metrics"},
    {"networks", "data"},
    {"conditioning"},
    {"pretrained"},
    {"distill", "tuning", "classify"},
    {"adapt", "autoencoding"},
    {"training"},
    {"recipes"},
    {"citing"},
    {"report"},
    {"app"},
    {"__main__"},
]
OWNERS = {  # third-party packages and the only parts that may import them
    "flax": {"networks", "pretrained"},
    "diffrax": {"sampling"},
    "orbax": {"training"},
    "optax": {
        "method",
        "metrics",
        "conditioning",
        "distill",
        "autoencoding",
        "adapt",
        "tuning",
        "classify",
        "training",
        "app",
        "recipes",
    },
    "matplotlib": {"report"},
    "tyro": {"app"},
    "safetensors": {"pretrained"},
}
LAZY = {"safetensors", "diffrax", "orbax", "matplotlib", "tyro", "sklearn", "PIL", "scipy", "tqdm"}


def test_the_page_on_architecture_has_these_rows():
    page = (ROOT.parent / "docs/architecture.md").read_text()
    block = page.partition("## 5. Layers\n\n")[2].partition("\n\n")[0]
    written = [set(line[:48].split()) for line in block.splitlines()]
    assert written[:-1] == LAYERS[:-1]  # the last: outside of the package, and __main__


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


def test_every_part_has_a_layer_and_every_layer_its_parts():
    assert sorted(name for row in LAYERS for name in row) == sorted({part(p) for p in modules()})


def test_every_module_imports_only_from_layers_above():
    for path in modules():
        own = part(path)
        for name in imports(path):
            pieces = name.split(".")
            assert pieces[0] not in ("experiments", "tests"), f"{path.name} imports {name}"
            if pieces[0] != "jaxdiff" or len(pieces) < 2 or pieces[1] == own:
                continue
            if pieces[1] not in {n for row in LAYERS for n in row}:
                continue  # a public name
            assert layer(pieces[1]) < layer(own), f"{path.name} ({own}) imports {name}"


def test_no_module_imports_itself_in_a_circle():
    """Within the package, imports inside functions included."""
    names = {
        ".".join(("jaxdiff", *p.relative_to(ROOT).with_suffix("").parts)): p for p in modules()
    }
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}

    def imported(path):
        for name in imports(path):
            for whole in (name, name.rpartition(".")[0]):
                if whole in names:
                    yield whole
                    break

    ahead = {name: sorted(set(imported(path)) - {name}) for name, path in names.items()}
    seen, trail = set(), []

    def walk(name):
        assert name not in trail, " -> ".join([*trail[trail.index(name) :], name])
        if name in seen:
            return
        seen.add(name)
        trail.append(name)
        for other in ahead[name]:
            walk(other)
        trail.pop()

    for name in names:
        walk(name)


def test_third_party_packages_stay_where_they_belong():
    for path in modules():
        for name in imports(path):
            owners = OWNERS.get(name.split(".")[0])
            assert owners is None or part(path) in owners, f"{path} imports {name}"


def test_the_wheel_holds_the_package_alone():
    settings = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())
    assert settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["jaxdiff"]
    module, _, function = settings["project"]["scripts"]["jaxdiff"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_importing_jaxdiff_is_light():
    code = "import sys, jaxdiff; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert not LAZY & loaded, LAZY & loaded
    assert "numpy.polynomial" not in loaded  # no quadrature is made
