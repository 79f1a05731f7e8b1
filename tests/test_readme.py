"""The README is run: its examples against a real server, in their order; links and targets must exist."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Server

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "README.md").read_text()
EXAMPLES = re.findall(r"<!-- run -->\n```bash\n(.*?)```", PAGE, re.DOTALL)
WRITTEN_ADDRESS = "http://127.0.0.1:8000"
COLLECTION = "shop-of-the-readme"  # the server is shared with tests that have a shop of their own


def titles(reply: list[Any]) -> str:
    """What the results of the last reply are called, in one string."""
    return " | ".join(hit["metadata"]["title"].lower() for hit in reply[-1]["results"])


def statuses(reply: list[Any]) -> list[str]:
    return [line["status"] for line in reply]


# What a reader should see, in the order of the page. Each gets every JSON value that the example printed.
EXPECTED: list[Callable[[list[Any]], bool]] = [
    lambda reply: len(reply[0]["results"]) == 3 and "ship" in titles(reply),
    lambda reply: reply[0]["results"][0]["id"] == "photo-lioness",
    lambda reply: len(reply[0]["results"]) == 3 and all(hit["image"] for hit in reply[0]["results"]),
    lambda reply: len(reply[0]["results"]) == 3 and "truck" in titles(reply),
    lambda reply: reply[0]["name"] == COLLECTION and statuses(reply[1]["items"]) == ["created", "created"],
    lambda reply: statuses(reply[0]["items"]) == ["created"] and not reply[0]["errors"],
    lambda reply: titles(reply) == "kettle",
    lambda reply: titles(reply) == "kettle" and reply[0]["results"][0]["id"] == "sku-1",
    lambda reply: reply[0]["counts"]["total"] == 3 and reply[1]["jobs"][0]["id"] == reply[0]["id"],
    lambda reply: [entry["modality"] for entry in reply[0]["data"]] == ["text", "image"],
]


def json_values(text: str) -> list[Any]:
    """All JSON values that stand one after another in a text."""
    values, decoder, rest = [], json.JSONDecoder(), text.strip()
    while rest:
        value, end = decoder.raw_decode(rest)
        values.append(value)
        rest = rest[end:].lstrip()
    return values


def test_every_example_answers_as_the_page_says(server: Server) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed (Debian package curl)")
    for example, expected in zip(EXAMPLES, EXPECTED, strict=True):
        script = example.replace(WRITTEN_ADDRESS, server.url).replace(
            "collections/shop", f"collections/{COLLECTION}"
        )
        assert server.url in script
        done = subprocess.run(["bash", "-euc", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{script}\n{done.stderr}"
        assert expected(json_values(done.stdout)), f"{script}\n{done.stdout[:2000]}"


def test_every_curl_example_is_run() -> None:
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    assert [block for block in blocks if "curl -" in block] == EXAMPLES


def test_every_link_leads_to_a_file() -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", PAGE) if "://" not in link]
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/operations.md"])
def test_every_file_that_a_document_names_exists(page: str) -> None:
    named = set(
        re.findall(r"`((?:service|index|models|tests|deploy|docs)/[\w./-]+)`", (ROOT / page).read_text())
    )
    assert named
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_every_make_target_and_command_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z][a-z-]*)(?=[ `\n])", PAGE)) <= targets
    help_text = subprocess.run(
        [sys.executable, "-m", "service.cli", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    listed = re.search(r"`momoseek ([^`]*)`", PAGE)
    assert listed
    assert [name for name in listed[1].split(" | ") if name.split()[0] not in help_text] == []
