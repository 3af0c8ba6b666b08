"""How messages speak to whom."""

import warnings

from nlsr.errors import NlsrWarning, ShapeError, in_command

MESSAGE = "`tile=256` or `max_pixels`, as `nlsr evaluate -o` has it"


def test_a_message_names_parameters_and_in_a_command_its_options():
    assert str(ShapeError(MESSAGE)) == MESSAGE
    with in_command():
        assert str(ShapeError(MESSAGE)) == "--tile 256 or --max-pixels, as `nlsr evaluate -o` has it"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            warnings.warn(MESSAGE, NlsrWarning, stacklevel=1)
        assert str(caught[0].message).startswith("--tile 256 or --max-pixels")
    assert str(ShapeError(MESSAGE)) == MESSAGE


def test_a_command_says_its_option_where_the_library_says_its_parameter(nlsr, tmp_path):
    (tmp_path / "a.png").touch()
    code, _, err = nlsr("upscale", tmp_path / "a.png", "--device", "nosuch")
    assert (code, err) == (2, "upscale: --device nosuch: not available here; try cpu\n")
