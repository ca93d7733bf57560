"""The files that a run writes as it goes: append-only, so that a crash cannot hurt what is in them.

A checkpoint notes how long each file was. On resuming, what was written after the checkpoint is cut
off, and the run writes it again: the files end up as if nothing had happened.
"""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from .._base.files import whole_file
from ._feed import csv_header, csv_lines


class JournalError(RuntimeError):
    """A file of the run cannot be written or continued."""


class Journal:
    """`predictions.csv` and `metrics.jsonl` in a folder.

    **Arguments:**

    - `folder`: made if it is not there.
    - `header`: names of the columns of the predictions.
    - `lengths`: what `sync` returned at the checkpoint to go on from, or None for a new run.
    - `anew`: how one starts anew, for messages.
    """

    def __init__(
        self,
        folder: Path,
        header: Sequence[str],
        lengths: Mapping[str, int] | None = None,
        *,
        anew: str = "without --resume",
    ):
        self.folder, self._anew = folder, anew
        self._files: dict[str, BinaryIO] = {}
        self._header = list(header)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("predictions.csv", "metrics.jsonl"):
                self._files[name] = self._open(folder / name, (lengths or {}).get(name))
            if lengths is None:
                self._files["predictions.csv"].write(csv_header(header).encode())
        except OSError as error:
            raise self._error(error) from None

    def _open(self, path: Path, length: int | None) -> BinaryIO:
        if length is None:
            return open(path, "wb")
        size = path.stat().st_size if path.exists() else -1
        if size < length:
            have = f"{size} bytes long" if size >= 0 else "not there"
            raise JournalError(
                f"{path} is {have}, and the checkpoint needs its first {length} bytes: put it "
                f"back, or start anew {self._anew}."
            )
        if path.name == "predictions.csv":
            with open(path, newline="") as file:
                if more := len(next(csv.reader(file), [])) - len(self._header):  # classes after the checkpoint
                    self._with_columns(path, -more)
        os.truncate(path, length)
        return open(path, "ab")

    def _with_columns(self, path: Path, more: int) -> None:
        """Write the predictions anew with so many more empty columns at the end, or less: those of the header."""
        with whole_file(path) as temporary, open(path, "rb") as before, open(temporary, "wb") as after:
            before.readline()
            after.write(csv_header(self._header).encode())
            for line in before:
                cells = line.rstrip(b"\n")
                after.write((cells + b"," * more if more > 0 else cells.rsplit(b",", -more)[0]) + b"\n")

    def predictions(self, columns: Mapping[str, np.ndarray]) -> None:
        """Append rows; NaN is left empty. Columns that are new at the end are empty in the rows before."""
        if more := len(columns) - len(self._header):
            path, self._header = self.folder / "predictions.csv", list(columns)
            try:
                self._files["predictions.csv"].close()
                self._with_columns(path, more)
                self._files["predictions.csv"] = self._open(path, path.stat().st_size)
            except OSError as error:
                raise self._error(error) from None
        self._write("predictions.csv", csv_lines(columns))

    def metrics(self, values: Mapping[str, Any]) -> None:
        """Append one line; NaN becomes null."""
        self._write("metrics.jsonl", json.dumps(plain(values)) + "\n")

    def _write(self, name: str, text: str) -> None:
        try:
            self._files[name].write(text.encode())
        except OSError as error:
            raise self._error(error) from None

    def flush(self) -> None:
        """Let others read what has been written."""
        try:
            for file in self._files.values():
                file.flush()
        except OSError as error:
            raise self._error(error) from None

    def sync(self) -> dict[str, int]:
        """Bring everything to the disk and return how long each file is."""
        self.flush()
        try:
            for file in self._files.values():
                os.fsync(file.fileno())
        except OSError as error:
            raise self._error(error) from None
        return {name: file.tell() for name, file in self._files.items()}

    def close(self) -> None:
        """Close the files; what a full disk refused is lost, and was said already."""
        for file in self._files.values():
            try:
                file.close()
            except OSError:
                file.raw.close() if hasattr(file, "raw") else None  # type: ignore[attr-defined]

    def _error(self, error: OSError) -> JournalError:
        return JournalError(
            f"{error.filename or self.folder} could not be written "
            f"({os.strerror(error.errno or 0)}): free some space or check the folder, then go on "
            "with --resume."
        )


def plain(value: Any) -> Any:
    """A value that JSON can hold: NaN becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def to_parquet(folder: Path, texts: Sequence[str] = ()) -> Path:
    """`predictions.csv` as `predictions.parquet`, a part at a time. `texts`: columns that hold texts."""
    import pyarrow as pa
    import pyarrow.csv as arrow
    import pyarrow.parquet as pq

    source, target = folder / "predictions.csv", folder / "predictions.parquet"
    with open(source, newline="", encoding="utf-8") as file:
        names = next(csv.reader(file))
    kinds = {name: pa.int64() if name == "row" or name.startswith("changed") else pa.float64() for name in names}
    kinds |= dict.fromkeys(texts, pa.string())
    reader = arrow.open_csv(
        source,
        arrow.ReadOptions(use_threads=False),
        arrow.ParseOptions(newlines_in_values=True),
        convert_options=arrow.ConvertOptions(column_types=kinds, strings_can_be_null=True),
    )
    with whole_file(target) as temporary, reader, pq.ParquetWriter(temporary, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
    return target
