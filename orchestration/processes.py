"""Child processes, for steps and the server, that end when this process does."""

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
    """A `python -m …` process in its own process group; its output is in `log` from `begins` on."""

    process: subprocess.Popen[bytes]
    log: Path
    begins: int

    @property
    def code(self) -> int | None:
        """The exit code, negative for a signal; None while the process runs."""
        return self.process.poll()

    def stop(self, patience: float = 10.0) -> int:
        """End the process group and return the exit code.

        Sends SIGTERM, and SIGKILL after `patience` seconds.
        """
        for number, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, None)):
            if self.code is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(wait)
        return self.process.wait()

    def last_output(self, lines: int = 20, width: int = 500) -> str:
        """The last lines of the output."""
        with self.log.open("rb") as file:
            file.seek(max(self.begins, self.log.stat().st_size - lines * width))
            text = file.read().decode(errors="replace")
        return "\n".join(line.rstrip()[:width] for line in text.splitlines()[-lines:]).strip()


def start(
    home: Home, argv: Sequence[str], log: Path, *, inherited_fds: Sequence[int] = ()
) -> Child:
    """Start `python -m argv…` on a home, with its output appended to a log file.

    On Linux the kernel kills the child when this process dies for any reason. The child inherits
    the file descriptors `inherited_fds`. Raises `DataFolderError` if the log cannot be written.
    """
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        output = log.open("ab")
        output.write(f"$ python -m {' '.join(argv)}\n".encode())
        output.flush()
    except OSError as error:
        raise DataFolderError(
            f"cannot write {log}: {error.strerror}. Free space, repair its permissions or choose"
            " another --home."
        ) from error
    with output:
        process = subprocess.Popen(
            # -P: a folder `training` in the working directory must not shadow the stage.
            [sys.executable, "-P", "-m", *argv],
            env={**os.environ, **home.environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=tuple(inherited_fds),
            preexec_fn=_die_with_parent(),
        )
        return Child(process, log, output.tell())


def _die_with_parent() -> Callable[[], None] | None:
    if sys.platform != "linux":
        return None
    parent, prctl = os.getpid(), ctypes.CDLL(None).prctl

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the parent died before prctl
            os._exit(1)

    return in_child
