"""Print a table of the papers beside what can be measured here."""

import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the folder that holds the package
    from experiments.paper_tables.reproduce import main

    sys.exit(main())
