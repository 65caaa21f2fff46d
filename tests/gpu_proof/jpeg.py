"""Photographs to decode where nothing draws or encodes pictures: a baseline JPEG encoder of NumPy alone.

Legend: h, w height and width; m minimum coded units; b blocks of 8 x 8.
"""

from __future__ import annotations

import struct

import numpy as np

_QUANTS = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
    ]
)  # fmt: skip
_ZIGZAG = np.array(sorted(range(64), key=lambda i: (s := i // 8 + i % 8, i // 8 if s % 2 else i % 8)))
_WAVES = np.cos((2 * np.arange(8)[None] + 1) * np.arange(8)[:, None] * np.pi / 16) / 2
_WAVES[0] /= np.sqrt(2)
_YCC = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
_DC = bytes.fromhex("00010501010101010100000000000000"), bytes(range(12))
_AC = (
    bytes.fromhex("0002010303020403050504040000017d"),
    bytes.fromhex(
        "01020300041105122131410613516107227114328191a1082342b1c11552d1f02433627282090a161718191a25262728292a343536373839"
        "3a434445464748494a535455565758595a636465666768696a737475767778797a838485868788898a92939495969798999aa2a3a4a5a6a7"
        "a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa"
    ),
)
"""Annex K's quantisers and code lengths of luminance; here for chrominance as well."""


def encode(pixels: np.ndarray, quality: int = 88, halved: bool = True) -> bytes:
    """A JPEG file of uint8 [h, w, 3]; `halved` stores chrominance at half the width and height (4:2:0)."""
    height, width = pixels.shape[:2]
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    quants = np.clip((_QUANTS * scale + 50) // 100, 1, 255).astype(int)
    unit = 16 if halved else 8
    padded = np.pad(pixels, [(0, -height % unit), (0, -width % unit), (0, 0)], mode="edge")
    planes = np.moveaxis(padded @ _YCC.T - [128, 0, 0], 2, 0)
    units = [_units(planes[0], quants, unit // 8)]
    for plane in planes[1:]:
        small = plane.reshape(len(plane) // 2, 2, -1, 2).mean(axis=(1, 3)) if halved else plane
        units.append(_units(small, quants, 1))
    for coefficients in units:
        coefficients.reshape(-1, 64)[1:, 0] -= coefficients.reshape(-1, 64)[:-1, 0].copy()
    data = _entropy_coded(np.concatenate(units, axis=1).reshape(-1, 64))
    sampling = [0x22 if halved else 0x11, 0x11, 0x11]
    frame = struct.pack(">BHHB", 8, height, width, 3) + b"".join(bytes([1 + i, sampling[i], 0]) for i in range(3))
    parts = [
        (0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"), (0xDB, b"\0" + bytes(quants.ravel()[_ZIGZAG].tolist())), (0xC0, frame),
        (0xC4, b"\x00" + b"".join(_DC)), (0xC4, b"\x10" + b"".join(_AC)),
        (0xDA, b"\3\1\0\2\0\3\0\0\x3f\0"),
    ]  # fmt: skip
    head = b"".join(struct.pack(">BBH", 0xFF, kind, len(body) + 2) + body for kind, body in parts)
    return b"\xff\xd8" + head + data + b"\xff\xd9"


def _units(plane: np.ndarray, quants: np.ndarray, side: int) -> np.ndarray:
    """[m, side ** 2, 64] quantised coefficients in the zigzag's order, of units of `side` x `side` blocks."""
    rows, columns = plane.shape[0] // 8 // side, plane.shape[1] // 8 // side
    blocks = plane.reshape(rows, side, 8, columns, side, 8).transpose(0, 3, 1, 4, 2, 5)
    waves: np.ndarray = np.rint(_WAVES @ blocks @ _WAVES.T / quants).astype(np.int64)
    return np.asarray(waves.reshape(rows * columns, side**2, 64)[..., _ZIGZAG])


def _codes(table: tuple[bytes, bytes]) -> tuple[np.ndarray, np.ndarray]:
    """int64 [256] each: code and its length in bits, by symbol."""
    codes, lengths, code, symbols = np.zeros(256, np.int64), np.zeros(256, np.int64), 0, iter(table[1])
    for length, count in enumerate(table[0], 1):
        for _ in range(count):
            symbol = next(symbols)
            codes[symbol], lengths[symbol], code = code, length, code + 1
        code <<= 1
    return codes, lengths


def _entropy_coded(blocks: np.ndarray) -> bytes:
    """The scan's bytes of int64 [b, 64] whose first are differences."""
    block, place = np.nonzero(blocks[:, 1:])
    values = blocks[block, place + 1]
    first = np.diff(block, prepend=-1) != 0
    runs = place - np.where(first, -1, np.roll(place, 1)) - 1
    last = np.zeros(len(blocks), np.int64)
    last[block] = place + 1
    ends = np.flatnonzero(last < 63)
    zeros = np.repeat(np.arange(len(runs)), runs // 16)  # an F0 stands for sixteen zeros
    pieces = [
        (np.arange(len(blocks)) * 256, *_pieces(_DC, blocks[:, 0], 0)),
        (block * 256 + 2 + 2 * place, *_pieces(_AC, values, runs % 16)),
        (block[zeros] * 256 + 1 + 2 * place[zeros], *_pieces(_AC, np.zeros(len(zeros), np.int64), 15)),
        (ends * 256 + 255, *_pieces(_AC, np.zeros(len(ends), np.int64), 0)),
    ]
    order = np.argsort(np.concatenate([piece[0] for piece in pieces]), kind="stable")
    bits, lengths = (np.concatenate([piece[i] for piece in pieces])[order] for i in (1, 2))
    starts = np.cumsum(lengths) - lengths
    within = np.arange(lengths.sum()) - np.repeat(starts, lengths)
    stream = np.repeat(bits, lengths) >> (np.repeat(lengths, lengths) - 1 - within) & 1
    stream = np.append(stream, np.ones(-len(stream) % 8, np.int64))
    return np.packbits(stream.astype(np.uint8)).tobytes().replace(b"\xff", b"\xff\0")


def _pieces(table: tuple[bytes, bytes], values: np.ndarray, runs: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """Code and value of each as one number, and its length in bits."""
    codes, lengths = _codes(table)
    sizes = np.ceil(np.log2(np.abs(values) + 1)).astype(np.int64)
    symbols = sizes + 16 * runs
    tail = np.where(values < 0, values + (1 << sizes) - 1, values)
    return codes[symbols] << sizes | tail, lengths[symbols] + sizes


def drawn(width: int, height: int, seed: int) -> np.ndarray:
    """uint8 [height, width, 3]: soft shapes, sharp edges and grain, with about the bytes that a photograph takes."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    pixels = np.zeros((height, width, 3), np.float32)
    for _ in range(6):
        angle, period = draw.uniform(0, np.pi), draw.uniform(6, max(width, 8))
        wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * 6.28 / period)
        pixels += wave[..., None] * draw.uniform(-40, 40, 3).astype(np.float32)
    pixels += 128
    for _ in range(5):
        at = np.hypot(x - draw.integers(width), y - draw.integers(height)) < draw.integers(2, max(width // 5, 3))
        pixels[at] = draw.integers(0, 256, 3)
    return (pixels + draw.normal(0, 5, (height, width, 1))).clip(0, 255).astype(np.uint8)
