"""An interpreter that an ordinary user can run: ours, the system's, or a copy of ours.

Root's Python may lie in its home, where nobody else can read. What root's suite shows has to be shown for an ordinary
user all the same, so there is no skip for it in CI.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import ROOT

NOBODY = 65534
_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}"
_SYSTEMS = f"/usr/bin/{_VERSION}"
_IMPORTS = "import wasmtime, falcon, gunicorn, msgspec, orjson, psutil, uvloop, pytest, hypothesis, worker.cli"


def python_of_anybody(place: Path) -> tuple[str, str]:
    """An interpreter that an ordinary user can run the worker by, and the PYTHONPATH of its packages.

    Args:
        place: a directory that every user can enter, for a copy where there has to be one.
    """
    packages = [path for path in sys.path if path.endswith("site-packages")]
    for python in (sys.executable, _SYSTEMS):
        if loads(python, os.pathsep.join(packages)):
            return python, os.pathsep.join(packages)
    python = _copy_of_ours(place / "python")
    copies = [str(_copy(Path(path), place / "packages" / str(number))) for number, path in enumerate(packages)]
    if loads(python, os.pathsep.join(copies)):
        return python, os.pathsep.join(copies)
    why = f"neither {sys.executable}, {_SYSTEMS} nor a copy runs {ROOT} for uid {NOBODY}: can it read that?"
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


def env_of(packages: str) -> dict[str, str]:
    """The environment to start it with."""
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": packages}


def loads(python: str, packages: str) -> bool:
    """Whether an ordinary user can run the worker, and pytest, by this interpreter."""
    who = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
    command = [python, "-c", _IMPORTS]
    try:
        done = subprocess.run(command, cwd=ROOT, env=env_of(packages), capture_output=True, check=False, **who)  # type: ignore[call-overload]
    except OSError:
        return False
    return bool(done.returncode == 0)


def _copy_of_ours(place: Path) -> str:
    """Of the interpreter that ours, maybe a virtual environment's, is made from."""
    copy = place / "bin" / _VERSION
    copy.parent.mkdir(parents=True)
    _copy(Path(os.__file__).parent, place / "lib" / _VERSION)
    libraries = Path(sys.base_prefix) / "lib"
    for library in libraries.glob("libpython*.so*"):
        _link(str(library), str(place / "lib" / library.name))
    # One that is linked with its library looks for it where it was built: that is unreadable, hence beside itself.
    own, beside = os.fsencode(libraries) + b"\0", b"$ORIGIN/../lib\0"
    binary = Path(sys.executable).resolve().read_bytes()
    copy.write_bytes(binary.replace(own, beside.ljust(len(own), b"\0")) if len(own) >= len(beside) else binary)
    copy.chmod(0o755)
    return str(copy)


def _copy(source: Path, target: Path) -> Path:
    """By links, where that can be: they cost neither time nor room."""
    left_out = shutil.ignore_patterns("test", "site-packages", "__pycache__", "ziglang")
    return Path(shutil.copytree(source, target, ignore=left_out, copy_function=_link))


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
