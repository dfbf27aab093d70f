"""The base class of this project's errors, and the error of a package that is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class IDCodeFormerError(Exception):
    """Base class of all errors that this project raises on purpose."""


class MissingExtraError(IDCodeFormerError, ModuleNotFoundError):
    """An optional package is not installed; the message says how to install it."""


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Name the extra of this project that brings the packages imported inside.

        with extra('video'):
            import av

    Args:
        name: an extra of `pyproject.toml`.

    Raises:
        MissingExtraError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split('.')[0] == 'basicsr':
            raise
        message = f'this needs the package {error.name}: pip install "id-codeformer[{name}]"'
        raise MissingExtraError(message, name=error.name) from error
