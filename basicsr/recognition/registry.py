"""Face recognizers that identity losses and scores can use: what each expects, and where its weights come from.

Entries with a sum were run by this project's authors on real faces (`id-codeformer recognizer check`). The others state
what their publishers and usual users do with them; check a file with the script before relying on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from basicsr.utils.folders import packaged, weights_folder
from basicsr.utils.templates import ARCFACE_112, DLIB_150, ffhq_template

RESEARCH = 'non-commercial research'
ARCFACE_TORCH = 'https://github.com/deepinsight/insightface/tree/master/recognition/arcface_torch'
SHIPPED = 'dlib_resnet'
PACKS = 'https://github.com/deepinsight/insightface/releases/download/model-zoo'


def pack_folder(name: str) -> Path:
    """Return the folder of an InsightFace pack."""
    return Path.home() / '.insightface/models' / name


@dataclass(frozen=True)
class Recognizer:
    """A recognizer: pixels of 0 to 255 go in as (x - mean) / std, in the order of `channels`.

    Attributes:
        name: what `weights` may say instead of a path.
        network: what the file holds; `ONNX` for a graph.
        training_set: of the weights, as far as it is known.
        licence: of the weights.
        url: the file, or the page that offers it; None where no address is known.
        file: its usual place, in the weights folder, or for a pack the file in `~/.insightface/models/<name>`.
        sha256: its sum, where it could be verified; the entry is then for this very file.
        size: height and width of the crop.
        channels: `rgb`, `bgr` or `grey`.
        mean: of 0 to 255.
        std: of 0 to 255.
        embedding: numbers in an embedding.
        alignment: of the crop: `arcface`, `dlib`, or `ffhq`, which is the whole aligned picture.
        pack: the file belongs to an InsightFace pack of this name.
        shipped: the file comes with this package.
        threshold: cosine from which a damaged face is taken for a person (experiments/recognition).
        strangers: mean cosine of the faces of two people.
    """

    name: str
    network: str
    training_set: str
    licence: str
    url: str | None
    file: str
    sha256: str | None = None
    size: tuple[int, int] = (112, 112)
    channels: str = 'rgb'
    mean: float = 127.5
    std: float = 127.5
    embedding: int = 512
    alignment: str = 'arcface'
    pack: bool = False
    shipped: bool = False
    threshold: float = 0.3
    strangers: float = 0.0

    @property
    def template(self) -> np.ndarray:
        """Landmarks of the crop, (5,2) pixels; crops less wide than high lose columns on both sides alike."""
        height, width = self.size
        if self.alignment == 'ffhq':
            return ffhq_template(height)
        if self.alignment == 'dlib':
            return DLIB_150
        return (ARCFACE_112 + 0.5) * (height / 112) - 0.5 - [(height - width) / 2, 0]

    @property
    def place(self) -> Path:
        """Path of its file."""
        if self.pack:
            return pack_folder(self.name) / self.file
        place = weights_folder() / self.file
        return packaged('weights') / self.file if self.shipped and not place.is_file() else place

    @property
    def where_to_get_it(self) -> str:
        """Remedy for a missing file, for messages."""
        if self.pack:
            return f'fetch {self.url} and unpack it into {self.place.parent}'
        if self.shipped:
            return f'it comes with this package, and {self.url} has the original; install the package anew'
        if self.url is None:
            return 'no public address of it is known; give its path'
        if Path(self.url).name == Path(self.file).name:
            return f"'id-codeformer download arcface' fetches it from {self.url}"
        return f'{self.url} offers it; save it as {self.place}, or give its path'


def _iresnet(depth: int) -> Recognizer:
    return Recognizer(
        name=f'arcface_r{depth}',
        network=f'IResNet-{depth}',
        training_set='MS1MV3 or Glint360K, as the file says',
        licence=f'MIT (code); {RESEARCH} (weights)',
        url=ARCFACE_TORCH,
        file=f'arcface/arcface_r{depth}.pth',
    )


def _pack(name: str, file: str, network: str, training_set: str) -> Recognizer:
    return Recognizer(
        name=name,
        network=f'ONNX ({network})',
        training_set=training_set,
        licence=RESEARCH,
        url=f'{PACKS}/{name}.zip',
        file=file,
        pack=True,
    )


RECOGNIZERS = {
    entry.name: entry
    for entry in (
        *(_iresnet(depth) for depth in (18, 34, 50, 100)),
        Recognizer(
            name='arcface_ir_se50',
            network='IR-SE-50',
            training_set='MS1M, refined',
            licence='MIT',
            url='https://github.com/xinntao/facexlib/releases/download/v0.1.0/recognition_arcface_ir_se50.pth',
            file='arcface/recognition_arcface_ir_se50.pth',
            sha256='a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28',
        ),
        Recognizer(
            name='mobilefacenet_112',
            network='MobileFaceNet (InsightFace_Pytorch)',
            training_set='MS1M, refined',
            licence='MIT',
            url='https://github.com/TreB1eN/InsightFace_Pytorch',
            file='arcface/mobilefacenet_112.pth',
        ),
        Recognizer(
            name='mobilefacenet_casia128',
            network='MobileFaceNet (MobileFaceNet_Pytorch)',
            training_set='CASIA-WebFace',
            licence=RESEARCH,
            url='https://github.com/Xiaoccer/MobileFaceNet_Pytorch',
            file='arcface/mobilefacenet_casia128.pth',
            sha256='7fce3eb623d915611a97cdd7fdb9f72df76c54d07628eb7753720564ee13d691',
            size=(112, 96),
            std=128.0,
            embedding=128,
        ),
        Recognizer(
            name='adaface_ir50',
            network='AdaFaceIR',
            training_set='MS1MV2',
            licence=f'MIT (code); {RESEARCH} (training set)',
            url='https://huggingface.co/minchul/cvlface_adaface_ir50_ms1mv2/resolve/main/pretrained_model/model.pt',
            file='arcface/adaface_ir50_ms1mv2/model.pt',
            channels='bgr',
        ),
        Recognizer(
            name='arcface_resnet18_grey',
            network='ResNetArcFace',
            training_set='CASIA-WebFace',
            licence='Apache-2.0',
            url='https://github.com/TencentARC/GFPGAN/releases/download/v0.1.0/arcface_resnet18.pth',
            file='arcface/arcface_resnet18.pth',
            size=(128, 128),
            channels='grey',
            alignment='ffhq',
        ),
        Recognizer(
            name='arcface_mbf512',
            network='ONNX (MobileFaceNet)',
            training_set='not stated',
            licence='MIT',
            url=None,
            file='arcface/arcface_mbf512.onnx',
            sha256='87aacdfe57510db2af90c0251df680e8eec88f122ee94712121d09bcaaaf3581',
            channels='bgr',
        ),
        Recognizer(
            name=SHIPPED,
            network='DlibResNet',
            training_set='FaceScrub, VGG-Face and pictures from the web: 3 million faces of 7,485 people',
            licence='CC0 1.0 (public domain)',
            url='https://github.com/davisking/dlib-models',
            file='recognition/dlib_resnet.safetensors',
            sha256='9e27a16aa6a1438c96d803aa6a73dac8583cd263ecbd23dfb1a160ee9186c78b',
            size=(150, 150),
            mean=0.0,
            std=1.0,
            embedding=128,
            alignment='dlib',
            shipped=True,
            threshold=0.5,
            strangers=0.12,
        ),
        _pack('buffalo_l', 'w600k_r50.onnx', 'IResNet-50', 'WebFace600K'),
        _pack('buffalo_m', 'w600k_r50.onnx', 'IResNet-50', 'WebFace600K'),
        _pack('buffalo_s', 'w600k_mbf.onnx', 'MobileFaceNet', 'WebFace600K'),
        _pack('buffalo_sc', 'w600k_mbf.onnx', 'MobileFaceNet', 'WebFace600K'),
        _pack('antelopev2', 'glintr100.onnx', 'IResNet-100', 'Glint360K'),
    )
}
