"""Units, selections and batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.model.batch import batches, pad
from mcdiff_batch.engine.output.units import Selection, Unit, join, make_unit, parse_selection

SIZES = st.integers(1, 50)
CASES = st.integers(1, 500)


def all_units(cases: int, size: int) -> list[Unit]:
    indices = Selection((range(cases),)).units(size)
    return [make_unit(index, cases, size) for index in indices]


@given(CASES, SIZES)
def test_units_tile_the_cases_exactly_once(cases: int, size: int) -> None:
    assert [case for unit in all_units(cases, size) for case in unit.cases] == list(range(cases))


@given(CASES, SIZES)
def test_only_the_last_unit_is_short(cases: int, size: int) -> None:
    *full, last = all_units(cases, size)
    assert all(unit.count == size for unit in full)
    assert 1 <= last.count <= size
    assert make_unit(last.index, cases, size) == last


@given(st.sets(st.integers(0, 200), min_size=1), SIZES)
def test_a_selection_holds_its_cases_and_finds_their_units(cases: set[int], size: int) -> None:
    found = join(range(case, case + 1) for case in cases)
    assert {case for case in range(201) if case in found} == cases
    assert len(found) == len(cases)
    assert found.units(size) == sorted({case // size for case in cases})


@given(st.sets(st.integers(0, 200), min_size=1), st.integers(1, 300))
def test_a_selection_has_one_spelling_and_is_read_from_it(cases: set[int], count: int) -> None:
    found = join(range(case, case + 1) for case in cases)
    assert parse_selection(str(found), 201) == found
    assert found.head(count) == join(range(x, x + 1) for x in sorted(cases)[:count])


def test_overlapping_and_adjacent_spans_become_one() -> None:
    assert str(parse_selection("5-9,0,3, 8-12,13", 20)) == "0,3,5-13"
    assert str(parse_selection("0-10,2-3", 20)) == "0-10"
    assert Selection((range(4),)).units(2) == [0, 1]


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "0,,2", "20", "1-20", "0x1", "1-2-3"])
def test_a_selection_that_makes_no_sense_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="--cases"):
        parse_selection(text, 20)


@given(st.lists(st.integers(), max_size=60), st.integers(1, 9))
def test_batches_keep_order_and_padding_repeats_the_last(cases: list[int], size: int) -> None:
    found = list(batches(cases, size))
    assert [case for batch in found for case in batch] == cases
    for batch in found:
        full = pad(batch, size)
        assert len(full) == size
        assert full == batch + [batch[-1]] * (size - len(batch))
