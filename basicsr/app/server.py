"""Serving the page on this machine."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from basicsr.app.engine import Engine
from basicsr.app.page import build_page, theme
from basicsr.app.session import Sessions

HOST = '127.0.0.1'
BYTES_A_PIXEL = 8  # of the largest upload: four channels of 16 bits, without compression


def serve(
    engine: Engine, folder: Path, port: int | None = None, share: bool = False, in_browser: bool = False
) -> gr.Blocks:
    """Serve the page and its API in a thread; return the page, whose `local_url` says where.

    Args:
        engine: the networks.
        folder: for the files of visitors.
        port: of the page; None for 7860, or the next free one.
        share: also give it a public address.
        in_browser: open it in the browser.

    Raises:
        OSError: the port is taken.
    """
    page = build_page(engine, Sessions(folder))
    try:
        page.launch(
            server_name=HOST,
            server_port=port,
            share=share,
            inbrowser=in_browser,
            prevent_thread_lock=True,
            quiet=not share,
            footer_links=['api'],
            max_file_size=round(engine.max_megapixels * 1e6 * BYTES_A_PIXEL),
            enable_monitoring=False,
            ssr_mode=False,
            theme=theme(),
        )
    except OSError as error:
        if port is not None and 'port' in str(error):
            raise OSError(f'port {port} is taken; choose another --port') from error
        raise
    return page
