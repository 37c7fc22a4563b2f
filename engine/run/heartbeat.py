"""A few numbers shared by a worker and its parent, so that a hang is told from work."""

from ctypes import c_longlong
from multiprocessing.context import SpawnContext
from time import monotonic

BEATS, UNIT, CASE, COMPUTED, DRAINING = range(5)


class Pulse:
    """Written by the worker, read by the parent; but for `drain`, which goes the other way."""

    def __init__(self, context: SpawnContext) -> None:
        self._cells = context.RawArray(c_longlong, [0, -1, -1, 0, 0])
        self.born = monotonic()  # before the worker is started

    def beat(self) -> None:
        """Something moved.  Threads may lose a count; that there was one is never lost."""
        self._cells[BEATS] += 1

    def begin(self, case: int) -> None:
        """Case `case` is in hand (-1: none); exact where a worker takes one case at a time."""
        self._cells[CASE] = case
        self.beat()

    def begin_unit(self, unit: int) -> None:
        """The plan's work on a unit begins."""
        self._cells[UNIT] = unit
        self.beat()

    def computed(self, cases: int) -> None:
        self._cells[COMPUTED] += cases
        self.beat()

    def drain(self) -> None:
        """Asks the worker to begin no further unit."""
        self._cells[DRAINING] = 1

    @property
    def beats(self) -> int:
        return int(self._cells[BEATS])

    @property
    def unit(self) -> int:
        return int(self._cells[UNIT])

    @property
    def case(self) -> int:
        return int(self._cells[CASE])

    @property
    def cases(self) -> int:
        """Cases computed since the worker began."""
        return int(self._cells[COMPUTED])

    @property
    def draining(self) -> bool:
        return bool(self._cells[DRAINING])
