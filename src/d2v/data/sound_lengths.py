"""The length of a sound file according to its header, to notice truncated files.

libsndfile silently reads the part that is there of files in most formats.
"""

import math
import re

UNKNOWN = 0x7FFFF000  # a file written to a pipe declares this many bytes or more
# formats of libsndfile whose truncated files are refused, by it or by comparison with `declared`
WHOLE = {
    "WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "NIST", "SVX", "CAF", "FLAC", "OGG", "MP3", "HTK",
    "SDS",
}  # fmt: skip


def declared(payload: bytes) -> int | None:
    """Length in bytes of the file in `payload` according to its header; None if it gives none."""
    match payload[:4]:
        case b"RIFF":  # WAV
            found = _riff(payload)
        case b"FORM":  # AIFF, SVX
            found = 8 + int.from_bytes(payload[4:8], "big")
        case b".snd":  # AU: start and size of the samples
            found = sum(int.from_bytes(payload[at : at + 4], "big") for at in (4, 8))
        case b"caff":
            found = _caf(payload)
        case b"NIST":
            found = _nist(payload)
        case b"RF64" if payload[12:16] == b"ds64":
            return 8 + int.from_bytes(payload[20:28], "little")
        case b"riff":  # W64
            return int.from_bytes(payload[16:24], "little")
        case _:
            return None
    return found if found < UNKNOWN else None


def _riff(payload: bytes) -> int:
    whole, at = 8 + int.from_bytes(payload[4:8], "little"), 12
    while at + 8 <= len(payload):  # chunks: four letters, four bytes of length, content
        size = int.from_bytes(payload[at + 4 : at + 8], "little")
        if payload[at : at + 4] == b"data":
            return max(whole if whole < UNKNOWN else 0, at + 8 + size)
        at += 8 + size + size % 2
    return whole


def _caf(payload: bytes) -> int:
    at = 8
    while at + 12 <= len(payload):  # chunks: four letters, eight bytes of length, content
        size = int.from_bytes(payload[at + 4 : at + 12], "big")
        if payload[at : at + 4] == b"data":
            return at + 12 + size
        at += 12 + size
    return UNKNOWN


def _nist(payload: bytes) -> int:
    """Header of as many bytes as its second line says, and lines such as `sample_count -i 8000`."""
    start = payload[8:16].strip()
    if not start.isdigit():
        return UNKNOWN
    head = payload[: int(start)].decode("ascii", "replace")
    pattern = r"^(sample_count|sample_n_bytes|channel_count) -i (\d{1,15})$"
    sizes = dict(re.findall(pattern, head, re.MULTILINE))
    return int(start) + math.prod(map(int, sizes.values())) if len(sizes) == 3 else UNKNOWN
