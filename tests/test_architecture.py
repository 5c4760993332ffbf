"""The shape of the code, read from its imports: one direction of dependencies, one door per foreign library."""

import ast
import subprocess
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 350
ENGINES = {"recorder", "player", "dataset", "edit", "convert", "export"}
MEANINGLESS = {"utils", "util", "common", "core", "helpers", "misc"}
TOP_LEVEL = {"cortex", "bag", "tests", "sample_data", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md"}

# which modules may import a foreign library; a prefix stands for everything under it
DOORS = {
    "click": ("cortex.cli", "bag.cli"),
    "h5py": ("bag.storage",),
    "matplotlib": ("bag.plot",),
    "msgpack": ("cortex.codec",),
    "rich": ("cortex.cli", "bag.cli"),
    "torch": ("cortex.codec", "cortex.codec_torch"),
    "zmq": ("cortex.core", "cortex.discovery", "bag.intake", "bag.ports", "bag.stage"),
}


def _module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {_module_name(path): path for package in ("cortex", "bag") for path in (ROOT / package).rglob("*.py")}


TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in SOURCES.items()}


def _under(module, *prefixes):
    return any(module == prefix or module.startswith(prefix + ".") for prefix in prefixes)


def _is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def _statements(node):
    # what is imported for annotations only is no dependency when the program runs
    for child in ast.iter_child_nodes(node):
        if not _is_type_checking(child):
            yield child
            yield from _statements(child)


def _imports(module):
    found = set()
    for node in _statements(TREES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno} imports relatively; write the whole name."
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in SOURCES else node.module for name in whole}
    return found


IMPORTS = {module: _imports(module) for module in SOURCES}


EDGES = [(module, name) for module, names in IMPORTS.items() for name in sorted(names)]


def test_cortex_knows_nothing_of_bag():
    assert [(module, name) for module, name in EDGES if _under(module, "cortex") and _under(name, "bag")] == []


def test_storage_imports_nothing_above_it():
    below = ("bag.storage", "bag.errors", "bag.records", "bag.units")
    inside = [(module, name) for module, name in EDGES if _under(module, "bag.storage") and _under(name, "bag")]
    assert [(module, name) for module, name in inside if not _under(name, *below)] == []


def test_engines_have_no_doors_between_them():
    def engine(module):
        return next((name for name in ENGINES if _under(module, f"bag.{name}")), None)

    pairs = [(engine(module), engine(name)) for module, name in EDGES]
    assert [pair for pair in pairs if None not in pair and pair[0] != pair[1]] == []


def test_nothing_but_the_command_line_imports_the_command_line():
    for cli in ("cortex.cli", "bag.cli"):
        assert [(module, name) for module, name in EDGES if _under(name, cli) and not _under(module, cli)] == []


def test_there_is_no_circle_of_imports():
    graph = {module: names & SOURCES.keys() - {module} for module, names in IMPORTS.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("library", DOORS)
def test_a_foreign_library_has_one_door(library):
    assert [module for module, name in EDGES if _under(name, library) and not _under(module, *DOORS[library])] == []


def test_modules_are_short():
    long = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in SOURCES.items()}
    assert {module: lines for module, lines in long.items() if lines > MAX_LINES} == {}


def test_every_module_says_why_it_exists():
    assert [module for module, tree in TREES.items() if not ast.get_docstring(tree)] == []


def test_no_module_has_a_name_without_meaning():
    assert [module for module in SOURCES if _under(module, "bag") and module.split(".")[-1] in MEANINGLESS] == []


def test_the_top_level_is_as_agreed():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
    names = {name.split("/")[0] for name in listed.stdout.splitlines()} or {path.name for path in ROOT.iterdir()}
    names = {name for name in names if (ROOT / name).exists() and not name.startswith(".")}
    assert {name for name in names if not any(fnmatch(name, line.rstrip("/")) for line in ignored)} == TOP_LEVEL
