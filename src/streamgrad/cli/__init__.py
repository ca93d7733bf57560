"""The command line: `streamgrad learn ...` and its companions.

Each command is a module of this package with a `main(arguments)`; it is imported when it is called
for, so that the first forecast of `learn` does not wait for what it does not use.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "learn": "learn a forecaster from a stream of rows, in one pass",
    "fleet": "learn a forecaster for each key of a table, on one file that can be gone on with",
    "bench": "measure speed and memory, beside forward-only and BPTT",
    "experiment": "run an experiment: seeds together, resumable, results in a folder",
    "explain": "say what an algorithm keeps, what it costs, and whether it is exact",
    "report": "tables and figures of experiments, as one page",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0, or not 0 after one sentence about what is wrong."""
    from streamgrad.cli import cache

    try:
        arguments, folder = cache.split(sys.argv[1:] if arguments is None else arguments)
    except ValueError as error:
        print(f"streamgrad: {error}", file=sys.stderr)
        return 2
    name = arguments[0] if arguments else "--help"
    if name in ("--version", "-V"):
        from streamgrad import __version__

        print(f"streamgrad {__version__}")
        return 0
    if name not in COMMANDS:
        wrong = name not in ("--help", "-h")
        lines = [f"  {command:10}  {COMMANDS[command]}" for command in COMMANDS]
        if wrong:
            print(f"streamgrad has no command {name!r}; it has {', '.join(COMMANDS)}.", file=sys.stderr)
        else:
            print("usage: streamgrad COMMAND ...\n\n" + "\n".join(lines))
            print("\nstreamgrad COMMAND --help shows the options of a command. With every command goes")
            print("  --compilation-cache FOLDER|off  where compiled programs are kept, so that the next start is fast")
        return 2 if wrong else 0
    cache.switch_on(folder)
    gc.set_threshold(200_000)  # imports and traced programs are many objects that stay: looking through them is in vain
    try:
        command = importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("streamgrad"):
            raise
        print(
            f"the package {error.name} is not installed: pip install 'streamgrad[cli]' brings what "
            "the command line needs.",
            file=sys.stderr,
        )
        return 1
    try:
        status = command.main(arguments[1:]) or 0
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output is gone, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left to flush
        return 1
    return status
