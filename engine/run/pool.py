"""The parent's side: one process per device, a queue of units, and every way a process can end."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import wait
from time import monotonic
from typing import Protocol

from mcdiff_batch.engine.errors import DeviceError, McdiffError
from mcdiff_batch.engine.model.plan import Device, PlanMaker
from mcdiff_batch.engine.output.ledger import Incident

from .messages import Broke, Message, Ready, Recipe, Task, UnitDone
from .process import Life, Slot, begin, post_mortem

TICK = 0.25  # s
START_PATIENCE = 900.0  # s: a plan may be slow to load
STRIKES = 2  # ends of a worker after which a unit is done one case at a time
STARTS = 2  # ends in a row before the plan was ready, after which a device is given up
DEATHS = 8  # ends in a row without a case computed, likewise
JOIN = 10.0  # s


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    patience: float = 300.0  # s without a sign of life, after which a worker is killed
    grace: float = 30.0  # s that units under way get once the run is to end


class Watcher(Protocol):
    """Who keeps the books."""

    def done(self, device: Device, message: UnitDone) -> None: ...

    def incident(self, incident: Incident) -> None: ...

    def tick(self, computed: Mapping[str, int]) -> None:
        """`computed`: by device, cases computed whose units are not yet done."""
        ...


class Pool:
    """Runs tasks to their end, or to the end of the run: a signal, an error, or `stop`."""

    def __init__(
        self,
        recipe: Recipe,
        maker: PlanMaker,
        devices: Iterable[Device],
        limits: Limits,
        watcher: Watcher,
        *,
        lock: object = None,  # picklable; keeps the output's lock alive in the workers
        asked: Callable[[], int] = lambda: 0,  # how many signals have asked to stop
    ) -> None:
        self.recipe, self.maker, self.limits, self.watcher = recipe, maker, limits, watcher
        self.lock, self.asked = lock, asked
        self.context = get_context("spawn")
        self.slots = [Slot(device=device) for device in devices]
        self.source: Iterator[Task] = iter(())
        self.queue: deque[Task] = deque()  # the next few of them
        self.quarantine: deque[Task] = deque()  # units to be done one case at a time
        self.strikes: Counter[int] = Counter()
        self.deadline: float | None = None  # set: no unit is begun any more
        self.error: McdiffError | None = None

    def run(self, tasks: Iterable[Task]) -> None:
        """Raises the McdiffError that ended it."""
        self.source = iter(tasks)
        self._refill()
        resource_tracker.ensure_running()  # its own start would unblock signals during `begin`
        try:
            for slot in self.slots[: len(self.queue)]:
                self._start(slot)
            while self._busy():
                self._turn()
            self._dismiss_all()
        finally:
            self._kill_all()
        if self.error is not None:
            raise self.error

    def stop(self, error: McdiffError | None = None) -> None:
        """Begins no further unit; those under way get `grace` seconds."""
        self.error = self.error or error
        if self.deadline is None:
            self.deadline = monotonic() + self.limits.grace
            self.source = iter(())
            self.queue.clear()
            self.quarantine.clear()
            for _, life in self._alive():
                life.pulse.drain()
                life.dismiss()

    def _alive(self) -> list[tuple[Slot, Life]]:
        return [(slot, slot.life) for slot in self.slots if slot.life is not None]

    def _busy(self) -> bool:
        if self.deadline is not None:
            return bool(self._alive())
        return bool(self.queue or self.quarantine or any(slot.tasks for slot in self.slots))

    def _refill(self) -> None:
        """Tasks are made when they are about to be needed: there may be very many (P8)."""
        self.queue.extend(islice(self.source, max(0, 3 * len(self.slots) - len(self.queue))))

    def _turn(self) -> None:
        self._refill()
        for slot, life in self._alive():
            self._feed(slot, life)
        before = monotonic()
        wait([x for _, life in self._alive() for x in (life.process.sentinel, life.line)], TICK)
        for slot, life in self._alive():
            self._listen(slot, life)
        self._watch(min(monotonic() - before, 2 * TICK))  # more: it was us who were stopped
        self._heed_signals()
        self.watcher.tick({str(slot.device): life.uncredited for slot, life in self._alive()})

    def _heed_signals(self) -> None:
        if self.asked():
            self.stop()
        if self.deadline is not None and (self.asked() > 1 or monotonic() > self.deadline):
            self._kill_all()

    def _start(self, slot: Slot) -> None:
        alone = bool(self.quarantine)
        slot.life = begin(self.context, self.recipe, self.maker, slot.device, alone, self.lock)

    def _feed(self, slot: Slot, life: Life) -> None:
        """One unit under way and one ahead, so that reading overlaps; none ahead near the end."""
        if not life.ready or life.dismissed:
            return
        mine, other = self.queue, self.quarantine
        if life.alone:
            mine, other = other, mine
        room = 1 if life.alone or len(mine) <= len(self.slots) else 2
        while mine and len(slot.tasks) < room:
            slot.tasks.append(mine.popleft())
            life.send(slot.tasks[-1])
        if other and not slot.tasks and (life.alone or not self._has_alone()):
            life.dismiss()  # the device comes back for the other queue

    def _has_alone(self) -> bool:
        return any(life.alone for _, life in self._alive())

    def _listen(self, slot: Slot, life: Life) -> None:
        ended = life.process.exitcode is not None  # asked first: last words may be in the pipe
        try:
            while life.line.poll():
                self._take(slot, life, life.line.recv())
        except (EOFError, OSError):
            ended = life.process.exitcode is not None
        if ended:
            self._bury(slot, life)

    def _take(self, slot: Slot, life: Life, message: Message) -> None:
        match message:
            case Ready():
                life.ready, slot.starts = True, 0
            case Broke():
                life.broke = message
                if message.error is not None:
                    self.stop(message.error)
            case UnitDone():
                slot.tasks.popleft()
                slot.shortages = slot.deaths = 0
                life.credited += message.counts["done"]
                self.watcher.done(slot.device, message)

    def _bury(self, slot: Slot, life: Life) -> None:
        """A dismissed worker that owes nothing just went; any other one was lost."""
        code = life.process.exitcode
        slot.life = None
        life.process.close()
        life.line.close()
        if self.deadline is None and (code != 0 or slot.tasks):
            self._lost(slot, life, code)
        if self.deadline is None and slot in self.slots and (self.queue or self.quarantine):
            self._start(slot)

    def _lost(self, slot: Slot, life: Life, code: int | None) -> None:
        incident = post_mortem(slot, life, code, self.limits.patience)
        self.watcher.incident(incident)
        self._requeue(slot, life)
        slot.deaths = 0 if life.pulse.cases else slot.deaths + 1
        slot.starts += not (life.ready or life.short_of_memory)
        slot.shortages += life.short_of_memory
        if slot.shortages > 1:
            self._out_of_memory(slot)
        elif slot.starts >= STARTS or slot.deaths >= DEATHS:
            self._give_up(slot, incident.detail)

    def _requeue(self, slot: Slot, life: Life) -> None:
        """The unit under the plan is blamed; an innocent one comes clean when it is done alone."""
        tasks = sorted(slot.tasks, key=lambda task: task.unit.index != life.pulse.unit)
        slot.tasks.clear()
        self.queue.extendleft(reversed(tasks[1:]))
        for task in tasks[:1]:
            self.strikes[task.unit.index] += not life.short_of_memory
            if life.alone and not life.short_of_memory:
                self._without(task, life.case)
            elif self.strikes[task.unit.index] >= STRIKES:
                self.quarantine.append(task)
            else:
                self.queue.appendleft(task)

    def _without(self, task: Task, case: int | None) -> None:
        """Leaves out the case that ended a worker alone; the whole unit where it was none."""
        if case is None:
            detail = "cannot be finished; the next run tries again"
            self.watcher.incident(Incident(kind="left", unit=task.unit.index, detail=detail))
            return
        kept = tuple(x for x in task.cases if x != case)
        self.quarantine.appendleft(replace(task, cases=kept, poison=(*task.poison, case)))

    def _out_of_memory(self, slot: Slot) -> None:
        size = self.recipe.batch_size
        self.stop(
            DeviceError(
                f"{slot.device}: out of memory twice at --batch-size {size}; free memory and run "
                "again, or start a new --output with a smaller --batch-size"
            )
        )

    def _give_up(self, slot: Slot, cause: str) -> None:
        """The other devices go on; with no other the run ends."""
        self.slots.remove(slot)
        self.watcher.incident(Incident(kind="device", detail="given up", device=str(slot.device)))
        if not self.slots:
            self.stop(DeviceError(f"{slot.device}: its worker ended again and again: {cause}"))
        elif not self._alive():
            self._start(self.slots[0])

    def _watch(self, elapsed: float) -> None:
        for slot, life in self._alive():
            idle = life.watch(elapsed, waiting=life.ready and not slot.tasks)
            patience = self.limits.patience if life.ready else START_PATIENCE
            if idle > patience and not life.hung:
                life.hung = True
                life.kill(dump=True)

    def _dismiss_all(self) -> None:
        end = monotonic() + JOIN
        for _, life in self._alive():
            life.dismiss()
        for _, life in self._alive():
            life.process.join(max(0.0, end - monotonic()))

    def _kill_all(self) -> None:
        for _, life in self._alive():
            life.kill()
        for slot, life in self._alive():
            life.process.join(JOIN)
            life.line.close()
            slot.life = None
