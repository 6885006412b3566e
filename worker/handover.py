"""What the launcher hands to its children in memory files: configuration, tokens, and the shared page."""

from __future__ import annotations

import os
import stat
from types import TracebackType
from typing import Self

from worker.api.auth import Tokens
from worker.config import Config
from worker.errors import ConfigError
from worker.shared.page import PageWriter, create_page, read_only
from worker.spawn import Identity


class Handover:
    """The files and their descriptors. Children read `config_fd` and `tokens_fd` anew at SIGHUP, from their start.

    Tokens are handed over because root's API runs as another user, who couldn't read their file itself.
    """

    def __init__(self, identity: Identity | None) -> None:
        self._config_write_fd = _memory_file("galago-config")
        self.config_fd = _reopen(self._config_write_fd)
        self.tokens_fd = _memory_file("galago-tokens")
        if identity is not None:
            os.fchown(self.tokens_fd, identity.uid, identity.gid)
        self.page_fd = create_page()
        # The page is written through inherited descriptors alone: nobody may open it anew for that.
        os.fchmod(self.page_fd, 0o600)
        self.page_read_fd = read_only(self.page_fd)
        self._page = PageWriter(self.page_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._page.close()
        for fd in (self._config_write_fd, self.config_fd, self.tokens_fd, self.page_fd, self.page_read_fd):
            os.close(fd)

    def write(self, config: Config) -> None:
        """Hand over `config`, and the tokens of its file.

        Raises:
            ConfigError: the token file can't be read, others can read it, or a line is wrong. Nothing is handed over.
        """
        if config.token_file is not None:
            tokens = _read_private("--token-file", config.token_file)
            Tokens.parse(tokens.decode("utf-8", "replace"), config.token_file)
            os.pwrite(self.tokens_fd, tokens, 0)
            os.ftruncate(self.tokens_fd, len(tokens))
        config.write_fd(self._config_write_fd)

    def set_draining(self) -> None:
        """For the API to see even where there is no coordinator to say it."""
        self._page.set_draining(True)

    def coordinator_gone(self) -> None:
        """The next one says itself when it takes commands."""
        self._page.set_ready(False)


def _memory_file(name: str) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC)
    os.fchmod(fd, 0o600)
    return fd


def _reopen(fd: int) -> int:
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def _read_private(option: str, path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise ConfigError(option, path, f"a file that can be read ({exc.strerror})") from exc
    with open(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o077:
            raise ConfigError(option, path, "a regular file with mode 0600, which nobody else can read")
        return file.read(1 << 20)
