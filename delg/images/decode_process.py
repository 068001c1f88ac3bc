"""Decode photos in another process, which is killed when one takes too long.

Decoders cannot be stopped from within: a thread that decodes a hostile file works until it is done.

Request and answer are a line of JSON and bytes: settings and the file's bytes; shape and pixels, or
an error.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from typing import IO

import numpy as np
from numpy.typing import NDArray

from delg.images.decode import ImageError, OversizedError, decode_bytes, is_quick
from delg.settings import ImageSettings

_ERRORS = {"ImageError": ImageError, "OversizedError": OversizedError}
# To start Python and import the decoders.
_START_SECONDS = 30.0


class DecodeProcess:
    """Decodes photos, the costly ones in another process; threads take turns.

    Args:
        seconds: limit of one photo.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def decode(
        self, data: bytes, settings: ImageSettings, at_least: int | None = None
    ) -> NDArray[np.uint8]:
        """Upright RGB pixels, uint8 (H, W, 3), of the bytes of an image file.

        Args:
            data, settings, at_least: see :func:`delg.images.decode.decode_bytes`.

        Raises:
            OversizedError: it takes too long, or is over a limit.
            ImageError: see :func:`delg.images.decode.decode`.
        """
        if is_quick(data):
            return decode_bytes(data, settings, at_least)
        with self._lock:
            process = self._started()
            # A process that is killed ends both pipes, and with them the wait.
            timer = threading.Timer(self._seconds, process.kill)
            timer.start()
            started = time.monotonic()
            try:
                assert process.stdin is not None and process.stdout is not None
                request = {"settings": settings.model_dump(), "at_least": at_least}
                _send(process.stdin, request, data)
                header, pixels = _receive(process.stdout)
            except (OSError, ValueError):
                self._stop()
                if time.monotonic() - started >= self._seconds:
                    raise OversizedError(
                        f"oversized: takes more than {self._seconds:g} s to decode"
                    ) from None
                raise ImageError("its decoder crashed or ran out of memory") from None
            finally:
                timer.cancel()
        if "error" in header:
            raise _ERRORS[header["error"]](header["message"])
        return np.frombuffer(pixels, np.uint8).reshape(header["shape"])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            assert self._process.stdout is not None
            timer = threading.Timer(_START_SECONDS, self._process.kill)
            timer.start()
            self._process.stdout.readline()
            timer.cancel()
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                try:
                    if pipe is not None:
                        pipe.close()
                except OSError:
                    pass  # What was not sent yet cannot be sent any more.
            self._process = None

    def close(self) -> None:
        """Stop the process; it starts again when needed."""
        process = self._process
        if process is not None:
            process.kill()  # Whoever waits for it goes on.
        with self._lock:
            self._stop()


class DecodePool:
    """Several processes that decode, each started when it is first needed.

    Args:
        seconds: limit of one photo.
        processes: costly photos that are decoded at once.
    """

    def __init__(self, seconds: float, processes: int) -> None:
        self._processes = [DecodeProcess(seconds) for _ in range(processes)]
        # The last that was used is the next, so that no more are started than are needed.
        self._free: queue.LifoQueue[DecodeProcess] = queue.LifoQueue()
        for process in reversed(self._processes):
            self._free.put(process)

    def decode(
        self, data: bytes, settings: ImageSettings, at_least: int | None = None
    ) -> NDArray[np.uint8]:
        """See :meth:`DecodeProcess.decode`."""
        if is_quick(data):
            return decode_bytes(data, settings, at_least)
        process = self._free.get()
        try:
            return process.decode(data, settings, at_least)
        finally:
            self._free.put(process)

    def close(self) -> None:
        """Stop the processes; they start again when needed."""
        for process in self._processes:
            process.close()


def _send(stream: IO[bytes], header: dict, body: bytes) -> None:
    stream.write(json.dumps({**header, "bytes": len(body)}).encode() + b"\n")
    stream.write(body)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[dict, bytes]:
    header = json.loads(stream.readline())
    body = stream.read(header["bytes"])
    if len(body) != header["bytes"]:
        raise ValueError("cut short")
    return header, body


def _serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    answers.write(b"ready\n")
    answers.flush()
    while requests.peek(1):  # type: ignore[attr-defined]
        header, data = _receive(requests)
        try:
            settings = ImageSettings(**header["settings"])
            pixels = decode_bytes(data, settings, header["at_least"])
        except ImageError as error:
            _send(answers, {"error": type(error).__name__, "message": str(error)}, b"")
        else:
            _send(answers, {"shape": pixels.shape}, pixels.tobytes())


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
