"""Only machines that compute the same bits share an output."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mcdiff_batch.engine.cli import main
from mcdiff_batch.engine.errors import DeviceError, Exit
from mcdiff_batch.engine.output import ledger
from mcdiff_batch.engine.run.enhance import enhance
from mcdiff_batch.engine.run.job import Job
from tests.support.many import CANARY, HostMaker
from tests.support.running import archive, bundle, committed, cpus, job

CASES = 6


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive(tmp_path_factory.mktemp("canary") / "night.zarr", CASES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("canary") / "bundle")


def run(source: Path, output: Path, model: Path, *more: str) -> int:
    words = ["run", str(source), "--output", str(output), "--bundle", str(model), *more]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mcdiff-batch", *words, "--devices", "cpu", "--unit-size", "2"])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def edit(output: Path, **settings: Any) -> bytes:
    """Changes settings in run.json; None deletes one."""
    path = output / "run.json"
    document = json.loads(path.read_bytes())
    document["settings"] |= settings
    for name in [name for name, value in settings.items() if value is None]:
        del document["settings"][name]
    path.write_text(json.dumps(document))
    return path.read_bytes()


def test_a_run_begins_with_a_canary_and_the_same_machine_continues(
    source: Path, model: Path, tmp_path: Path
) -> None:
    assert run(source, tmp_path / "out", model, "--max-failures", "0") == Exit.DONE
    stored = json.loads((tmp_path / "out/run.json").read_bytes())["settings"]["canary"]
    assert len(stored) == 64
    ledger_file = tmp_path / "out/ledger/000001.json"
    ledger_file.unlink()
    assert run(source, tmp_path / "out", model) == Exit.DONE
    assert ledger_file.exists()
    assert run(source, tmp_path / "other", model) == Exit.DONE
    assert committed(tmp_path / "out") == committed(tmp_path / "other")


def test_a_machine_with_other_bits_cannot_continue_an_output(
    source: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    run(source, out, model)
    (out / "ledger/000001.json").unlink()
    edit(out, canary="ab" * 32)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert run(source, out, model) == Exit.FINGERPRINT_DIFFERS
    said = capsys.readouterr().err.splitlines()[-1]
    assert "canary was abababababab when" in said
    assert "computes other bits" in said
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_an_output_without_a_canary_is_continued_and_gets_none(
    source: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(source, out, model)
    whole = committed(out)
    (out / "ledger/000001.json").unlink()
    before = edit(out, canary=None)
    assert run(source, out, model) == Exit.DONE
    assert (out / "run.json").read_bytes() == before
    assert committed(out) == whole


def marked(source: Path, output: Path, devices: int) -> Job:
    """A job with a canary, which the fake plan computes."""
    return job(source, output, unit_size=2, canary=CANARY, devices=cpus(devices))


def test_without_any_worker_of_the_same_bits_nothing_is_written(
    source: Path, tmp_path: Path
) -> None:
    both = HostMaker(other=["cpu:0", "cpu:1"])
    with pytest.raises(DeviceError, match=r"computes other bits .* \(canary .* against"):
        enhance(marked(source, tmp_path / "out", 2), both, warn=lambda _: None)
    assert ledger.list_units(tmp_path / "out") == []
