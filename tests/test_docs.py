"""The documentation tells what the code does: every Python block of a page runs, in order."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from quick_flags import FLAGS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


def script(page: str) -> str:
    """The Python blocks of a page on their own lines, so that a traceback points into the page."""
    lines = [""] * (page.count("\n") + 1)
    for block in BLOCK.finditer(page):
        first = page.count("\n", 0, block.start(1))
        code = block[1].splitlines()
        lines[first : first + len(code)] = code
    return "\n".join(lines)


# What is compiled here runs once: as fast to compile as can be.
SPEEDY = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": FLAGS}


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"} | SPEEDY,
        capture_output=True,
        text=True,
    )


# Pages that take long, of what other tests hold: the driver's page and those of a newcomer are run by `make test`.
LONG = {f"docs/{name}.md" for name in ("choose", "columns", "deep", "forecasting", "learner", "scale", "second-order")}
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES if BLOCK.search(page.read_text("utf-8"))]


@pytest.fixture(scope="module")
def failures(request, tmp_path_factory):
    """What each page that this run selected fails with: all in one process, which imports and compiles once."""
    folder = tmp_path_factory.mktemp("pages")
    chosen = {item.callspec.params["page"] for item in request.session.items if item.name.startswith("test_snippets")}
    for name in sorted(chosen):
        place = folder / name.removesuffix(".md")
        place.mkdir(parents=True)
        (place / "page.py").write_text(script((ROOT / name).read_text("utf-8")), "utf-8")
    done = run(str(Path(__file__).parent / "helpers" / "run_pages.py"), *sorted(chosen), cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "page", [pytest.param(name, marks=pytest.mark.full) if name in LONG else name for name in NAMES]
)
def test_snippets_run(page, failures):
    assert not failures[page], f"{page}\n{failures[page]}"


def messages() -> list[str]:
    """Every string in the package, with … where a value is filled in."""
    text = lambda part: part.value if isinstance(part, ast.Constant) else "…"
    found = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(map(text, node.values)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_the_faq_quotes_messages_that_exist():
    page = (ROOT / "docs" / "faq.md").read_text("utf-8")
    headings = [line for line in re.findall(r"^### (`.*)$", page, re.MULTILINE) if "from JAX" not in line]
    quoted = [quote for line in headings for quote in re.findall("`(.*?)`", line.partition(" (from")[0])]
    known = messages()
    for quote in quoted:
        parts = [re.escape(part.strip()) for part in quote.split("…")]
        assert any(re.search(".*".join(parts), message, re.DOTALL) for message in known), quote


HELP = """
import contextlib, io, json, sys
from streamgrad.cli import main

def asked(command):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            status = main([*command.split(), "--help"])
        except SystemExit as end:
            status = end.code
    return status or 0, out.getvalue()

print(json.dumps({command: asked(command) for command in sys.argv[1:]}))
"""


def test_the_command_line_page_names_the_options_that_exist(tmp_path):
    there = {}
    done = run("-c", HELP, "learn", "fleet", "explain", "bench", "bench algorithms", "", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for command, (status, said) in json.loads(done.stdout.splitlines()[-1]).items():
        assert status == 0, said
        found = set(re.findall(r"--[a-z][a-z-]*", said)) - {"--help"}
        there[command] = {option for option in found if not option.startswith("--no-")}
        if not command:
            there[command] = set(re.findall(r"^  (--[a-z-]+)", said, re.MULTILINE))
    page = (ROOT / "docs" / "command-line.md").read_text("utf-8")
    learn, _, rest = page.partition("\n## A forecaster for each key")
    assert set(re.findall(r"^\| `(--[a-z-]+)`", learn, re.MULTILINE)) == there["learn"]
    assert set(re.findall(r"--[a-z][a-z-]*", rest.partition("\n## ")[0])) == there["fleet"]
    assert set(re.findall(r"--[a-z][a-z-]*", page)) <= set().union(*there.values())


def test_the_table_of_algorithms_is_made_from_their_traits(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    algorithms = importlib.import_module("_algorithms")
    for name in ("choose.md", "results.md"):
        page = (ROOT / "docs" / name).read_text("utf-8")
        assert algorithms.filled(page) == page, "run: python docs/_algorithms.py"


def test_the_speed_page_says_what_the_raw_file_says(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    speed = importlib.import_module("_speed")
    page = (ROOT / "docs" / "speed.md").read_text("utf-8")
    assert "bench: cpu.json" in page and speed.filled(page) == page, "run: python docs/_speed.py"


def test_the_results_page_says_what_the_raw_files_say(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    monkeypatch.setattr("streamgrad.lab.report.figures.draw", lambda *_, **__: (b"", []))  # in test_report
    results = importlib.import_module("_results")
    page = (ROOT / "docs" / "results.md").read_text("utf-8")
    assert results.filled(page, pictures=False) == page, "run: python docs/_results.py"
    runs = {mark.split(": ")[1] for mark in re.findall(r"<!-- (?:table|figure): .*? -->", page)}
    assert runs == {path.parent.name for path in (ROOT / "results").glob("*/run.json")}
