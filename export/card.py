"""The model card of a bundle: its use, its training, how good it is, and its limits.

Every figure comes from the contract, or from the JSON of `mcdiff-batch evaluate`.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.errors import explain
from mcdiff_batch.engine.files import replace_text
from mcdiff_batch.engine.image.gate import TOO_HIGH, TOO_LOW, Gate
from mcdiff_batch.engine.model.contract import Bundle, Contract, Graph
from mcdiff_batch.engine.page.parts import CAUTION, DASH
from mcdiff_batch.engine.text import clean, format_bytes, format_duration

from .card_evaluation import Evaluated, describe_evaluation, describe_failures, read_evaluation
from .card_page import Card, Section, Table, as_html, as_markdown, count, find, say

NAMES = ("card.md", "card.html")
SCORES = {  # of a sampler
    "psnr_db": "PSNR to clean, dB",
    "cnr_share": "share of the gain in CNR",
    "snr_share": "share of the gain in SNR",
    "levels": "levels lost or invented",
    "psnr_median_db": "median PSNR to 1000 steps, dB",
}
CHECKS = {
    "agreement": "least agreement (Dice) of the label maps before and after",
    "coverage": "least share of the scan that each depth shows",
    "levels": "most vertebral levels lost and invented",
    "angle": "most change of a curve angle, degrees",
    "spread": "most mean spread over draws",
}
SYNTHETIC = (
    "It was trained on synthetic scans only. Train it on your own archive before you look at "
    "patients."
)
Json = Mapping[str, Any]


def write_card(bundle: Bundle, evaluation: Path | None = None) -> tuple[Path, ...]:
    """Writes the card into the folder of the bundle, as Markdown and as HTML.

    The contract does not name these files, so the bundle stays the same.  evaluation: a file of
    `mcdiff-batch evaluate`.  Raises UsageError where it is none, or of another bundle; SpaceError.
    """
    card = make_card(bundle, None if evaluation is None else read_evaluation(evaluation, bundle))
    paths = tuple(bundle.root / name for name in NAMES)
    for path, text in zip(paths, (as_markdown(card), as_html(card)), strict=True):
        try:
            replace_text(path, text)
        except OSError as error:
            raise explain(error, path) from error
    return paths


def make_card(bundle: Bundle, evaluated: Evaluated | None = None) -> Card:
    contract = bundle.contract
    return Card(
        title=f"Model card: {clean(contract.name)}",
        lede=CAUTION,
        sections=(
            _use(contract),
            _model(bundle),
            _training(contract.training),
            _measures(contract),
            describe_evaluation(evaluated),
            describe_failures(_is_synthetic(contract.training), evaluated),
            _gate(contract.gate),
            _limits(contract),
            Section(title="Licence", text=(clean(contract.licence) or "See the repository.",)),
        ),
    )


def _use(contract: Contract) -> Section:
    return Section(
        title="Intended use",
        text=(
            "For research. It enhances coronal ultrasound images of spines, several depths of a "
            "scan, in archives from scoliosis screening. A trained person looks at each result "
            "beside its original.",
            "Not for: diagnosis, treatment, decisions about a patient, other anatomy, other kinds "
            "of images.",
            *([SYNTHETIC] if _is_synthetic(contract.training) else []),
        ),
    )


def _is_synthetic(training: Json) -> bool:
    return bool(find(training, "data", "phantom"))


def _model(bundle: Bundle) -> Section:
    contract, sampler = bundle.contract, bundle.contract.sampler
    rows = [
        ("contract", f"SHA-256 {bundle.sha256}"),
        ("frame", f"{contract.frame.height} x {contract.frame.width} px (y, x)"),
        ("depths", f"{len(contract.depth_weights)}, or one"),
        ("weights of the depths", ", ".join(f"{x:.3f}" for x in contract.depth_weights)),
        ("label map", ", ".join(map(clean, contract.classes))),
        (
            "sampler",
            f"{clean(sampler.solver)}, {count(sampler.nfe, 'evaluation')}, temperature "
            f"{sampler.temperature:g}",
        ),
        ("float32", _graphs(bundle.root, (contract.conditioner, contract.denoiser))),
    ]
    if contract.half:
        halves = (contract.half.conditioner, contract.half.denoiser)
        rows.append(("float16, for GPUs", _graphs(bundle.root, halves)))
    return Section(title="Model", tables=(Table(rows=tuple(rows)),))


def _graphs(root: Path, graphs: Sequence[Graph]) -> str:
    sizes = (f"{clean(x.file)} ({format_bytes((root / x.file).stat().st_size)})" for x in graphs)
    return ", ".join(sizes)


def _training(training: Json) -> Section:
    if not training:
        return Section(title="Training", text=("The contract says nothing of the training.",))
    rows = [
        ("data", _data(find(training, "data"))),
        ("split", _split(training)),
        ("preset", say(find(training, "preset", "name"))),
        ("seed", say(find(training, "seed"))),
        ("began with weights", say(find(training, "from_sha256"))),
        ("weights", say(find(training, "weights_sha256"))),
        ("how", say(find(training, "command"))),
        ("device", say(find(training, "device"))),
        ("machine", say(find(training, "machine", "cpu"))),
        ("PyTorch", say(find(training, "torch"))),
    ]
    stages = find(training, "stages")
    return Section(
        title="Training",
        text=("All settings are in contract.json.",),
        tables=(
            Table(rows=tuple((name, value) for name, value in rows if value != DASH)),
            *(_stages(stages) if isinstance(stages, Mapping) and stages else ()),
        ),
    )


def _data(data: object) -> str:
    if not isinstance(data, Mapping):
        return DASH
    kind = "cases of an archive"
    if find(data, "phantom"):
        seed, version = (say(find(data, "phantom", x)) for x in ("seed", "version"))
        kind = f"synthetic scans (phantoms of seed {seed}, version {version})"
    return f"{say(data.get('cases'))} {kind}; SHA-256 {say(data.get('sha256'))[:12]}"


def _split(training: Json) -> str:
    cases = find(training, "cases")
    if not isinstance(cases, Mapping):
        return DASH
    parts = (f"{say(count)} {clean(name).replace('_', ' ')}" for name, count in cases.items())
    return f"{say(find(training, 'split'))}: {', '.join(parts)}"


def _stages(stages: Json) -> Iterator[Table]:
    last = {name: _last(find(x, "history")) for name, x in stages.items()}
    seen = dict.fromkeys(key for row in last.values() for key in row if key != "step")
    yield Table(
        columns=("stage", "steps", "time", *(f"{clean(x)}, at the end" for x in seen)),
        rows=tuple(
            (
                clean(name),
                say(find(x, "steps")),
                _duration(find(x, "seconds")),
                *(say(last[name].get(key)) for key in seen),
            )
            for name, x in stages.items()
        ),
    )


def _last(history: object) -> Json:
    row = history[-1] if isinstance(history, list) and history else {}
    return row if isinstance(row, Mapping) else {}


def _duration(seconds: object) -> str:
    return format_duration(seconds) if isinstance(seconds, int | float) else DASH


def _measures(contract: Contract) -> Section:
    rows = [("float32 graphs", _nearness(contract.parity))]
    if contract.half:
        rows.append(("float16 graphs", _nearness(contract.half.parity)))
    scores = Table(
        columns=("sampler", *SCORES.values()),
        rows=tuple(
            (
                f"{clean(x.get('solver'))}, {count(x.get('evaluations'), 'evaluation')}"
                f"{' (recommended)' if _is_chosen(x, contract) else ''}",
                *(say(x.get(key)) for key in SCORES),
            )
            for x in contract.scores
        ),
    )
    chosen = contract.sampler
    return Section(
        title="How it was measured",
        text=(
            "The graphs compute what the trained networks do (PSNR of the estimated image, least "
            "over all times). The sampler was chosen by "
            f"{clean(chosen.figures.get('recommended_by', 'likeness to 1000 steps'))} on "
            f"{count(chosen.cases, 'held-out case')}.",
        ),
        tables=(Table(rows=tuple(rows)), *([scores] if contract.scores else [])),
    )


def _is_chosen(row: Json, contract: Contract) -> bool:
    sampler = contract.sampler
    return (row.get("solver"), row.get("evaluations")) == (sampler.solver, sampler.nfe)


def _nearness(parity: Json) -> str:
    values = find(parity, "x0_psnr_db")
    rows = values.values() if isinstance(values, Mapping) else ()
    numbers = [x for x in rows if isinstance(x, int | float)]
    if not numbers:
        return "not measured"
    return f"{min(numbers):.1f} dB from {say(find(parity, 'against'))}"


def _gate(gate: Gate | None) -> Section:
    if gate is None:
        return Section(title="Gate", text=("It has no gate, so no case is flagged.",))
    rows = []
    for name in (*TOO_LOW, *TOO_HIGH):
        threshold = getattr(gate, name)
        rows.append((CHECKS[name], "not checked" if threshold is None else f"{threshold:g}"))
    figures = gate.figures
    facts = [("planted failures caught", "caught"), ("sound results flagged", "false_alarms")]
    rows += [(title, say(figures.get(key))) for title, key in facts]
    kinds = find(figures, "kinds")
    tables = [Table(columns=("check or fact", "value"), rows=tuple(rows))]
    if isinstance(kinds, Mapping) and kinds:
        tables.append(
            Table(
                columns=("planted failure", "caught", "PSNR to the sound result, dB"),
                rows=tuple(
                    (clean(name), say(find(x, "caught")), say(find(x, "psnr_to_sound_db")))
                    for name, x in kinds.items()
                ),
            )
        )
    text = "Cases beyond a threshold are flagged: someone should look at them first."
    return Section(title="Gate", text=(text,), tables=tuple(tables))


def _limits(contract: Contract) -> Section:
    frame, depths = contract.frame, len(contract.depth_weights)
    return Section(
        title="Limits",
        text=(
            f"Archives have {depths} depths or exactly one. Images are scaled to {frame.height} x "
            f"{frame.width} px, so finer detail is lost.",
            "Curve angles need the size of a pixel. They are those of an image, not of X-rays.",
            "The same bits come from the same kind of device and the same versions only.",
        ),
    )
