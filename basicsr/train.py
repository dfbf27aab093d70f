"""Train any stage: `python basicsr/train.py -opt options/CodeFormer_stage2.yml --launcher pytorch`."""

import sys
from pathlib import Path

if __name__ == '__main__':
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # the folder that holds the package
    from basicsr.cli.train import main

    sys.exit(main())
