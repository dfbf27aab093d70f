"""Types of faces, and where an `ImageRestorer` keeps its settings."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from small_faces import ASTRONAUT_LANDMARKS, Found, Unchanged, blurred_portrait

from basicsr.faces.face import Face
from basicsr.faces.geometry import crop_side
from basicsr.inference import ImageRestorer
from basicsr.inference.canvas import Canvas
from basicsr.inference.face_pipeline import FacePipeline
from basicsr.inference.found_face import FoundFace, RecognizedFace, RestoredFace, restored_of

WHITE = np.full((64, 64, 3), 255, np.uint8)
FACE = Face(np.zeros(4), 1.0, ASTRONAUT_LANDMARKS)


def test_each_step_adds_what_it_knows_and_keeps_what_was_found():
    found = FoundFace(WHITE, FACE, 'restored', np.eye(2, 3), grey=True, reason='none')
    recognized = found.recognized(None, torch.ones(3))
    restored = recognized.with_restoration(WHITE // 2, 0.5)
    assert [type(face) for face in (found, recognized, restored)] == [FoundFace, RecognizedFace, RestoredFace]
    for face in (recognized, restored):
        assert all(getattr(face, entry.name) is getattr(found, entry.name) for entry in fields(FoundFace))
        assert face.size == crop_side(ASTRONAUT_LANDMARKS)
    assert not hasattr(found, 'restored') and not hasattr(restored, 'embedding')
    assert restored_of([found, restored, recognized]) == [restored]


def test_pipeline_and_canvas_do_together_what_the_restorer_does_and_each_alone_its_part():
    image, settings = blurred_portrait(), {'upscale': 1.5, 'draw_box': True, 'grain': False}
    network, detector = Unchanged(64), Found(FACE)
    whole = ImageRestorer(network, detector, **settings).restore(image)
    pipeline, canvas = FacePipeline(network, detector), Canvas(64, **settings)
    faces = pipeline.restore_faces(pipeline.cut(image))
    assert np.array_equal(canvas.finish(image, faces), whole.image)
    assert np.array_equal(faces[0].restored, whole.faces[0].restored)


@pytest.mark.parametrize('name', ['w', 'upscale', 'draw_box', 'guide'])
def test_a_setting_that_would_have_no_effect_is_refused(name):
    images = ImageRestorer(Unchanged(64))
    with pytest.raises(AttributeError, match=name):
        setattr(images, name, 0.5)


def test_a_picture_of_no_face_is_enlarged_by_the_canvas_alone():
    canvas = Canvas(64, upscale=2)
    assert canvas.finish(WHITE, []).shape == (128, 128, 3) and canvas.largest_factor == 2
