"""Fill the white parts of aligned faces: `python inference_inpainting.py -i FACE_OR_FOLDER -o RESULTS`.

The same as `id-codeformer restore --task inpaint --has_aligned`; `--no-has_aligned` finds the faces of whole pictures.
"""

import sys

from basicsr.cli.main import run

if __name__ == '__main__':
    sys.exit(run('restore', ['--task', 'inpaint', '--has_aligned', *sys.argv[1:]]))
