"""Fill the table of speed.md from results/bench/cpu.json: `python docs/_speed.py`."""

import json
import re
from pathlib import Path

HERE = Path(__file__).parent
MARK = re.compile(r"(<!-- bench: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
LAST = "python"  # the row after which those of other sections come


def table(found: dict) -> str:
    """The rows of a run up to the last of this section, one a line."""
    lines = ["| row | what | µs a step | figure | aim (stretch) | reached |", "|---|---|---|---|---|---|"]
    for row in found["rows"]:
        times = "; ".join(f"{name} {_short(time['median'])}" for name, time in row["microseconds_a_step"].items())
        figure = f"{row['ratio']:.2f} {row['meaning']}"
        sign = "≥" if row["stretch"] > row["to_reach"] else "≤"
        aim = f"{sign} {row['to_reach']:g} ({row['stretch']:g})"
        lines.append(
            f"| {row['name']} | {row['row']}: {row['detail']} | {times} | {figure} | {aim} | {row['reached']} |"
        )
        if row["name"] == LAST:
            break
    return "\n".join(lines)


def _short(number: float) -> str:
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"


def filled(page: str) -> str:
    """The page with its tables as the raw files have them."""
    read = lambda name: json.loads((HERE.parent / "results" / "bench" / name).read_text("utf-8"))
    return MARK.sub(lambda match: f"{match[1]}\n{table(read(match[2]))}\n\n{match[3]}", page)


if __name__ == "__main__":
    path = HERE / "speed.md"
    path.write_text(filled(path.read_text("utf-8")), "utf-8")
