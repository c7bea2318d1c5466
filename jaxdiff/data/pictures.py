"""An image file as an array of what a viewer shows: upright, on white, in sRGB, the first picture.

What a file is its content says, not its suffix. Whatever was turned, flattened, converted or
resized is counted and named in a tally.
"""

import contextlib
import functools
import io
import pathlib
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxdiff.data.tally import Tally

if TYPE_CHECKING:
    from PIL import Image

# Formats that say what they are. No EPS, for which PIL starts a program.
FORMATS = (
    "PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "JPEG2000", "PPM", "QOI", "SGI",
    "ICO", "DDS", "HEIF",
)  # fmt: skip
VAGUE = ("TGA", "PCX", "DIB")  # much else looks like them: only by suffix
WIDE = re.compile(r";16[BLN]")
Range = tuple[float, float]


@functools.lru_cache
def suffixes() -> dict[str, str]:
    """Return the suffixes of image files that the installed PIL can read, with their formats."""
    from PIL import Image

    known = Image.registered_extensions()  # MPO is opened as JPEG
    return {
        s: f for s, f in known.items() if f == "MPO" or f in Image.OPEN and f in FORMATS + VAGUE
    }


@functools.lru_cache
def _formats(own: str) -> tuple[str, ...]:
    """Return what the content of a file is tried as: all formats, and vague ones if its suffix says
    so.
    """
    from PIL import Image

    Image.init()
    return tuple(f for f in FORMATS if f in Image.OPEN) + (own,) * (own in VAGUE)


def decode(
    data: bytes,
    name: str,
    notes: Tally,
    *,
    size: int | None = None,
    grayscale: bool = False,
    values: Range | None = None,
) -> np.ndarray:
    """Return a picture (h, w, 1) or (h, w, 3), uint8.

    size: crop the centre and resize to this side. grayscale: one channel. values: what is black and
    what is white, 0 and 255 by default. Raises ValueError for more than can be read as intended.
    """
    with _opened(data, name, notes) as image:
        _check_pixels(image, size)
        image.verify()  # a PNG's checksums, which decoding does not look at
    with _opened(data, name, Tally()) as image:
        image = _upright(image, name, notes)
        grey = grayscale or image.mode in ("1", "L", "LA", "La") or image.mode[0] in "IF"
        if image.mode[0] in "IF":
            array = _deep(image, values)
        else:
            array = np.asarray(_flat(image, name, notes).convert("L" if grey else "RGB"))
            if values is not None:
                array = to_bytes(array, values)
    array = array.reshape(*array.shape[:2], -1)
    return array if size is None else fitted(array, size, name, notes)


@contextlib.contextmanager
def _opened(data: bytes, name: str, notes: Tally) -> Iterator["Image.Image"]:
    """Open an image; what PIL warns of is noted."""
    from PIL import Image, UnidentifiedImageError

    own = suffixes().get(pathlib.PurePosixPath(name).suffix.lower(), "PNG")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            with Image.open(io.BytesIO(data), formats=_formats(own)) as image:
                if image.format != own and (image.format, own) != ("MPO", "JPEG"):
                    notes.add(f"{image.format}, whatever the suffix says", name)
                yield image
        except UnidentifiedImageError:
            what = f"begins with {data[:8]!r}" if data else "is empty"
            raise ValueError(f"it is no image that PIL can read: it {what}") from None
        except Image.DecompressionBombError as error:
            raise ValueError(f"{error} Make it smaller first") from None
    for warning in caught:
        if not issubclass(warning.category, Image.DecompressionBombWarning):
            notes.add(f"of which PIL says {str(warning.message)!r:.60}", name)


def _check_pixels(image: "Image.Image", size: int | None) -> None:
    """Refuse more pixels than PIL thinks safe, unless they are made few; twice as many PIL does."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if size is None and limit and image.width * image.height > limit:
        raise ValueError(
            f"{image.width} x {image.height} pixels exceeds limit of {limit}: pass size= "
            "(--data.size) to make them fewer"
        )


def _upright(image: "Image.Image", name: str, notes: Tally) -> "Image.Image":
    """Return the first picture of a file, turned as its EXIF says."""
    from PIL import ImageOps

    if getattr(image, "n_frames", 1) > 1 and image.format != "MPO":
        notes.add("animated or of several pages, of which the first is read", name)
    if WIDE.search(str(getattr(image, "tile", ""))) and image.mode[0] not in "IF":
        notes.add("of 16 bits, read by the 8 high ones", name)
    if image.getexif().get(0x0112, 1) == 1:
        return image
    notes.add("turned as their EXIF says", name)
    return ImageOps.exif_transpose(image)


def _flat(image: "Image.Image", name: str, notes: Tally) -> "Image.Image":
    """On white where it is transparent, in sRGB."""
    from PIL import Image

    profile = image.info.get("icc_profile")
    if image.has_transparency_data:
        above = image.convert("RGBA")
        if above.getextrema()[3][0] < 255:  # type: ignore[index]
            notes.add("transparent, laid on white", name)
        image = Image.alpha_composite(Image.new("RGBA", above.size, "white"), above).convert("RGB")
    if profile and image.mode in ("RGB", "CMYK"):
        image = _in_srgb(image, profile, name, notes)
    return image


def _in_srgb(image: "Image.Image", profile: bytes, name: str, notes: Tally) -> "Image.Image":
    from PIL import ImageCms

    try:
        transform = _transform(profile, image.mode)
    except (ImageCms.PyCMSError, OSError, ImportError):
        notes.add("of a colour profile that cannot be read and is left out", name)
        return image
    if transform is None:
        return image
    notes.add("of another colour profile, converted to sRGB", name)
    return transform.apply(image)


@functools.lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> Any:
    """From a colour profile to sRGB; None if it is sRGB."""
    from PIL import ImageCms

    source = ImageCms.getOpenProfile(io.BytesIO(profile))
    if "srgb" in ImageCms.getProfileDescription(source).lower().replace(" ", ""):
        return None
    return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")  # type: ignore[arg-type]


def _deep(image: "Image.Image", values: Range | None) -> np.ndarray:
    """Return a grey image of more than 8 bits, which only a range makes readable."""
    array = np.asarray(image)
    if values is None:
        low, high = float(array.min()), float(array.max())
        black, white = usual_range(low, high)
        raise ValueError(
            f"mode {image.mode} has more than 8 bits per channel, here {low:g}..{high:g}; say "
            f"which value is black and which white: --data.range {black:g} {white:g}"
        )
    return to_bytes(array, values)


def usual_range(low: float, high: float) -> Range:
    """Return the values that black and white usually have where images go from ``low`` to
    ``high``: those of a depth of 8, 10, 12 or 16 bits that they fill by half, or their own.
    """
    for black, white in ((0, 255), (-128, 127), (0, 1023), (0, 4095), (0, 65535)):
        if black <= low and (white - black) / 2 < high - low and high <= white:
            return black, white
    return min(low, 0), max(high, 1)


def to_bytes(array: np.ndarray, values: Range) -> np.ndarray:
    """Values from black to white as the nearest of 0..255. ValueError for values outside."""
    low, high = values
    if not ((array >= low) & (array <= high)).all():  # NaN neither
        raise ValueError(
            f"its values {array.min()}..{array.max()} are not in the range {low:g}..{high:g}"
        )
    return np.rint((array.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


def fitted(array: np.ndarray, size: int, name: str, notes: Tally) -> np.ndarray:
    """Return the centre of an image (h, w, c), uint8 or float32 in [-1, 1], resized to size x size,
    channel by channel: no channel is taken for transparency.
    """
    from PIL import Image, ImageOps

    if array.shape[:2] == (size, size):
        return array
    h, w = array.shape[:2]
    how = "enlarged" if min(h, w) < size else "resized"
    notes.add(f"{'cropped and ' * (h != w)}{how} to {size} x {size}", name)
    channels = (np.ascontiguousarray(array[..., i]) for i in range(array.shape[2]))
    made = [
        np.asarray(ImageOps.fit(Image.fromarray(c), (size, size), Image.Resampling.LANCZOS))
        for c in channels
    ]
    resized = np.stack(made, axis=-1)
    return resized if array.dtype == np.uint8 else np.clip(resized, -1, 1)
