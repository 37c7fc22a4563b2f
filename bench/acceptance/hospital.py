"""Checks every bar of DICOM in and out: `python -m mcdiff_batch.bench.acceptance.hospital`.

Needs the extra `dicom`, pydicom-data, and Debian's dicom3tools, orthanc and orthanc-dicomweb.
"""

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from io import BytesIO
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from xml.etree import ElementTree

import click
import data_store
import numpy as np
import pydicom
import zarr

from mcdiff_batch.bench.common import orthanc
from mcdiff_batch.bench.common.command import CLI
from mcdiff_batch.bench.common.document import NewPath, publish
from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.dicom.importer import Options, import_dicom
from mcdiff_batch.engine.dicom.reading import quiet
from mcdiff_batch.engine.dicom.uid_map import load, path_beside
from mcdiff_batch.engine.errors import McdiffError
from mcdiff_batch.engine.image.frame import from_frame
from mcdiff_batch.engine.telemetry.machine import machine

PACKAGES = ("pydicom", "pydicom-data", "highdicom", "pynetdicom", "python-gdcm")
PROGRAMS = ("dicom3tools", "orthanc", "orthanc-dicomweb")  # Debian's names
LARGEST = 1 << 20  # bytes of a shipped file that is damaged
TESTED = Path("tests/engine")
TESTS = {  # bar: the tests that hold it
    "lines that are cut or fall silent": "cut_goes or cut_is_f or silent or breaks_o or ever_ends",
    "a PACS that is full, refuses or answers nonsense": "full or decides or without_seg or rejects",
    "hostile files and servers": "hostile or damaged_file or cut_short or escaped or no_file",
    "no text of a patient, maps and passwords": "p10 or owner_only",
    "reviews": "review_rejected",
}
Row = dict[str, Any]


@click.command()
@click.option("--cases", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--damages", type=click.IntRange(min=1), default=100, show_default=True)
@click.option("--output", type=NewPath(), help="Also write the JSON here.")
def main(cases: int, damages: int, output: Path | None) -> None:
    """Check DICOM in and out.  DAMAGES: how many times each of pydicom's files is damaged."""
    if orthanc.ABSENT or shutil.which("dciodvfy") is None:
        raise click.UsageError(orthanc.ABSENT or "Debian's package dicom3tools is not installed")
    if not TESTED.is_dir():
        raise click.UsageError(f"{TESTED}: no such folder; call this in a checkout")
    rows = []
    with TemporaryDirectory() as name:
        root = Path(name)
        parts = _check_chain(root, cases), _check_shipped(root, damages), _run_tests(root)
        for row in chain(*parts):
            click.echo("  ".join(f"{key} {value}" for key, value in row.items()), err=True)
            rows.append(row)
    about = machine(PACKAGES)
    about["load_average"] = [round(x, 1) for x in os.getloadavg()]  # others work here too
    about["programs"] = {name: _debian_version(name) for name in PROGRAMS}
    publish({"what": "hospital", "machine": about, "runs": rows}, output)


def _debian_version(name: str) -> str:
    words = ["dpkg-query", "-W", "-f", "${Version}", name]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def _call(*words: object) -> float:
    """Seconds that a command of mcdiff-batch takes."""
    started = time.perf_counter()
    subprocess.run([*CLI, *map(str, words)], check=True, capture_output=True)
    return time.perf_counter() - started


def _check_chain(root: Path, cases: int) -> Iterator[Row]:
    """Phantoms as DICOM, in, enhanced, out, to a PACS and back."""
    _call("phantom", "--dicom", root / "in", "--cases", cases)
    taken = _call("import", "--dicom", root / "in", "--output", root / "a.zarr")
    yield {
        "what": "import of studies of 5 images",
        "cases": cases,
        "s_per_case": round(taken / cases, 2),
    }
    _call("run", root / "a.zarr")
    taken = _call("export-dicom", root / "a.enhanced", "--to", root / "out")
    yield {"what": "export to a folder", "cases": cases, "s_per_case": round(taken / cases, 2)}
    _call("export-dicom", root / "a.enhanced", "--to", root / "again")
    files = sorted((root / "out").rglob("*.dcm"))
    again = [root / "again" / x.relative_to(root / "out") for x in files]
    same = sum(a.read_bytes() == b.read_bytes() for a, b in zip(files, again, strict=True))
    yield {"what": "files of two exports that are equal", "of": len(files), "result": same}
    yield from _validate(files)
    yield _compare_input(root)
    yield _compare_output(root)
    for way in ("--store", "--dicomweb"):
        yield from _send(root, files, way)


def _validate(files: list[Path]) -> Iterator[Row]:
    """Errors that dciodvfy finds, by kind of object."""
    for kind in ("image", "segmentation", "report"):
        chosen = [x for x in files if x.stem == kind]
        errors = 0
        for path in chosen:
            done = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True)
            lines = (done.stdout + done.stderr).splitlines()
            errors += sum(x.startswith(("Error", "Abort")) for x in lines)
        yield {"what": f"errors of dciodvfy, {kind}", "of": len(chosen), "result": errors}


def _compare_input(root: Path) -> Row:
    """The archive's px against those of the DICOM images."""
    archive, mapped = open_archive(root / "a.zarr"), load(path_beside(root / "a.zarr")).cases
    equal = 0
    for index, case in enumerate(mapped):
        images = [pydicom.dcmread(root / "in" / x.file).pixel_array for x in case.sources]
        equal += np.array_equal(archive.read(index).depths, images)
    return {
        "what": "cases whose px in the archive are those in DICOM",
        "of": len(mapped),
        "result": equal,
    }


def _compare_output(root: Path) -> Row:
    """The derived images against the run's, brought back to the grid of the source."""
    group: Any = zarr.open_group(root / "a.enhanced/images.zarr", mode="r")
    files = sorted((root / "out").rglob("image.dcm"))
    equal = 0
    for path in files:
        found = pydicom.dcmread(path).pixel_array
        frame = group["enhanced"][int(path.parent.name)]
        equal += np.array_equal(found, np.rint(from_frame(frame, found.shape)).astype(np.uint8))
    return {
        "what": "derived images that are the run's, on the source's grid",
        "of": len(files),
        "result": equal,
    }


def _send(root: Path, files: list[Path], way: str) -> Iterator[Row]:
    """To Orthanc twice, and everything back; with DICOMweb, the input too."""
    sent = {x.SOPInstanceUID: x for x in map(pydicom.dcmread, files)}
    with orthanc.running(root / f"orthanc{way}") as server:
        address = server.address if way == "--store" else server.url
        for number in (1, 2):
            taken = _call("export-dicom", root / "a.enhanced", way, address)
            back = {x.SOPInstanceUID: x for x in map(_parse, server.files())}
            equal = sum(back.get(uid) == x for uid, x in sent.items())
            yield {
                "what": f"objects equal after {way[2:]} to Orthanc and back, {number}.",
                "of": len(sent),
                "result": equal,
                "held_by_orthanc": len(back),
                "s_per_case": round(taken / len(list((root / "out").iterdir())), 2),
            }
        if way == "--dicomweb":
            for path in (root / "in").rglob("*.dcm"):
                server.put(path.read_bytes())
            words = ("--match", "StudyDate=20260101", "--output", root / "web.zarr")
            taken = _call("import", "--dicomweb", server.url, *words)
            pairs = [(root / "a.zarr" / x, root / "web.zarr" / x) for x in _names(root / "a.zarr")]
            yield {
                "what": "files of an archive from Orthanc that equal one from the folder",
                "of": len(pairs),
                "result": sum(b.is_file() and a.read_bytes() == b.read_bytes() for a, b in pairs),
                "s_per_case": round(taken / open_archive(root / "a.zarr").cases, 2),
            }


def _parse(data: bytes) -> Any:
    return pydicom.dcmread(BytesIO(data))


def _names(folder: Path) -> list[Path]:
    return [x.relative_to(folder) for x in sorted(folder.rglob("*")) if x.is_file()]


def _check_shipped(root: Path, damages: int) -> Iterator[Row]:
    """pydicom's own ultrasound files as they are, and damaged by chance."""
    files = list(_shipped())
    for path in files:
        yield {
            "what": "file that pydicom ships",
            "file": path.name,
            **_try(root, path.read_bytes()),
        }
    small = [x for x in files if x.stat().st_size <= LARGEST]
    ends: Counter[str] = Counter()
    for path in small:
        for seed in range(damages):
            data, random = bytearray(path.read_bytes()), np.random.default_rng(seed)
            for place in random.integers(132, len(data), 3):
                data[place] = random.integers(256)
            ends[_try(root, bytes(data))["result"]] += 1
    yield {"what": "damaged files, 3 bytes by chance", "of": len(small) * damages, **ends}


def _shipped() -> Iterator[Path]:
    for folder in (Path(pydicom.__file__).parent / "data", Path(data_store.__file__).parent):
        for path in sorted(folder.rglob("*.dcm")):
            with quiet():
                try:
                    header = pydicom.dcmread(path, stop_before_pixels=True)
                except pydicom.errors.InvalidDicomError:
                    continue
            if "Ultrasound" in getattr(header.get("SOPClassUID"), "name", ""):
                yield path


def _try(root: Path, data: bytes) -> Row:
    """How the import of one file ends; what is neither read nor refused is raised."""
    with TemporaryDirectory(dir=root) as name:
        folder = Path(name) / "in"
        folder.mkdir()
        (folder / "a.dcm").write_bytes(data)
        try:
            import_dicom(folder, Path(name) / "a.zarr", Options())
        except McdiffError as error:
            reason = str(error).removeprefix("file 1 of 1 (--show-ids names it): ")
            return {
                "result": "refused",
                "why": reason.removesuffix("; --skip-refused leaves the case out"),
            }
        return {"result": "read"}


def _run_tests(root: Path) -> Iterator[Row]:
    """The bars that only the tests hold."""
    files = sorted(map(str, TESTED.glob("test_dicom_*.py")))
    for bar, chosen in TESTS.items():
        report = root / "report.xml"
        words = [sys.executable, "-m", "pytest", "-q", *files, "-k", chosen, f"--junitxml={report}"]
        done = subprocess.run(words, capture_output=True, text=True)
        if done.returncode > 1:  # not 0: all passed, or 1: some failed
            raise RuntimeError(done.stdout + done.stderr)
        suite = ElementTree.parse(report).getroot()[0].attrib
        failed = int(suite["failures"]) + int(suite["errors"])
        skipped = int(suite["skipped"])
        passed = int(suite["tests"]) - failed - skipped
        yield {"what": f"tests: {bar}", "passed": passed, "failed": failed, "skipped": skipped}


if __name__ == "__main__":
    main()
