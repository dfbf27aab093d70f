"""Fetch pretrained weights: `id-codeformer download CodeFormer facelib` or `all`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from basicsr.cli.arguments import ArgumentParser
from basicsr.utils.download import DownloadError, sha256_of
from basicsr.utils.folders import WEIGHTS_VARIABLE, packaged, weights_folder
from basicsr.utils.registry import nearest
from basicsr.utils.weights import WeightsFile, read_manifest


def fetch(entry: WeightsFile, folder: Path, mirrors: Sequence[str]) -> bool:
    """Fetch one file and say what happened to it; whether it is there now."""
    target = folder / entry.file
    state = 'already there' if entry.is_present(folder) else 'downloaded'
    try:
        entry.fetch(folder, mirrors)
    except DownloadError as error:
        print(f'FAILED  {error}', file=sys.stderr)
        return False
    checked = 'verified' if entry.pinned else f'not pinned in the manifest, sha256 {sha256_of(target)}'
    print(f'{target}: {state}, {checked} (licence: {entry.licence})')
    return True


def list_groups(manifest: Mapping[str, Sequence[WeightsFile]], folder: Path) -> None:
    """Print what could be fetched: groups, their files with sizes, licences, and whether they are there."""
    print('Nothing is fetched without a group (or several, or all). The groups:')
    for group, entries in manifest.items():
        print(f'\n{group}')
        for entry in entries:
            size = f'{entry.size / 1e6:.1f} MB' if entry.size else 'size unknown'
            state = ', already there' if (folder / entry.file).is_file() else ''
            print(f'  {entry.file} ({size}{state}): {entry.used_by}; licence: {entry.licence}')


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 0 if every file is there at the end, 1 if one is not, 2 if nothing could be started.

    Without a group nothing is fetched, and the groups are listed.
    """
    parser = ArgumentParser(description=__doc__)
    parser.add_argument('groups', nargs='*', metavar='GROUP', help='groups of the manifest, or all; none lists them')
    parser.add_argument(
        '--weights_dir',
        type=Path,
        default=weights_folder(),
        help=f'where the files go (default: ${WEIGHTS_VARIABLE}, else that of the clone or the cache; now %(default)s)',
    )
    parser.add_argument(
        '--mirror',
        action='append',
        default=[],
        metavar='URL',
        help='address of a copy of a weights folder, asked before those of the manifest; may be given repeatedly',
    )
    manifest_file = packaged('weights') / 'manifest.yml'
    parser.add_argument('--manifest', type=Path, default=manifest_file, help='default: %(default)s')
    args = parser.parse_args(argv)
    try:
        manifest = read_manifest(args.manifest)
    except (OSError, ValueError) as error:
        print(f'error: {error}', file=sys.stderr)
        return 2
    if not args.groups:
        list_groups(manifest, args.weights_dir)
        return 0
    for group in args.groups:
        if group != 'all' and group not in manifest:
            parser.error(f"unknown group '{group}'{nearest(group, [*manifest, 'all'])}")
    chosen = manifest if 'all' in args.groups else dict.fromkeys(args.groups)
    entries = [entry for group in chosen for entry in manifest[group]]
    failed = sum(not fetch(entry, args.weights_dir, args.mirror) for entry in entries)
    print(f'{len(entries) - failed} of {len(entries)} files are in {args.weights_dir}')
    return 1 if failed else 0
