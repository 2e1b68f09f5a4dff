"""Results of experiments as a CSV file that survives kills, and where a number came from."""

from __future__ import annotations

import csv
import os
import shlex
import subprocess  # noqa: S404
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lightning_plasticity.errors import InvalidArgumentError

Value = str | int | float


class ResultTable:
    """A CSV file to which rows are appended, each at most once.

    A run that was killed and resumed repeats the rows since its last checkpoint; those that are there already are left
    out. A last line that a kill has cut short is removed. One process at a time may write.

    Args:
        path: The file; it and its folder are made with the first row.
        key: Columns that tell rows apart, such as method, seed and experience.

    Raises:
        InvalidArgumentError: If the file exists and lacks a column of ``key``.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     table = ResultTable(Path(folder) / "results.csv", key=("seed", "experience"))
        ...     for accuracy in (0.5, 0.7):
        ...         table.append({"seed": 0, "experience": 3, "accuracy": accuracy})
        ...     table.rows()
        [{'seed': '0', 'experience': '3', 'accuracy': '0.5'}]
    """

    def __init__(self, path: str | Path, key: Sequence[str]) -> None:
        self.path, self.key = Path(path), tuple(key)
        if self.path.exists():
            _drop_unfinished_line(self.path)
        rows = self.rows()
        missing = [column for column in self.key if rows and column not in rows[0]]
        if missing:
            raise InvalidArgumentError(
                f"{self.path} without the columns {missing}", "a file of the same experiment", "Pass another file"
            )
        self._known = {self._identity(row) for row in rows}

    def rows(self) -> list[dict[str, str]]:
        """Return all rows as they stand in the file, oldest first; none if there is no file."""
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def __contains__(self, row: Mapping[str, Value]) -> bool:
        return self._identity(row) in self._known

    def append(self, row: Mapping[str, Value]) -> None:
        """Append a row, unless one with the same key is there; the first one makes the header.

        Args:
            row: Values by column.

        Raises:
            InvalidArgumentError: If the columns are not those of the file.
        """
        if row in self:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        is_new = not self.path.exists() or not self.path.stat().st_size
        if not is_new:
            with self.path.open(newline="") as file:
                header = next(csv.reader(file))
            if header != list(row):
                raise InvalidArgumentError(
                    f"a row with the columns {list(row)} for {self.path}", f"the columns {header}", "Pass another file"
                )
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if is_new:
                writer.writeheader()
            writer.writerow(row)
            file.flush()
            os.fsync(file.fileno())
        self._known.add(self._identity(row))

    def _identity(self, row: Mapping[str, Value]) -> tuple[str, ...]:
        return tuple(str(row[column]) for column in self.key)


def provenance() -> dict[str, str]:
    """Return the commit that is checked out and the command that runs, for a row of results.

    Returns:
        ``commit``, short and with ``+`` if files differ from it, or ``"unknown"`` outside a repository; and
        ``command``, without the folder of the script.
    """
    script, *arguments = sys.argv
    return {"commit": _commit(), "command": shlex.join([f"{Path(script).parent.name}/{Path(script).name}", *arguments])}


def _commit() -> str:
    try:
        commit = _git("rev-parse", "--short", "HEAD")
        return commit + "+" * bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603


def _drop_unfinished_line(path: Path) -> None:
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])
