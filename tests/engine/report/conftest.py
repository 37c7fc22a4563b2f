"""A whole run with its report."""

from pathlib import Path

import numpy as np
import pytest
import zarr

from mcdiff_batch.engine.page.write import write_report
from tests.support.pages import CANARY, CASES, HOSTILE
from tests.support.running import archive, break_case, inline, job


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Case 4 is damaged; ids are names; a px is 4 mm, so that CNR is measured."""
    path = archive(tmp_path_factory.mktemp("report") / "night.zarr", CASES)
    names = np.array([f"{CANARY}-{k}{HOSTILE}" for k in range(CASES)], object)
    group = zarr.open_group(path)
    group.attrs["mcdiff"] = {"schema": 1, "pixel_spacing_mm": 4}
    group.create_array("case_id", shape=(CASES,), chunks=(CASES,), dtype="string")[...] = names
    break_case(path, 4)
    return path


@pytest.fixture(scope="session")
def night(source: Path) -> Path:
    """The output of a whole run, with its report."""
    output = source.parent / "night.enhanced"
    inline(job(source, output, unit_size=2))
    write_report(output)
    return output
