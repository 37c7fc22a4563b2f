"""Decodes compressed images in a process of its own, which a hostile file may end without harm.

The decoders are written in C and C++.  Damaged data can make them abort, hang, or ask for any
amount of memory.
"""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mcdiff_batch.engine.signals import blocking

from .headers import Header
from .pixels import Grey, read_pixels
from .reading import Refusal

TIMEOUT = 300.0  # s, for one file
SPARE = 256 << 20  # bytes that the process may take beyond what a file is declared to need


class Decoder:
    """Starts the process with the first compressed image, and again after its end."""

    def __init__(self) -> None:
        self._process: Any = None
        self._pipe: Connection[Any, Any] | None = None

    def read(self, header: Header) -> Grey:
        """As `read_pixels`.  Raises Refusal, OSError."""
        if not header.compressed:
            return read_pixels(header)
        if self._pipe is None:
            self._start()
        assert self._pipe is not None
        try:
            self._pipe.send(header)
            answer = self._pipe.recv() if self._pipe.poll(TIMEOUT) else None
        except (EOFError, ConnectionError):
            answer = None
        if answer is None:
            self.close()
            raise Refusal("(7FE0,0010) PixelData ends or blocks the decoder; export it again")
        if isinstance(answer, Exception):
            raise answer
        planes: Grey = answer
        return planes

    def _start(self) -> None:
        context = get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with theirs, blocking(signal.SIGINT):
            self._process.start()

    def close(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
            self._process.kill()
            self._process.join()
            self._process.close()
        self._process = self._pipe = None


@contextmanager
def decoding() -> Iterator[Decoder]:
    decoder = Decoder()
    try:
        yield decoder
    finally:
        decoder.close()


def _serve(pipe: "Connection[Any, Any]") -> None:
    """Answers headers with pixels or an error, until the other end is closed."""
    while True:
        try:
            header = pipe.recv()
        except EOFError:
            return
        try:
            _limit_memory(header)
            answer: object = read_pixels(header)
        except (Refusal, OSError) as error:
            answer = error
        except MemoryError:
            answer = Refusal("its pixels need more memory than the header declares")
        pipe.send(answer)


def _limit_memory(header: Header) -> None:
    """Lets this process grow by what the file and its px need, in a few copies, and no more."""
    assert header.layout is not None
    size = header.layout.rows * header.layout.columns * header.frames * 3 * 2
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    needed = 4 * (size + header.path.stat().st_size) + SPARE
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = pages * resource.getpagesize() + needed
    resource.setrlimit(resource.RLIMIT_AS, (soft if hard < 0 else min(soft, hard), hard))
