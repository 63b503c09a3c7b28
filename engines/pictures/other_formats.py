"""Formats of pictures that are not read, known by their first bytes: a refusal says what the file is."""

from __future__ import annotations

from typing import Final

KINDS_READ: Final = "PNG, JPEG, BMP, TIFF, WebP"
_FIRST_BYTES: Final = (
    (b"GIF8", 0, "GIF"),
    (b"\0\0\0\x0cjP  \r\n", 0, "JPEG 2000"),
    (b"\xff\x4f\xff\x51", 0, "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", 0, "JPEG XL"),
    (b"\xff\x0a", 0, "JPEG XL"),
    (b"II\xbc", 0, "JPEG XR"),
    (b"\x8bJNG\r\n\x1a\n", 0, "JNG"),
    (b"\x8aMNG\r\n\x1a\n", 0, "MNG"),
    (b"%!PS", 0, "PostScript"),
    (b"\xc5\xd0\xd3\xc6", 0, "PostScript"),
    (b"%PDF", 0, "PDF"),
    (b"8BPS", 0, "Photoshop"),
    (b"gimp xcf", 0, "GIMP"),
    (b"v/1\x01", 0, "OpenEXR"),
    (b"#?RADIANCE", 0, "Radiance HDR"),
    (b"#?RGBE", 0, "Radiance HDR"),
    (b"SIMPLE  =", 0, "FITS"),
    (b"\x89HDF\r\n\x1a\n", 0, "HDF5"),
    (b"\x93NUMPY", 0, "NumPy"),
    (b"DICM", 128, "DICOM"),
    (b"qoif", 0, "QOI"),
    (b"FLIF", 0, "FLIF"),
    (b"BPG\xfb", 0, "BPG"),
    (b"DDS ", 0, "DDS"),
    (b"\x01\xda\x00", 0, "SGI"),
    (b"\x01\xda\x01", 0, "SGI"),
    (b"\x59\xa6\x6a\x95", 0, "Sun raster"),
    (b"\xd7\xcd\xc6\x9a", 0, "WMF"),
    (b"FUJIFILMCCD-RAW", 0, "Fuji raw"),
    (b"\0\0\1\0", 0, "icon"),
    (b"<svg", 0, "SVG"),
    (b"<?xml", 0, "XML (SVG?)"),
    (b"version https://git-lfs", 0, "a pointer of Git LFS"),
    *((b"P%d" % number + space, 0, "PNM") for number in range(1, 8) for space in (b"\n", b"\r", b" ", b"\t", b"#")),
    *((kind + b"\n", 0, "PFM") for kind in (b"PF", b"Pf")),
    *((b"\x0a" + bytes([version, 1]), 0, "PCX") for version in (0, 2, 3, 4, 5)),
)
_BRANDS: Final = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIC"),
    **dict.fromkeys((b"mif1", b"mif2", b"msf1", b"miaf"), "HEIF"),
    b"crx ": "Canon raw",
}
"""What an ISO base media file says of itself; others of them are videos."""
_TGA_FOOTER: Final = b"TRUEVISION-XFILE.\0"


def other_format(data: bytes | memoryview) -> str:
    """The name of a format that is not read; empty where the bytes are none of those."""
    for magic, offset, name in _FIRST_BYTES:
        if bytes(data[offset : offset + len(magic)]) == magic:
            return name
    if bytes(data[4:8]) == b"ftyp":
        return _BRANDS.get(bytes(data[8:12]), "")
    return "TGA" if bytes(data[-len(_TGA_FOOTER) :]) == _TGA_FOOTER else ""
