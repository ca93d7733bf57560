"""What is neither text nor one of the formats with columns, by its first bytes."""

from __future__ import annotations

import re

from streamgrad.data.errors import SourceError

_OTHER = (
    (rb"PK\x03\x04", "a spreadsheet (xlsx, ods) or a zip archive: save the sheet as CSV, or unpack the archive"),
    (rb"\xd0\xcf\x11\xe0", "an Excel file (xls): save the sheet as CSV"),
    (rb"%PDF-", "a PDF: export the table as CSV"),
    (rb"SQLite format 3", "an SQLite database: export the table as CSV"),
    (rb"\x89HDF", "an HDF5 file: export the table as CSV or Parquet"),
    (rb"CDF[\x01\x02\x05]", "a netCDF file: export the table as CSV or Parquet"),
    (rb"\x93NUMPY", "a NumPy file: give the array itself to streamgrad.data.open_source, or save it as CSV"),
    (rb"\x80[\x02-\x05][\x95c}\](]", "a Python pickle, which is never opened: save the table as CSV or Parquet"),
    (rb"ORC", "an ORC file: convert it to Parquet"),
    (rb"Obj\x01", "an Avro file: convert it to Parquet"),
    (rb"FEA1", "a Feather file of version 1, which is no longer read: write it again as version 2 (Arrow)"),
    (rb"\x1f\x9d", "packed by compress (.Z): unpack it first"),
    (rb"7z\xbc\xaf", "a 7-Zip archive: unpack it first"),
    (rb"Rar!", "a RAR archive: unpack it first"),
    (rb"\s*(?i:<!doctype|<html|<\?xml|<table)", "HTML or XML: export the table as CSV"),
    (rb"\{\\rtf", "a text processor's file (RTF): export the table as CSV"),
    (rb"version https://git-lfs", "a pointer of Git LFS: fetch the file itself with git lfs pull"),
    (rb"(PAR1|ARROW1|\xff\xff\xff\xff)", "a Parquet or Arrow file, which is read by its own path, unpacked"),
)


def refuse_other(start: bytes, name: str) -> None:
    """Raise `SourceError` for what is known to be no table in text, by its first bytes."""
    for pattern, what in _OTHER:
        if re.match(pattern, start) and not (pattern == rb"ORC" and b"\0" not in start):
            raise SourceError(f"{name} is {what}. CSV, TSV, Parquet, Arrow (Feather) and JSON are read.")
    if start[257:262] == b"ustar":
        raise SourceError(f"{name} is a tar archive: unpack it first.")
    text = start.rstrip(b"\0")
    if b"\0" in text or (b"\n" not in text and text != start):  # zero bytes at the end are what a power cut leaves
        pairs = start.count(b"\0") * 3 > len(start)
        hint = " It seems to be UTF-16 without a byte order mark: convert it to UTF-8." if pairs else ""
        raise SourceError(f"{name} is not text: CSV, TSV, JSON, Parquet or Arrow (Feather) were expected.{hint}")
