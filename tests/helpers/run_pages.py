"""Run the scripts of pages, each in its own folder and namespace, and print as JSON what each failed with."""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path


def failure(page: str) -> str:
    os.chdir(FOLDER / page.removesuffix(".md"))
    try:
        runpy.run_path("page.py", run_name="__main__")
    except BaseException:
        return traceback.format_exc()
    return ""


FOLDER = Path.cwd()
print(json.dumps({page: failure(page) for page in sys.argv[1:]}))
