"""P10: ids, paths and attributes that may name a patient stay out of the output."""

from pathlib import Path

import numpy as np
import zarr
from click.testing import CliRunner

from mcdiff_batch.engine.cli.output import report
from mcdiff_batch.engine.page.write import write_report
from tests.support.running import archive, break_case, fault, image, inline, job

CANARY = b"CANARY"


def name_cases(group: zarr.Group, names: list[str]) -> None:
    column = group.create_array("case_id", shape=len(names), chunks=len(names), dtype="string")
    column[:] = np.array(names, dtype="O")


def source(folder: Path) -> Path:
    """An archive with ids and attributes that name patients; case 1 is damaged."""
    path = archive(folder / "CANARY-ward" / "night.zarr", 4)
    group = zarr.open_group(path, mode="r+")
    name_cases(group, [f"CANARY-{i}" for i in range(4)])
    group.attrs["patient"] = "CANARY"
    break_case(path, 1)
    return path


def leaks(output: Path) -> list[str]:
    files = [x for x in output.rglob("*") if x.is_file()]
    assert len(files) > 8
    return [x.name for x in files if CANARY in x.read_bytes()]


def test_p10_no_case_id_path_or_attribute_reaches_any_file_of_a_run(tmp_path):
    path = source(tmp_path)
    output = tmp_path / "out"
    inline(job(path, output), faults=(fault("nan", path, 2),))
    write_report(output, archive=path)
    assert leaks(output) == []


def test_p10_ids_are_shown_on_request_only_and_escaped(tmp_path):
    path = source(tmp_path)
    output = tmp_path / "out"
    inline(job(path, output))
    write_report(output, archive=path, show_ids=True)
    assert sorted(leaks(output)) == ["index.html", "report.json"]


def test_p10_the_machine_is_named_on_request_only(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "CANARY-ward-7")
    output = tmp_path / "out"
    inline(job(archive(tmp_path / "a.zarr", 3), output))
    for options, names in (([], []), (["--show-host"], ["index.html", "report.json"])):
        assert CliRunner().invoke(report, [str(output), *options]).exit_code == 0
        assert sorted(leaks(output)) == names


def test_p10_a_comparison_names_folders_by_their_last_part_only(tmp_path):
    outputs = [tmp_path / name / "CANARY-ward" / f"{name}.enhanced" for name in ("one", "two")]
    for seed, output in enumerate(outputs):
        output.parent.mkdir(parents=True)
        inline(job(archive(output.parent / "a.zarr", 3), output, seed=seed))
    page = write_report(outputs[0], other=outputs[1])
    assert leaks(outputs[0]) == []
    assert "two.enhanced" in page.read_text()


def test_p4_noise_depends_on_the_case_id_and_not_on_its_place_in_the_archive(tmp_path):
    first = archive(tmp_path / "first.zarr", 3)
    pixels = zarr.open_array(first / "depths", mode="r")[:]
    for name, order in (("as", (0, 1, 2)), ("turned", (2, 0, 1))):
        group = zarr.create_group(tmp_path / f"{name}.zarr", attributes={"mcdiff": {"schema": 1}})
        group.create_array("depths", data=pixels[list(order)], chunks=(1, *pixels.shape[1:]))
        name_cases(group, [f"c{i}" for i in order])
        inline(job(tmp_path / f"{name}.zarr", tmp_path / name))
    for place, case in enumerate((2, 0, 1)):
        assert image(tmp_path / "turned", place) == image(tmp_path / "as", case)
