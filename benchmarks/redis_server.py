"""A real Redis server on a free loopback port, with all its files in one folder.

Used by the benchmarks and the tests.
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
    """`with RedisServer(folder) as server: …`; or `start`, `stop` (saves) and `kill` (does not).

    A restarted server keeps its port, and with `appendonly` its data. With `tls` it accepts TLS
    connections only, and clients must trust `certificate`. With `cluster` it is a cluster of one
    node.
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
        """A message naming the missing programs; empty if none is missing."""
        lacking = [
            name
            for name in ("redis-server", *(["openssl"] if tls else []))
            if shutil.which(name) is None
        ]
        return (
            f"{' and '.join(lacking)} not found; install the Debian package of the same name"
            if lacking
            else ""
        )

    @property
    def url(self) -> str:
        """The URL with the password; TLS clients also need `certificate`."""
        password = f":{quote(self.password, safe='')}@" if self.password else ""
        return f"{'rediss' if self.tls else 'redis'}://{password}{HOST}:{self.port}/0"

    @property
    def certificate(self) -> Path:
        """The self-signed certificate of a TLS server."""
        return self.folder / "server.crt"

    @property
    def running(self) -> bool:
        """Whether the server process is alive."""
        return self._process is not None and self._process.poll() is None

    def client(self, **options: Any) -> redis.Redis:
        """A client without retries; it reaches every key of a cluster of one node."""
        trusted = {"ssl_ca_certs": str(self.certificate)} if self.tls else {}
        once = {"retry": Retry(NoBackoff(), 0), "socket_timeout": 5.0}
        return redis.Redis.from_url(self.url, **{**once, **trusted, **options})

    def start(self) -> Self:
        """Start the server and wait until it answers; does nothing if it is running."""
        if self.running:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.tls and not self.certificate.exists():
            self._make_certificate()
        kept = self.port
        # Another process may take the free port before the server does.
        for _ in range(1 if kept else 3):
            self.port = kept or free_port()
            if self._started():
                return self
        said = self._log.read_text(errors="replace").splitlines()[-5:]
        raise NoServer(f"redis-server in {self.folder} did not start: {' | '.join(said)}")

    def stop(self) -> None:
        """Send SIGTERM and wait."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, as abrupt as a power failure, and wait."""
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
                # Another server may have taken the port, and answers too.
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
        """Make a certificate for the loopback address, valid for one day."""
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
