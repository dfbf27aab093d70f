"""The errors of this project have one base class."""

from __future__ import annotations

import inspect
import pkgutil
from importlib import import_module

import basicsr
import experiments


def test_every_error_of_ours_can_be_caught_by_one_name() -> None:
    errors = set()
    for package in (basicsr, experiments):
        for module in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):
            members = vars(import_module(module.name)).values()
            errors |= {
                m for m in members if inspect.isclass(m) and issubclass(m, Exception) and m.__module__ == module.name
            }
    assert len(errors) > 15
    assert not {error for error in errors if not issubclass(error, basicsr.IDCodeFormerError)}
