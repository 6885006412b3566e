"""The tests of the seal once more, as an ordinary user: what root's suite shows holds with fewer layers too.

The end-to-end tests have their own file for that (`tests/e2e/test_ordinary_user.py`). Where the suite itself runs as an
ordinary user these files are run by it directly, and this one is skipped.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.e2e.harness import ROOT, scratch
from tests.e2e.test_ordinary_user import NOBODY, loads

FILES = (
    "tests/runner/test_seal.py",
    "tests/runner/test_escapes.py",
    "tests/runner/test_landlock.py",
    "tests/runner/test_probe.py",
    "tests/coordinator/test_fetch_seal.py",
    "tests/hostile/test_escapes_rest.py",
)
# Escapes alone are more than this; a run that collects nothing must not pass.
AT_LEAST = 200


def python_of_anybody() -> tuple[str, str]:
    """An interpreter that an ordinary user can run, and where its packages lie: ours, else the system's."""
    packages = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    system = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, system):
        if loads(python, packages):
            return python, packages
    pytest.skip(f"neither {sys.executable} nor {system} with its packages can be run by uid {NOBODY}")


@pytest.mark.root
@pytest.mark.timeout(300)
def test_the_seal_holds_as_an_ordinary_user() -> None:
    passed, said = run_as_nobody(*FILES)
    assert passed >= AT_LEAST, said


def run_as_nobody(*files: str) -> tuple[int, str]:
    """How many of their tests passed, 0 if one failed; and what pytest said."""
    python, packages = python_of_anybody()
    with scratch() as place:
        os.chown(place, NOBODY, NOBODY)
        env = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(place),
            "PYTHONPATH": packages,
            "PYTHONDONTWRITEBYTECODE": "1",
            "HYPOTHESIS_STORAGE_DIRECTORY": str(place / "hypothesis"),
        }
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--basetemp={place / 'tmp'}", *files]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=env,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
        )
    found = re.search(r"(\d+) passed", done.stdout)
    said = done.stdout[-6000:] + done.stderr[-2000:]
    return (int(found[1]) if found and not done.returncode else 0), said
