"""Make the statistics of a reference set for the FID."""

import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the folder that holds the package
    from basicsr.cli.fid_statistics import main

    sys.exit(main())
