"""The length of a sound file according to its header, to notice truncated files.

libsndfile silently reads the part that is there of files in most formats.
"""

import math
import mmap
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


def fault(payload: bytes | mmap.mmap) -> str:
    """What is missing of a file whose length the header does not tell; empty if nothing is."""
    match payload[:4]:
        case b"OggS" if not _ended(payload):
            return "the last page of its stream is missing or cut"
        case b"RIFF" if rest := _beyond_data(payload):
            return f"{rest:,} bytes after the samples that its header declares"
    return ""


def _ended(payload: bytes | mmap.mmap) -> bool:
    """Whether the last page of an OGG file is whole and marked as the end of its stream.

    After 27 bytes, a page has a table of the lengths of its segments, and the segments.
    """
    last = payload.rfind(b"OggS\0")
    head = payload[last : last + 27]
    if len(head) < 27 or not head[5] & 4:
        return False
    table = payload[last + 27 : last + 27 + head[26]]
    return len(table) == head[26] and last + 27 + head[26] + sum(table) <= len(payload)


def _beyond_data(payload: bytes | mmap.mmap) -> int:
    """Bytes of a WAV file after the samples, within its declared length, that are no chunk."""
    whole, at = min(8 + int.from_bytes(payload[4:8], "little"), len(payload)), 12
    while at + 8 <= whole:
        name, size = payload[at : at + 4], int.from_bytes(payload[at + 4 : at + 8], "little")
        at += 8 + size
        if name == b"data":
            # some programs leave out the byte that makes an odd length even
            starts = {at, at + size % 2}
            return 0 if any(_is_chunk(payload, start, whole) for start in starts) else whole - at
        at += size % 2
    return 0


def _is_chunk(payload: bytes | mmap.mmap, at: int, whole: int) -> bool:
    """Whether a chunk starts here, or nothing but padding is left."""
    if at + 8 > whole:
        return True
    name, size = payload[at : at + 4], int.from_bytes(payload[at + 4 : at + 8], "little")
    named = all(0x20 <= letter < 0x7F for letter in name) or not any(name)
    return named and at + 8 + size <= len(payload)


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
