"""The hosts of a Ray cluster that have what a run needs.

They have numbers, in the order in which they are first seen, and no names: a name may say too much.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any

from mcdiff_batch.engine.errors import DeviceError
from mcdiff_batch.engine.model.plan import Device

from .session import load_ray

SURVEY_PERIOD = 2.0  # s
LONG_ANSWER = 10.0  # s that the head has for an answer that is needed now
ANSWER = 0.5  # s that it has for any other; a late one counts with the next survey
HEAD_PATIENCE = 10  # surveys in a row without an answer, after which the head counts as lost
CHANCES = 3  # how often a host may be lost and come back


@dataclass(slots=True, kw_only=True)
class Node:
    """A host: what it has, and what this run knows of it."""

    number: int
    id: str  # Ray's
    cpus: int
    gpus: int
    alive: bool = True
    used: bool = False  # its devices have been handed out
    losses: int = 0


class Nodes:
    """The hosts and their devices.

    On CPUs each host has `per_host` workers, which share its cores; else `per_gpu` for each GPU.
    """

    def __init__(self, kind: str, *, per_host: int, per_gpu: int) -> None:
        self.kind, self.per_host, self.per_gpu = kind, per_host, per_gpu
        self.by_id: dict[str, Node] = {}
        self.surveyed = -SURVEY_PERIOD
        self.answers: SimpleQueue[list[dict[str, Any]] | None] | None = None  # one is awaited
        self.silences = 0  # surveys in a row without an answer

    def first(self) -> tuple[Device, ...]:
        """The devices that the cluster has now.  Raises DeviceError if there is none."""
        self.survey_now()
        found = tuple(self._hand_out_all())
        if not found:
            what = "CPU" if self.kind == "cpu" else "GPU"
            raise DeviceError(f"--on ray: the cluster has no {what}; see `ray status`")
        return found

    def newcomers(self) -> list[Device]:
        """Devices of hosts that came, or came back, since the last call."""
        if monotonic() - self.surveyed < SURVEY_PERIOD:
            return []
        self.survey()
        return list(self._hand_out_all())

    def _hand_out_all(self) -> Iterator[Device]:
        for node in self.by_id.values():
            yield from self._hand_out(node)

    def _hand_out(self, node: Node) -> Iterator[Device]:
        if node.used or not node.alive or node.losses >= CHANCES:
            return
        node.used = True
        for worker in range(self.per_gpu):
            for index in range(self._count(node)):
                yield Device(kind=self.kind, index=index, host=node.number, worker=worker)

    def _count(self, node: Node) -> int:
        return node.gpus if self.kind != "cpu" else min(self.per_host, node.cpus)

    @property
    def head_lost(self) -> bool:
        return self.silences >= HEAD_PATIENCE

    def survey(self, seconds: float = ANSWER) -> None:
        """Learns what the head knows, if it answers within `seconds`."""
        self.surveyed = monotonic()
        found = self._ask_head(seconds)
        self.silences = 0 if found is not None else self.silences + 1
        if found is None:
            return
        rows = {row["NodeID"]: row for row in found}
        for key, row in rows.items():
            node = _node(len(self.by_id) + 1, row)
            if row["Alive"] and key not in self.by_id and self._count(node):
                self.by_id[key] = node
        for key, node in self.by_id.items():
            node.alive = bool(rows.get(key, {}).get("Alive"))

    def survey_now(self) -> None:
        """Waits for an answer to a question that is asked now."""
        self.answers = None
        self.survey(LONG_ANSWER)

    def _ask_head(self, seconds: float) -> list[dict[str, Any]] | None:
        """In a thread of its own: where the head is gone, Ray does not return."""
        if self.answers is None:
            self.answers = SimpleQueue()
            Thread(target=_ask_ray, args=(self.answers,), daemon=True).start()
        try:
            found = self.answers.get(timeout=seconds)
        except Empty:
            return None
        self.answers = None
        return found

    def of(self, device: Device) -> Node:
        """The host of a device."""
        return next(x for x in self.by_id.values() if x.number == device.host)

    def lose(self, node: Node) -> None:
        """Notes that a host does not answer.  If it is there again later, its devices come anew."""
        if node.used:
            node.used, node.losses = False, node.losses + 1

    def threads(self, device: Device) -> int:
        """The cores of a worker on the CPU."""
        node = self.of(device)
        return max(1, node.cpus // max(1, self._count(node)))


def _ask_ray(answers: SimpleQueue[list[dict[str, Any]] | None]) -> None:
    try:
        answers.put(load_ray().nodes())
    except Exception:  # Ray's errors have no common base class
        answers.put(None)


def _node(number: int, row: dict[str, Any]) -> Node:
    has = row["Resources"]
    return Node(
        number=number, id=row["NodeID"], cpus=int(has.get("CPU", 0)), gpus=int(has.get("GPU", 0))
    )
