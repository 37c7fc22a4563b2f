"""Standard output and standard error that may fail without ending the work.

A log on a full disk, a reader that went away or does not read, a terminal that vanished, a
character that the terminal cannot show: what cannot be written is dropped, and said once at the
end on the stream that is left.
"""

import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

PIECE = select.PIPE_BUF  # bytes: a pipe that is ready takes so many at once
STDERR_PATIENCE = 5.0  # s until a reader of stderr that does not read is left behind
STDOUT_PATIENCE = 60.0


class LossyFile(io.FileIO):
    """A descriptor to write to.  An error drops what was to be written, and is kept in `error`.

    patience: seconds until a reader that does not read counts as gone; None: for ever.
    """

    def __init__(self, descriptor: int, patience: float | None) -> None:
        super().__init__(descriptor, "wb", closefd=False)
        self.patience = patience
        self.error: OSError | None = None

    def write(self, data: Any, /) -> int:
        piece = memoryview(data).cast("B")[:PIECE]
        try:
            while True:
                self._wait()
                written = super().write(piece)
                if written is not None:  # None: a descriptor that never waits is full
                    return written
        except OSError as error:
            self.error = self.error or error
            return len(data)

    def _wait(self) -> None:
        """Raises OSError if nobody reads in time; the next time it does not wait at all."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLOUT)
        if not poll.poll(None if self.patience is None else 1000 * self.patience):
            self.patience = 0.0
            raise OSError(errno.ETIMEDOUT, "nobody reads it")


class Streams:
    """The two streams of this process."""

    def __init__(self, out: LossyFile | None = None, err: LossyFile | None = None) -> None:
        self.out, self.err = out, err
        self.answers = False  # whether what goes to stdout is all that the command does

    def wait_for_reader(self) -> None:
        """Waits for ever for who reads stdout, as for a pager; for a command that only answers."""
        self.answers = True
        if self.out is not None:
            self.out.patience = None

    def losses(self) -> dict[str, OSError]:
        """What was lost, by the name of the stream."""
        both = {"stdout": self.out, "stderr": self.err}
        return {name: x.error for name, x in both.items() if x is not None and x.error is not None}


@contextmanager
def lossy_streams() -> Iterator[Streams]:
    """Makes sys.stdout and sys.stderr lossy until the end of the block.

    Streams that are not those of the process, as in a test, stay as they are.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    out = LossyFile(1, STDOUT_PATIENCE) if sys.stdout is sys.__stdout__ else None
    err = LossyFile(2, STDERR_PATIENCE) if sys.stderr is sys.__stderr__ else None
    if out is not None:
        sys.stdout = _text(out, sys.stdout)
    if err is not None:
        sys.stderr = _text(err, sys.stderr)
    try:
        yield Streams(out, err)
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _open_closed() -> None:
    """Standard descriptors that are closed lead nowhere; else the next file would get their number,
    and what libraries print would be written into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _text(file: LossyFile, before: TextIO | None) -> TextIO:
    encoding = before.encoding if before is not None else "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(file), encoding, errors="backslashreplace", line_buffering=True
    )
