"""What the process tests share: a factory of started launchers, and the ordinary user that some of them run as."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.process.launched import NOBODY, Launched


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory that every user can enter: pytest's own are private to who runs it."""
    with tempfile.TemporaryDirectory(prefix="galago-test-", ignore_cleanup_errors=True) as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.fixture
def launch(scratch: Path) -> Iterator[Callable[..., Launched]]:
    """Starts launchers; at the end every process of theirs is gone."""
    started: list[Launched] = []

    def start(*options: str, **keywords: object) -> Launched:
        launched = Launched(scratch / "data", *options, **keywords)  # type: ignore[arg-type]
        started.append(launched)
        return launched

    yield start
    for launched in started:
        launched.destroy()


@pytest.fixture(scope="session")
def ordinary_python() -> str:
    """A Python that an ordinary user can run, of the version of this one: root's own may lie in its home."""
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, system):
        try:
            tried = subprocess.run([python, "-c", ""], user=NOBODY, group=NOBODY, extra_groups=[], check=False)
        except OSError:
            continue
        if tried.returncode == 0:
            return python
    pytest.skip(f"neither {sys.executable} nor {system} can be run by uid {NOBODY}")


@pytest.fixture
def ordinary(request: pytest.FixtureRequest) -> dict[str, object]:
    """Keywords for `launch`, to run it as an ordinary user."""
    if os.geteuid() != 0:
        return {}
    ordinary_python: str = request.getfixturevalue("ordinary_python")
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    return {"user": NOBODY, "python": ordinary_python, "PYTHONPATH": packages}
