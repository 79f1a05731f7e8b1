"""`momoseek data`: build what the encoder is trained on, and count it."""

import json
from pathlib import Path

import pytest

from service import cli
from tests.packages import install


def momoseek(*arguments: object) -> int:
    with pytest.raises(SystemExit) as exit:
        cli.main([str(argument) for argument in arguments])
    assert isinstance(exit.value.code, int)
    return exit.value.code


def test_what_is_built_can_be_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    npm, debian = install(tmp_path / "packages")
    out = tmp_path / "training"
    assert momoseek("data", "build", "--out", out, "--npm", npm, "--debian", debian) == 0
    assert momoseek("data", "stats", out, "--json") == 0
    counts = json.loads(capsys.readouterr().out)
    records = (out / "records.jsonl").read_text().splitlines()
    assert sum(sum(style.values()) for style in counts.values()) == len(records)
    assert set(counts["openmoji"]) == {"style"}
    assert momoseek("data", "stats", out) == 0
    assert str(len(records)) in capsys.readouterr().out


def test_a_missing_package_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert momoseek("data", "build", "--out", tmp_path, "--npm", tmp_path, "--debian", tmp_path) == 2
    assert "apt-get install wordnet-base" in capsys.readouterr().err
    assert momoseek("data", "stats", tmp_path) == 2
    assert "records.jsonl" in capsys.readouterr().err
