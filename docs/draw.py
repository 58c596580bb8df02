"""Run the code of a page as a reader would, in the current directory, which gets the page's pictures.

For example in `docs/pictures`: `python ../draw.py ../from-the-video-to-the-code.md`.
"""

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any


def blocks(page: str, language: str) -> list[str]:
    """The page's fenced blocks of that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page, flags=re.MULTILINE | re.DOTALL)


def run(page: str) -> str:
    """Run the page's Python blocks as one program; returns what they print.

    A block whose first line is a comment with a file's name is a part of that file, which is written before any runs.
    """
    names: dict[str, Any] = {}
    printed = io.StringIO()
    program = []
    for block in blocks(page, "python"):
        file = re.match(r"# (\w+\.py)\n", block)
        if file is None:
            program.append(block)
        else:
            with Path(file[1]).open("a") as part:
                part.write(block)
    with contextlib.redirect_stdout(printed):
        for block in program:
            exec(compile(block, "<page>", "exec"), names)
    return printed.getvalue()


if __name__ == "__main__":
    for path in sys.argv[1:]:
        print(run(Path(path).read_text()), end="")
