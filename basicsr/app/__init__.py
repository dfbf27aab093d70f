"""The page: restoration in a browser, on this machine, and the same functions through Gradio's API."""

from basicsr.utils.errors import extra

with extra('app'):
    import gradio as gradio  # every command of this package needs it
