"""ID-CodeFormer: blind face restoration that keeps the person."""

from importlib.metadata import distributions
from pathlib import Path

__version__ = '0.1.0'

_HERE = Path(__file__).resolve().parent
if any(Path(str(other.locate_file('basicsr'))).resolve() == _HERE for other in distributions(name='basicsr')):
    raise ImportError(
        f"{_HERE} is shared with the package 'basicsr' of PyPI (gfpgan and realesrgan install it); install "
        'id-codeformer into an environment of its own'
    )

from basicsr.utils.errors import IDCodeFormerError as IDCodeFormerError  # noqa: E402
