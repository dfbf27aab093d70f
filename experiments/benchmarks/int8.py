"""Measure the embedded model in int8 on ONNX Runtime: time, distance in levels, and likeness of the restored faces.

    python -m experiments.benchmarks.int8 --faces faces/train --judged faces/val --recognizer arcface.onnx casia.pth \
        --out results/int8

Static quantization (QDQ, a scale for each channel of the weights) of convolutions and matrix products, calibrated on
faces of --faces that are damaged as in training; `PLANS` says what stays in float. On processors without VNNI weights
have seven bits, as the sums of 8-bit products would overflow there.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from basicsr.cli.arguments import ArgumentParser
from basicsr.cli.data_pairs import SEVERITIES, make_pair
from basicsr.inference.face_restorer import SMALL, FaceRestorer, load_restorer
from basicsr.inference.onnx_export import PLAIN, feed
from basicsr.inference.onnx_network import onnx_file
from basicsr.recognition.choose import embed_faces
from basicsr.recognition.embedder import FaceEmbedder
from basicsr.utils.files import write_text
from basicsr.utils.folders import packaged
from basicsr.utils.image import scan_images, to_tensor

KINDS = ('Conv', 'ConvTranspose', 'Gemm', 'MatMul')
LAST = ('generator.blocks.1', 'generator.detail', 'idx_pred_layer')  # blocks from the tenth on, head, code prediction
PLANS: dict[str, tuple[str, ...]] = {
    'all of it': (),
    'last blocks and code head in float': LAST,
    'generator and fusion only': ('encoder', 'ft_layers', 'feat_emb', 'idx_pred_layer', 'identity'),
}
"""Plan to the names of parameters whose layers stay in float."""
W = 0.5


class Faces(CalibrationDataReader):
    """Faces for the calibration, one at a time.

    Args:
        faces: RGB uint8 (S,S,3), of the size of the network's input.
    """

    def __init__(self, faces: Sequence[np.ndarray]) -> None:
        self.left = iter([feed(PLAIN, to_tensor(face)[None], W) for face in faces])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the inputs of the next face, None after the last."""
        return next(self.left, None)


def damaged(folder: Path, count: int, side: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return damaged faces and their originals, RGB uint8 (side,side,3); mild and severe damage in turns."""
    pairs = [
        make_pair(path, path.stem, ranges.scaled(side), side, 0)
        for index, path in enumerate(scan_images(folder)[:count])
        for ranges in [list(SEVERITIES.values())[index % 2]]
    ]
    return [pair['lq'] for pair in pairs], [pair['gt'] for pair in pairs]


def kept_in_float(model: onnx.ModelProto, prefixes: Sequence[str]) -> list[str]:
    """Return the nodes whose weights have these names, and products of two activations, which have no weight."""
    constants = {one.name for one in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.op_type in KINDS]
    names = {node.name: [name for name in node.input if name in constants] for node in nodes}
    return [
        node
        for node, weights in names.items()
        if not weights or any(prefix in name for name in weights for prefix in prefixes)
    ]


def quantize(source: Path, target: Path, faces: Sequence[np.ndarray], prefixes: Sequence[str]) -> int:
    """Write an int8 model; return how many of its layers stay in float."""
    left = kept_in_float(onnx.load(source), prefixes)
    quantize_static(
        source,
        target,
        Faces(faces),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(KINDS),
        nodes_to_exclude=left,
        per_channel=True,
        reduce_range=not torch.cpu._is_vnni_supported(),
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return len(left)


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Open a model on one thread of the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])


def cpu_seconds(sessions: Mapping[str, onnxruntime.InferenceSession], side: int, turns: int) -> dict[str, float]:
    """Return the median CPU seconds of a face in each session, run in turns."""
    inputs = feed(PLAIN, torch.rand(1, 3, side, side) * 2 - 1, W)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for _ in range(turns + 1):
        for name, session in sessions.items():
            begin = time.process_time()
            session.run(None, inputs)
            times[name].append(time.process_time() - begin)
    return {name: median(one[1:]) for name, one in times.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = ArgumentParser(description='Measure the embedded model in int8.')
    parser.add_argument('--faces', type=Path, required=True, help='clean faces for the calibration')
    parser.add_argument('--judged', type=Path, required=True, help='clean faces to judge by')
    parser.add_argument('--recognizer', nargs='*', default=[], help='that measure the likeness')
    parser.add_argument('--out', type=Path, required=True, help='folder for the models and int8.json')
    parser.add_argument('--calibrate', type=int, default=32, help='faces (default: 32)')
    parser.add_argument('--count', type=int, default=24, help='judged faces (default: 24)')
    parser.add_argument('--turns', type=int, default=10, help='of the timing (default: 10)')
    parser.add_argument('--model', default=str(packaged('weights') / SMALL), help='checkpoint (default: embedded)')
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    restorer = FaceRestorer(args.model, 'cpu', backend='onnx')
    side, path = restorer.input_size, Path(args.model)
    source = args.out / 'fp32.onnx'
    quant_pre_process(onnx_file(partial(load_restorer, path), path, True), source, skip_symbolic_shape=True)
    calibration, _ = damaged(args.faces, args.calibrate, side)
    inputs, originals = damaged(args.judged, args.count, side)
    sessions = {'fp32': open_session(source)}
    in_float = {'fp32': 0}
    for number, (plan, prefixes) in enumerate(PLANS.items()):
        target = args.out / f'int8_{number}.onnx'
        in_float[plan] = quantize(source, target, calibration, prefixes)
        sessions[plan] = open_session(target)
    seconds = cpu_seconds(sessions, side, args.turns)
    embedders = [FaceEmbedder(weights) for weights in args.recognizer]
    truths = [embed_faces(embedder, originals) for embedder in embedders]
    rows, exact, best = [], None, None
    for name, session in sessions.items():
        restorer.network._sessions[True] = session  # type: ignore[union-attr]
        results = restorer.restore(inputs, W, adain=True)
        likeness = [
            float((embed_faces(embedder, results) * truth).sum(1).mean())
            for embedder, truth in zip(embedders, truths, strict=True)
        ]
        exact, best = exact or results, best or likeness
        distance = np.mean([np.abs(one.astype(int) - other).mean() for one, other in zip(results, exact, strict=True)])
        rows.append(
            {
                'plan': name,
                'layers in float': in_float[name],
                'CPU ms a face': 1000 * seconds[name],
                'of fp32': seconds[name] / seconds['fp32'],
                'mean distance, levels': float(distance),
                **{f'IDS {embedder.name}': value for embedder, value in zip(embedders, likeness, strict=True)},
                **{
                    f'IDS {embedder.name} less fp32': value - was
                    for embedder, value, was in zip(embedders, likeness, best, strict=True)
                },
            }
        )
        print(json.dumps(rows[-1]), flush=True)
    write_text(args.out / 'int8.json', json.dumps(rows, indent=2) + '\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
