"""The border between the folders, and what `engine` may not need."""

import ast
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("engine", "train", "export", "bench")  # of the product
ORDER = (  # a package imports only from those above it
    *("engine", "engine.cloud", "engine.telemetry", "engine.archive", "engine.image"),
    *("engine.model", "engine.backends", "engine.output", "engine.report", "engine.page"),
    "engine.run",
    *("engine.cluster", "engine.dicom", "engine.pacs", "engine.review"),
    *("engine.cli.terminal", "engine.cli"),
    *(
        "train",
        "train.phantom",
        "train.networks",
        "train.cases",
        "train.training",
        "train.segmenters",
    ),
    "train.evaluation",
    "export",
    *("bench", "bench.common", "bench.measures", "bench.review"),
    *("bench.acceptance", "bench.studies", "bench.gpu"),
    "bench.scale",
    "bench.cli",
)
MODULES = 12  # at most, in a package
NOT_IN_ENGINE = {"torch", "onnx", "safetensors"}


def statements(file: Path) -> Iterator[tuple[int, str]]:
    """(dots, module) of every import of a file, those inside functions included."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield from ((node.level, f"{module}.{alias.name}") for alias in node.names)


def package(root: Path, module: str) -> str:
    """The package of what an import names, such as "engine.model"."""
    parts = module.split(".")[1:]
    while not (root.joinpath(*parts) / "__init__.py").is_file():
        parts.pop()
    return ".".join(parts)


def violations(root: Path) -> list[str]:
    """Imports that run the wrong way, in a tree of the product's folders."""
    found = []
    for file in (x for folder in FOLDERS for x in sorted((root / folder).rglob("*.py"))):
        own = ".".join(file.parent.relative_to(root).parts)
        for dots, module in statements(file):
            where = f"{file.relative_to(root)}: {module}"
            if dots > 1:
                found.append(f"{where}: relative import past its package")
            if module.startswith("mcdiff_batch."):
                other = package(root, module)
                if other == own:
                    found.append(f"{where}: a neighbour is imported by a dot")
                elif ORDER.index(other) > ORDER.index(own):
                    found.append(f"{where}: {own} stands above {other}")
            if own.startswith("engine") and module.split(".")[0] in NOT_IN_ENGINE:
                found.append(f"{where}: engine does without it")
    return found


def cycle(root: Path) -> list[str]:
    """Files that import each other in a ring, if there are any."""
    imports: dict[str, set[str]] = {}
    for file in (x for folder in FOLDERS for x in sorted((root / folder).rglob("*.py"))):
        own = file.relative_to(root).with_suffix("").parts
        for dots, module in statements(file):
            parts = module.strip(".").split(".")
            if dots:
                parts = [*own[:-1], *parts]
            elif parts[0] == "mcdiff_batch":
                parts = parts[1:]
            else:
                continue
            while parts and not root.joinpath(*parts).with_suffix(".py").is_file():
                parts.pop()
            if parts:
                imports.setdefault("/".join(own), set()).add("/".join(parts))
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_a_package_imports_only_from_those_above_it_and_engine_never_torch() -> None:
    assert violations(ROOT) == []


def test_no_files_import_each_other_in_a_ring() -> None:
    assert cycle(ROOT) == []


PLANTED = {
    "engine/archive/store.py": "from mcdiff_batch.engine.model.plan import Plan",
    "engine/image/frame.py": "def f():\n    import torch",
    "engine/run/pool.py": "from mcdiff_batch.train.networks import losses",
    "engine/run/worker.py": "from ..model import plan",
    "engine/model/noise.py": "from mcdiff_batch.engine.model import plan",
}


@pytest.mark.parametrize("file", PLANTED)
def test_an_import_that_runs_the_wrong_way_is_found(file: str, tmp_path: Path) -> None:
    copy(tmp_path)
    (tmp_path / file).write_text(PLANTED[file])
    (found,) = violations(tmp_path)
    assert found.startswith(file)


def test_a_ring_of_imports_is_found(tmp_path: Path) -> None:
    copy(tmp_path)
    (tmp_path / "engine/errors.py").write_text("from .text import printable")
    (tmp_path / "engine/text.py").write_text("from .errors import Exit")
    assert set(cycle(tmp_path)) == {"engine/errors", "engine/text"}


def copy(target: Path) -> None:
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            other = target / file.relative_to(ROOT)
            other.parent.mkdir(parents=True, exist_ok=True)
            other.write_text(file.read_text())


def test_every_package_is_listed_and_small_enough_to_look_through() -> None:
    packages = {
        ".".join(x.parent.relative_to(ROOT).parts): x.parent
        for folder in FOLDERS
        for x in (ROOT / folder).rglob("__init__.py")
    }
    assert set(ORDER) == set(packages)
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    names = {f"mcdiff_batch.{x}" for x in packages}
    assert set(listed["setuptools"]["packages"]) == names
    sizes = {name: len(list(x.glob("[!_]*.py"))) for name, x in packages.items()}
    assert {k: n for k, n in sizes.items() if n > MODULES} == {}


def test_help_of_every_command_and_the_phantom_work_with_torch_absent(tmp_path):
    blocked = "import sys; sys.modules['torch'] = None; from mcdiff_batch.engine.cli import main"
    for words in (
        ["--help"],
        ["run", "--help"],
        ["train", "--help"],
        ["export", "--help"],
        ["bench", "--help"],
        ["phantom", "--output", str(tmp_path / "a.zarr"), "--cases", "1", "--workers", "1"],
    ):
        code = f"{blocked}; sys.argv = ['mcdiff-batch', *{words!r}]; main()"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def tracked(root: Path) -> set[str]:
    """Top-level names that git tracks, without dotfiles; empty in a copy without git."""
    if shutil.which("git") is None:
        return set()
    listed = subprocess.run(["git", "ls-files"], cwd=root, capture_output=True, text=True)
    names = {line.split("/")[0] for line in listed.stdout.splitlines()}
    return {x for x in names if not x.startswith(".")}


def test_the_top_level_is_what_the_design_says():
    """A user's own files beside these are none of its business."""
    top = {"pyproject.toml", "README.md", "tests", *FOLDERS}
    assert top <= {x.name for x in ROOT.iterdir()}
    assert tracked(ROOT) in (top, set())
