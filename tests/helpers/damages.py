"""Random damage to a folder of files, for fuzzing tests of readers."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

Damage = Callable[[Random, Path], object]
BYTES = (b"\0", b"\xff", b"\xe9", b"\xc3(", b"\xed\xa0\x80", b"\t", b"\n", b"\r", b'"', b",", b" ")
NAMES = ("x", "x.txt", "x.tsv", "X.JPEG", ".hidden", "a b.flac", "é.png", "y" * 200 + ".JPEG",
         "n01440764", "tab\tname.flac", "line\nname.JPEG", "\udcff.flac", "\udce9.JPEG", "ü.txt",
         "0.json", "lists", "7", "1-7.trans.txt", "🙂", "-o", "*.flac")  # fmt: skip


def _payload(change: Callable[[Random, bytes], bytes]) -> Damage:
    def damage(random: Random, path: Path) -> None:
        payload = path.read_bytes()
        path.unlink()  # never through a link into another file
        path.write_bytes(change(random, payload))

    return damage


def _rows(change: Callable[[Random, list[bytes]], list[bytes]]) -> Damage:
    def changed(random: Random, payload: bytes) -> bytes:
        return b"".join(change(random, payload.splitlines(keepends=True) or [b""]))

    return _payload(changed)


def _row(change: Callable[[Random, bytes], bytes]) -> Damage:
    def changed(random: Random, rows: list[bytes]) -> list[bytes]:
        at = random.randrange(len(rows))
        return [*rows[:at], change(random, rows[at]), *rows[at + 1 :]]

    return _rows(changed)


def _cells(change: Callable[[Random, list[bytes]], list[bytes]]) -> Damage:
    def changed(random: Random, row: bytes) -> bytes:
        mark = b"\t" if b"\t" in row else b"," if b"," in row else b" "
        return mark.join(change(random, row.split(mark)))

    return _row(changed)


def _inserted(random: Random, payload: bytes) -> bytes:
    at = random.randrange(len(payload) + 1)
    return payload[:at] + random.choice(BYTES) * random.choice((1, 1, 1, 40)) + payload[at:]


def _flipped(random: Random, payload: bytes) -> bytes:
    found = bytearray(payload)
    for _ in range(min(len(found), random.choice((1, 4, 64)))):
        found[random.randrange(len(found))] = random.randrange(256)
    return bytes(found)


def _shuffled(random: Random, items: list[bytes]) -> list[bytes]:
    return random.sample(items, len(items))


def _doubled(random: Random, items: list[bytes]) -> list[bytes]:
    return [*items, random.choice(items)]


def _shortened(random: Random, items: list[bytes]) -> list[bytes]:
    at = random.randrange(len(items))
    return items[:at] + items[at + 1 :]


def _copied(random: Random, path: Path) -> None:
    """Somewhere else in the tree, under its own name, another one, or another suffix."""
    places = [path.parent, path.parent.parent, *path.parent.parent.glob("*/")]
    name = random.choice((path.name, random.choice(NAMES), path.stem + random.choice(SUFFIXES)))
    target = random.choice(places) / name
    if not os.path.lexists(target):
        shutil.copyfile(path, target)


def _renamed(random: Random, path: Path) -> None:
    target = path.with_name(random.choice((*NAMES, path.name.upper(), path.name + ".bak")))
    if not os.path.lexists(target):
        path.rename(target)


def _linked(random: Random, path: Path) -> None:
    """The file behind a link, a link to a folder above, to itself, or to nothing."""
    kind = random.randrange(4)
    if kind == 0:
        far = path.with_name("." + path.name[:100])
        path.rename(far)
        path.symlink_to(far.name)
        return
    path.unlink()
    path.symlink_to(("..", path.name, "/nowhere/at/all")[kind - 1])


def _folder_again(random: Random, path: Path) -> None:
    """A link to the file's folder, or a copy of it inside, beside or above."""
    target = random.choice((path.parent, *path.parents[1:3])) / random.choice(NAMES)
    if os.path.lexists(target):
        return
    if random.randrange(2):
        target.symlink_to(path.parent)
    elif path.parent not in target.parents:
        shutil.copytree(path.parent, target, symlinks=True)


def _as_folder(random: Random, path: Path) -> None:
    path.unlink()
    path.mkdir()
    if random.randrange(2):
        (path / path.name[:50]).touch()


SUFFIXES = (".flac", ".wav", ".JPEG", ".png", ".txt", ".tsv", ".json", ".mp3", "")
DAMAGES: tuple[Damage, ...] = (
    lambda _, path: path.unlink(),
    lambda _, path: shutil.rmtree(path.parent),
    _payload(lambda _, payload: b""),
    _payload(lambda random, payload: payload[: random.randrange(len(payload) + 1)]),
    _payload(lambda random, payload: payload[:-1]),
    _payload(_inserted),
    _payload(_flipped),
    _payload(lambda _, payload: b"\xef\xbb\xbf" + payload),
    _payload(lambda _, payload: payload.replace(b"\n", b"\r\n")),
    _payload(lambda _, payload: payload.decode("latin-1").encode("utf-16")),
    _payload(lambda random, payload: random.randbytes(random.randrange(200))),
    _rows(_shuffled),
    _rows(_doubled),
    _rows(_shortened),
    _row(lambda random, row: row.rstrip(b"\r\n") + b"A" * 200_000 + b"\n"),
    _row(_inserted),
    _row(lambda _, row: row.lower()),
    _row(lambda _, row: b"\n"),
    _cells(_shuffled),
    _cells(_doubled),
    _cells(_shortened),
    _cells(lambda random, cells: [random.choice(cells) for _ in cells]),
    _copied,
    _renamed,
    _linked,
    _folder_again,
    _as_folder,
)


def damage(random: Random, root: Path) -> str:
    """Damage one file of a tree; returns what was done, for the message of a failing test."""
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        return "nothing left"
    path, number = random.choice(files), random.randrange(len(DAMAGES))
    DAMAGES[number](random, path)
    return f"{number}: {path.relative_to(root)}"
