"""Colourize aligned faces: `python inference_colorization.py -i FACE_OR_FOLDER -o RESULTS`.

The same as `id-codeformer restore --task colorize --has_aligned`; `--no-has_aligned` finds the faces of whole pictures.
"""

import sys

from basicsr.cli.main import run

if __name__ == '__main__':
    sys.exit(run('restore', ['--task', 'colorize', '--has_aligned', *sys.argv[1:]]))
