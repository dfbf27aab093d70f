"""Draw the figure of the architecture, docs/assets/architecture.svg."""

import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the folder that holds the package
    from experiments.figures.architecture import main

    sys.exit(main())
