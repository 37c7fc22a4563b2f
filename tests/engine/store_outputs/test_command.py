"""An output in a store, through the command line."""

import json
import subprocess
from pathlib import Path

import pytest

from mcdiff_batch.engine.cloud.place import Url
from mcdiff_batch.engine.errors import Exit
from tests.support import stores
from tests.support.crafting import CLI
from tests.support.crafting import command as cli
from tests.support.store_outputs import Target, options
from tests.support.stores import Fault, Proxy


def test_the_command_line_from_run_to_a_damaged_object(
    night: Path,
    model: Path,
    near: dict[str, bytes],
    target: Target,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import obstore

    run = ("run", night, "--output", target.url, *options(model))
    assert cli(monkeypatch, *run) == Exit.DONE
    out, err = capsys.readouterr()
    assert "9 of 9 cases done in" in out
    assert f"{target.url}/report/index.html" in out
    files = target.files()
    assert stores.promised(files) == stores.promised(near)
    assert files["run.json"] == near["run.json"]
    assert {"report/index.html", "report/report.json", "report/timings.jsonl"} <= files.keys()
    said = [out.encode(), err.encode(), *files.values()]
    secrets = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    assert not any(stores.S3[x].encode() in y for x in secrets for y in said)
    assert not any(b"/outputs/" in x for x in said)  # the folder on this machine
    assert cli(monkeypatch, "status", target.url, "--json") == Exit.DONE
    assert json.loads(capsys.readouterr().out)["state"] == "complete"
    assert cli(monkeypatch, "verify", target.url) == Exit.DONE
    shard = f"{target.url.prefix}/images.zarr/enhanced/c/1/0/0"
    data = bytearray(obstore.get(target.store, shard).bytes())
    data[9] ^= 1
    obstore.put(target.store, shard, bytes(data))
    assert cli(monkeypatch, "verify", target.url) == Exit.VERIFICATION_FAILED
    out, err = capsys.readouterr()
    assert "images.zarr/enhanced/c/1/0/0 was changed: case 3" in out
    assert f"--output {target.url}" in err
    assert cli(monkeypatch, *run, "--repair") == Exit.DONE
    assert target.promised() == stores.promised(near)
    capsys.readouterr()
    assert cli(monkeypatch, "report", target.url, "--input", night) == Exit.DONE
    assert capsys.readouterr().out == f"{target.url}/report/index.html\n"
    assert b'"before": "read"' in target.files()["report/report.json"]


def test_runs_that_are_compared_have_the_names_of_their_addresses(
    near: dict[str, bytes], night: Path, target: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore

    one, two = (Url(target.url.scheme, target.url.bucket, f"study/{x}") for x in ("one", "two"))
    for name, data in near.items():
        for url in (one, two):
            obstore.put(target.store, f"{url.prefix}/{name}", data)
    assert cli(monkeypatch, "report", one, "--compare", two, "--input", night) == Exit.DONE
    found = stores.contents(target.store, one.prefix)["report/comparison.json"]
    assert json.loads(found)["compared"]["names"] == ["one", "two"]


def test_p1_a_run_that_is_killed_goes_on_elsewhere(
    night: Path,
    model: Path,
    near: dict[str, bytes],
    target: Target,
    proxy: Proxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = ("run", night, "--output", target.url, *options(model))
    proxy.faults.append(Fault(match="PUT .*/ledger/000001", kind="late"))
    with subprocess.Popen(
        [*CLI, *map(str, run)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            proxy.wait_for("PUT .*/ledger/000001")
        finally:
            process.kill()
    files = target.files()
    assert "ledger/000000.json" in files
    assert "images.zarr/label/c/1/0/0" in files  # of a unit that has no record
    assert "manifest.json" not in files
    proxy.faults.clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert cli(monkeypatch, *run) == Exit.DONE
    assert target.promised() == stores.promised(near)


def test_a_command_that_wants_a_folder_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli(monkeypatch, "review", "s3://bucket/out") == Exit.USAGE
    assert "s3://bucket/out: this command wants a folder" in capsys.readouterr().err
