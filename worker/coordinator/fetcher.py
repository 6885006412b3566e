"""The fetcher: a process for one fetch. It seals itself, fetches, hashes, runs admission, answers one line, ends.

    python -m worker.coordinator.fetcher

Its descriptors are named in the environment as `worker.spawn` does: REQUEST (a file with one JSON request), ANSWER (a
pipe) and FILE (an empty file, opened for reading and writing). Without names for them, stdin and stdout are the first
two. The exit code is 0 whenever an answer was written.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 - a host's name is encoded by it, which is imported when that may be too late
import errno
import hashlib
import mmap
import os
import resource
import signal
import ssl
import stat
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn

from runner import module
from runner.errors import ModuleRefused
from worker import capabilities
from worker.coordinator import fetch_http, fetch_seal
from worker.coordinator.fetch_wire import Answer, Fetched, FetchFailed, FetchRequest, decode_request, encode_answer
from worker.core.module import Extern
from worker.core.urls import FileUrl, HttpUrl, parse_url
from worker.errors import ExitCode, FetchError, UrlRefused
from worker.prctl import set_no_new_privileges, set_parent_death_signal, set_undumpable
from worker.spawn import child_fds

# Python with TLS takes 150 MB of address space; the module is mapped once.
BASE_ADDRESS_SPACE_BYTES = 512 * 1024 * 1024
MAX_FDS = 32
READ_BYTES = 1024 * 1024


def main() -> NoReturn:
    # What changes the uid is kept until the seal is closed; the right to read everything goes at once.
    capabilities.hold(capabilities.CHANGE_USER)
    fds = child_fds(os.environ)
    request = _read_request(fds.get("request", 0))
    limit_self(request)
    fetch_seal.hold_files(fetch_seal.readable(request))
    answer = fetch(request, fds["file"], seal=lambda: fetch_seal.close(request))
    _write(fds.get("answer", 1), encode_answer(answer))
    os._exit(ExitCode.OK)  # Python's own end asks for calls that the seal forbids


def limit_self(request: FetchRequest) -> None:
    """Before the first byte from outside is read; what was set cannot be taken back."""
    set_no_new_privileges()
    set_parent_death_signal(signal.SIGKILL)
    set_undumpable()  # nobody of the same uid reads or steers it
    cpu_s = int(request.timeout_s) + 2
    for limit, value in (
        (resource.RLIMIT_AS, BASE_ADDRESS_SPACE_BYTES + 2 * request.max_bytes),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, request.max_bytes),  # a write past it is EFBIG, since Python ignores SIGXFSZ
        (resource.RLIMIT_NOFILE, MAX_FDS),
        (resource.RLIMIT_NPROC, 0),
    ):
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


def fetch(
    request: FetchRequest,
    file_fd: int,
    resolver: fetch_http.Resolver = fetch_http.resolve,
    *,
    seal: Callable[[], object] = lambda: None,
) -> Answer:
    """Fetch into `file_fd` (empty, at its start) and admit. Every failure is an answer.

    `seal` is called when all is open that needs rights, and before a byte from outside is read.
    """
    try:
        with _deadline(request.timeout_s):
            hasher = hashlib.sha256()
            _transfer(request, _tee(file_fd, hasher.update), resolver, seal)
            digest = f"sha256:{hasher.hexdigest()}"
            if request.digest not in (None, digest):
                raise FetchError("digest_mismatch", f"the module there is {digest}, not {request.digest}")
            os.fsync(file_fd)
            return _admit(file_fd, digest, request.caps)
    except FetchError as exc:
        return FetchFailed(exc.code, str(exc))
    except UrlRefused as exc:
        return FetchFailed("url_refused", str(exc))
    except ModuleRefused as exc:
        return FetchFailed(exc.code, exc.message)
    except OSError as exc:
        failure = _not_kept(exc)
        return FetchFailed(failure.code, str(failure))
    except MemoryError:
        return FetchFailed("internal", "the fetcher's memory wasn't enough")


@contextlib.contextmanager
def _deadline(timeout_s: float) -> Iterator[None]:
    """All of it within `timeout_s`. What blocks in C beyond that is killed by the coordinator."""

    def over(_: int, __: FrameType | None) -> None:
        raise FetchError("timed_out", f"the fetch took longer than {timeout_s:g} s (fetch_timeout_s)")

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _transfer(
    request: FetchRequest, sink: fetch_http.Sink, resolver: fetch_http.Resolver, seal: Callable[[], object]
) -> None:
    url = parse_url(request.url, request)
    if isinstance(url, HttpUrl):
        context = ssl.create_default_context(cafile=request.ca_file)
        seal()
        fetch_http.download(
            url,
            request,
            sink,
            max_bytes=request.max_bytes,
            timeout_s=request.timeout_s,
            resolver=resolver,
            context=context,
        )
        return
    source = open_below(url)
    try:
        seal()
        size = os.fstat(source).st_size
        if size > request.max_bytes:
            raise fetch_http.too_large(f"has {size:,}", request.max_bytes)
        received = 0
        while data := os.read(source, READ_BYTES):
            received += len(data)
            if received > request.max_bytes:  # it grew
                raise fetch_http.too_large("has more", request.max_bytes)
            sink(data)
    finally:
        os.close(source)


def open_below(url: FileUrl) -> int:
    """Open a regular file below its directory. No part of the path below it may be a symbolic link.

    Raises:
        FetchError: it isn't there, isn't a regular file, can't be read, or a part of its path is a link.
    """
    *directories, name = url.path.split("/")
    step = os.O_PATH | os.O_CLOEXEC | os.O_DIRECTORY
    with contextlib.ExitStack() as above:

        def opened(path: str, flags: int, below: int | None = None) -> int:
            fd = os.open(path, flags, dir_fd=below)
            above.callback(os.close, fd)
            return fd

        try:
            # The operator's own directory may be reached by links; what is below it may be others' to write.
            fd = opened(url.directory, step)
            for directory in directories:
                fd = opened(directory, step | os.O_NOFOLLOW, fd)
            # Looked at before it is opened for reading, so as not to touch a device; and again after, for what it is.
            regular = stat.S_ISREG(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode)
            if regular:
                fd = opened(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, fd)
                regular = stat.S_ISREG(os.fstat(fd).st_mode)
            if not regular:
                raise FetchError("bad_answer", f"{url.path!r} below {url.directory} isn't a regular file")
            return os.dup(fd)
        except OSError as exc:
            said = f"{url.path!r} below {url.directory} can't be opened: {exc.strerror}; links aren't followed"
            raise FetchError("unreachable", said) from exc


def _not_kept(exc: OSError) -> FetchError:
    code = "storage_full" if exc.errno in (errno.ENOSPC, errno.EDQUOT) else "internal"
    return FetchError(code, f"the module can't be kept: {exc.strerror}")


def _tee(fd: int, also: Callable[[bytes], object]) -> fetch_http.Sink:
    def sink(data: bytes) -> None:
        try:
            _write(fd, data)
        except OSError as exc:  # told here, or it would be taken for the network's
            raise _not_kept(exc) from exc
        also(data)

    return sink


def _admit(fd: int, digest: str, caps: module.Caps) -> Fetched:
    size = os.fstat(fd).st_size
    if size == 0:
        module.inspect(b"", caps)
    with mmap.mmap(fd, size, access=mmap.ACCESS_READ) as mapped:
        found = module.inspect(mapped, caps)
    imports = tuple([Extern(*item[:5]) for item in found.imports])
    return Fetched(digest, size, imports, tuple([Extern(*item[:5]) for item in found.exports]))


def _read_request(fd: int) -> FetchRequest:
    with open(fd, "rb") as file:
        return decode_request(file.read())


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


if __name__ == "__main__":
    main()
