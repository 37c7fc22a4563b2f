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
    from mcdiff_batch.engine.output.units import Part
    from mcdiff_batch.engine.run.enhance import Summary
    from mcdiff_batch.engine.run.job import ResolvedJob

LISTED = 20  # cases that are not done, or damaged files
UNITS = 5  # units that could not be finished
ALL_CASES = "; to do all cases, run with a new --output, without --limit and --cases"


def describe_plan(resolved: "ResolvedJob", damaged: Collection[int] = ()) -> str:
    """What a run would do, a line for each setting; for --dry-run.  Raises SpaceError.

    damaged: units of the part that --repair would do again.
    """
    from mcdiff_batch.engine.run.job import bytes_needed, survey
    from mcdiff_batch.engine.run.preflight import check_space

    settings, part = resolved.settings, resolved.job.part
    pending = {*survey(resolved).pending, *damaged}
    units, selected = len(pending), resolved.count_cases()
    check_space(resolved, units)
    left = sum(len(resolved.select_cases(x)) for x in pending)
    whole = f"{settings.cases} ({len(resolved.selection)} of {resolved.archive.cases})"
    rows = {
        "output": f"{resolved.job.output} ({'begun' if resolved.begun else 'new'})",
        "cases": whole,
        **({"part": f"{part} ({pluralise(selected, 'case')})"} if part else {}),
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


def describe_failures(
    output: Path, ids: "Archive | None" = None, part: "Part | None" = None
) -> list[str]:
    """A line for each of the first cases that are not done, and for units without a record.

    ids: the archive, if its ids are to be shown; otherwise a case has only its index.
    part: whose cases these are; None: all of them.
    """
    from mcdiff_batch.engine.output.ledger import OPEN

    reasons = _Reasons(output, part)
    lines, more = list[str](), 0
    for entry in _read_failures(output, part):
        if len(lines) == LISTED:
            more += 1
            continue
        name = f" ({ids.key(entry.case)})" if ids else ""
        if entry.status == OPEN:
            why = f"open: {reasons.of_case(entry.case)}; the next run tries it again"
        else:
            why = f"failed {entry.reason}: {entry.detail}"
            kept = reasons.kept.get(entry.case, "")
            if kept and entry.detail not in kept:  # else the record is newer
                why += f" (the last try: {kept})"
        lines.append(f"case {entry.case}{name}: {why}")
    if more:
        lines.append(f"... and {more} more; see the report")
    lines += reasons.of_units()
    return [" ".join(line.split()) for line in lines]


def _read_failures(output: Path, part: "Part | None") -> "Iterator[Entry]":
    """The entries of failed and open cases; records without any are not read."""
    from mcdiff_batch.engine.output import ledger
    from mcdiff_batch.engine.output.ledger import FAILED, OPEN, DamagedRecord

    for head in ledger.read_heads(output):
        if (head.counts[FAILED] or head.counts[OPEN]) and (part is None or head.unit in part):
            with suppress(DamagedRecord):
                entries = ledger.read(output, head.unit).cases
                yield from (x for x in entries if x.status in (FAILED, OPEN))


class _Reasons:
    """The last incident of each case, and of each unit that has no record."""

    def __init__(self, output: Path, part: "Part | None") -> None:
        from mcdiff_batch.engine.output import ledger
        from mcdiff_batch.engine.report.parts import read_incidents

        self.cases: dict[int, str] = {}
        self.units: dict[int, str] = {}
        self.kept: dict[int, str] = {}  # what a run found that could not replace the record
        recorded = set(ledger.list_units(output))
        for row in read_incidents(output):
            case, unit, text = row.get("case"), row.get("unit"), _describe(row)
            if isinstance(case, int):
                self.cases[case] = text
                if row.get("kind") == ledger.KEPT:
                    self.kept[case] = clean(row.get("detail", ""))
            elif isinstance(unit, int) and unit not in recorded and (not part or unit in part):
                self.units[unit] = text

    def of_case(self, case: int) -> str:
        return self.cases.get(case, "its worker ended")

    def of_units(self) -> Iterator[str]:
        for unit in sorted(self.units)[:UNITS]:
            yield f"unit {unit} is left: {self.units[unit]}; the next run tries it again"


def _describe(incident: dict[str, Any]) -> str:
    return f"{clean(incident.get('kind', 'unknown'))}, {clean(incident.get('detail', ''))}"


def describe_scope(archive_cases: int | None, not_selected: int, advice: str = ALL_CASES) -> str:
    """What is not part of an output that was begun with --limit or --cases; empty for all cases."""
    if not not_selected or archive_cases is None:
        return ""
    return (
        f"this output was begun for {archive_cases - not_selected} of {archive_cases} cases, and "
        f"{not_selected} {'is' if not_selected == 1 else 'are'} not part of it{advice}"
    )


def describe_summary(summary: "Summary", page: Path | str) -> str:
    """How a run or a part of one ended: counts, where the results are, and what to do next."""
    counts, left, part = summary.counts, summary.unfinished, summary.part
    idle = summary.cases and not (summary.units or left)
    how = ", all before this run" if idle else f" in {format_duration(summary.seconds)}"
    lines = [
        f"{f'part {part}: ' if part else ''}"
        f"{counts['done']} of {summary.cases} cases done{_if(counts['failed'], ', {} failed')}"
        f"{_if(left, ', {} left for the next run')}{how}: "
        f"{summary.output}{'' if part else f' (report: {page})'}"
    ]
    if part and not summary.cases:
        lines[0] += f" ({_describe_shares(summary.output)})"
    if scope := describe_scope(summary.archive_cases, summary.not_selected):
        lines.append(scope)
    if part:
        return "\n".join(lines)
    if summary.flagged:
        lines.append(f"{summary.flagged} flagged: look at them first, see report")
    if counts["failed"]:
        lines.append("after you repaired the archive, run again with --retry-failed")
    return "\n".join(lines)


def _describe_shares(output: Path) -> str:
    """Why a part has no case."""
    from mcdiff_batch.engine.output import runs
    from mcdiff_batch.engine.output.units import parse_selection

    settings = runs.load_existing(output).settings
    units = len(parse_selection(settings.cases, 1 << 62).units(settings.unit_size))
    size = pluralise(settings.unit_size, "case")
    are = "is" if units == 1 else "are"
    return f"this part has no unit: {pluralise(units, 'unit')} of {size} {are} shared out"


def describe_parts(output: Path) -> list[str]:
    """A line for each number of parts into which the run was divided; none if it was not."""
    from mcdiff_batch.engine.output.units import join
    from mcdiff_batch.engine.report.parts import STATES, read_parts

    states = read_parts(output)
    lines = []
    for count in sorted({x.part.count for x in states}):
        words = []
        for state in STATES:
            own = [x.part.number for x in states if x.part.count == count and x.state == state]
            if own:
                words.append(f"{join(range(x, x + 1) for x in own)} {state}")
        lines.append(f"parts of {count}: {', '.join(words)}")
    return lines


def _if(number: int, text: str) -> str:
    return text.format(number) if number else ""
