"""From a posted body to a TaskSpec: what takes several fields, the operator or the module to judge."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from msgspec import UNSET, UnsetType

from worker.api.admission import Admission, Facts
from worker.api.posted_service import DEFAULT_QUEUE_MS, check_kind, longest_queue, make_service
from worker.api.problems import Problem
from worker.api.schemas import (
    MAX_ARGS_AND_ENV_BYTES,
    MAX_LABEL_KEY_BYTES,
    MAX_LABEL_VALUE_BYTES,
    MAX_STDIN_BYTES,
    Base64,
    Post,
    PostedMount,
)
from worker.config import Config
from worker.config_values import read_volume
from worker.core import values
from worker.core.task import Entry, Isolation, Kind, Limits, Mount, TaskSpec
from worker.core.urls import check_url

SHORT_DIGEST_CHARACTERS = 12
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def short_digest(digest: str) -> str:
    """What a task is called that names itself nothing."""
    return digest.removeprefix("sha256:")[:SHORT_DIGEST_CHARACTERS]


@dataclass(frozen=True, slots=True)
class Specs:
    """Makes specs by what one worker allows."""

    config: Config
    admission: Admission
    volumes: frozenset[str]
    longest_queue: int

    @classmethod
    def by(cls, config: Config, admission: Admission) -> Specs:
        volumes = [read_volume(text) for text in config.volumes]
        names = frozenset(volume.name for volume in volumes if volume is not None)
        return cls(config, admission, names, longest_queue())

    def make(self, post: Post) -> tuple[TaskSpec, bytes]:
        """The spec of a posted task, and its stdin.

        Raises:
            Problem: of status 422, or module_unknown; the first thing that is wrong.
        """
        check_kind(post)
        limits = self._limits(post)
        args, env = _args_and_env(post)
        stdin = _stdin(post.stdin)
        self._check_callback(post)
        mounts = self._mounts(post)
        labels = _labels(post.labels)
        digest, url = self._module(post)
        facts = self._facts(digest, url)
        service = make_service(post, facts, limits, self.longest_queue) if post.kind == "service" else None
        entry = _entry(post, facts) if service is None else None
        name = post.name or (short_digest(digest) if digest else "")
        spec = TaskSpec(
            kind=Kind(post.kind),
            name=name,
            digest=digest,
            url=url,
            entry=entry,
            args=args,
            env=env,
            stdin_bytes=len(stdin),
            limits=limits,
            queue_ms=_queue_ms(post),
            mounts=mounts,
            isolation=Isolation(post.isolation or Isolation.PROCESS),
            unknown_imports=post.unknown_imports,
            labels=labels,
            retry_max=post.retry.max if post.retry else 0,
            priority=post.priority,
            service=service,
        )
        return spec, stdin

    def _limits(self, post: Post) -> Limits:
        return Limits(
            **{
                name: self._limit(name, getattr(post.limits, name))
                for name in ("fuel", "memory_bytes", "wall_ms", "output_bytes")
            }
        )

    def _limit(self, name: str, asked: int | UnsetType) -> int:
        if asked is UNSET:
            default: int = getattr(self.config, f"default_{name}")
            return default
        ceiling: int = getattr(self.config, f"max_{name}")
        if asked > ceiling:
            detail = f"limits.{name} may be up to {ceiling} on this worker, not {asked}"
            raise Problem("limit_above_ceiling", detail, f"limits.{name}")
        return asked

    def _check_callback(self, post: Post) -> None:
        if post.callback_url is not UNSET:
            detail = "this version of the worker makes no callbacks; ask for the task, with `Prefer: wait=N`"
            raise Problem("url_refused", detail, "callback_url")

    def _mounts(self, post: Post) -> tuple[Mount, ...]:
        guests: set[str] = set()
        for index, mount in enumerate(post.mounts):
            field = f"mounts[{index}]"
            _check_mount_path(mount, field)
            if mount.guest in guests:
                raise Problem("field_range", f"two mounts are at {mount.guest}; each needs its own", f"{field}.guest")
            guests.add(mount.guest)
            if mount.volume not in self.volumes:
                right = f"there are {', '.join(sorted(self.volumes))}" if self.volumes else "there are none"
                raise Problem("mount_refused", f"no volume {mount.volume} is here; {right}", f"{field}.volume")
        return tuple([Mount(mount.volume, mount.guest, mount.path, mount.mode) for mount in post.mounts])

    def _module(self, post: Post) -> tuple[str | None, str | None]:
        digest, url = post.module.digest or None, post.module.url or None
        if digest is None and url is None:
            raise Problem("field_missing", "module needs a digest, a url or both", "module")
        if url is not None and (why := check_url(url, self.config)) is not None:
            raise Problem("url_refused", why, "module.url")
        return digest, url

    def _facts(self, digest: str | None, url: str | None) -> Facts | None:
        """What is known of the module, None where it is still to be fetched."""
        facts = self.admission.facts(digest) if digest is not None else None
        if facts is None and not url:
            raise Problem("module_unknown", f"no module {digest} is here; POST /modules it first", "module.digest")
        return facts


def _queue_ms(post: Post) -> int | None:
    if isinstance(post.queue_ms, int):
        return post.queue_ms
    return DEFAULT_QUEUE_MS if post.kind == "service" else None


def _entry(post: Post, facts: Facts | None) -> Entry | None:
    """The typed entry, once the module let us in; untyped where the module is still to be fetched."""
    export = post.entry.export if post.entry else None
    params_json = _params_json(post)
    types = facts.check(export, post.unknown_imports) if facts is not None else None
    if export is None:
        return None
    try:
        if types is not None:
            return Entry(export, values.read_params(params_json, types), params_json)
        values.check_untyped(params_json)
    except values.BadParam as exc:
        field = "entry.params" if exc.index is None else f"entry.params[{exc.index}]"
        raise Problem("entry_invalid", exc.message, field) from None
    return Entry(export, None, params_json)


def _args_and_env(post: Post) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    size = 0
    for index, arg in enumerate(post.args):
        size += len(arg.encode())
        if "\0" in arg:
            raise Problem("field_range", "an argument has no NUL", f"args[{index}]")
    for name, value in post.env.items():
        size += len(name) + len(value.encode())
        if not _ENV_NAME.fullmatch(name):
            raise Problem("field_range", "a variable's name is like [A-Za-z_][A-Za-z0-9_]*", f"env.{name}")
        if "\0" in value:
            raise Problem("field_range", "a variable's value has no NUL", f"env.{name}")
    if size > MAX_ARGS_AND_ENV_BYTES:
        detail = f"args and env have up to {MAX_ARGS_AND_ENV_BYTES} bytes together, not {size}"
        raise Problem("field_range", detail, "args" if post.args else "env")
    return tuple(post.args), tuple(post.env.items())


def _stdin(posted: str | Base64 | UnsetType) -> bytes:
    field = "stdin"
    if isinstance(posted, UnsetType):
        return b""
    if isinstance(posted, str):
        data = posted.encode()
    else:
        field = "stdin.base64"
        try:
            data = base64.b64decode(posted.base64, validate=True)
        except (binascii.Error, ValueError):
            raise Problem("field_range", "stdin.base64 must be base64 with padding (RFC 4648, 4)", field) from None
    if len(data) > MAX_STDIN_BYTES:
        raise Problem("field_range", f"stdin has up to {MAX_STDIN_BYTES} bytes, not {len(data)}", field)
    return data


def _check_mount_path(mount: PostedMount, field: str) -> None:
    if "\0" in mount.guest:
        raise Problem("field_range", "a guest's path has no NUL", f"{field}.guest")
    path = mount.path
    if path.startswith("/") or ".." in path.split("/") or "\0" in path or len(path.encode()) > 1024:
        detail = "a path is relative to its volume, without `..` and NUL, up to 1024 bytes"
        raise Problem("field_range", detail, f"{field}.path")


def _labels(labels: dict[str, str]) -> tuple[tuple[str, str], ...]:
    for key, value in labels.items():
        if not 1 <= len(key.encode()) <= MAX_LABEL_KEY_BYTES or "=" in key or _CONTROL.search(key):
            detail = f"a label's key has 1 to {MAX_LABEL_KEY_BYTES} bytes, no `=` and no control character"
            raise Problem("field_range", detail, f"labels.{key}")
        if len(value.encode()) > MAX_LABEL_VALUE_BYTES or _CONTROL.search(value):
            detail = f"a label's value has up to {MAX_LABEL_VALUE_BYTES} bytes and no control character"
            raise Problem("field_range", detail, f"labels.{key}")
    return tuple(labels.items())


def _params_json(post: Post) -> bytes:
    """The parameters as they were written, for the answer to give back."""
    if not post.entry:
        return b"[]"
    raws = [bytes(raw) for raw in post.entry.params]
    for index, raw in enumerate(raws):
        if len(raw) > values.MAX_PARAM_BYTES:
            detail = f"a parameter has up to {values.MAX_PARAM_BYTES} bytes, not {len(raw)}"
            raise Problem("field_range", detail, f"entry.params[{index}]")
    return b"[" + b",".join(raws) + b"]"
