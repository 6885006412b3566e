"""Landlock rulesets: what they handle by the kernel's ABI, and that they hold a real process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runner import landlock
from tests.runner.zygote_host import ROOT


def has_landlock() -> bool:
    try:
        return landlock.abi() > 0
    except OSError:
        return False


needs_landlock = pytest.mark.skipif(not has_landlock(), reason="this kernel has no Landlock")


@pytest.mark.parametrize(("version", "bits"), [(1, 13), (2, 14), (3, 15), (4, 15), (5, 16), (6, 16), (7, 16), (99, 16)])
def test_it_handles_all_that_an_abi_knows(version: int, bits: int) -> None:
    assert 2**bits - 1 == landlock.handled_files(version)


def test_what_is_granted_is_known_to_the_first_abis_that_have_it() -> None:
    assert landlock.READ_ONLY == landlock.READ_ONLY & landlock.handled_files(1)
    assert landlock.READ_WRITE == landlock.READ_WRITE & landlock.handled_files(3)
    assert 0 == landlock.READ_WRITE & landlock.EXECUTE


def played(code: str) -> str:
    head = f"""import os, sys; sys.path.append({ROOT!r})
from runner import landlock
from runner.syscalls import prctl, PR_SET_NO_NEW_PRIVS
prctl(PR_SET_NO_NEW_PRIVS, 1)
version = landlock.abi()
ruleset = landlock.new_ruleset(version)
def tried(action):
    try: action()
    except OSError as exc: return exc.errno
    return 0
"""
    argv = [sys.executable, "-I", "-S", "-E", "-c", head + code]
    done = subprocess.run(argv, env={}, capture_output=True, text=True, check=False)
    assert "" == done.stderr
    return done.stdout.strip()


@needs_landlock
def test_an_empty_ruleset_denies_all_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    code = f"""
landlock.restrict_self(ruleset)
print(tried(lambda: open("{tmp_path}/a")), tried(lambda: open("{tmp_path}/b", "w")), tried(lambda: os.listdir("/")))
"""
    assert "13 13 13" == played(code)


@needs_landlock
@pytest.mark.parametrize(("access", "write_errno"), [("READ_ONLY", 13), ("READ_WRITE", 0)])
def test_what_is_below_an_allowed_directory_can_be_had(tmp_path: Path, access: str, write_errno: int) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_text("x")
    (tmp_path / "out").write_text("x")
    code = f"""
fd = os.open("{tmp_path}/in", os.O_PATH)
landlock.allow_beneath(ruleset, version, fd, landlock.{access})
landlock.restrict_self(ruleset)
print(tried(lambda: open("{tmp_path}/in/a").close()), tried(lambda: open("{tmp_path}/in/b", "w").close()),
      tried(lambda: open("{tmp_path}/out")))
"""
    assert f"0 {write_errno} 13" == played(code)


@needs_landlock
def test_links_between_allowed_directories_are_made(tmp_path: Path) -> None:
    """REFER: without it a rename from one directory of a mount to another would fail with EXDEV."""
    if landlock.abi() < 2:
        pytest.skip("before ABI 2 such renames are always denied")
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "a").write_text("x")
    code = f"""
landlock.allow_beneath(ruleset, version, os.open("{tmp_path}", os.O_PATH), landlock.READ_WRITE)
landlock.restrict_self(ruleset)
print(tried(lambda: os.rename("{tmp_path}/one/a", "{tmp_path}/two/a")))
"""
    assert "0" == played(code)


@needs_landlock
def test_tcp_is_denied() -> None:
    if landlock.abi() < 4:
        pytest.skip("TCP is known from ABI 4 on")
    code = """
import _socket
landlock.restrict_self(ruleset)
print(tried(lambda: _socket.socket().bind(("127.0.0.1", 0))))
"""
    assert "13" == played(code)


@needs_landlock
def test_the_ruleset_is_not_inherited_over_exec() -> None:
    fd = landlock.new_ruleset(landlock.abi())
    assert not os.get_inheritable(fd)
    os.close(fd)
