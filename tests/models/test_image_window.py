"""The window of image losses: one place for all images, borders included."""

from __future__ import annotations

import torch

from basicsr.models.image_losses import random_window


def test_a_window_is_cut_from_all_images_at_one_place_and_reaches_the_borders():
    torch.manual_seed(0)
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing='ij')
    image = torch.stack([rows, columns])[None]
    corners = []
    for _ in range(200):
        first, second = random_window(48, image, image + 1)
        assert first.shape == (1, 2, 48, 48) and torch.equal(first + 1, second)
        corners.append(first[0, :, 0, 0])
    tops, lefts = torch.stack(corners).T
    for places in (tops, lefts):
        assert places.min() == 0 and places.max() == 16
        assert 0.2 < (places == 0).float().mean() < 0.5  # 13 of 41
        assert len(places.unique()) > 10


def test_without_a_side_images_stay_whole():
    image = torch.rand(1, 3, 8, 8)
    assert random_window(0, image)[0] is image
