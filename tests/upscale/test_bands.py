"""A picture that comes in bands is resized as if it came as a whole."""

import pytest
import torch
from tests.tolerances import assert_close

from nlsr.images import resize
from nlsr.upscale.bands import BAND_BYTES, pieces, resize_bands


def cut(image, rows):
    return iter(image.split(rows, dim=1))


@pytest.mark.parametrize("rows", [1, 3, 7, 100])
@pytest.mark.parametrize(
    ("size", "new_size"),
    [
        ((40, 30), (25, 19)),
        ((40, 30), (40, 19)),
        ((40, 30), (13, 30)),
        ((31, 9), (100, 23)),
        ((5, 4), (1, 1)),
        ((1, 1), (3, 2)),
        ((3, 50), (2, 4)),
        ((12, 12), (12, 12)),
    ],
)
def test_bands_are_resized_as_the_whole(size, new_size, rows):
    image = torch.rand(4, *size)
    bands = resize_bands(cut(image, rows), height=size[0], width=size[1], new_height=new_size[0], new_width=new_size[1])
    assert_close(torch.cat(list(bands), dim=1), resize(image, size=new_size))


def test_rows_are_given_away_as_soon_as_all_they_need_has_come():
    taken = []

    def bands():
        for index in range(100):
            taken.append(index)
            yield torch.rand(3, 8, 20)

    resized = resize_bands(bands(), height=800, width=20, new_height=500, new_width=20)
    first = next(resized)
    assert taken == [0]
    assert first.shape == (3, 3, 20)  # row 3 draws on rows 2 to 8


def test_pieces_are_small_copies_of_a_multiple_of_rows():
    band = 3 * torch.rand(3, 60, 40_000) - 1
    parts = list(pieces(band, multiple=4))
    assert torch.cat(parts, dim=1).equal(band.clamp(0, 1))
    assert all(part.shape[1] % 4 == 0 for part in parts)
    assert all(part.untyped_storage().nbytes() <= BAND_BYTES for part in parts)
    assert len(parts) == 4
    assert list(pieces(band[:, :0])) == []
