"""How the zygote is started: a lean interpreter, an empty environment, one socket, and the capabilities it needs."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import runner
from runner.engine import find_library
from worker import capabilities, cgroup
from worker.config import Config
from worker.coordinator.zygote import Process
from worker.spawn import Program, spawn

_BOOT = "import sys; sys.path.append({root!r}); from runner.zygote import main; main(sys.argv[1:])"
# -I and -E: nothing of the environment or the user's. -S: no site-packages, whose startup files are others' code and
# whose modules each fork would pay for.
_LEAN = ("-I", "-S", "-E")
_SEND_BUFFER_BYTES = 1 << 20
# What a call has beyond its body: its variables, made of the request's head, each byte of which may grow threefold.
_CALL_HEAD_BYTES = 4 << 20


class ZygoteProgram:
    """The zygote's command line, made once.

    Args:
        first_free_uid: the first uid behind those of runners, compilers and fetchers; 0 where uids can't be changed.
    """

    def __init__(self, config: Config, data_dir: Path, first_free_uid: int) -> None:
        root = data_dir / "run" / "empty"
        root.mkdir(mode=0o755, exist_ok=True)
        packages = str(Path(runner.__file__).resolve().parent.parent)
        arguments = [
            f"library={os.fsdecode(find_library())}",
            f"root={root.resolve()}",
            f"max_memory_bytes={config.max_memory_bytes}",
            f"max_output_bytes={config.max_output_bytes}",
            f"max_call_bytes={config.max_body_bytes + _CALL_HEAD_BYTES}",
            f"compiler_memory_bytes={config.compile_memory_bytes}",
            f"compiler_cpu_s={config.compile_wall_s + 1}",  # the coordinator's own kill comes first
            f"user_uid={os.getuid()}",
            *(f"volume={volume}" for volume in config.volumes),
        ]
        if first_free_uid:
            arguments.append(f"volume_uid={first_free_uid}")
        if config.cgroup:
            arguments.append(f"cgroup={cgroup.runners_path(config.cgroup)}")
        if config.allow_unsealed:
            arguments.append("allow_unsealed=1")
        self._argv = (sys.executable, *_LEAN, "-c", _BOOT.format(root=packages), *arguments)

    def start(self) -> Process:
        """Exec it. Its parent is the calling thread, which must be the main one: it outlives all others.

        Raises:
            SpawnError: it could not be started.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
            handed_on = capabilities.permitted_for_zygote()
            process = spawn(
                Program(self._argv, fds={"zygote": theirs.fileno()}, name_fds=False, capabilities=handed_on)
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        return Process(process.pid, process.pidfd, ours)
