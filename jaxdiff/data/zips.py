"""Members of a zip: their names as every tool would write them, and what they may declare."""

import pathlib
import zipfile

LARGEST_FILE = 1 << 28
LARGEST_TOTAL = 1 << 36


def plain(name: str) -> str:
    r"""Return a member's name as others write it: of some tools a zip has "cat\1.png", of others
    "./cat/1.png". A folder's ends with a slash.
    """
    parts = name.replace("\\", "/").split("/")
    joined = "/".join(part for part in parts if part not in ("", "."))
    return f"{joined}/" if joined and parts[-1] == "" else joined


def own_names(archive: zipfile.ZipFile, path: pathlib.Path) -> dict[str, str]:
    """Return the names of members as the archive has them, by their plain ones."""
    own: dict[str, str] = {}
    for name in archive.namelist():
        if (other := own.setdefault(plain(name), name)) != name:
            raise ValueError(f"{path} has two members with one name, {other!r} and {name!r}")
    return own


def check_members(archive: zipfile.ZipFile, path: pathlib.Path, largest: int, most: int) -> None:
    """Raise ValueError for unsafe names, and for declared sizes beyond ``largest`` or, in all,
    ``most``.
    """
    total = 0
    for info in archive.infolist():
        parts = info.filename.replace("\\", "/").split("/")
        if ".." in parts or parts[0] == "" or ":" in parts[0]:
            raise ValueError(f"{path}: refusing the unsafe member name {info.filename!r}")
        total += info.file_size
        if info.file_size > largest or total > most:
            raise ValueError(
                f"{path}: refusing {info.filename!r}, declared as {info.file_size} bytes "
                f"uncompressed, {total} with those before it; the limits are {largest} and "
                f"{most}"
            )
