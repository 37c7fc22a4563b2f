"""The model card: from the data, escaped, and no part of the bundle's identity."""

import dataclasses
import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mcdiff_batch.engine.cli.config import spell
from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.image.gate import Gate
from mcdiff_batch.engine.model.contract import SHIPPED, Contract, load_bundle, write_contract
from mcdiff_batch.export.card import NAMES, write_card
from mcdiff_batch.export.cli import card
from tests.support.running import bundle

EVALUATION = Path(__file__).parents[2] / "bench/results/evaluation_small.json"


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A bundle of a fake model, which says nothing of its training."""
    return bundle(tmp_path / "model")


def with_contract(root: Path, **fields: Any) -> Contract:
    contract = dataclasses.replace(load_bundle(root).contract, **fields)
    write_contract(contract, root)
    return contract


def texts(root: Path) -> tuple[str, str]:
    markdown, page = (path.read_text() for path in write_card(load_bundle(root)))
    return markdown, page


def section(markdown: str, title: str) -> str:
    return markdown.split(f"## {title}\n")[1].split("\n## ")[0]


def evaluation(root: Path, **changes: Any) -> dict[str, Any]:
    means = {"cnr_ln": 5.0, "psnr": 20.0, "dice": 0.9, "lost": 0.0}
    better = {"cnr_ln": 9.0, "psnr": 19.0, "dice": 0.9001, "lost": 0.5}
    groups = {"all cases": {"original": means, "enhanced": better}}
    bar = {"title": "CNR", "measured": 4.0, "bar": 4.6, "at_most": False}
    return {
        "cases": 7,
        "about": {"bundle": load_bundle(root).sha256, "phantom": {"seed": 99}},
        "methods": ["original", "enhanced"],
        "groups": groups,
        "sizes": {"all cases": 7},
        "bars": [bar | {"verdict": "missed"}, bar | {"title": "SNR", "verdict": "met"}],
        "more": "fields of later versions",
    } | changes


def test_export_writes_the_card_of_what_it_exported(toy_bundle: Path) -> None:
    markdown, page = ((toy_bundle / name).read_text() for name in NAMES)
    found = load_bundle(toy_bundle)
    training = found.contract.training
    assert found.sha256 in markdown
    assert f"{training['data']['cases']} synthetic scans" in section(markdown, "Training")
    for stage in training["stages"]:
        assert re.search(rf"^\| {stage} \|", markdown, re.M)
    assert found.contract.licence in section(markdown, "Licence")
    assert "Not a medical device" in markdown
    assert "Not a medical device" in page
    assert "no gate" in section(markdown, "Gate")
    assert "was not measured" in section(markdown, "Where it fails")


def test_the_card_of_the_shipped_bundle_is_what_the_command_writes(tmp_path: Path) -> None:
    """`mcdiff-batch card engine/bundles/small --evaluation bench/results/evaluation_small.json`"""
    copy = shutil.copytree(SHIPPED, tmp_path / "small")
    for name in NAMES:
        (copy / name).unlink()
    done = CliRunner().invoke(card, [str(copy), "--evaluation", str(EVALUATION)])
    assert done.exit_code == 0, done.output
    for name in NAMES:
        assert (copy / name).read_text() == (SHIPPED / name).read_text()


def test_the_card_changes_nothing_of_the_bundle(made: Path) -> None:
    before = load_bundle(made)
    files = {x.name: x.read_bytes() for x in made.iterdir()}
    write_card(before)
    assert load_bundle(made) == before
    assert {x.name: x.read_bytes() for x in made.iterdir() if x.name not in NAMES} == files
    assert {x.name for x in made.iterdir()} == {*files, *NAMES}


def test_what_the_contract_does_not_say_the_card_does_not_invent(made: Path) -> None:
    markdown, _ = texts(made)
    assert "says nothing of the training" in section(markdown, "Training")
    assert "synthetic" not in markdown
    assert section(markdown, "Licence").strip() == "See the repository."
    assert "not measured" in section(markdown, "How it was measured")


@pytest.mark.parametrize(
    "training",
    [
        {"data": 3, "stages": [1], "cases": "x", "preset": None},
        {"stages": {"a": 1, "b": {"history": 2}, "c": {"history": [], "seconds": "x"}}},
        {"stages": {"a": {"history": [3], "steps": {"x": 1}}}, "machine": [1]},
    ],
)
def test_a_contract_of_another_program_has_a_card_too(made: Path, training: dict[str, Any]) -> None:
    with_contract(made, training=training, parity={"x0_psnr_db": {"5": "many"}})
    markdown, _ = texts(made)
    assert "not measured" in section(markdown, "How it was measured")


def test_figures_follow_the_contract(made: Path) -> None:
    gate = Gate(
        agreement=0.625, figures={"caught": "3 of 5", "kinds": {"swapped": {"caught": "3 of 5"}}}
    )
    parity = {"against": "torch", "x0_psnr_db": {"5": 61.25, "990": 58.5}}
    data = {"cases": 31, "sha256": "ab" * 32}
    with_contract(made, gate=gate, parity=parity, training={"data": data}, licence="MIT")
    markdown, page = texts(made)
    for text in (markdown, page):
        assert "0.625" in text
        assert "58.5 dB from torch" in text
        assert "31 cases of an archive" in text
    assert "3 of 5" in section(markdown, "Gate")
    assert "not checked" in section(markdown, "Gate")
    assert section(markdown, "Licence").strip() == "MIT"
    assert "synthetic" not in markdown


def test_an_evaluation_adds_its_figures_and_where_the_bundle_fails(
    made: Path, tmp_path: Path
) -> None:
    file = tmp_path / "e.json"
    file.write_text(json.dumps(evaluation(made)))
    markdown, page = (x.read_text() for x in write_card(load_bundle(made), file))
    good = section(markdown, "How good it is")
    assert "7 cases: synthetic scans of seed 99" in good
    assert "| enhanced | 9.0 | 19.0 | 0.900 | 0.50 |" in good
    fails = section(markdown, "Where it fails")
    assert "| CNR | 4 | at least 4.6 |" in fails
    assert "| SNR |" not in fails
    assert "| PSNR to clean, dB | all cases | 20.0 | 19.0 |" in fails
    assert "| levels lost | all cases | 0.00 | 0.50 |" in fails
    assert "Dice" not in fails
    assert "at least 4.6" in page


BAD = {
    "no JSON": lambda root: "{",
    "a list": lambda root: "[]",
    "no groups": lambda root: json.dumps({"cases": 1}),
    "words for numbers": lambda root: json.dumps(evaluation(root, cases="many")),
    "nested": lambda root: "[" * 100_000,
    "another bundle": lambda root: json.dumps(evaluation(root, about={"bundle": "f" * 64})),
    "no bundle": lambda root: json.dumps(evaluation(root, about={})),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_evaluation_of_this_bundle_is_refused(
    made: Path, tmp_path: Path, name: str
) -> None:
    file = tmp_path / "e.json"
    file.write_text(BAD[name](made))
    with pytest.raises(UsageError, match=re.escape(str(file))):
        write_card(load_bundle(made), file)
    assert not (made / NAMES[0]).exists()


def test_a_named_pipe_is_no_evaluation(made: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "e.json")
    with pytest.raises(UsageError, match="is a named pipe"):
        write_card(load_bundle(made), tmp_path / "e.json")


HOSTILE = '</td><script>x()</script><img src=x onerror="x()">|a|`b`[c](javascript:x)\x1b[31m\n# d'


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}


def hostile_texts(made: Path, tmp_path: Path) -> Iterator[str]:
    data = {"cases": HOSTILE, "sha256": HOSTILE, "phantom": {"seed": HOSTILE, "version": HOSTILE}}
    stage = {"steps": HOSTILE, "seconds": 3.0, "history": [{HOSTILE: HOSTILE}]}
    training = {"data": data, "stages": {HOSTILE: stage}, "command": HOSTILE, "seed": HOSTILE}
    training |= {"split": HOSTILE, "cases": {HOSTILE: HOSTILE}, "machine": {"cpu": HOSTILE}}
    figures = {"caught": HOSTILE, "kinds": {HOSTILE: {"caught": HOSTILE}}}
    scores = ({"solver": HOSTILE, "evaluations": HOSTILE, "psnr_db": HOSTILE},)
    parity = {"against": HOSTILE, "x0_psnr_db": {HOSTILE: 3.0}}
    with_contract(
        made,
        name=HOSTILE,
        licence=HOSTILE,
        training=training,
        classes=(HOSTILE,),
        gate=Gate(figures=figures),
        scores=scores,
        parity=parity,
    )
    groups = {HOSTILE: {HOSTILE: {"psnr": 3.0}, "enhanced": {"psnr": 3.0}}}
    bar = {"title": HOSTILE, "measured": 1.0, "bar": 2.0, "at_most": True, "verdict": "missed"}
    changes = {"groups": groups, "bars": [bar], "methods": [HOSTILE], "sizes": {HOSTILE: 3}}
    file = tmp_path / "e.json"
    file.write_text(json.dumps(evaluation(made, **changes)))
    yield from (x.read_text() for x in write_card(load_bundle(made), file))


def test_no_text_reaches_the_card_unescaped(made: Path, tmp_path: Path) -> None:
    markdown, page = hostile_texts(made, tmp_path)
    tags = Tags()
    tags.feed(page)
    assert not tags.seen & {"script", "img"}
    assert "onerror" not in tags.attributes
    assert "<" not in markdown
    assert "\x1b" not in markdown + page
    assert not re.search(r"(?<!\\)[`\[]", markdown.replace("`mcdiff-batch evaluate`", ""))
    assert not re.search(r"^# d", markdown, re.M)
    cells = [line for line in markdown.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", x)) for x in cells} <= {3, 4, 5, 6, 7}


def test_the_command_says_what_it_wrote(made: Path) -> None:
    done = CliRunner().invoke(card, [str(made)])
    assert done.output.split() == [str(made / name) for name in NAMES]
    assert {spell(x) for x in card.params} == {"bundle", "evaluation"}
