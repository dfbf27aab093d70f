"""Registries: public names to classes and functions, with errors that name the nearest entry."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

T = TypeVar('T', bound=Callable)


def nearest(name: str, known: Iterable[object]) -> str:
    """Return a hint for a mistyped name: `` (did you mean 'x'?)``, or the list of known names when none is near."""
    names = sorted(map(str, known))
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else f' (known: {", ".join(names)})'


class Registry:
    """A table from public names to classes or functions.

    Args:
        kind: what the entries are ("network", "loss"), for messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Callable] = {}

    def register(self, *aliases: str) -> Callable[[T], T]:
        """Return a decorator that enters a class or function under its own name, and under earlier ones."""

        def enter(entry: T) -> T:
            for name in (entry.__name__, *aliases):
                if name in self._entries:
                    raise KeyError(f"{self.kind} '{name}' is registered twice")
                self._entries[name] = entry
            return entry

        return enter

    def get(self, name: str) -> Callable:
        """Return the entry called `name`.

        Raises:
            KeyError: no such entry; the message names the nearest one.
        """
        if name not in self._entries:
            raise KeyError(f"unknown {self.kind} '{name}'{nearest(name, self._entries)}")
        return self._entries[name]

    def build(self, opt: Mapping[str, Any], **extra: Any) -> Any:
        """Call the entry named by `opt['type']` with the other items of `opt`, which is left as it is.

        Raises:
            KeyError: `type` is missing or unknown.
        """
        if 'type' not in opt:
            raise KeyError(f"options of a {self.kind} need 'type'{nearest('', self._entries)}")
        kwargs = {key: value for key, value in opt.items() if key != 'type'}
        return self.get(opt['type'])(**kwargs, **extra)

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._entries)


ARCH_REGISTRY = Registry('network')
LOSS_REGISTRY = Registry('loss')
MODEL_REGISTRY = Registry('model')
DATASET_REGISTRY = Registry('dataset')
METRIC_REGISTRY = Registry('metric')
