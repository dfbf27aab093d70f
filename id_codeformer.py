"""Console script `id-codeformer`, also `python -m id_codeformer`.

It stands outside the package, as it must run where another package of the name `basicsr` has taken that name.
"""

from __future__ import annotations

import sys
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

TAKEN = (
    "error: {folder} is shared with, or belongs to, the package 'basicsr' of PyPI (gfpgan and realesrgan install it); "
    'install id-codeformer into an environment of its own'
)


def taken_by_other(folder: Path) -> bool:
    """Check whether PyPI's package `basicsr` is installed into a package folder."""
    return any(Path(str(other.locate_file('basicsr'))).resolve() == folder for other in distributions(name='basicsr'))


def main() -> int:
    """Run the command line; return its exit code, 2 where `basicsr` is another package."""
    spec = find_spec('basicsr')
    folder = Path(spec.origin).resolve().parent if spec and spec.origin else Path()
    if taken_by_other(folder):
        print(TAKEN.format(folder=folder), file=sys.stderr)
        return 2
    from basicsr.cli.main import main as run

    return run()


if __name__ == '__main__':
    sys.exit(main())
