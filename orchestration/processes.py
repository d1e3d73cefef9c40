"""Child processes that end when this one does: those of steps, and the server."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from punctual.errors import DataFolderError
from punctual.home import Home

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Child:
    """A running `python -m …` in a process group of its own, and where in its log file it began."""

    process: subprocess.Popen[bytes]
    log: Path
    begins: int

    @property
    def code(self) -> int | None:
        """Its exit code (a signal's number negative), None while it runs."""
        return self.process.poll()

    def stop(self, patience: float = 10.0) -> int:
        """Ask it and its own children to end, make them after `patience` seconds; returns the exit
        code.
        """
        for way, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, None)):
            if self.code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, way)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(wait)
        return self.process.wait()

    def last_words(self, lines: int = 20, width: int = 500) -> str:
        """The last lines that it wrote."""
        with self.log.open("rb") as file:
            file.seek(max(self.begins, self.log.stat().st_size - lines * width))
            text = file.read().decode(errors="replace")
        return "\n".join(line.rstrip()[:width] for line in text.splitlines()[-lines:]).strip()


def start(home: Home, argv: Sequence[str], log: Path, *, keeps: Sequence[int] = ()) -> Child:
    """Run `python -m argv…` on a home, its output appended to a log file.

    On Linux the kernel kills it when this process dies, however that dies. `keeps` are file
    descriptors that it holds open as long as it lives. Raises `DataFolderError` where the log
    cannot be written.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        output = log.open("ab")
        output.write(f"$ python -m {' '.join(argv)}\n".encode())
        output.flush()
    except OSError as error:
        raise DataFolderError(
            f"cannot write {log}: {error.strerror}. Free space, mend its rights or choose another"
            " --home."
        ) from error
    with output:
        process = subprocess.Popen(
            # -P: a folder of the caller that happens to be called `training` is not the stage.
            [sys.executable, "-P", "-m", *argv],
            env={**os.environ, **home.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(keeps),
            preexec_fn=_die_with_parent(),
        )
        return Child(process, log, output.tell())


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    parent, prctl = os.getpid(), ctypes.CDLL(None).prctl

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we could ask
            os._exit(1)

    return in_child
