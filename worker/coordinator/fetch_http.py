"""One module over http or https: resolved once, connected to what was resolved, every redirect checked like the first.

No proxy, no cookies, no credentials, no compression; what the server says of the content's type is not asked for.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urljoin

from worker.core.urls import FetchRules, HttpUrl, check_addresses, parse_url
from worker.errors import FetchError, UrlRefused

MAX_REDIRECTS = 3
REDIRECTS = (301, 302, 303, 307, 308)
READ_BYTES = 64 * 1024
USER_AGENT = "galago-worker"

# From a host and a port to addresses, without their ports.
Resolver = Callable[[str, int], list[str]]
# Takes the bytes as they come.
Sink = Callable[[bytes], None]


def resolve(host: str, port: int) -> list[str]:
    """The addresses of a name, in the system's order, each once."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def download(
    url: HttpUrl,
    rules: FetchRules,
    sink: Sink,
    *,
    max_bytes: int,
    timeout_s: float,
    resolver: Resolver = resolve,
    context: ssl.SSLContext | None = None,
) -> None:
    """Give what is at `url` to `sink`, following MAX_REDIRECTS redirects at most.

    Args:
        max_bytes: how much may come; the sink never gets more.
        timeout_s: for each wait on the network; the time for all of it is the caller's to keep.
        context: for https; None makes the system's default, which verifies.

    Raises:
        FetchError: with the code url_refused, unreachable, bad_answer or module_too_large.
    """
    context = context or ssl.create_default_context()
    for _ in range(MAX_REDIRECTS + 1):
        with _said_in_our_words(url), _request(url, rules, timeout_s, resolver, context) as response:
            if response.status not in REDIRECTS:
                _receive(response, sink, max_bytes)
                return
            url = _redirected(url, response.getheader("Location"), rules)
    raise FetchError("bad_answer", f"the server redirects more than {MAX_REDIRECTS} times")


class _PinnedConnection(http.client.HTTPConnection):
    """A connection to addresses that were resolved and checked before; Host and SNI carry the name."""

    def __init__(self, url: HttpUrl, addresses: list[str], timeout_s: float, context: ssl.SSLContext) -> None:
        super().__init__(url.host, url.port, timeout=timeout_s)
        self.default_port = 443 if url.scheme == "https" else 80  # one that goes without saying in Host
        self._url = url
        self._addresses = addresses
        self._context = context

    def connect(self) -> None:
        for last, address in enumerate(self._addresses, 1 - len(self._addresses)):
            try:
                self.sock = socket.create_connection((address, self._url.port), self.timeout)
                break
            except OSError:
                if last == 0:
                    raise
        if self._url.scheme == "https":
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self._url.host)


@contextmanager
def _request(
    url: HttpUrl, rules: FetchRules, timeout_s: float, resolver: Resolver, context: ssl.SSLContext
) -> Iterator[http.client.HTTPResponse]:
    addresses = resolver(url.host, url.port)
    if not addresses:
        raise FetchError("unreachable", f"{url.host} has no address")
    check_addresses(url.host, addresses, rules)
    connection = _PinnedConnection(url, addresses, timeout_s, context)
    try:
        headers = {"User-Agent": USER_AGENT, "Accept": "application/wasm, */*;q=0.5", "Connection": "close"}
        connection.request("GET", url.target, headers=headers)
        with connection.getresponse() as response:
            yield response
    finally:
        connection.close()


@contextmanager
def _said_in_our_words(url: HttpUrl) -> Iterator[None]:
    """The libraries' exceptions as FetchError, most special first: each is a subclass of one further down."""
    try:
        yield
    except UrlRefused as exc:
        raise FetchError("url_refused", str(exc)) from exc
    except ssl.SSLCertVerificationError as exc:
        raise FetchError("unreachable", f"{url.host}'s certificate isn't good: {exc.verify_message}") from exc
    except ssl.SSLError as exc:
        raise FetchError("unreachable", f"no TLS with {url.host}: {exc.reason or exc}") from exc
    except socket.gaierror as exc:
        raise FetchError("unreachable", f"{url.host} can't be resolved: {exc.strerror}") from exc
    except TimeoutError as exc:
        raise FetchError("timed_out", f"{url.host} was silent for too long") from exc
    except http.client.IncompleteRead as exc:
        raise FetchError("bad_answer", "the answer is cut short, or its chunks are malformed") from exc
    except (http.client.HTTPException, ValueError) as exc:
        raise FetchError("bad_answer", f"{url.host} doesn't speak HTTP as it should: {exc!r:.200}") from exc
    except OSError as exc:
        raise FetchError("unreachable", f"no connection to {url.host}: {exc.strerror or exc}") from exc


def _redirected(url: HttpUrl, location: str | None, rules: FetchRules) -> HttpUrl:
    """Where a redirect leads, checked like the URL that the task names."""
    if location is None:
        raise FetchError("bad_answer", "the server redirects without saying where to")
    default = "" if url.port == (443 if url.scheme == "https" else 80) else f":{url.port}"
    host = f"[{url.host}]" if ":" in url.host else url.host
    to = parse_url(urljoin(f"{url.scheme}://{host}{default}{url.target}", location.partition("#")[0]), rules)
    if not isinstance(to, HttpUrl):
        raise UrlRefused("a server may not redirect to a file")
    if url.scheme == "https" and to.scheme != "https":
        raise UrlRefused("a redirect may not lead from https to http")
    return to


def _receive(response: http.client.HTTPResponse, sink: Sink, max_bytes: int) -> None:
    if response.status != 200:
        raise FetchError("bad_answer", f"the server answers {response.status} where 200 is needed")
    encoding = response.getheader("Content-Encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise FetchError("bad_answer", f"the server sends {encoding[:50]!r} where no compression was asked for")
    announced = response.length
    if announced is None and not response.chunked and response.getheader("Content-Length") is not None:
        raise FetchError("bad_answer", "the answer's Content-Length isn't a number")
    if announced is not None and announced > max_bytes:
        raise too_large(f"has {announced:,}", max_bytes)
    received = 0
    while data := response.read(READ_BYTES):
        received += len(data)
        if received > max_bytes:
            raise too_large("has more", max_bytes)
        sink(data)
    if announced is not None and received < announced:
        raise FetchError("bad_answer", f"the answer broke off after {received:,} of {announced:,} bytes")


def too_large(counted: str, max_bytes: int) -> FetchError:
    return FetchError("module_too_large", f"the module {counted} bytes, at most {max_bytes:,} are allowed")
