"""A web server on loopback that answers as a test tells it, byte by byte where that matters."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# What a route does: it gets the connection and the request's head, and writes whatever it likes.
Route = Callable[[socket.socket, bytes], None]


class Web:
    """Answers on 127.0.0.1; `routes` by path, `heads` what it was asked, in order."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.routes: dict[str, Route] = {}
        self.heads: list[bytes] = []
        self.names: list[str | None] = []
        self._context = context
        if context is not None:
            context.sni_callback = lambda _, name, __: self.names.append(name)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"{'https' if self._context else 'http'}://{host}:{self.port}{path}"

    @property
    def stopping(self) -> threading.Event:
        return self._stopping

    def close(self) -> None:
        self._stopping.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _accept(self) -> None:
        while not self._stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        try:
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            head = b""
            while b"\r\n\r\n" not in head and not head.startswith(b"\x16") and (data := connection.recv(65536)):
                head += data
            if head.endswith(b"\r\n\r\n"):
                self.heads.append(head)
                path = head.split(b" ", 2)[1].decode()
                self.routes.get(path, answer(404))(connection, head)
        except OSError:
            pass  # the client went away, or didn't like our certificate
        finally:
            connection.close()


def answer(status: int, body: bytes = b"", *headers: str) -> Route:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {len(body)}", *headers, "", ""]
    return raw("\r\n".join(lines).encode() + body)


def raw(data: bytes) -> Route:
    """These bytes and the end of the connection."""
    return lambda connection, _: connection.sendall(data)


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[Web]:
    web = Web(context)
    try:
        yield web
    finally:
        web.close()


def certificate(directory: Path, *names: str) -> Path:
    """A PEM file with a key and a certificate for these names that is its own authority."""
    openssl = shutil.which("openssl")
    assert openssl is not None, "the tests of https need the openssl command"
    path = directory / "server.pem"
    subject = ",".join(f"DNS:{name}" for name in names)
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=test", "-addext", f"subjectAltName={subject}"]
    command += ["-keyout", str(directory / "key.pem"), "-out", str(directory / "certificate.pem")]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes((directory / "key.pem").read_bytes() + (directory / "certificate.pem").read_bytes())
    return path
