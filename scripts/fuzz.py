"""Give the project damaged files, and say where it fails."""

import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the folder that holds the package
    from experiments.fuzzing.fuzz import main

    sys.exit(main())
