"""Turns enhanced images into committed bytes: grey levels, quality, flags, shards, record."""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from mcdiff_batch.engine.image.frame import Image, Labels, Mask, Pixels, grey, spread_grey
from mcdiff_batch.engine.image.gate import failed_checks, failed_plausibility
from mcdiff_batch.engine.image.measure import Result
from mcdiff_batch.engine.image.measure import measure as measure_result
from mcdiff_batch.engine.model.framing import Failure, FramedCase
from mcdiff_batch.engine.output import ledger, runs, shards
from mcdiff_batch.engine.output.ledger import (
    DONE,
    FAILED,
    KEPT,
    OPEN,
    SKIPPED,
    DamagedRecord,
    Entry,
    Head,
    Incident,
    Record,
)
from mcdiff_batch.engine.telemetry.spans import FINISHING, SpanLog, recording, span

from .protocol import Recipe, Task, UnitDone

IO = "io"  # reason of a Failure that says nothing of the data: the case cannot be read now


@dataclass(frozen=True, slots=True, kw_only=True)
class Enhancement:
    """What the plan made of one case; arrays are [H, W]."""

    case: FramedCase
    image: Image  # in [-1, 1]
    before: Labels
    after: Labels
    spread: Image | None = None  # standard deviation of `image` over the draws


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A unit under way; the stages hand it on."""

    task: Task
    entries: dict[int, Entry] = field(default_factory=dict)
    chunks: dict[str, dict[int, bytes]] = field(default_factory=lambda: defaultdict(dict))
    incidents: list[Incident] = field(default_factory=list)
    log: SpanLog = field(default_factory=SpanLog)

    def leave_open(self, case: int, kind: str, detail: str) -> None:
        """Leaves a case for the next run, since its data did not fail; adds an incident."""
        self.entries[case] = Entry(case=case, status=OPEN)
        incident = Incident(kind=kind, detail=detail, unit=self.task.unit.index, case=case)
        self.incidents.append(incident)


def add_failure(work: Work, failure: Failure) -> None:
    """Adds the entry of a case that could not be loaded."""
    if failure.reason == IO:
        work.leave_open(failure.index, "read", failure.detail)
        return
    work.entries[failure.index] = Entry(
        case=failure.index, status=FAILED, reason=failure.reason, detail=failure.detail
    )


def finish_case(work: Work, done: Enhancement, recipe: Recipe) -> None:
    """Adds the entry and the compressed chunks of an enhanced case."""
    with recording(work.log, FINISHING, done.case.index):
        _finish_case(work, done, recipe)


def _finish_case(work: Work, done: Enhancement, recipe: Recipe) -> None:
    case, fault = done.case, find_fault(done.image, done.case.strip)
    if fault:
        work.leave_open(case.index, "model", fault)
        return
    image, gate = grey(done.image, case.strip), recipe.contract.gate
    with span("quality"):
        quality = measure(done, image)
    doubts = failed_plausibility(quality, case.faint, case.size_mm)
    with span("encode"):
        on_frame = {"enhanced": image, "label": done.after}
        if done.spread is not None:
            on_frame["spread"] = spread_grey(done.spread, case.strip)
        images = shards.to_grid(on_frame, case.extent, recipe.layout)
        for name, pixels in images.items():
            slot = case.index - work.task.unit.first
            work.chunks[name][slot] = shards.encode_chunk(pixels)
    work.entries[case.index] = Entry(
        case=case.index,
        status=DONE,
        pixels=shards.hash_pixels(images.values()),
        extent=case.extent,
        optimal=case.optimal,
        quality=quality,
        flags=(*(() if gate is None else failed_checks(gate, quality)), *doubts),
    )


def find_fault(image: Image, strip: Mask) -> str:
    """What makes a model's result [H, W] unusable: NaN, infinity or one value everywhere.  Empty
    for a result that can be used."""
    inside = image[strip]
    if not np.isfinite(inside).all():
        return "the model's result holds NaN or infinity"
    return "" if np.ptp(inside) > 0 else "the model's result is constant"


def measure(done: Enhancement, image: Pixels) -> dict[str, float | None]:
    """Quality columns of one case, rounded; None where a column is undefined."""
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
    """Writes the unit's shards, then its record, each durable before the next (P5).

    Raises SpaceError, McdiffError.
    """
    with recording(work.log, FINISHING), span("commit"):
        head = _write_unit(work, recipe)
    return UnitDone(
        unit=head.unit,
        counts=head.counts,
        incidents=tuple(work.incidents),
        log=work.log,
    )


def _write_unit(work: Work, recipe: Recipe) -> Head:
    unit, size = work.task.unit, recipe.layout.unit_size
    with span("encode"):
        images = recipe.layout.images
        encoded = {name: shards.encode_shard(work.chunks[name], size) for name in images}
    record = Record(
        unit=unit.index,
        first=unit.first,
        count=unit.count,
        shards=shards.describe(encoded),
        cases=tuple(_entry(work, case) for case in unit.cases),
    )
    head = runs.commit(recipe.output, record, encoded)
    if head != record.head:
        with suppress(DamagedRecord, FileNotFoundError):
            work.incidents.extend(_explain_kept(ledger.read(recipe.output, unit.index), record))
    return head


def _explain_kept(there: Record, new: Record) -> Iterator[Incident]:
    """What this run found of the cases of a record that it may not replace, because a case that is
    done there has failed now."""
    before = {entry.case: entry for entry in there.cases}
    lost = [x for x in new.cases if x.status == FAILED and before[x.case].status == DONE]
    for entry in lost:
        detail = f"failed now, {entry.reason}: {entry.detail}; its image of before stays"
        yield Incident(kind=KEPT, detail=detail, unit=new.unit, case=entry.case)
    for entry in new.cases if lost else ():
        if before[entry.case].status == FAILED and entry != before[entry.case]:
            found = f"failed, {entry.reason}: {entry.detail}" if entry.reason else "can be enhanced"
            detail = (
                f"{found}, but case {lost[0].case}, which was done before, failed now "
                f"({lost[0].reason}), so the record of both stays; repair that case too"
            )
            yield Incident(kind=KEPT, detail=detail, unit=new.unit, case=entry.case)


def _entry(work: Work, case: int) -> Entry:
    assert case in work.entries or case not in work.task.cases, "a case was lost on the way"
    skipped = Entry(case=case, status=SKIPPED, reason="not selected")
    return work.entries.get(case, skipped)
