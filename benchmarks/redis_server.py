"""A real Redis server of one's own: on a free loopback port, with everything it writes in one
folder.

The benchmarks measure against it, the tests start, stop and kill it.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from benchmarks.servers import HOST, NoServer, end, free_port

_PATIENCE = 20.0


class RedisServer:
    """`with RedisServer(folder) as server: …`; also `start`, `stop` (it may save) and `kill` (it
    may not), in any order.

    It keeps its port, and with `appendonly` its data, from one start to the next. With `tls` it
    takes no other connections, and `certificate` is what a client must trust. With `cluster` it is
    a cluster of one node.
    """

    def __init__(
        self,
        folder: Path,
        *,
        appendonly: bool = False,
        password: str | None = None,
        tls: bool = False,
        cluster: bool = False,
    ) -> None:
        self.folder = folder
        self.appendonly = appendonly
        self.password = password
        self.tls = tls
        self.cluster = cluster
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def missing(*, tls: bool = False) -> str:
        """What the machine lacks for it, as a reason; empty where nothing."""
        lacking = [
            name
            for name in ("redis-server", *(["openssl"] if tls else []))
            if shutil.which(name) is None
        ]
        return (
            f"{' and '.join(lacking)} not found; Debian's packages have these names"
            if lacking
            else ""
        )

    @property
    def url(self) -> str:
        """Where it is, with the password; TLS clients give the certificate besides."""
        password = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"{'rediss' if self.tls else 'redis'}://{password}{HOST}:{self.port}/0"

    @property
    def certificate(self) -> Path:
        """The certificate of a server with TLS, signed by itself."""
        return self.folder / "server.crt"

    @property
    def running(self) -> bool:
        """Whether its process is there."""
        return self._process is not None and self._process.poll() is None

    def client(self, **options: Any) -> redis.Redis:
        """A connection that tries once; in a cluster of one node such an ordinary one reaches every
        key.
        """
        trusted = {"ssl_ca_certs": str(self.certificate)} if self.tls else {}
        once = {"retry": Retry(NoBackoff(), 0), "socket_timeout": 5.0}
        return redis.Redis.from_url(self.url, **{**once, **trusted, **options})

    def start(self) -> Self:
        """Start it and return when it answers; where it runs already, nothing happens."""
        if self.running:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.tls and not self.certificate.exists():
            self._make_certificate()
        kept = self.port
        # Somebody else may take the free port before the server does.
        for _ in range(1 if kept else 3):
            self.port = kept or free_port()
            if self._started():
                return self
        said = self._log.read_text(errors="replace").splitlines()[-5:]
        raise NoServer(f"redis-server in {self.folder} did not start: {' | '.join(said)}")

    def stop(self) -> None:
        """End it as its operator would, and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a power failure would, and wait."""
        self._end(signal.SIGKILL)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.kill()

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            end(self._process, number)
            self._process = None

    @property
    def _log(self) -> Path:
        return self.folder / "redis.log"

    def _started(self) -> bool:
        command = ["redis-server", *self._options()]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until = time.monotonic() + _PATIENCE
        while self.running and time.monotonic() < until:
            if self._answers():
                return True
            time.sleep(0.01)
        self.kill()
        return False

    def _answers(self) -> bool:
        with contextlib.closing(self.client()) as client:
            run: Callable[..., Any] = client.execute_command
            try:
                # Whoever took the port before answers too, perhaps another server of ours.
                if (
                    self._process is None
                    or run("INFO", "server")["process_id"] != self._process.pid
                ):
                    return False
                if not self.cluster:
                    return bool(run("PING"))
                if not run("CLUSTER SLOTS"):
                    run("CLUSTER ADDSLOTSRANGE", 0, 16383)
                return bool(run("CLUSTER INFO")["cluster_state"] == "ok")
            except (redis.ConnectionError, redis.TimeoutError, redis.ResponseError):
                return False

    def _options(self) -> list[str]:
        options: dict[str, str] = {
            "bind": HOST,
            "port": "0" if self.tls else str(self.port),
            "dir": str(self.folder.resolve()),
            "save": "",
            "appendonly": "yes" if self.appendonly else "no",
        }
        if self.password:
            options["requirepass"] = self.password
        if self.tls:
            certificate, key = (
                str(self.certificate.resolve()),
                str((self.folder / "server.key").resolve()),
            )
            options |= {
                "tls-port": str(self.port),
                "tls-cert-file": certificate,
                "tls-key-file": key,
            }
            options |= {"tls-ca-cert-file": certificate, "tls-auth-clients": "no"}
        if self.cluster:
            options |= {
                "cluster-enabled": "yes",
                "cluster-port": str(free_port()),
                "cluster-announce-ip": HOST,
            }
        return [part for name, value in options.items() for part in (f"--{name}", value)]

    def _make_certificate(self) -> None:
        """A certificate of a day for the loopback address."""
        subject = ["-subj", "/CN=localhost", "-addext", f"subjectAltName=IP:{HOST},DNS:localhost"]
        kind = [
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "1",
        ]
        files = ["-keyout", str(self.folder / "server.key"), "-out", str(self.certificate)]
        subprocess.run(["openssl", "req", *kind, *subject, *files], check=True, capture_output=True)
