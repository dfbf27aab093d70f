"""Open the page in which faces are restored: id-codeformer app."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from basicsr.cli.arguments import ArgumentParser, positive, whole_number
from basicsr.cli.restore_flags import add_shared_flags
from basicsr.utils.errors import MissingExtraError
from basicsr.utils.files import user_path
from basicsr.utils.picture import MAX_MEGAPIXELS
from basicsr.utils.stopping import stop_signals


def build_parser() -> argparse.ArgumentParser:
    """All flags."""
    parser = ArgumentParser(description='Open the page in which faces are restored. It is for this machine only.')
    add = parser.add_argument
    add('--port', type=whole_number, help='of the page on this machine (default: 7860, or the next free one)')
    add('--share', action='store_true', help='also give the page a public address, through servers of Gradio')
    add('--open', action='store_true', help='open the page in the browser')
    add_shared_flags(parser)
    add('--recognizer', type=user_path, help="face recognizer: file, pack or name (default: the network's)")
    add(
        '--max_megapixels',
        type=positive,
        default=MAX_MEGAPIXELS,
        help=f'largest picture and result, and all pictures of a visitor together (default: {MAX_MEGAPIXELS:g})',
    )
    return parser


@contextmanager
def own_temporary_folder() -> Iterator[Path]:
    """Return a folder for all that visitors upload and get, removed at the end, and a Gradio that tells nobody."""
    with tempfile.TemporaryDirectory(prefix='id-codeformer-') as name:
        os.environ['GRADIO_TEMP_DIR'] = name
        os.environ['GRADIO_ANALYTICS_ENABLED'] = 'False'
        yield Path(name)


def main(argv: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C or SIGTERM; return the exit code, 2 where it could not begin."""
    args = build_parser().parse_args(argv)
    with own_temporary_folder() as folder, stop_signals():
        try:
            from basicsr.app.engine import Engine
            from basicsr.app.server import serve

            weights = Path(args.weights_dir)
            engine = Engine(
                args.model, args.device, weights, args.detection_model, args.recognizer, args.max_megapixels
            )
            page = serve(engine, folder, args.port, args.share, args.open)
        except (OSError, ValueError, KeyError, MissingExtraError) as error:
            print(f'error: {error.args[0] if isinstance(error, KeyError) else error}', file=sys.stderr)
            return 2
        print(f'Model: {engine.restorer(engine.default_model).description}')
        print(f'The page is at {page.local_url}; Ctrl-C ends it', flush=True)
        page.block_thread()
    return 0


if __name__ == '__main__':
    sys.exit(main())
