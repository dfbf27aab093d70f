"""Files of face recognizers: by path, by name, or in an InsightFace pack."""

from __future__ import annotations

from pathlib import Path

from basicsr.recognition.onnx_network import onnx_signature, read_onnx
from basicsr.recognition.registry import RECOGNIZERS, pack_folder
from basicsr.utils.checkpoint import CheckpointError
from basicsr.utils.registry import nearest


def find_recognizer(weights: str | Path | None) -> Path:
    """Return the weights file that `weights` means.

    Args:
        weights: a file; a folder with the ONNX files of an InsightFace pack; the name of a pack that lies in
            `~/.insightface/models`; or a name of the table `RECOGNIZERS`.

    Raises:
        CheckpointError: there is none; the message says where to get it.
    """
    if weights is None:
        raise CheckpointError(
            "identity needs a face recognizer: give 'weights', a .pth, .safetensors or .onnx file, an InsightFace "
            f'pack, or one of {", ".join(RECOGNIZERS)}'
        )
    path, name = Path(weights).expanduser(), str(weights)
    if path.is_file():
        return path
    for folder in (path, pack_folder(name)):
        if folder.is_dir():
            return _recognizer_of_pack(folder)
    entry = RECOGNIZERS.get(name)
    if entry is None:
        namesake = next((entry for entry in RECOGNIZERS.values() if Path(entry.file).name == path.name), None)
        if namesake is None:
            raise CheckpointError(f'{weights}: no such file or recognizer{nearest(name, RECOGNIZERS)}')
        raise CheckpointError(f'{weights}: no such file; {namesake.where_to_get_it}')
    if not entry.place.is_file():
        raise CheckpointError(f'{entry.place}: no such file; {entry.where_to_get_it}')
    return entry.place


def _recognizer_of_pack(folder: Path) -> Path:
    """Return the recognition model among a pack's ONNX files, told by its graph."""
    signatures = {path: onnx_signature(read_onnx(path)) for path in sorted(folder.rglob('*.onnx'))}
    found = [path for path, signature in signatures.items() if signature.is_recognizer]
    if len(found) != 1:
        listing = '; '.join(f'{path.name}: {signature}' for path, signature in signatures.items())
        raise CheckpointError(
            f'{folder}: {len(found)} recognition models in it instead of one (one input (N,3,112,112), one output '
            f'(N,D)); give the path of a file. Found: {listing or "no .onnx file"}'
        )
    return found[0]
