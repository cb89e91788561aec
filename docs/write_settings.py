"""Write what follows from the list of settings: blocks of the workflows, the table of docs/reference/settings.md, the
JSON schema of task files.

python docs/write_settings.py
"""

import json
import re
from pathlib import Path

from segbundle.config.settings_documents import settings_table, task_schema, workflow_block

ROOT = Path(__file__).parents[1]
TABLE = r"\| key \| default \| [^\n]*\n\|[-|]+\n(?:\|[^\n]*\n)+"
BLOCK = r"^# Settings[^\n]*\n(.*?)(?=^# )"


def main() -> None:
    """Write the files."""
    for name in ("train", "inference"):
        path = ROOT / "bundle" / "configs" / f"{name}.yaml"
        text = path.read_text(encoding="utf-8")
        block = re.search(BLOCK, text, re.M | re.S)
        assert block is not None, path
        path.write_text(f"{text[: block.start(1)]}{workflow_block(name)}\n{text[block.end(1) :]}", encoding="utf-8")
    page = ROOT / "docs" / "reference" / "settings.md"
    before, table, after = re.split(f"({TABLE})", page.read_text(encoding="utf-8"), maxsplit=1)
    assert table
    page.write_text(f"{before}{settings_table()}\n{after}", encoding="utf-8")
    schema = ROOT / "configs" / "task.schema.json"
    schema.write_text(json.dumps(task_schema(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
