"""The scheduler: one worker per device, a queue of units, and every way a worker can end."""

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from time import monotonic
from typing import Protocol

from mcdiff_batch.engine.errors import DeviceError, McdiffError
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.output.ledger import Incident

from .protocol import Breakdown, Message, Ready, Sample, Task, UnitDone, Workers
from .slot import Life, Slot, post_mortem

TICK = 0.25  # s
START_PATIENCE = 900.0  # s: a plan may be slow to load
STRIKES = 2  # workers that a unit may end before its cases are processed one at a time
STARTS = 2  # workers in a row that end before their plan is ready: the device is given up
DEATHS = 8  # workers in a row that end without computing a case: likewise
END_TIME = 10.0  # s that workers have to end


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long the pool waits for its workers."""

    patience: float = 300.0  # s without a sign of life, after which a worker is killed
    grace: float = 30.0  # s that units under way have once the run is to end


class Watcher(Protocol):
    """Hears what the pool does."""

    def record_unit(self, device: Device, message: UnitDone) -> None: ...

    def record_incident(self, incident: Incident) -> None: ...

    def record_sample(self, device: Device, sample: Sample) -> None: ...

    def tick(self, computed: Mapping[str, int]) -> None:
        """Called several times a second.  `computed`: by device, cases computed whose units are
        not done."""
        ...


class Pool:
    """Runs tasks until all are done, or until a signal, an error or `stop` ends the run.

    It knows workers only by their protocol, so any kind of them will do.
    """

    def __init__(
        self,
        workers: Workers,
        devices: Iterable[Device],
        limits: Limits,
        watcher: Watcher,
        *,
        batch_size: int,
        signals: Callable[[], int],  # how many have asked the run to stop
    ) -> None:
        self.workers, self.limits, self.watcher = workers, limits, watcher
        self.batch_size, self.signals = batch_size, signals
        self.slots = [Slot(device=device) for device in devices]
        self.source: Iterator[Task] = iter(())
        self.queue: deque[Task] = deque()  # the next few tasks of the source
        self.quarantine: deque[Task] = deque()  # units to process one case at a time
        self.strikes: Counter[int] = Counter()  # by unit: workers that it ended
        self.deadline: float | None = None  # set: no other unit begins
        self.error: McdiffError | None = None

    def run(self, tasks: Iterable[Task]) -> None:
        """Raises the McdiffError that ended the run."""
        self.source = iter(tasks)
        self._refill()
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
        """Begins no other unit; those under way have `grace` seconds to finish."""
        self.error = self.error or error
        if self.deadline is None:
            self.deadline = monotonic() + self.limits.grace
            self.source = iter(())
            self.queue.clear()
            self.quarantine.clear()
            for _, life in self._alive():
                life.dismiss()

    def _alive(self) -> list[tuple[Slot, Life]]:
        return [(slot, slot.life) for slot in self.slots if slot.life is not None]

    def _busy(self) -> bool:
        if self.deadline is not None:
            return bool(self._alive())
        return bool(self.queue or self.quarantine or any(slot.tasks for slot in self.slots))

    def _refill(self) -> None:
        """Makes tasks only when they are about to be needed: there may be very many (P8)."""
        self.queue.extend(islice(self.source, max(0, 3 * len(self.slots) - len(self.queue))))

    def _turn(self) -> None:
        self._refill()
        for device in self.workers.newcomers():
            self._add(Slot(device=device))
        for slot, life in self._alive():
            self._feed(slot, life)
        before = monotonic()
        self.workers.wait([life.worker for _, life in self._alive()], TICK)
        for slot, life in self._alive():
            self._listen(slot, life)
        self._watch(min(monotonic() - before, 2 * TICK))  # longer: this process was suspended
        self._heed_signals()
        self.watcher.tick({str(slot.device): life.uncredited for slot, life in self._alive()})

    def _heed_signals(self) -> None:
        if self.signals():
            self.stop()
        if self.deadline is not None and (self.signals() > 1 or monotonic() > self.deadline):
            self._kill_all()

    def _add(self, slot: Slot) -> None:
        self.slots.append(slot)
        if self.deadline is None and (self.queue or self.quarantine):
            self._start(slot)

    def _start(self, slot: Slot) -> None:
        alone = bool(self.quarantine)
        slot.life = Life(worker=self.workers.start(slot.device, alone=alone), alone=alone)

    def _feed(self, slot: Slot, life: Life) -> None:
        """Keeps one unit under way and one ahead, so that reading overlaps with computing; near
        the end none ahead, so that all devices have work."""
        if not life.ready or life.dismissed:
            return
        mine, other = self.queue, self.quarantine
        if life.alone:
            mine, other = other, mine
        room = 1 if life.alone or len(mine) <= len(self.slots) else 2
        while mine and len(slot.tasks) < room:
            slot.tasks.append(mine.popleft())
            life.worker.send(slot.tasks[-1])
        if other and not slot.tasks and (life.alone or not self._has_alone()):
            life.dismiss()  # so that a worker of the other kind can have the device

    def _has_alone(self) -> bool:
        return any(life.alone for _, life in self._alive())

    def _listen(self, slot: Slot, life: Life) -> None:
        ended = life.worker.exit_code is not None  # asked first: its last words may still arrive
        for message in life.worker.messages():
            self._take(slot, life, message)
        if ended:
            self._bury(slot, life)

    def _take(self, slot: Slot, life: Life, message: Message) -> None:
        match message:
            case Ready():
                life.ready, slot.starts = True, 0
            case Sample():
                self.watcher.record_sample(slot.device, message)
            case Breakdown():
                life.breakdown = message
                if message.error is not None:
                    self.stop(message.error)
            case UnitDone():
                slot.tasks.popleft()
                slot.shortages = slot.deaths = 0
                life.credited += message.counts["done"]
                self.watcher.record_unit(slot.device, message)

    def _bury(self, slot: Slot, life: Life) -> None:
        """A worker that was dismissed and has no task left just ends; any other one is lost."""
        slot.life = None
        if self.deadline is None and (life.worker.exit_code != 0 or slot.tasks):
            self._lose(slot, life)
        life.worker.close()
        if self.deadline is None and slot in self.slots and (self.queue or self.quarantine):
            self._start(slot)

    def _lose(self, slot: Slot, life: Life) -> None:
        incident = post_mortem(slot, life, self.limits.patience)
        self.watcher.record_incident(incident)
        self._requeue(slot, life)
        slot.deaths = 0 if life.worker.pulse.cases else slot.deaths + 1
        slot.starts += not (life.ready or life.out_of_memory)
        slot.shortages += life.out_of_memory
        if life.refused or life.worker.host_lost:
            self._drop(slot, DeviceError(f"{slot.device.title}: {incident.detail}"))
        elif slot.shortages > 1:
            self._out_of_memory(slot)
        elif slot.starts >= STARTS or slot.deaths >= DEATHS:
            self._give_up(slot, incident.detail)

    def _requeue(self, slot: Slot, life: Life) -> None:
        """Blames the unit that the plan worked on.  An innocent one is cleared when its cases are
        processed one at a time."""
        tasks = sorted(slot.tasks, key=lambda task: task.unit.index != life.worker.pulse.unit)
        slot.tasks.clear()
        self.queue.extendleft(reversed(tasks[1:]))
        for task in tasks[:1]:
            innocent = life.out_of_memory or life.worker.host_lost
            self.strikes[task.unit.index] += not innocent
            if life.alone and not innocent:
                self._leave_out(task, life.case)
            elif self.strikes[task.unit.index] >= STRIKES:
                self.quarantine.append(task)
            else:
                self.queue.appendleft(task)

    def _leave_out(self, task: Task, case: int | None) -> None:
        """Leaves out the case that ended a worker alone, or the whole unit if no case did."""
        if case is None:
            detail = "cannot be finished; the next run tries again"
            self.watcher.record_incident(Incident(kind="left", unit=task.unit.index, detail=detail))
            return
        rest = tuple(x for x in task.cases if x != case)
        self.quarantine.appendleft(replace(task, cases=rest, poison=(*task.poison, case)))

    def _out_of_memory(self, slot: Slot) -> None:
        shared = any(x.device.worker for x in self.slots)
        also = ", or name each GPU once in --devices," if shared else ""
        self.stop(
            DeviceError(
                f"{slot.device.title}: out of memory twice at --batch-size {self.batch_size}; free "
                f"memory{also} and run again, or start a new --output with a smaller --batch-size"
            )
        )

    def _give_up(self, slot: Slot, cause: str) -> None:
        self.watcher.record_incident(
            Incident(kind="device", detail="given up", device=str(slot.device))
        )
        text = f"{slot.device.title}: its worker ended again and again: {cause}"
        self._drop(slot, DeviceError(text))

    def _drop(self, slot: Slot, error: McdiffError) -> None:
        """The other devices go on; without any the run ends with `error`."""
        self.slots.remove(slot)
        if not self.slots:
            self.stop(error)
        elif not self._alive():
            self._start(self.slots[0])

    def _watch(self, elapsed: float) -> None:
        for slot, life in self._alive():
            idle = life.watch(elapsed, waiting=life.ready and not slot.tasks)
            patience = self.limits.patience if life.ready else START_PATIENCE
            if idle > patience and not life.hung:
                life.hung = True
                life.worker.kill(dump=life.ready)

    def _dismiss_all(self) -> None:
        for _, life in self._alive():
            life.dismiss()
        self._await_ends()

    def _kill_all(self) -> None:
        for _, life in self._alive():
            life.worker.kill()
        self._await_ends()
        for slot, life in self._alive():
            life.worker.close()
            slot.life = None

    def _await_ends(self) -> None:
        """Waits for all workers to end, at most END_TIME; nobody hears what they still say."""
        end = monotonic() + END_TIME
        running = [life.worker for _, life in self._alive()]
        while (running := [x for x in running if x.exit_code is None]) and monotonic() < end:
            self.workers.wait(running, max(0.0, end - monotonic()))
            for worker in running:
                worker.messages()
