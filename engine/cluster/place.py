"""Where the workers of a run are: `--on`."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from mcdiff_batch.engine.errors import UsageError
from mcdiff_batch.engine.model.plan import Device
from mcdiff_batch.engine.run.process import Processes
from mcdiff_batch.engine.run.protocol import WorkersMaker
from mcdiff_batch.engine.text import clean

from .nodes import Nodes
from .session import PORT, joined, load_ray, parse_address
from .workers import RayWorkers

HERE = "processes"


def check_workplace(on: str) -> None:
    """Raises UsageError for a wrong word, or where Ray is needed and absent."""
    if on == HERE:
        return
    where, sign, address = on.partition("=")
    if where != "ray" or bool(sign) != bool(address):
        raise UsageError(
            f"--on {clean(on)}: expected {HERE}, ray, or ray=ADDRESS such as ray=10.0.0.5:{PORT}"
        )
    if address:
        parse_address(address)
    load_ray()


@contextmanager
def workplace(
    on: str, chosen: tuple[Device, ...]
) -> Iterator[tuple[tuple[Device, ...], WorkersMaker]]:
    """The devices of a run and how to start workers on them, until the end of the block.

    on: "processes" of this machine, "ray" or "ray=ADDRESS".  chosen: the devices of this machine;
    each host of a cluster gives as many CPU workers, or all its GPUs with as many workers each.
    Raises DeviceError.
    """
    if on == HERE:
        yield chosen, Processes
        return
    address = on.partition("=")[2]
    with joined(parse_address(address) if address else None):
        per_gpu = 1 + max(x.worker for x in chosen)
        nodes = Nodes(chosen[0].kind, per_host=len(chosen), per_gpu=per_gpu)
        yield nodes.first(), partial(RayWorkers, nodes)
