"""gunicorn, as the launcher starts it: `python -m worker.api.server`, with everything in inherited descriptors.

Native `asgi` on uvloop, not uvicorn-worker. Measured with a bare Falcon application, two workers, two cores shared with
the load generator (wrk), GET requests per second at 16 and 64 connections, and what a keep-alive load of 16 clients
lost in two reloads (SIGHUP):

| worker class | 16 | 64 | lost |
| --- | --- | --- | --- |
| asgi, gunicorn_h1c | 15,500-20,200 | 22,600-25,300 | 16 of 107,000 |
| asgi, Python parser | 11,700 | 17,000 | |
| uvicorn-worker, httptools | 17,000 | 27,800 | 39 of 125,000 |
| uvicorn-worker, h11 | 5,300 | 9,600 | |

Equal in speed; `asgi` caps a head's size by itself and lost less, for one reason, mended in `server_connection`: none
of 73,700 in twelve reloads, at the same CPU time for a request (80 us on a loaded machine, stock and mended).
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from worker import logs
from worker.api.asgi import Asgi
from worker.api.server_master import Master
from worker.api.server_worker import Limits, Worker
from worker.config import Config, seconds_up
from worker.errors import ExitCode, WorkerError
from worker.heartbeat import Heartbeat
from worker.listeners import BACKLOG
from worker.prctl import set_parent_death_signal
from worker.shared.page import PageReader
from worker.spawn import child_fds

Create = Callable[[Config, PageReader], Asgi]

# gunicorn's own limit of a request line; a longer one is refused as a head that is too long.
REQUEST_LINE_BYTES = 8190
# Twice what browsers and load balancers send.
HEADER_FIELDS = 100


class Log(Logger):  # type: ignore[misc] # gunicorn is untyped
    """gunicorn's log through the process's own handlers. No access log."""

    access_log_enabled = False  # gunicorn's works that out for each request

    def setup(self, cfg: Any) -> None:
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel("WARNING")
        self.access_log.handlers.clear()
        self.access_log.propagate = False


class Application(BaseApplication):  # type: ignore[misc] # gunicorn is untyped
    """Reads the configuration, anew at each reload, and makes the application in each worker.

    Args:
        fds: what was inherited, by name.
        create: makes the ASGI application; called in the worker, which serves what it returns.
    """

    def __init__(self, fds: dict[str, int], create: Create) -> None:
        self._fds = fds
        self._create = create
        self.page = PageReader(fds["page"])
        self._heartbeat = Heartbeat(fds["beat"])
        super().__init__()

    def do_load_config(self) -> None:
        """gunicorn's would end the process on an error; the master decides that."""
        self.load_default_config()
        self.load_config()
        self.callable = None

    def load_config(self) -> None:
        config = Config.from_fd(self._fds["config"])
        if config.token_file is not None:
            config = replace(config, token_file=f"/proc/self/fd/{self._fds['tokens']}")
        self.config = config
        self.limits = Limits(
            connections=config.max_connections,
            head_bytes=config.max_header_bytes,
            head_timeout_s=config.head_timeout_s,
            write_timeout_s=config.write_timeout_s,
            reload_linger_s=config.reload_linger_s,
        )
        logs.configure(config)
        for name, value in self._settings(config).items():
            self.cfg.set(name, value)

    def _settings(self, config: Config) -> dict[str, Any]:
        return {
            "bind": [f"fd://{self._fds[name]}" for name in ("listen", "calls_listen") if name in self._fds],
            "backlog": BACKLOG,
            "workers": config.api_workers,
            "worker_class": Worker,
            "asgi_loop": "uvloop",
            "logger_class": Log,
            # gunicorn's whole seconds judge nobody here (`Master.murder_workers`); they bound the wait for a piece of a
            # body, and the application's own bound comes first.
            "timeout": seconds_up(config.body_timeout_s) + 5,
            "graceful_timeout": seconds_up(config.drain_s),
            "keepalive": seconds_up(config.keepalive_s),
            "limit_request_line": REQUEST_LINE_BYTES,
            "limit_request_fields": HEADER_FIELDS,
            "limit_request_field_size": config.max_header_bytes,
            "forwarded_allow_ips": "",  # nobody's X-Forwarded-Proto changes what we do
            "control_socket_disable": True,
            "post_fork": self._settle_worker,
            "child_exit": _note_exit,
        }

    def load(self) -> Asgi:
        return self._create(self.config, self.page)

    def run(self) -> None:
        """Be the master. Ends in SystemExit."""
        gc.collect()
        gc.freeze()  # what is imported by now stays shared with the workers
        start_timeout_s = self.config.start_timeout_ms / 1000
        Master(self, self._heartbeat, self.config.heartbeat_timeout_ms / 1000, start_timeout_s).run()

    def _settle_worker(self, master: Master, worker: Worker) -> None:
        """gunicorn's post_fork hook, in the worker: die with the master, and don't speak for it."""
        set_parent_death_signal(signal.SIGKILL)
        if os.getppid() != worker.ppid:
            os._exit(ExitCode.PARENT_GONE)
        self._heartbeat.close()


def _note_exit(master: Master, worker: Worker) -> None:
    master.note_exit(worker)


def serve(create: Create) -> None:
    """Serve what `create` makes, by what the launcher handed over in the environment. Ends in SystemExit."""
    try:
        Application(child_fds(os.environ), create).run()
    except WorkerError as exc:
        sys.stderr.write(f"{exc}\n")
        raise SystemExit(exc.exit_code) from exc


def main() -> None:
    from worker.api.app import create_app  # imported before the workers are forked, made in each of them

    serve(create_app)


if __name__ == "__main__":
    main()
