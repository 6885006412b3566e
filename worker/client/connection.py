"""What both clients have of httpx: how a connection is set up, a request is made of ours, and an error is told."""

from __future__ import annotations

import ipaddress
from typing import Any

import httpx

from worker.client.errors import BadUrl, Broken, ClientError, Unreachable
from worker.client.requests import Pieces, Request
from worker.version import DISTRIBUTION, version_of

DEFAULT_URL = "http://127.0.0.1:8470"
TIMEOUT_S = 30.0


def settings(url: str, token: str | None, timeout_s: float) -> dict[str, Any]:
    """The arguments of an httpx client.

    Raises:
        BadUrl: `url` is none.
    """
    try:
        base = httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise BadUrl(url) from exc
    if base.scheme not in ("http", "https") or not base.host:
        raise BadUrl(url)
    headers = {"user-agent": f"{DISTRIBUTION}/{version_of()}"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    # No proxy of the environment stands between this machine and itself.
    return {"base_url": base, "headers": headers, "timeout": timeout_s, "trust_env": not _is_here(base.host)}


def arguments(request: Request[Any], timeout_s: float) -> dict[str, Any]:
    """What httpx's `request` takes."""
    headers = dict(request.headers)
    if isinstance(request.body, Pieces):
        headers["content-length"] = str(len(request.body))  # known, so nothing is sent in chunks
    return {
        "method": request.method,
        "url": request.path,
        "params": dict(request.query) or None,
        "headers": headers,
        "content": request.body,
        "timeout": timeout_s + request.wait_s,
    }


def told(error: httpx.HTTPError, url: str) -> ClientError:
    """What httpx found, and whether anything had been sent by then."""
    why = str(error).partition("] ")[2] or str(error) or type(error).__name__
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)):
        return Unreachable(url, why)
    if isinstance(error, httpx.UnsupportedProtocol):
        return BadUrl(url)
    if isinstance(error, httpx.TimeoutException):
        return Broken(url, "it took too long")
    return Broken(url, why)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
