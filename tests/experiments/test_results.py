import subprocess
import sys

import pytest

from lightning_plasticity.errors import InvalidArgumentError
from lightning_plasticity.experiments.results import ResultTable, provenance


def test_rows_come_back_and_a_repeated_key_does_not_count(tmp_path):
    path = tmp_path / "folder" / "results.csv"
    table = ResultTable(path, key=("seed",))
    assert table.rows() == []
    table.append({"seed": 0, "command": 'a "b", c'})
    table.append({"seed": 1, "command": "d"})
    again = ResultTable(path, key=("seed",))
    again.append({"seed": 0, "command": "another"})
    assert again.rows() == [{"seed": "0", "command": 'a "b", c'}, {"seed": "1", "command": "d"}]
    assert {"seed": 1} in again
    assert {"seed": 2} not in again


def test_a_line_cut_short_is_written_again(tmp_path):
    path = tmp_path / "results.csv"
    table = ResultTable(path, key=("seed",))
    for seed in range(2):
        table.append({"seed": seed, "value": 0.25})
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        table = ResultTable(path, key=("seed",))
        for seed in range(2):
            table.append({"seed": seed, "value": 0.25})
        assert path.read_bytes() == whole


def test_files_of_another_experiment_are_refused(tmp_path):
    path = tmp_path / "results.csv"
    ResultTable(path, key=("seed",)).append({"seed": 0, "value": 1})
    with pytest.raises(InvalidArgumentError, match=r"without the columns \['method'\]"):
        ResultTable(path, key=("method",))
    with pytest.raises(InvalidArgumentError, match=r"columns \['seed', 'rank'\] .*\['seed', 'value'\]"):
        ResultTable(path, key=("seed",)).append({"seed": 1, "rank": 1})


def test_the_command_is_told_without_the_folder_of_the_machine(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/home/someone/examples/run.py", "--out", "my runs"])
    assert provenance()["command"] == "examples/run.py --out 'my runs'"


def test_the_commit_is_told_with_a_mark_for_changed_files(tmp_path, monkeypatch):
    def git(*arguments):
        settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *settings, *arguments], cwd=tmp_path, check=True, capture_output=True)  # noqa: S607

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance()["commit"] == "unknown"
    git("init")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("commit", "-m", "add a file")
    commit = provenance()["commit"]
    assert 6 < len(commit) < 13
    (tmp_path / "file").write_text("2")
    assert provenance()["commit"] == commit + "+"
