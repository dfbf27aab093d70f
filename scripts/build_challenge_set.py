"""Select the hard faces of a set of people."""

import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the folder that holds the package
    from experiments.challenge_set.build import main

    sys.exit(main())
