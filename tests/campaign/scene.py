"""Scenes: an archive, an output as the night finds it, and what an undisturbed one makes of it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mcdiff_batch.engine.errors import Exit
from tests.support.disk import Call, Change, ignore
from tests.support.fake import Fault
from tests.support.running import archive, break_case, fault

from .night import ARCHIVE, OUTPUT, run_night

CASES = 3
SCRATCH = Path("/dev/shm")  # memory: the power cuts here are simulated
Tree = dict[str, bytes | None]  # files by name; None: a folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Where a schedule begins and where it must end."""

    name: str
    options: dict[str, Any]  # of the run
    source: Tree
    output: Tree  # when the night begins
    whole: Tree = field(default_factory=dict)  # the committed files at the end
    damaged: str = ""  # a file of `output` that is damaged
    calls: tuple[Call, ...] = ()  # that an undisturbed night makes, in order
    changes: tuple[Change, ...] = ()  # of the disk, likewise

    @property
    def cases(self) -> int:
        return sum(name.startswith("depths/c/") and "/" not in name[9:] for name in self.source)

    @contextmanager
    def stage(self) -> Iterator[Path]:
        """A folder with the archive and the output, until the end of the block."""
        parent = SCRATCH if SCRATCH.is_dir() else None
        with TemporaryDirectory(prefix="campaign-", dir=parent) as name:
            folder = Path(name)
            write_tree(folder / ARCHIVE, self.source)
            if self.output:
                write_tree(folder / OUTPUT, self.output)
            yield folder


def read_tree(root: Path) -> Tree:
    """All files and folders under `root`."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None
        for path in sorted(root.rglob("*"))
    }


def write_tree(root: Path, tree: Tree) -> None:
    """Writes `tree` in the place of `root`."""
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    for name, data in tree.items():
        if data is None:
            (root / name).mkdir(parents=True, exist_ok=True)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)


def committed_files(tree: Tree) -> Tree:
    """The files whose bytes P1 promises."""
    return {
        name: data
        for name, data in tree.items()
        if data is not None and name.split("/")[0] in ("images.zarr", "ledger", "manifest.json")
    }


def make_scene(
    name: str, options: dict[str, Any], source: Tree, output: Tree, damaged: str = ""
) -> Scene:
    """A scene, with what an undisturbed night does and makes."""
    scene = Scene(name=name, options=options, source=source, output=output, damaged=damaged)
    with scene.stage() as folder:
        end = run_night(folder, options, ignore)
        assert end.code == Exit.DONE, end.text
        whole = committed_files(read_tree(folder / OUTPUT))
    ours = (ARCHIVE, OUTPUT)
    calls = tuple(call for call in end.calls if call.name.split("/")[0] in ours)
    return replace(scene, whole=whole, calls=calls, changes=end.changes)


def make_scenes(folder: Path) -> list[Scene]:
    """A new output, one of several draws, and outputs to finish, to try again and to repair.

    `folder` is for archives that are made on the way.
    """
    path = archive(folder / "source.zarr", CASES)
    source, poor = read_tree(path), fault("nan", path, 1)
    break_case(path, 1)
    broken = read_tree(path)
    one, two = {"unit_size": 1}, {"unit_size": 2}
    retry, repair = two | {"retry_failed": True}, two | {"repair": True}
    torn = "images.zarr/label/c/0/0/0"
    return [
        make_scene("new", one, source, {}),
        make_scene("draws", two | {"draws": 2, "grid": "input"}, source, {}),
        make_scene("open", two, source, _leave(two, source, poor)),
        make_scene("retry", retry, source, _leave(two, broken)),
        make_scene("repair", repair, source, _leave(two, source) | {torn: b""}, torn),
    ]


def _leave(options: dict[str, Any], source: Tree, *faults: Fault) -> Tree:
    """The output of a night."""
    scene = Scene(name="", options=options, source=source, output={})
    with scene.stage() as folder:
        end = run_night(folder, options, None, *faults)
        assert end.code in (Exit.DONE, Exit.FAILED_CASES), end.text
        return read_tree(folder / OUTPUT)
