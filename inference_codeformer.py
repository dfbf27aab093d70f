"""Restore faces in pictures and clips: `python inference_codeformer.py -i PICTURE_CLIP_OR_FOLDER -o RESULTS`."""

import sys

from basicsr.cli.restore import main

if __name__ == '__main__':
    sys.exit(main())
