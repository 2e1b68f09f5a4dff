"""The README speaks the truth: its code runs, its test command is the one that CI runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.filterwarnings("ignore::UserWarning")  # Lightning's advice on loggers and workers, as a reader would get
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # LightningCLI calls a newer jsonargparse in an older way
def test_the_code_of_the_readme_runs_from_top_to_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    blocks = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)  # noqa: S102 - the README is ours


def test_ci_runs_the_test_command_of_the_readme():
    commands = re.findall(r"^\$ (uv run pytest.*?)\s*(?:#.*)?$", README, flags=re.MULTILINE)
    assert len(commands) == 1
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == commands[0]


def test_every_file_that_the_readme_links_to_exists():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
