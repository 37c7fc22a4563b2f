"""What a run says in words: what it would do, how it ended, and which cases are not done."""

from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcdiff_batch.engine.text import clean, format_bytes, format_duration, pluralise

if TYPE_CHECKING:
    from mcdiff_batch.engine.archive.archive import Archive
    from mcdiff_batch.engine.model.plan import Device
    from mcdiff_batch.engine.output.ledger import Entry
    from mcdiff_batch.engine.run.enhance import Summary
    from mcdiff_batch.engine.run.job import ResolvedJob

LISTED = 20  # cases that are not done, or damaged files
UNITS = 5  # units that could not be finished


def describe_plan(resolved: "ResolvedJob", damaged: Collection[int] = ()) -> str:
    """What a run would do, a line for each setting; for --dry-run.  Raises SpaceError.

    damaged: units that --repair would do again.
    """
    from mcdiff_batch.engine.output.units import make_unit
    from mcdiff_batch.engine.run.job import bytes_needed, survey
    from mcdiff_batch.engine.run.preflight import check_space

    settings, selection = resolved.settings, resolved.selection
    pending = {*survey(resolved).pending, *damaged}
    units, selected = len(pending), len(selection)
    check_space(resolved, units)
    whole = (make_unit(x, resolved.archive.cases, settings.unit_size) for x in pending)
    left = sum(case in selection for unit in whole for case in unit.cases)
    rows = {
        "output": f"{resolved.job.output} ({'begun' if resolved.begun else 'new'})",
        "cases": f"{settings.cases} ({selected} of {resolved.archive.cases})",
        "finished": pluralise(selected - left, "case") if resolved.begun else "nothing",
        "to do": f"{pluralise(left, 'case')} in {pluralise(units, 'unit')}" if units else "nothing",
        "unit size": pluralise(settings.unit_size, "case"),
        "devices": name_devices(resolved.job.devices),
        "batch size": pluralise(settings.batch_size, "case"),
        "sampler": settings.solver,
        "steps": len(settings.ladder),
        "seed": f"{settings.seed}, temperature {settings.temperature:g}",
        "draws": settings.draws,
        "grid": f"{settings.grid}, {' x '.join(map(str, resolved.layout.image))} px",
        "disk space": f"up to {format_bytes(bytes_needed(resolved, units))}" if units else "none",
    }
    return "\n".join(f"{name:<12}{value}" for name, value in rows.items())


def name_devices(devices: "tuple[Device, ...]") -> str:
    """For example "CPU, 2 workers" or "GPU 0, GPU 1 (NVIDIA RTX A6000)"."""
    if devices[0].kind == "cpu":
        return "CPU" if len(devices) == 1 else f"CPU, {len(devices)} workers"
    from mcdiff_batch.engine.backends.gpus import gpus

    kinds = {gpu.index: gpu.name for gpu in gpus()}
    names = ", ".join(x.title for x in devices)
    return f"{names} ({kinds.get(devices[0].index) or 'unknown'})"


def describe_failures(output: Path, ids: "Archive | None" = None) -> list[str]:
    """A line for each of the first cases that are not done, and for units without a record.

    ids: the archive, if its ids are to be shown; otherwise a case has only its index.
    """
    from mcdiff_batch.engine.output.ledger import OPEN

    reasons = _Reasons(output)
    lines, more = list[str](), 0
    for entry in _read_failures(output):
        if len(lines) == LISTED:
            more += 1
            continue
        name = f" ({ids.key(entry.case)})" if ids else ""
        if entry.status == OPEN:
            why = f"open: {reasons.of_case(entry.case)}; the next run tries it again"
        else:
            why = f"failed {entry.reason}: {entry.detail}"
        lines.append(f"case {entry.case}{name}: {why}")
    if more:
        lines.append(f"... and {more} more; see the report")
    lines += reasons.of_units()
    return [" ".join(line.split()) for line in lines]


def _read_failures(output: Path) -> "Iterator[Entry]":
    """The entries of failed and open cases; records without any are not read."""
    from mcdiff_batch.engine.output import ledger
    from mcdiff_batch.engine.output.ledger import FAILED, OPEN, DamagedRecord

    for head in ledger.read_heads(output):
        if head.counts[FAILED] or head.counts[OPEN]:
            with suppress(DamagedRecord):
                entries = ledger.read(output, head.unit).cases
                yield from (x for x in entries if x.status in (FAILED, OPEN))


class _Reasons:
    """The last incident of each case, and of each unit that has no record."""

    def __init__(self, output: Path) -> None:
        from mcdiff_batch.engine.files import json_lines
        from mcdiff_batch.engine.output import ledger

        self.cases: dict[int, str] = {}
        self.units: dict[int, str] = {}
        recorded = set(ledger.list_units(output))
        for row in json_lines(output / ledger.INCIDENTS):
            case, unit, text = row.get("case"), row.get("unit"), _describe(row)
            if isinstance(case, int):
                self.cases[case] = text
            elif isinstance(unit, int) and unit not in recorded:
                self.units[unit] = text

    def of_case(self, case: int) -> str:
        return self.cases.get(case, "its worker ended")

    def of_units(self) -> Iterator[str]:
        for unit in sorted(self.units)[:UNITS]:
            yield f"unit {unit} is left: {self.units[unit]}; the next run tries it again"


def _describe(incident: dict[str, Any]) -> str:
    return f"{clean(incident.get('kind', 'unknown'))}, {clean(incident.get('detail', ''))}"


def describe_summary(summary: "Summary", page: Path | str) -> str:
    """How a run ended: counts, where the results are, and what to do next."""
    counts, left = summary.counts, summary.unfinished
    lines = [
        f"{counts['done']} of {summary.cases} cases done{_if(counts['failed'], ', {} failed')}"
        f"{_if(left, ', {} left for the next run')} in {format_duration(summary.seconds)}: "
        f"{summary.output} (report: {page})"
    ]
    if summary.flagged:
        lines.append(f"{summary.flagged} flagged: look at them first, see report")
    if counts["failed"]:
        lines.append("after you repaired the archive, run again with --retry-failed")
    return "\n".join(lines)


def _if(number: int, text: str) -> str:
    return text.format(number) if number else ""
