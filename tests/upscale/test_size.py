"""Any size can be asked for, exactly to the pixel; a wrong wish gets one line."""

import math

import pytest

from nlsr.errors import UsageError
from nlsr.upscale.size import LARGEST_SCALE, Size, passes


@pytest.mark.parametrize(
    ("wish", "picture", "result"),
    [
        ({}, (7, 5), (28, 20)),
        ({"scale": 2.5}, (101, 40), (253, 100)),
        ({"scale": 1.33}, (100, 300), (133, 399)),
        ({"scale": 0.5}, (101, 1), (51, 1)),
        ({"scale": 0.1}, (3, 100), (1, 10)),
        ({"width": 3840}, (720, 1280), (2160, 3840)),
        ({"width": 1000}, (333, 777), (429, 1000)),
        ({"height": 5}, (10, 33), (5, 17)),
        ({"fit": "3840x2160"}, (721, 1280), (2160, 3835)),
        ({"fit": (3840, 2160)}, (720, 1281), (2158, 3840)),
        ({"fit": "100 × 100"}, (4000, 1000), (100, 25)),
    ],
)
def test_results_have_the_size_asked_for(wish, picture, result):
    assert Size(**wish).of(*picture, otherwise=4)[1:] == result


@pytest.mark.parametrize("box", [(100, 100), (3840, 2160), (31, 977), (1, 1)])
@pytest.mark.parametrize("picture", [(64, 63), (77, 500), (999, 1000), (9, 8)])
def test_a_box_is_touched_and_never_left(picture, box):
    if min(box[0] / picture[1], box[1] / picture[0]) > LARGEST_SCALE:
        pytest.skip("larger than the limit")
    _, height, width = Size(fit=box).of(*picture, otherwise=4)
    assert (height <= box[1], width <= box[0]) == (True, True)
    assert height == box[1] or width == box[0]


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"scale": 2, "width": 5}, "expected one of `scale`, `width`, `height` and `fit`, got `scale` and `width`"),
        ({"width": 5, "height": 5}, "got `width` and `height`"),
        ({"width": 5, "fit": "5x5"}, "got `width` and `fit`"),
        ({"scale": 0}, "`scale=0`: expected a number above 0 and up to 16"),
        ({"scale": -2}, "`scale=-2`"),
        ({"scale": math.nan}, "`scale=nan`"),
        ({"scale": math.inf}, "`scale=inf`"),
        ({"scale": 17}, "`scale=17`"),
        ({"scale": True}, "`scale=True`"),
        ({"scale": "big"}, "`scale=big`"),
        ({"width": 0}, "`width=0`: expected a positive whole number of pixels"),
        ({"height": -1}, "`height=-1`"),
        ({"height": 2.5}, "`height=2.5`"),
        ({"fit": "axb"}, "`fit=axb`: expected a box like 3840x2160"),
        ({"fit": "0x5"}, "`fit=0x5`"),
        ({"fit": "5"}, "`fit=5`"),
        ({"fit": (5, 0)}, r"`fit=\(5, 0\)`"),
        ({"fit": (5, 5, 5)}, "`fit="),
    ],
)
def test_a_wrong_size_gets_one_line(wish, message):
    with pytest.raises(UsageError, match=message) as error:
        Size(**wish)
    assert "\n" not in str(error.value)


def test_a_picture_that_would_become_too_large_is_refused():
    with pytest.raises(UsageError, match="a 10x10 picture would be enlarged 20 times, the limit is 16"):
        Size(width=200).of(10, 10, otherwise=4)


@pytest.mark.parametrize(
    ("scale", "available", "expected"),
    [
        (0.3, (2, 3, 4), ()),
        (1, (2, 3, 4), ()),
        (1.33, (2, 3, 4), (2,)),
        (2, (2, 3, 4), (2,)),
        (2.5, (2, 3, 4), (3,)),
        (3.5, (2, 3, 4), (4,)),
        (1.5, (4,), (4,)),
        (4.1, (2, 3, 4), (2, 3)),
        (8, (2, 3, 4), (2, 4)),
        (8, (4,), (4, 4)),
        (16, (2, 3, 4), (4, 4)),
        (16, (2,), (2, 2, 2, 2)),
        (5, (3,), (3, 3)),
    ],
)
def test_the_nearest_sufficient_scale_is_reached_in_the_fewest_passes(scale, available, expected):
    assert passes(scale, available) == expected
