"""Kinds of damage, and kinds of clean pictures, by name."""

from __future__ import annotations

from experiments.face_damage.damages import (
    CODECS,
    Damage,
    any_blur,
    any_jpeg,
    as_it_is,
    bayer,
    blurred,
    chain,
    coarse_video,
    combing,
    hard_noise,
    mild_jpeg,
    mild_noise,
    mild_sharpening,
    noise,
    noise_jpeg,
    oversharpened,
    palette,
    pixels,
    resized_jpeg,
    scanlines,
    sharp_combing,
    video,
    webp,
)
from experiments.face_damage.overlays import (
    colour_noise,
    dust,
    laid,
    letters,
    mesh,
    salt,
    scratches,
    sticker,
    watermark,
)

KINDS: dict[str, Damage] = {
    'blur': any_blur,
    'JPEG 5-14': blurred(any_jpeg(5, 14)),
    'JPEG 15-24': blurred(any_jpeg(15, 24)),
    'JPEG 25-40': blurred(any_jpeg(25, 40)),
    'JPEG in another size': blurred(resized_jpeg),
    'few colours': blurred(palette),
    'combing': blurred(combing),
    'dust': blurred(dust),
    'scratches': blurred(scratches),
    'letters': blurred(letters),
    'sticker': blurred(sticker),
    'watermark': blurred(watermark),
    'noise': blurred(noise),
    'noise, JPEG': blurred(noise_jpeg),
    'large pixels': pixels,
    'oversharpened': oversharpened,
    'video': blurred(video),
    'chain of training': chain,
    'JPEG 3-14, not blurred': any_jpeg(3, 14),
    'combing, not blurred': sharp_combing,
    'noise 14-45, not blurred': hard_noise,
    'ordered dither': blurred(bayer),
    'WebP': blurred(webp(2, 24)),
    'dead pixels': blurred(salt),
    'mesh': blurred(mesh),
    'dark rows': blurred(scanlines),
}
OVERLAYS: dict[str, Damage] = {
    'dust, not blurred': laid(dust),
    'scratches, not blurred': laid(scratches),
    'letters, not blurred': laid(letters),
    'sticker, not blurred': laid(sticker),
    'watermark, not blurred': laid(watermark),
    'mesh, not blurred': laid(mesh),
    'dead pixels, not blurred': laid(salt),
    'colour noise, not blurred': colour_noise,
}
SHARP: dict[str, Damage] = {
    'JPEG 15-24, not blurred': any_jpeg(15, 24),
    'JPEG in another size, not blurred': resized_jpeg,
    'WebP 2-15, not blurred': webp(2, 15),
    'few colours, not blurred': palette,
    'ordered dither, not blurred': bayer,
    'video, not blurred': coarse_video(CODECS),
    'dark rows, not blurred': scanlines,
}


CLEAN: dict[str, Damage] = {
    'as it is': as_it_is,
    'noise 0.5-4': mild_noise,
    'JPEG 75-96': mild_jpeg,
    'WebP 80-95': webp(80, 95),
    'sharpened': mild_sharpening,
}
BESIDE = 'overlay beside the face'
