"""Workers on the hosts of a Ray cluster.  The pool knows them by their protocol only."""

import hashlib
import pickle
import signal
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic, sleep
from typing import Any

from mcdiff_batch.engine.errors import DeviceError
from mcdiff_batch.engine.model.plan import Device, PlanMaker
from mcdiff_batch.engine.output import runs
from mcdiff_batch.engine.run.protocol import (
    REFUSED,
    Breakdown,
    Message,
    PulseReading,
    Recipe,
    Sample,
    Task,
    UnitDone,
)
from mcdiff_batch.engine.telemetry.spans import SpanLog

from .host import Host, News, Order, at_home
from .nodes import Node, Nodes
from .session import load_ray

PERIOD = 1.0  # s that a host waits for news before it answers that there is none
MOST_ANSWERS = 200  # per second, from hosts without news
SILENCE_TIME = 15.0  # s without an answer, after which a host counts as lost
DUMP_TIME = 1.0  # s
ORDERS = "orders"  # calls that do not wait for the open question
HEAD_LOST = (
    "--on ray: the head of the cluster does not answer any more; what was committed is safe; start "
    "the head again, then run the same command again"
)
MISSING = "it cannot load mcdiff-batch; install the same version on every host"


class RayWorker:
    """A Worker, kept by an actor.  The driver has one question to it open at any time."""

    def __init__(self, actor: Any, node: Node, nodes: Nodes, begun: Any, period: float) -> None:
        self.actor, self.node, self.nodes, self.period = actor, node, nodes, period
        self.question = begun  # None: the worker has ended, or its actor cannot be reached now
        self.running = False  # the actor has begun the worker
        self.inbox: list[Message] = []
        self.taken = 0
        self.offset: float | None = None  # s from the host's clock to ours
        self.reading = PulseReading()
        self.exit_code: int | None = None
        self.host_lost = False
        self.silent_since: float | None = None
        self.retry = 0.0  # s: when to ask again, if no question is open

    # --- what the pool asks

    def send(self, task: Task) -> None:
        self._order("send", task)

    def dismiss(self) -> None:
        if self.running:
            self._order("dismiss")
        else:  # it may wait for a free CPU or GPU for ever
            self.kill()
            self.exit_code = 0

    def kill(self, *, dump: bool = False) -> None:
        ray = load_ray()
        if dump:
            ray.wait([self._order("kill", dump)], timeout=DUMP_TIME)
        ray.kill(self.actor)
        self._end(-signal.SIGKILL)

    def messages(self) -> list[Message]:
        found, self.inbox = self.inbox, []
        return found

    @property
    def pulse(self) -> PulseReading:
        """A worker whose actor waits for a free CPU or GPU shows signs of life: it may do so."""
        if not self.running and self.exit_code is None:
            return PulseReading(beats=int(1000 * monotonic()))
        return self.reading

    def close(self) -> None:
        load_ray().kill(self.actor)

    def _order(self, name: str, *words: object) -> Any:
        """Calls a method of the actor, beside the open question."""
        return getattr(self.actor, name).options(concurrency_group=ORDERS).remote(*words)

    # --- what the actor answers

    def hear(self) -> None:
        """Takes the answer to the open question, and asks again."""
        ray = load_ray()
        try:
            answer = ray.get(self.question)
        except ray.exceptions.ActorUnavailableError:
            self._miss()
        except ray.exceptions.ActorDiedError as error:
            self._mourn(error)
        except ray.exceptions.RayError:
            self._mourn(None)
        else:
            self.silent_since = None
            self._take(answer)

    def _take(self, answer: News | str) -> None:
        if isinstance(answer, News):
            self._take_news(answer)
        elif answer:
            self._refuse(answer)
        else:
            self.running = True
        if self.exit_code is None:
            self._ask()

    def _ask(self) -> None:
        self.question = self.actor.exchange.remote(self.taken, self.period)

    def _take_news(self, news: News) -> None:
        offset = monotonic() - news.now
        self.offset = offset if self.offset is None else min(offset, self.offset)
        self.inbox += [self._translate(x) for x in news.messages[self.taken - news.first :]]
        self.taken = news.first + len(news.messages)
        self.reading = news.pulse
        if news.sample is not None:
            self.inbox.append(Sample(news.sample))
        if news.exit_code is not None and not news.messages:
            self._end(news.exit_code)

    def _translate(self, message: Message) -> Message:
        """A host's message, on our clock."""
        if isinstance(message, UnitDone):
            return replace(message, log=shift(message.log, self.offset or 0.0))
        return message

    def _refuse(self, why: str) -> None:
        self.inbox.append(Breakdown(kind=REFUSED, detail=why))
        self._end(1)

    def _miss(self) -> None:
        """The actor cannot be reached now; a dead host is known as such only later."""
        now = monotonic()
        self.silent_since = self.silent_since or now
        self.question, self.retry = None, now + PERIOD
        if now - self.silent_since > SILENCE_TIME:
            self._lose_host()

    def resume(self) -> None:
        """Asks again some time after the actor could not be reached."""
        if self.question is None and self.exit_code is None and monotonic() > self.retry:
            self._ask()

    def _mourn(self, error: Any) -> None:
        """The actor is gone: with its host, or alone."""
        self.nodes.survey_now()
        if error is not None and error.actor_init_failed:
            self._refuse(MISSING)
        elif self.node.alive:
            self._end(-signal.SIGKILL)
        else:
            self._lose_host()

    def _lose_host(self) -> None:
        self.host_lost = True
        self.nodes.lose(self.node)
        load_ray().kill(self.actor)
        self._end(-signal.SIGKILL)

    def _end(self, code: int) -> None:
        self.question = None
        if self.exit_code is None:
            self.exit_code = code


class RayWorkers:
    """Workers of one run; a WorkersMaker, once it knows the nodes (see `on_ray`)."""

    def __init__(self, nodes: Nodes, recipe: Recipe, maker: PlanMaker, lock: object) -> None:
        self.nodes, self.maker = nodes, maker
        self.recipe = replace(recipe, output=recipe.output.absolute())
        ray = load_ray()
        self.actors = ray.remote(
            max_restarts=0, max_task_retries=0, concurrency_groups={ORDERS: 1}
        )(Host)
        self.pin = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        document = (recipe.output / runs.CONFIG).read_bytes()
        self.run = hashlib.sha256(document).hexdigest()
        self.count = 0
        self.head_lost = False  # and the pool has heard of it

    def start(self, device: Device, *, alone: bool) -> RayWorker:
        """The actor waits where its host has no CPU or GPU free for it."""
        node, threads = self.nodes.of(device), self.nodes.threads(device)
        on_gpu = device.kind != "cpu"
        actor = self.actors.options(
            num_gpus=1 / self.nodes.per_gpu if on_gpu else 0,
            num_cpus=1 if on_gpu else threads,
            scheduling_strategy=self.pin(node.id, soft=False),
        ).remote()
        order = Order(
            recipe=replace(self.recipe, readers=max(self.recipe.readers, min(4, threads // 2))),
            maker=at_home(self.maker, threads, self.recipe.output / runs.PLAN),
            device=replace(device, index=0),
            alone=alone,
            run=self.run,
        )
        begun = actor.begin.remote(runs.software_versions(), pickle.dumps(order))
        self.count += 1
        period = max(PERIOD, self.count / MOST_ANSWERS)
        return RayWorker(actor, node, self.nodes, begun, period)

    def newcomers(self) -> Sequence[Device]:
        return self.nodes.newcomers()

    def wait(self, workers: Sequence[Any], seconds: float) -> None:
        if workers and self.nodes.head_lost and not self.head_lost:
            self.head_lost = True  # the workers can still finish the units under way
            lost = Breakdown(kind="fault", detail=HEAD_LOST, error=DeviceError(HEAD_LOST))
            workers[0].inbox.append(lost)
            return
        for worker in workers:
            worker.resume()
        questions = {x.question: x for x in workers if x.question is not None}
        if any(x.inbox for x in questions.values()):
            return
        if not questions:
            sleep(seconds)
            return
        ray = load_ray()
        if ray.wait(list(questions), num_returns=1, timeout=seconds)[0]:
            every = len(questions)
            for answered in ray.wait(list(questions), num_returns=every, timeout=0)[0]:
                questions[answered].hear()


def shift(log: SpanLog, seconds: float) -> SpanLog:
    """The same log on a clock that shows `seconds` more."""
    return SpanLog(
        spans=[x._replace(begin=x.begin + seconds, end=x.end + seconds) for x in log.spans],
        counts=[x._replace(at=x.at + seconds) for x in log.counts],
    )
