"""docs/operations.md tells the truth: every setting with its default, every metric, and no other."""

import re
from pathlib import Path

from fastapi.testclient import TestClient

from service.config import Settings

PAGE = (Path(__file__).resolve().parent.parent / "docs/operations.md").read_text()


def section(name: str) -> str:
    """What stands between the marker of this name and the next end marker."""
    found = re.search(rf"<!-- {name}:.*?-->\n(.*?)<!-- end -->", PAGE, re.DOTALL)
    assert found, f"docs/operations.md has no section {name}"
    return found[1]


def settings_table() -> str:
    """The settings as the page must list them."""
    rows = ["| setting | default | meaning |", "| --- | --- | --- |"]
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        rows.append(f"| `{name}` | {f'`{shown}`' if shown else ''} | {field.description} |")
    return "\n".join(rows) + "\n"


def test_every_setting_is_listed_with_its_default_and_meaning() -> None:
    assert section("settings") == settings_table()


def test_every_metric_is_listed_and_every_listed_one_exists(client: TestClient) -> None:
    exported = set(re.findall(r"^# TYPE (momoseek_\w+)", client.get("/metrics").text, re.MULTILINE))
    exported = {name for name in exported if not name.endswith("_created")}
    assert set(re.findall(r"`(momoseek_\w+)`", section("metrics"))) == exported
