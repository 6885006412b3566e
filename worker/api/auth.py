"""Tokens: who may do what. The file has the SHA-256 of each token and its scopes, one a line:

    sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824 read,run
    # a comment

Two tokens may be in force at once, so that one can be rotated out.
"""

from __future__ import annotations

import hmac
import os
import re
import stat
from dataclasses import dataclass
from hashlib import sha256

from worker.api.problems import Problem
from worker.errors import ConfigError

SCOPES = ("read", "run", "call", "admin")
_OPTION = "--token-file"
_LINE = re.compile(r"sha256:([0-9a-fA-F]{64})[ \t]+([a-z, ]+)")
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]+=*) *")  # RFC 6750, 2.1
_MAX_FILE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Token:
    """`id` names the token in the table, for its quotas; it is the beginning of the hash, which is no secret."""

    id: str
    sha256: bytes
    scopes: frozenset[str]


# Who asks where there is no token file.
ANYBODY = Token("", b"", frozenset(SCOPES))


class Tokens:
    """All tokens that are in force."""

    def __init__(self, tokens: tuple[Token, ...]) -> None:
        self._tokens = tokens

    @classmethod
    def parse(cls, text: str, source: str) -> Tokens:
        """Read a token file's text.

        Raises:
            ConfigError: a line that isn't one, or no line at all. The line itself is not repeated: it may be a token.
        """
        tokens: dict[bytes, Token] = {}
        for number, line in enumerate(text.splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            found = _LINE.fullmatch(line)
            scopes = frozenset(found[2].replace(" ", "").split(",")) if found else frozenset()
            if found is None or not scopes <= frozenset(SCOPES):
                where = f"{source}, line {number}"
                raise ConfigError(_OPTION, where, f"`sha256:<64 hex> scope[,scope]` with scopes of {', '.join(SCOPES)}")
            digest = bytes.fromhex(found[1])
            if digest in tokens:
                raise ConfigError(_OPTION, f"{source}, line {number}", "a token that no line before has")
            tokens[digest] = Token(found[1][:16].lower(), digest, scopes)
        if not tokens:
            raise ConfigError(_OPTION, source, "a file with at least one line `sha256:<64 hex> scope[,scope]`")
        return cls(tuple(tokens.values()))

    @classmethod
    def load(cls, path: str) -> Tokens:
        """Read a token file.

        Raises:
            ConfigError: it can't be read, others may read it, or a line is wrong.
        """
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                found = os.fstat(fd)
                if not stat.S_ISREG(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o077:
                    raise ConfigError(_OPTION, path, "a regular file with mode 0600, which nobody else can read")
                return cls.parse(file.read(_MAX_FILE_BYTES).decode(), path)
        except OSError as exc:
            raise ConfigError(_OPTION, path, f"a file that can be read ({exc.strerror})") from exc
        except UnicodeDecodeError as exc:
            raise ConfigError(_OPTION, path, "text in UTF-8") from exc

    def admit(self, authorization: bytes | None, scope: str) -> Token:
        """The token of an Authorization header that may do what `scope` says.

        Raises:
            Problem: unauthorized, forbidden.
        """
        if authorization is None or _BEARER.fullmatch(authorization) is None:
            raise _unauthorized("send `Authorization: Bearer <token>`", "Bearer")
        token = self.find(authorization)
        if token is None:
            raise _unauthorized("this token is not known here", 'Bearer error="invalid_token"')
        if scope not in token.scopes:
            has = ", ".join(sorted(token.scopes))
            challenge = f'Bearer error="insufficient_scope", scope="{scope}"'
            detail = f"this needs a token of scope `{scope}`; this one has {has}"
            raise Problem("forbidden", detail, headers={"www-authenticate": challenge})
        return token

    def find(self, authorization: bytes | None) -> Token | None:
        """The token of an Authorization header, None where that is missing or has none of ours."""
        found = _BEARER.fullmatch(authorization) if authorization is not None else None
        return self._find(sha256(found[1]).digest()) if found is not None else None

    def _find(self, digest: bytes) -> Token | None:
        """In a time that doesn't tell which token it is nearest to."""
        found = None
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, digest):
                found = token
        return found


def _unauthorized(detail: str, challenge: str) -> Problem:
    return Problem("unauthorized", detail, headers={"www-authenticate": challenge})
