"""The tests of the seal once more, as an ordinary user: what root's suite shows holds with fewer layers too.

The end-to-end tests have their own file for that (`tests/e2e/test_ordinary_user.py`). Where the suite itself runs as an
ordinary user these files are run by it directly, and this one is skipped.
"""

from __future__ import annotations

import os
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.anybody import NOBODY, env_of, python_of_anybody
from tests.e2e.harness import ROOT, scratch

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

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
# One by one they are root's; here all of its table at once is as good.
LEFT_OUT = ("tests/hostile/test_escapes_rest.py::test_an_escape_ends_its_runner_alone",)
# How a test ended (`passed`, `skipped`, `failure`, `error`) and what is told of it, by its name.
Ends = dict[str, tuple[str, str]]


@pytest.fixture(scope="module")
def ends() -> Iterator[dict[str, Ends]]:
    """By the file: its tests' ends, of one run of all as nobody."""
    with scratch() as place:
        os.chown(place, NOBODY, NOBODY)
        yield run_as_nobody(place, *FILES)


@pytest.mark.parametrize("file", FILES)
def test_the_seal_holds_as_an_ordinary_user(file: str, ends: dict[str, Ends]) -> None:
    """It has tests that pass, none fails, and none is left out but for what only root can do."""
    hows = ends[file]
    assert {} == {name: told for name, (how, told) in hows.items() if how not in ("passed", "skipped")}
    assert "passed" in {how for how, _ in hows.values()}


def run_as_nobody(place: Path, *files: str) -> dict[str, Ends]:
    """How their tests end, by the file, which has none where it could not be collected."""
    python, packages = python_of_anybody(place)
    env = env_of(packages) | {
        "HOME": str(place),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(place / "hypothesis"),
    }
    report = place / "report.xml"
    options = ["-q", "-p", "no:cacheprovider", f"--basetemp={place / 'tmp'}", f"--junitxml={report}"]
    options += ["-n", "2", "--dist", "loadfile", *[f"--deselect={name}" for name in LEFT_OUT]]
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
    found = ends_of(report)
    assert (done.returncode, set(files)) in ((0, found.keys()), (1, found.keys())), said
    return found


def ends_of(report: Path) -> dict[str, Ends]:
    found: dict[str, Ends] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        file = case.attrib["classname"].replace(".", "/") + ".py"
        bad = [child for child in case if child.tag in ("failure", "error", "skipped")]
        how, told = (bad[0].tag, bad[0].text or "") if bad else ("passed", "")
        found.setdefault(file, {})[case.attrib["name"]] = (how, told[-3000:])
    return found
