"""Copy options and embedded weights into the package at build time; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
ASSETS = [
    path
    for pattern in (
        'options/**/*.y*ml',
        'options/**/*.json',
        'weights/*.md',
        'weights/*.yml',
        'weights/small/*',
        'weights/recognition/*',
    )
    for path in sorted(ROOT.glob(pattern))
]


class BuildPackage(build_py):
    """Build the package with the folders `options` and `weights` inside, see `basicsr.utils.folders.packaged`."""

    def run(self) -> None:
        """Copy the files, but for an editable install, which reads them in the clone."""
        super().run()
        if not self.editable_mode:
            for source, target in self._assets():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        """List the files that a build makes."""
        return [*super().get_outputs(include_bytecode), *(str(target) for _, target in self._assets())]

    def _assets(self) -> list[tuple[Path, Path]]:
        folder = Path(self.build_lib, 'basicsr', 'assets')
        return [(path, folder / path.relative_to(ROOT)) for path in ASSETS]


setup(cmdclass={'build_py': BuildPackage})
