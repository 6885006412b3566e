"""What `galago-worker doctor --live` asks of a running worker, over HTTP like anybody else."""

from __future__ import annotations

import http.client
import json
import re
from typing import Any
from urllib.parse import urlsplit

from worker.errors import LiveError

DEFAULT_URL = "http://127.0.0.1:8470"
TIMEOUT_S = 30.0
_MAX_ANSWER_BYTES = 16 * 1024 * 1024
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")  # RFC 6750, 2.1


def read_token(path: str) -> str:
    """The token in the first line of a file.

    Raises:
        LiveError: it can't be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise LiveError(f"the token can't be read from {path}: {exc}") from exc


def audit(url: str, token: str | None = None) -> dict[str, Any]:
    """The worker's `/debug/audit`.

    Args:
        url: of the worker, http or https.
        token: of scope admin, where the worker has tokens.

    Raises:
        LiveError: it can't be reached, refuses, or answers something else.
    """
    answer = _get(url, "/debug/audit", token)
    try:
        document = json.loads(answer)
        _ = [one["kind"] + one["detail"] for one in document["differences"]], document["checked"].items()
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise LiveError(f"{url} answered no audit: is it a galago-worker?") from exc
    found: dict[str, Any] = document
    return found


def _get(url: str, path: str, token: str | None) -> bytes:
    parts = urlsplit(url)
    connect = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}.get(parts.scheme)
    if connect is None or not parts.hostname:
        raise LiveError(f"{url} is no URL of a worker; one is like {DEFAULT_URL}")
    if token is not None and _TOKEN.fullmatch(token) is None:
        raise LiveError("the token has characters that no token has; is it the file with tokens' hashes?")
    headers = {"accept": "application/json", **({"authorization": f"Bearer {token}"} if token else {})}
    try:
        connection = connect(parts.hostname, parts.port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", parts.path.rstrip("/") + path, headers=headers)
            response = connection.getresponse()
            body: bytes = response.read(_MAX_ANSWER_BYTES)
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, ValueError) as exc:
        raise LiveError(f"{url} can't be asked ({exc}): does the worker run, and is it this address?") from exc
    if response.status != http.client.OK:
        raise LiveError(f"{url} answered {response.status}: {body[:500].decode(errors='replace')}")
    return body
