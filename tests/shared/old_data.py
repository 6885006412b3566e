"""A data directory as the version before functions left it (schema 1), its worker killed at work.

`schema_1.sql` holds the rows that it wrote: HELLO, SUM and KEYED had completed and TRAPPED had failed, LOST and AGAIN
ran, the latter with one retry, and WAITS waited for a slot. `schema_1.modules` holds its modules.
"""

from __future__ import annotations

from pathlib import Path

from worker.shared.blobs import Blobs
from worker.shared.schema import MIGRATIONS, open_for_writing

HELLO = "01a20d37-e048-70cf-969a-9af4e27232a7"
SUM = "01a20d37-e065-773d-bbdd-928ff77ca52d"
TRAPPED = "01a20d37-e082-7215-befb-dcadb11ed297"
KEYED = "01a20d37-e094-75d1-850d-1436e22d4d9e"
LOST = "01a20d37-e0bd-719a-9412-e385a72679f6"
AGAIN = "01a20d37-e0f9-7fb8-90cf-c95078e48dd3"
WAITS = "01a20d37-e12d-7b9f-9cc8-a23ee4163b73"
TASKS = (HELLO, SUM, TRAPPED, KEYED, LOST, AGAIN, WAITS)
KEYED_AT_US = 1_795_518_095_508_662
BODY_SHA256 = "51545317e910bdd8b26f989a500743bd87e22e5ee6d4f6ef1b6eadd50b492b6a"
_HERE = Path(__file__).parent


def make(data_dir: Path) -> Path:
    """Fill `data_dir`; the table's path."""
    path = data_dir / "table.sqlite"
    connection = open_for_writing(path, "normal", MIGRATIONS[:1])
    connection.executescript((_HERE / "schema_1.sql").read_text())
    connection.close()
    blobs = Blobs(data_dir)
    blobs.create()
    for line in (_HERE / "schema_1.modules").read_text().splitlines():
        name, content = line.split()
        blobs.module_path(f"sha256:{name}").write_bytes(bytes.fromhex(content))
    blobs.stdin_path(WAITS).write_bytes(b"some input")
    for task_id in (HELLO, KEYED):
        blobs.output_paths(task_id)[0].write_bytes(b"hello world\n")
    return path
