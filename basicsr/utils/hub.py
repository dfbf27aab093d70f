"""Weights on the Hugging Face Hub, downloaded once into its cache."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

from basicsr.utils.errors import IDCodeFormerError, extra

PREFIX = 'hf:'
SUFFIXES = ('.safetensors', '.pth')  # the first is preferred


class HubError(IDCodeFormerError, OSError):
    """A file of the hub that could not be had; the message names it, the reason and the remedy."""


def is_hub_address(name: str | os.PathLike) -> bool:
    """Recognize names such as `hf:OWNER/NAME[/FILE]`."""
    return os.fspath(name).startswith(PREFIX)


def split_address(address: str) -> tuple[str, str | None]:
    """Split `hf:OWNER/NAME[/FILE]` into repository and file.

    Raises:
        HubError: it is none.
    """
    owner, _, rest = address.removeprefix(PREFIX).partition('/')
    name, slash, file = rest.partition('/')
    if not owner or not name or (slash and not file):
        raise HubError(f'{address}: must be hf:OWNER/NAME or hf:OWNER/NAME/FILE')
    return f'{owner}/{name}', file or None


def choose_file(repository: str, files: list[str]) -> str:
    """Choose the weights of a repository: its only `.safetensors`, else `.pth`.

    Raises:
        HubError: there are several, or none.
    """
    for suffix in SUFFIXES:
        found = [name for name in files if PurePosixPath(name).suffix == suffix]
        if len(found) == 1:
            return found[0]
        if found:
            raise HubError(
                f'{PREFIX}{repository}: has several weights files ({", ".join(found)}); name one, as in '
                f'{PREFIX}{repository}/{found[0]}'
            )
    raise HubError(f'{PREFIX}{repository}: has no {" or ".join(SUFFIXES)} file; it has {", ".join(files) or "none"}')


def fetch_from_hub(address: str) -> Path:
    """Fetch `hf:OWNER/NAME[/FILE]`, from the cache where it is unchanged.

    Without a network, a file that is named is taken from the cache. The environment variables of huggingface_hub apply:
    HF_ENDPOINT, HF_HOME, HF_TOKEN.

    Raises:
        HubError: the address is none, or the file could not be had.
        MissingExtraError: huggingface_hub is not installed.
    """
    repository, file = split_address(address)
    with extra('hub'):
        from huggingface_hub import HfApi, hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            HFValidationError,
            HTTPError,  # pyright: ignore[reportPrivateImportUsage] - of requests or httpx, as the version has it
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
        )
    endpoint = os.environ.get('HF_ENDPOINT') or None
    try:
        if file is None:
            siblings = HfApi(endpoint=endpoint).model_info(repository).siblings or ()
            file = choose_file(repository, [sibling.rfilename for sibling in siblings])
        return Path(str(hf_hub_download(repository, file, endpoint=endpoint)))
    except HubError:
        raise
    except HFValidationError as error:
        raise HubError(f'{address}: no name of a repository ({_first_line(error)})') from error
    except GatedRepoError as error:
        raise HubError(f'{address}: accept the terms on the page of the repository, then: hf auth login') from error
    except RepositoryNotFoundError as error:
        raise HubError(f'{address}: no such repository, or a private one; check the name, or: hf auth login') from error
    except LocalEntryNotFoundError as error:
        raise _unreachable(address, file, error) from error
    except EntryNotFoundError as error:
        raise HubError(f'{address}: the repository {repository} has no file {file}') from error
    except (HTTPError, OSError) as error:
        raise _unreachable(address, file, error) from error


def _unreachable(address: str, file: str | None, error: Exception) -> HubError:
    also = '' if file else ', or name a file that is in the cache'
    return HubError(f'{address}: could not be downloaded ({_first_line(error)}); check the network{also}')


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), '') or type(error).__name__
