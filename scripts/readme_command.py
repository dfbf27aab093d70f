"""Print a command of the README: `python scripts/readme_command.py restore`. CI runs what users read."""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / 'README.md'


def readme_command(text: str, name: str) -> str:
    """Return the one line in the fence below the comment `<!-- command: NAME -->`.

    Raises:
        ValueError: `text` has no such comment with a fence of one line directly below it.
    """
    found = re.findall(rf'^<!-- command: {re.escape(name)} -->\n```\w*\n(.+)\n```$', text, re.MULTILINE)
    if len(found) != 1:
        raise ValueError(
            f"README.md has {len(found)} commands '{name}' instead of 1: a line '<!-- command: {name} -->', and "
            'directly below it a fence of one line'
        )
    return found[0]


if __name__ == '__main__':
    if len(sys.argv) != 2:
        sys.exit('usage: python scripts/readme_command.py NAME')
    print(readme_command(README.read_text(encoding='utf-8'), sys.argv[1]))
