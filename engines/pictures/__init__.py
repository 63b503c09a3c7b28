"""The one way from an image file to pixels, for calibration, evaluation, recording, replay and the cameras alike."""

from engines.pictures.decode import Picture, decode, quiet_opencv, read_header_of, read_picture, to_rgb
from engines.pictures.headers import MAX_PIXELS, SUFFIXES, PictureError, PictureFormat, read_header, still_picture
from engines.pictures.levels import Levels, to_8_bits

__all__ = [
    "MAX_PIXELS",
    "SUFFIXES",
    "Levels",
    "Picture",
    "PictureError",
    "PictureFormat",
    "decode",
    "quiet_opencv",
    "read_header",
    "read_header_of",
    "read_picture",
    "still_picture",
    "to_8_bits",
    "to_rgb",
]
