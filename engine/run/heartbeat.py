"""A few numbers shared by a worker and its parent, so that the parent can tell a hang from work."""

from ctypes import c_longlong
from multiprocessing.context import SpawnContext
from time import monotonic

from .protocol import PulseReading

BEATS, UNIT, CASE, COMPUTED, DRAINING = range(5)


class Pulse:
    """Shared memory.  The worker writes everything but `draining`, which the parent sets."""

    def __init__(self, context: SpawnContext) -> None:
        self._cells = context.RawArray(c_longlong, [0, -1, -1, 0, 0])
        self.born = monotonic()  # before the worker starts

    def beat(self) -> None:
        """Shows a sign of life.  Two threads at once may add one beat, never none."""
        self._cells[BEATS] += 1

    def begin(self, case: int) -> None:
        """Sets the case in hand (-1: none); exact for a worker that takes one case at a time."""
        self._cells[CASE] = case
        self.beat()

    def begin_unit(self, unit: int) -> None:
        """Sets the unit that the plan works on."""
        self._cells[UNIT] = unit
        self.beat()

    def add_computed(self, cases: int) -> None:
        self._cells[COMPUTED] += cases
        self.beat()

    def drain(self) -> None:
        """Asks the worker to begin no other unit."""
        self._cells[DRAINING] = 1

    @property
    def draining(self) -> bool:
        return bool(self._cells[DRAINING])

    def read(self) -> PulseReading:
        beats, unit, case, cases = self._cells[BEATS : COMPUTED + 1]
        return PulseReading(beats=beats, unit=unit, case=case, cases=cases)
