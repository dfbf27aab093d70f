"""Imports go one way: none in a circle, and none but those that the table of CONTRIBUTING.md allows."""

from __future__ import annotations

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODULES = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts).removesuffix('.__init__'): path
    for path in (ROOT / 'basicsr').rglob('*.py')
}
UPWARDS = {('basicsr.inference.runner', 'basicsr.video.video_restorer')}
"""Imported when a clip comes, since it needs PyAV: a `Runner` restores whatever file it is given."""


def imports(path: Path) -> set[str]:
    """Modules of ours that one imports anywhere, in functions and for types, too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = [f'{node.module}.{name.name}' for name in node.names]
            found |= {name if name in MODULES else node.module for name in whole}
    return found & MODULES.keys()


GRAPH = {name: imports(path) for name, path in MODULES.items()}


def allowed() -> dict[str, set[str]]:
    """Packages that each may import, from the table of CONTRIBUTING.md."""
    text = (ROOT / 'CONTRIBUTING.md').read_text(encoding='utf-8')
    rows = dict(re.findall(r'^\| `basicsr/(\w+)` \|[^|]*\| ([^|]*) \|$', text, re.MULTILINE))
    everything = set(rows)
    return {
        name: everything if may.startswith('anything') else set(re.findall(r'\w+', may)) & everything
        for name, may in rows.items()
    }


def test_no_module_leads_back_to_itself():
    assert len(list(TopologicalSorter(GRAPH).static_order())) == len(MODULES)  # CycleError names a circle


def package_of(module: str) -> str | None:
    """Return the folder of `basicsr` that a module is in; None for `basicsr` itself and the published commands."""
    parts = MODULES[module].relative_to(ROOT / 'basicsr').parts
    return parts[0] if len(parts) > 1 else None


def test_every_package_imports_what_the_table_allows():
    table = allowed()
    assert table.keys() == {package_of(module) for module in MODULES} - {None}
    assert table['utils'] == set() and table['cli'] == table.keys()
    wrong = set()
    for module, others in GRAPH.items():
        own = package_of(module)
        wrong |= {(module, other) for other in others if own and package_of(other) not in {None, own, *table[own]}}
    assert wrong == UPWARDS
