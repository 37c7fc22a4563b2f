"""The border between the folders, and what `engine` may not need."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["engine", "train", "export", "bench"]  # each may import those to its left


def imported(file):
    """(dots, module) of every import statement of a file."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or ""


def modules():
    return [file for folder in ORDER for file in sorted((ROOT / folder).rglob("*.py"))]


@pytest.mark.parametrize("file", modules(), ids=lambda f: f"{f.parent.name}/{f.name}")
def test_imports_run_one_way_a_dot_to_a_neighbour_the_full_name_over_a_border(file):
    folder = file.relative_to(ROOT).parts[0]
    for dots, module in imported(file):
        assert dots <= 1, f"{file}: relative import past its folder"
        if module.startswith("mcdiff_batch."):
            other = module.split(".")[1]
            assert ORDER.index(other) < ORDER.index(folder), f"{file} imports {module}"


@pytest.mark.parametrize("file", [f for f in modules() if f.parent.name == "engine"], ids=str)
def test_engine_never_names_torch(file):
    assert not {m.split(".")[0] for _, m in imported(file)} & {"torch", "onnx", "safetensors"}


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


def test_the_top_level_is_what_the_design_says():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        names = {x.name for x in ROOT.iterdir() if not x.name.startswith(".")}
        names -= {"build"} | {x for x in names if x.endswith(".egg-info")}
    else:
        tops = {line.split("/")[0] for line in listed.stdout.splitlines()}
        names = {x for x in tops if not x.startswith(".")}
    assert names == {"pyproject.toml", "README.md", "tests", *ORDER}
