"""What runs on each host of a cluster: a Ray actor that keeps one worker and speaks for it.

The worker is a process as on one machine (run/process.py), so it lives, hangs and dies as there,
and it ends with the actor.
"""

import hashlib
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import NamedTuple

from mcdiff_batch.engine.archive.archive import open_archive
from mcdiff_batch.engine.backends.trial import Loader
from mcdiff_batch.engine.errors import McdiffError
from mcdiff_batch.engine.model.contract import load_bundle
from mcdiff_batch.engine.model.plan import Device, PlanMaker
from mcdiff_batch.engine.output import runs
from mcdiff_batch.engine.run.process import Processes, ProcessWorker
from mcdiff_batch.engine.run.protocol import (
    REFUSED,
    Breakdown,
    Message,
    PulseReading,
    Ready,
    Recipe,
    Task,
)
from mcdiff_batch.engine.telemetry.sampling import HostSampler

SHARE = "every host has to see archive, output and bundle at the same paths"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """All that a worker needs to begin."""

    recipe: Recipe
    maker: PlanMaker
    device: Device  # as the host counts it
    alone: bool
    run: str  # SHA-256 of the output's run.json


class News(NamedTuple):
    """What a host answers when it is asked."""

    first: int  # number of the first of `messages`, counted from the start of the worker
    messages: list[Message]
    pulse: PulseReading
    exit_code: int | None
    now: float  # s, of the host's monotonic clock
    sample: dict[str, float] | None  # of telemetry, if it is time for one


class Host:
    """The actor."""

    def __init__(self) -> None:
        self.worker: ProcessWorker | None = None
        self.workers: Processes | None = None
        self.outbox: list[Message] = []
        self.taken = 0  # messages that the driver has
        self.ready = False
        self.hidden: list[str] = []  # paths that no message may show (P10)
        self.sampler = HostSampler()

    def begin(self, versions: Mapping[str, str], order: bytes) -> str:
        """Starts the worker.  Returns why this host cannot take part, or nothing.

        order: a pickled Order, to be opened only where the versions are the same.
        """
        try:
            check_versions(versions)
            task: Order = pickle.loads(order)
            check_places(task)
            self.hidden = [str(task.recipe.archive), str(task.recipe.output)]
        except McdiffError as error:
            return str(error)
        self.workers = Processes(task.recipe, task.maker, None)
        self.worker = self.workers.start(task.device, alone=task.alone)
        return ""

    def exchange(self, taken: int, seconds: float) -> News:
        """Waits up to `seconds` for news.  Messages are kept until the driver has `taken` them, so
        an answer that is lost loses none."""
        assert self.worker is not None
        assert self.workers is not None
        del self.outbox[: taken - self.taken]
        self.taken = taken
        if not self.outbox:
            self.workers.wait([self.worker], seconds)
        exit_code = self.worker.exit_code  # asked first: its last words may still arrive
        self.outbox += map(self._translate, self.worker.messages())
        return News(
            first=taken,
            messages=self.outbox,
            pulse=self.worker.pulse,
            exit_code=exit_code,
            now=monotonic(),
            sample=self.sampler.sample(),
        )

    def _translate(self, message: Message) -> Message:
        """An error before the worker is ready is this host's alone: the others go on."""
        self.ready = self.ready or isinstance(message, Ready)
        if self.ready or not isinstance(message, Breakdown) or message.error is None:
            return message
        detail = str(message.error)
        for path in self.hidden:
            detail = detail.replace(path, "...")
        return Breakdown(kind=REFUSED, detail=detail)

    def send(self, task: Task) -> None:
        if self.worker is not None:
            self.worker.send(task)

    def dismiss(self) -> None:
        if self.worker is not None:
            self.worker.dismiss()

    def kill(self, dump: bool) -> None:
        if self.worker is not None and self.worker.exit_code is None:
            self.worker.kill(dump=dump)


def check_versions(expected: Mapping[str, str]) -> None:
    """Raises McdiffError where another version is installed here."""
    for name, version in runs.software_versions().items():
        if expected.get(name) != version:
            raise McdiffError(
                f"it has {name} {version}, expected {expected.get(name)} as where the command is; "
                "install the same versions on every host"
            )


def check_places(order: Order) -> None:
    """Raises McdiffError where this host sees another archive, output or bundle than the driver.

    The messages name no path: they go into the run's report (P10).
    """
    recipe = order.recipe
    try:
        identity = open_archive(recipe.archive).identity
    except McdiffError as error:
        raise McdiffError(f"it cannot read the archive; {SHARE}") from error
    if identity != recipe.identity:
        raise McdiffError(f"it sees another archive; {SHARE}")
    try:
        document = (recipe.output / runs.CONFIG).read_bytes()
        tempfile.TemporaryFile(dir=recipe.output).close()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise McdiffError(f"it cannot write to the output ({reason}); {SHARE}") from error
    if hashlib.sha256(document).hexdigest() != order.run:
        raise McdiffError(f"it sees another output; {SHARE}")
    if isinstance(order.maker, Loader):
        _check_bundle(order.maker)


def _check_bundle(loader: Loader) -> None:
    try:
        found = load_bundle(loader.bundle.root).sha256
    except McdiffError as error:
        raise McdiffError(f"it cannot read the bundle; {SHARE}") from error
    if found != loader.bundle.sha256:
        raise McdiffError("it has another bundle; install the same one on every host")


def at_home(maker: PlanMaker, threads: int, plans: Path) -> PlanMaker:
    """The same maker for a host: with its number of cores, and with the compiled plans that the
    output keeps, which every host sees."""
    if not isinstance(maker, Loader):
        return maker
    files = replace(maker.files, folder=plans) if maker.files else None
    bundle = replace(maker.bundle, root=maker.bundle.root.absolute())
    return replace(maker, bundle=bundle, threads=threads, files=files)
