"""Fill the tables and figures of results.md and fidelity.md from the raw files in results/: `python docs/_results.py`.

A table stands between the marks `<!-- table: RUN: TITLE -->` and `<!-- end -->`, a figure between
`<!-- figure: RUN: TITLE: FILE -->` and `<!-- end -->`; both are written anew, with the command and the raw file. What
`_claims.py` and `_fidelity.py` compute stands between `<!-- say: NAME -->` and `<!-- end -->`.
"""

import re
from pathlib import Path

import _fidelity  # noqa: F401  (its tables are in SAID, too)
from _claims import SAID

from streamgrad.lab.report.page import make_chapters
from streamgrad.lab.report.runs import read_runs
from streamgrad.lab.report.tables import Table, to_markdown

HERE = Path(__file__).parent
MARK = re.compile(r"(<!-- (table|figure): ([^:]+): ([^:]+?)(?:: (\S+))? -->\n).*?(<!-- end -->)", re.DOTALL)


SAY = re.compile(r"(<!-- say: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
PAGES = "results.md", "fidelity.md"


def filled(page: str, pictures: bool = True) -> str:
    """The page with its tables as the raw files have them; `pictures` says whether to write the figures, too."""
    known = {}

    def fill(match):
        start, kind, run, title, file, end = match.groups()
        if run not in known:
            known[run] = make_chapters(read_runs([HERE.parent / "results" / run]))[0]
        chapter = known[run]
        section = next(section for section in chapter.sections if section.view.title.startswith(title))
        if kind == "table":
            assert isinstance(section.content, Table)
            body = to_markdown(section.content)
        else:
            if pictures:
                (HERE / "assets" / file).write_bytes(section.content.png)
            body = f"![{section.content.words}](assets/{file})"
        command = chapter.run.origins[0].command
        return f"{start}\n{body}\n\n`{command}` · raw file: `results/{run}/results.jsonl`\n\n{end}"

    page = SAY.sub(lambda match: f"{match[1]}\n{SAID[match[2]]()}\n\n{match[3]}", page)
    return MARK.sub(fill, page)


if __name__ == "__main__":
    for page in PAGES:
        path = HERE / page
        path.write_text(filled(path.read_text("utf-8")), "utf-8")
