"""Small pictures for notebooks, as HTML: SVG curves and PNG strips in the text itself.

They need nothing but NumPy, so that showing a table or a trajectory is as quick as printing it; the
figures of :mod:`jaxdiff.report` are for reports. Colours follow the page's own (``currentColor``).
"""

import base64
import html
import struct
import zlib
from collections.abc import Sequence

import numpy as np

WIDE, HIGH, EDGE = 420, 130, 30
SCALE = 40  # the least height of an image in a strip, in pixels
SHOWN = (4, 10)  # samples and states of a trajectory


def paragraph(text: str) -> str:
    """Return a line of text as HTML."""
    return f"<div style='font-family:monospace'>{html.escape(text)}</div>"


def level_plot(levels: np.ndarray) -> str:
    """Return levels (n,) against their number as an SVG, on a logarithmic axis; a last level of 0,
    which has no place there, stands on the axis.
    """
    positive = levels[levels > 0]
    low, high = np.log10(positive.min()), np.log10(positive.max())
    span = max(high - low, 1e-9)
    x = EDGE + (WIDE - 2 * EDGE) * np.arange(len(levels)) / max(len(levels) - 1, 1)
    place = np.log10(np.maximum(levels, positive.min()))
    y = np.where(levels > 0, HIGH - EDGE - 12 - (HIGH - 2 * EDGE - 12) * (place - low) / span, 0.0)
    y = np.where(levels > 0, y, HIGH - EDGE)
    texts = [
        _text(x[0] + 6, y[0] - 6, f"{levels[0]:.3g}", "start"),
        _text(x[-1], y[-1] - 6, f"{levels[-1]:.3g}", "middle"),
        _text(WIDE / 2, HIGH - 8, f"noise levels, {len(levels) - 1} steps", "middle"),
    ]
    return _svg(_curve(x, y) + "".join(texts))


def path_plot(points: np.ndarray) -> str:
    """Return the paths of the first two numbers of samples, (states, samples, 2), as an SVG; of
    samples of one number, (states, samples, 1), that number against the state's.
    """
    if points.shape[2] == 1:
        number = np.broadcast_to(np.arange(len(points))[:, None, None], points.shape)
        points = np.concatenate([number, points], axis=2)
    low, high = points.min((0, 1)), points.max((0, 1))
    unit = (points[..., :2] - low[:2]) / np.maximum(high - low, 1e-9)[:2]
    x = EDGE + (WIDE - 2 * EDGE) * unit[..., 0]
    y = HIGH - EDGE - (HIGH - 2 * EDGE) * unit[..., 1]
    return _svg("".join(_curve(x[:, n], y[:, n]) for n in range(points.shape[1])))


def image_strip(images: np.ndarray) -> str:
    """Return images (rows, columns, height, width, 1 or 3) in [-1, 1] as one picture."""
    rows, columns, height, width, channels = images.shape
    scale = max(1, round(SCALE / height))
    pixels = np.round(127.5 * (np.clip(np.nan_to_num(images), -1, 1) + 1)).astype(np.uint8)
    pixels = pixels.repeat(scale, axis=2).repeat(scale, axis=3)
    sheet = np.full((rows, columns, scale * height + 2, scale * width + 2, channels), 128, np.uint8)
    sheet[:, :, 1:-1, 1:-1] = pixels
    sheet = sheet.transpose(0, 2, 1, 3, 4).reshape(rows * sheet.shape[2], -1, channels)
    return f"<img src='data:image/png;base64,{base64.b64encode(png(sheet)).decode()}'>"


def png(pixels: np.ndarray) -> bytes:
    """Return pixels (height, width, 1 or 3), uint8, as the bytes of a PNG file."""
    height, width, channels = pixels.shape
    rows = pixels.reshape(height, -1)
    body = np.concatenate([np.zeros((height, 1), np.uint8), rows], axis=1).tobytes()
    kind = {1: 0, 3: 2}[channels]
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(body)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in parts)


def chosen(count: int, most: int) -> Sequence[int]:
    """Return which of ``count`` states are shown: the first, the last and some between them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)).tolist()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _curve(x: np.ndarray, y: np.ndarray) -> str:
    places = [f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    dots = "".join("<circle cx='{}' cy='{}' r='2.5'/>".format(*p.split(",")) for p in places)
    line = f"<polyline points='{' '.join(places)}' fill='none' stroke='currentColor'/>"
    return f"<g fill='currentColor' opacity='0.8'>{line}{dots}</g>"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    style = f"text-anchor='{anchor}' font-size='11' fill='currentColor'"
    return f"<text x='{x:.1f}' y='{y:.1f}' {style}>{html.escape(text)}</text>"


def _svg(inner: str) -> str:
    return f"<svg width='{WIDE}' height='{HIGH}' viewBox='0 0 {WIDE} {HIGH}'>{inner}</svg>"
