"""From a sampled image to committed bytes: grey levels, quality, flags, shards, record."""

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from mcdiff_batch.engine.image.frame import Image, Labels, Mask, Pixels, grey, spread_grey
from mcdiff_batch.engine.image.gate import failed_checks
from mcdiff_batch.engine.image.measure import Result
from mcdiff_batch.engine.image.measure import measure as measure_result
from mcdiff_batch.engine.model.framing import Failure, FramedCase
from mcdiff_batch.engine.output import ledger, shards
from mcdiff_batch.engine.output.ledger import DONE, FAILED, OPEN, SKIPPED, Entry, Incident, Record
from mcdiff_batch.engine.telemetry.spans import FINISHING, Notes, noting, span

from .messages import Recipe, Task, UnitDone

IO = "io"  # reason of a Failure that is not the data's: the case could not be read now


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """What the plan made of one case; arrays [H, W]."""

    case: FramedCase
    image: Image
    before: Labels
    after: Labels
    spread: Image | None = None  # standard deviation over draws, of [-1, 1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A unit under way, handed from stage to stage."""

    task: Task
    entries: dict[int, Entry] = field(default_factory=dict)
    chunks: dict[str, dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    incidents: list[Incident] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)

    def leave_open(self, case: int, kind: str, detail: str) -> None:
        """The case is no failure of its data: an incident, and the next run tries again."""
        self.entries[case] = Entry(case=case, status=OPEN)
        found = Incident(kind=kind, detail=detail, unit=self.task.unit.index, case=case)
        self.incidents.append(found)


def fail(work: Work, failure: Failure) -> None:
    if failure.reason == IO:
        work.leave_open(failure.index, "read", failure.detail)
        return
    work.entries[failure.index] = Entry(
        case=failure.index, status=FAILED, reason=failure.reason, detail=failure.detail
    )


def finish_case(work: Work, done: Sampled, recipe: Recipe) -> None:
    """Grey levels, quality and compressed chunks of one case."""
    with noting(work.notes, FINISHING, done.case.index):
        _finish_case(work, done, recipe)


def _finish_case(work: Work, done: Sampled, recipe: Recipe) -> None:
    case, fault = done.case, unusable(done.image, done.case.strip)
    if fault:
        work.leave_open(case.index, "model", fault)
        return
    image, gate = grey(done.image, case.strip), recipe.contract.gate
    with span("quality"):
        measured = measure(done, image)
    with span("encode"):
        made = {"enhanced": image, "label": done.after}
        if done.spread is not None:
            made["spread"] = spread_grey(done.spread, case.strip)
        images = shards.on_grid(made, case.extent, recipe.layout)
        for name, pixels in images.items():
            slot = case.index - work.task.unit.first
            work.chunks[name][slot] = shards.encode_chunk(pixels)
    work.entries[case.index] = Entry(
        case=case.index,
        status=DONE,
        pixels=shards.pixels_sha256(images.values()),
        extent=case.extent,
        optimal=case.optimal,
        quality=measured,
        flags=() if gate is None else failed_checks(gate, measured),
    )


def unusable(image: Image, strip: Mask) -> str:
    """What is wrong with a model's result, [H, W]; nothing that passes here is NaN or flat."""
    inside = image[strip]
    if not np.isfinite(inside).all():
        return "the model's result holds NaN or infinity"
    return "" if np.ptp(inside) > 0 else "the model's result is constant"


def measure(done: Sampled, image: Pixels) -> dict[str, float | None]:
    """Quality columns of one case, rounded; None where one is undefined."""
    case = done.case
    result = Result(
        before=(case.depths[case.optimal] + 1) / 2,
        after=image.astype(np.float32) / np.float32(255),
        labels=(done.before, done.after),
        depths=case.depths,
        weights=case.weights,
        strip=case.strip,
        spacing_mm=case.spacing_mm,
        spread=done.spread,
    )
    values = measure_result(result).items()
    return {key: round(x, 4) if np.isfinite(x) else None for key, x in values}


def commit(work: Work, recipe: Recipe) -> UnitDone:
    """Shards, then the record, each durable before the next.  Raises SpaceError, McdiffError."""
    with noting(work.notes, FINISHING), span("commit"):
        record = _committed(work, recipe)
    return UnitDone(
        unit=record.unit,
        counts=record.head.counts,
        incidents=tuple(work.incidents),
        notes=work.notes,
    )


def _committed(work: Work, recipe: Recipe) -> Record:
    unit, size = work.task.unit, recipe.layout.unit_size
    with span("encode"):
        images = recipe.layout.images
        encoded = {name: shards.encode_shard(work.chunks[name], size) for name in images}
    record = Record(
        unit=unit.index,
        first=unit.first,
        count=unit.count,
        shards=shards.commit(recipe.output, unit.index, encoded),
        cases=tuple(_entry(work, case) for case in unit.cases),
    )
    ledger.write(recipe.output, record)
    return record


def _entry(work: Work, case: int) -> Entry:
    assert case in work.entries or case not in work.task.cases, "a case was lost on the way"
    missing = Entry(case=case, status=SKIPPED, reason="not selected")
    return work.entries.get(case, missing)
