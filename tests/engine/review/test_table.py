"""`mcdiff-batch review --export csv`: the verdicts as a table."""

from pathlib import Path
from typing import Any

import pytest

from mcdiff_batch.engine.output import ledger
from mcdiff_batch.engine.output.verdicts import Verdict, append
from tests.support.crafting import command
from tests.support.review import IDS, Page, table
from tests.support.running import committed


def test_the_table_says_which_cases_it_lacks(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    record = output / ledger.file_name(ledger.list_units(output)[0])
    record.write_text("damaged")
    with Page(output) as page:
        assert page.ask("cases").json["damaged"] == 1
    assert command(monkeypatch, "review", output, "--export", "csv") == 0
    assert f"{record.name}: is damaged" in capsys.readouterr().err


def test_the_table_has_every_case_and_starts_no_formula(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    hostile = [
        '=cmd|"/c calc"!A1',
        "+1",
        "-1+2",
        "@SUM(1)",
        "\t=1",
        " =1",
        "\uff1d1",
        "a\nb",
        'say "x"',
    ]
    for note in hostile:
        append(output, Verdict(case=0, pixels="p", verdict="reject", reason=note, note=note))
        row = table(output, monkeypatch, capsys)[0]
        assert row["note"] == row["reason"]
        assert row["note"].lstrip()[0] not in "=+-@\uff1d"
    rows = table(output, monkeypatch, capsys)
    assert [x["case"] for x in rows] == list("012345")
    assert {x["state"] for x in rows[1:]} == {"not reviewed"}
    assert "case_id" not in rows[0]
    named = table(output, monkeypatch, capsys, "--show-ids")
    assert named[0]["case_id"] == f"'{IDS[0]}"
    assert named[2]["case_id"] == "\\x1b[31mred"


def test_the_table_goes_to_a_file_but_never_into_an_output(
    output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("review", output, "--export", "csv", "--to")
    assert command(monkeypatch, *words, tmp_path / "table.csv") == 0
    assert (tmp_path / "table.csv").read_text().startswith('"case","kind"')
    before = committed(output)
    for file in (output / "table.csv", output.parent / "night.zarr/x.csv", tmp_path / "no/x.csv"):
        assert command(monkeypatch, *words, file) == 2
    assert committed(output) == before
