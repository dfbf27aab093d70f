"""Judge trained weights on the validation sets of an option file: `python basicsr/test.py -opt X.yml`."""

import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the folder that holds the package
    from basicsr.cli.validate import main

    sys.exit(main())
