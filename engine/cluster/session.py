"""A connection of this process to a Ray cluster."""

import atexit
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from threading import Thread
from typing import Any

from mcdiff_batch.engine.errors import DeviceError, UsageError
from mcdiff_batch.engine.signals import deferring, handling
from mcdiff_batch.engine.start import interrupt, leave_hanging
from mcdiff_batch.engine.text import clean

OLDEST = (2, 50)
PORT = 6379  # of a cluster's head, if the address has none
ANSWER_TIME = 5.0  # s until the head of a cluster has to answer
LEAVE_TIME = 15.0  # s; without a head Ray would try for minutes
HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and settings
USES_TLS = "RAY_USE_TLS"  # a variable of the environment
STORE = 80 << 20  # bytes of Ray's object store: Ray's least, since images do not pass through it
PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
QUIET = {  # Ray reads them when it is imported; it would write between our lines
    PATIENCE: "600",  # s without the head, after which Ray would end the process; we end it before
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else it warns of a change to come
    "RAY_DEDUP_LOGS": "1",
    "RAY_DEDUP_LOGS_ALLOW_REGEX": "(?!)",  # no line
    "RAY_DEDUP_LOGS_SKIP_REGEX": "^",  # every line: they name hosts, and go to stdout
}
INSTALL = "pip install 'mcdiff-batch[ray]'"


def load_ray() -> Any:
    """The library.  Raises UsageError where it is absent or too old."""
    os.environ.update(QUIET)
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"--on ray needs Ray, which is not installed: {INSTALL}") from error
    found = tuple(int(x) for x in ray.__version__.split(".")[:2])
    if found < OLDEST:
        raise UsageError(f"--on ray needs Ray 2.50 or later, found {ray.__version__}: {INSTALL}")
    return ray


@contextmanager
def joined(address: str | None) -> Iterator[None]:
    """Joins the cluster at `address`, such as "10.0.0.5:6379", until the end of the block.

    None: a cluster of this machine alone, which begins and ends with the block.
    Raises UsageError, DeviceError.
    """
    ray = load_ray()
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    options: dict[str, Any] = {"configure_logging": False, "log_to_driver": False}
    folder = None
    if address is None:
        with deferring():
            folder = tempfile.mkdtemp(prefix="mcdiff-ray-")
            # what a signal cuts short in its start, Ray ends only when this process ends
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
        options |= {"include_dashboard": False, "object_store_memory": STORE, "_temp_dir": folder}
    else:
        _await_answer(address)
    try:
        _join(ray, address, options)
        yield
    finally:  # also where a signal ends the start
        _leave(ray, folder)


def _join(ray: Any, address: str | None, options: Mapping[str, Any]) -> None:
    # Ray leaves a handler of signals of its own, which would end the run with another exit code;
    # workers import from where Ray is joined: nothing of the user's (P11)
    try:
        with handling(interrupt), chdir("/"):
            ray.init(address or "local", **options)
    except SystemExit:
        raise KeyboardInterrupt from None
    except Exception as error:  # Ray's errors have no common base class
        where = "a Ray cluster of this machine" if address is None else address
        first = clean(str(error).strip().split("\n")[0])
        raise DeviceError(f"--on ray: cannot join {where}: {first}") from error


def _leave(ray: Any, folder: str | None) -> None:
    leaving = Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    leaving.join(LEAVE_TIME)
    if leaving.is_alive():
        atexit.unregister(ray.shutdown)
        leave_hanging(leaving)  # the end of the process is the farewell
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def parse_address(text: str) -> str:
    """An address with its port.  Raises UsageError."""
    host, _, port = text.rpartition(":") if ":" in text else (text, ":", str(PORT))
    if "/" in text or not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(
            f"--on ray={clean(text)}: expected the address of a cluster's head node, such as "
            f"10.0.0.5:{PORT}, and the command on a machine of that cluster"
        )
    return f"{host}:{port}"


def _await_answer(address: str) -> None:
    """Raises DeviceError if nobody answers as a head does: Ray itself would try for minutes, and
    without end where something listens that is no head, or a head that hangs."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_TIME) as connection:
            speaks = USES_TLS in os.environ or _speaks_http2(connection)
        reason = "" if speaks else "something else listens there"
    except TimeoutError:
        reason = f"no answer in {ANSWER_TIME:g} s"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    if reason:
        raise DeviceError(
            f"--on ray={address}: no Ray cluster answers there ({reason}); start one with "
            f"`ray start --head --port {port}`, or see `ray status`"
        )


def _speaks_http2(connection: socket.socket) -> bool:
    """Whether the other side begins as every server of gRPC does: with its settings."""
    connection.sendall(HTTP2)
    head = b""
    while len(head) < 9 and (data := connection.recv(9 - len(head))):
        head += data
    return head[3:4] == b"\x04"  # the type of the frame
