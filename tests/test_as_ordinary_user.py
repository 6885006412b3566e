"""The tests of the seal once more, as an ordinary user: what root's suite shows holds with fewer layers too.

The end-to-end tests have their own file for that (`tests/e2e/test_ordinary_user.py`). Where the suite itself runs as an
ordinary user these files are run by it directly, and this one is skipped.
"""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import pytest

from tests.e2e.anybody import NOBODY, env_of, python_of_anybody
from tests.e2e.harness import ROOT, scratch

FILES = (
    "tests/runner/test_seal.py",
    "tests/runner/test_escapes.py",
    "tests/runner/test_landlock.py",
    "tests/runner/test_probe.py",
    "tests/coordinator/test_fetch_seal.py",
    "tests/hostile/test_escapes_rest.py",
    "tests/hostile/test_frames.py",
    "tests/hostile/test_signals.py",
)


@pytest.mark.root
@pytest.mark.timeout(300)
def test_the_seal_holds_as_an_ordinary_user() -> None:
    """Each file has tests that pass, none fails, and none is left out but for what only root can do."""
    with scratch() as place:
        os.chown(place, NOBODY, NOBODY)
        code, said, report = run_as_nobody(place, *FILES)
    assert 0 == code, said
    assert set(FILES) == {file for file, how in report if how == "passed"}, said
    assert {"passed", "skipped"} >= {how for _, how in report}, report


def run_as_nobody(place: Path, *files: str) -> tuple[int, str, Counter[tuple[str, str]]]:
    """Of their tests: pytest's exit code, what it said, and how many of each file ended how."""
    python, packages = python_of_anybody(place)
    env = env_of(packages) | {
        "HOME": str(place),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(place / "hypothesis"),
    }
    report = place / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={place / 'tmp'}", f"--junitxml={report}"]
    done = subprocess.run(
        [python, "-m", "pytest", *options, *files],
        cwd=ROOT,
        env=env,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout[-6000:] + done.stderr[-2000:]
    assert report.exists(), said
    return done.returncode, said, ends_of(report)


def ends_of(report: Path) -> Counter[tuple[str, str]]:
    """(file, how its tests ended): how many."""
    ends: Counter[tuple[str, str]] = Counter()
    for case in ElementTree.parse(report).iter("testcase"):
        file = case.attrib["classname"].replace(".", "/") + ".py"
        how = {child.tag for child in case} & {"failure", "error", "skipped"}
        ends[file, how.pop() if how else "passed"] += 1
    return ends
