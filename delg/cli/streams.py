"""Standard output and error that may be closed, full, or unable to show a name.

What is lost there never stops the work: an index is built and a page is written to the end, and
only then the exit code says that the answer did not arrive.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

# Categories of Unicode that move the cursor, break the line or cannot be encoded.
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
# They turn the direction of the text that follows.
_BIDIRECTIONAL = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
# Bytes of a file's name that are not UTF-8 are these code points less 0xDC00.
_UNDECODED = range(0xDC80, 0xDD00)


def printable(text: str) -> str:
    """The text in one line that any terminal shows: what it would obey is escaped, as in
    ``"a\\nb"`` → ``"a\\\\nb"``; bytes of a name that are not UTF-8 become ``\\xNN``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_escape, text))


def _escape(character: str) -> str:
    if ord(character) in _UNDECODED:
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.category(character) in _UNPRINTABLE or character in _BIDIRECTIONAL:
        return character.encode("unicode_escape").decode()
    return character


class _TolerantStream(io.TextIOBase):
    """A stream of text that goes on when nothing more can be written.

    Args:
        stream: where the text goes; None if it is closed.

    Attributes:
        failure: why text was lost; None while none was.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.failure: OSError | None = None
        self._stream = stream
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")

    def write(self, text: str) -> int:
        if self._stream is None:
            self._lose(OSError(errno.EBADF, "it is closed"))
        elif self.failure is None:
            try:
                self._stream.write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        if self._stream is None or self.failure is not None:
            return
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        self.failure = self.failure or error
        if isinstance(self._stream, io.TextIOWrapper):
            # What waits in its buffer goes nowhere, in place of failing again at the very end.
            with contextlib.suppress(OSError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)

    def isatty(self) -> bool:
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("closed")
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def __getattr__(self, name: str) -> Any:
        if name in ("buffer", "encoding", "errors") and self._stream is not None:
            return getattr(self._stream, name)
        raise AttributeError(name)


class StandardStreams:
    """What has become of the standard streams."""

    def __init__(self, out: _TolerantStream) -> None:
        self._out = out

    @property
    def failure(self) -> OSError | None:
        """Why the answer could not be written; None if it was, or if its reader has left."""
        self._out.flush()
        failure = self._out.failure
        return None if isinstance(failure, BrokenPipeError) else failure


@contextmanager
def tolerant_streams() -> Iterator[StandardStreams]:
    """Replace ``sys.stdout`` and ``sys.stderr`` by streams that never raise.

    Yields:
        Tells whether all of the answer could be written.
    """
    _occupy_descriptors()
    out, err = _TolerantStream(sys.stdout), _TolerantStream(sys.stderr)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            yield StandardStreams(out)
        finally:
            out.flush()
            err.flush()


def answer_is_lost() -> bool:
    """Whether what is printed no longer arrives: its reader has left, or the disk is full."""
    return isinstance(sys.stdout, _TolerantStream) and sys.stdout.failure is not None


def _occupy_descriptors() -> None:
    """Open what is closed of the first three files: one of an index that took such a number would
    receive what libraries print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
