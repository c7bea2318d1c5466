"""Files of published models, fetched once: resumed after a cut, checked by hash, whole or absent.

They are kept in ``$JAXDIFF_CACHE``, or ``~/.cache/jaxdiff``: those of a card in a folder called so,
others under the hash of their address. What has arrived of a file lies beside it as ``NAME.part``
and is gone on with next time, if the server still has the same file. The hash of a file is kept
beside it as ``NAME.sha256``.
"""

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from jaxdiff.files import write_text
from jaxdiff.pretrained.cards import HUB, Card, File

BLOCK = 1 << 20
TRIES = 5  # of one file, each going on from where the one before it was cut off
ENDS = ("", "part", "sha256", "lock", "state")  # of the files that are kept beside one
PATIENCE = 30.0  # seconds without a byte
VALIDATOR = re.compile(
    r'"[\x21\x23-\x7e]{1,200}"|\w{3}, [\w :]{20,30} GMT'
)  # a strong ETag, a date


def cache_folder() -> Path:
    """Return where files are kept."""
    return Path(os.environ.get("JAXDIFF_CACHE") or Path.home() / ".cache" / "jaxdiff").absolute()


def fetch_card(card: Card, progress: bool = True) -> Path:
    """Return the path of a model's file, or of the folder of its files, fetching what is missing.

    Raises OSError, naming address and path, where a file cannot be fetched; ValueError for one that
    is not what the card says.
    """
    folder = cache_folder() / card.name
    targets = [place_of(folder, file.path) for file in card.files]
    for file, target in zip(card.files, targets, strict=True):
        fetch_file(file, target, progress)
    return targets[0] if len(targets) == 1 else folder


def fetch_url(url: str, progress: bool = True) -> Path:
    """Return the path of the file at an address, fetching it if it is missing.

    url: https or http; "...#sha256=HEX" says what hash the file must have. Raises as
    :func:`fetch_card` does.
    """
    address, _, fragment = url.partition("#")
    digest = fragment.removeprefix("sha256=") if fragment else None
    if digest is not None and not re.fullmatch("[0-9a-fA-F]{64}", digest):
        raise ValueError(f"{url}: after # comes sha256= and 64 hexadecimal digits")
    name = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name
    folder = cache_folder() / "urls" / hashlib.sha256(address.encode()).hexdigest()[:16]
    target = place_of(folder, name or "file")
    return fetch_file(File(target.name, address, digest and digest.lower()), target, progress)


def place_of(folder: Path, path: str) -> Path:
    """Return where a file of this path is kept within a folder of the cache.

    Raises ValueError for a path that leads elsewhere, by its name or by a symbolic link.
    """
    parts = path.split("/")
    plain = all(re.fullmatch(r"\w[\w.+ -]*", part) for part in parts)
    if not plain or len(path) > 200 or path.endswith(tuple(f".{end}" for end in ENDS[1:])):
        raise ValueError(f"{path!r:.80} is no name of a file of a model")
    target, cache = folder.joinpath(*parts), cache_folder()
    inside = target.parent.resolve().is_relative_to(cache.resolve())
    if not inside or any(beside(target, end).is_symlink() for end in ENDS):
        raise ValueError(f"{target} is, or is within, a symbolic link that leads out of {cache}")
    return target


def beside(target: Path, end: str) -> Path:
    """Return the path of what is kept beside a file."""
    return target.with_name(f"{target.name}.{end}") if end else target


def fetch_file(file: File, target: Path, progress: bool = True) -> Path:
    """Fetch a file to ``target`` unless it is there; return ``target``.

    Raises OSError, and ValueError if what is there or arrives has another size or hash than
    ``file`` says.
    """
    from filelock import FileLock

    if urllib.parse.urlsplit(file.url).scheme not in ("https", "http"):
        raise ValueError(f"{file.url!r:.200} is not an address with https or http")
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(beside(target, "lock")):
        if target.exists():
            _check_kept(file, target)
            return target
        digest = _arrived(file, target, progress)
        if file.sha256 is None and progress:
            print(f"{target.name}: sha256 {digest}", file=sys.stderr, flush=True)
        write_text(beside(target, "sha256"), f"{digest}\n")
        beside(target, "part").replace(target)
        beside(target, "state").unlink(missing_ok=True)
    return target


def _check_kept(file: File, target: Path) -> None:
    """Compare a file that is there with what it should be, by the hash that was kept of it."""
    note = beside(target, "sha256")
    size = target.stat().st_size
    if file.size is not None and size != file.size:
        raise ValueError(f"{target} has {size} bytes, not {file.size}: remove it to fetch it anew")
    if file.sha256 is None:
        return
    known = note.read_text().strip() if note.exists() else _digest(target).hexdigest()
    if known != file.sha256:
        raise ValueError(f"{target} has sha256 {known}, not {file.sha256}: remove it")
    if not note.exists():
        write_text(note, f"{known}\n")


def _arrived(file: File, target: Path, progress: bool) -> str:
    """Fetch all of a file into its part; return its hash."""
    part = beside(target, "part")
    try:
        if file.url.startswith(f"{HUB}/") and (found := _by_hub(file, target)):
            found.replace(part)
        else:
            _by_url(file, part, progress)
    except ValueError:
        part.unlink(missing_ok=True)
        raise
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise OSError(
            f"cannot fetch {file.url}: {reason}. Without a network, fetch it elsewhere and put it "
            f"at {target}"
        ) from error
    size, digest = part.stat().st_size, _digest(part).hexdigest()
    if file.size not in (None, size) or file.sha256 not in (None, digest):
        part.unlink()
        expected = file.sha256 or f"{file.size} bytes"
        raise ValueError(
            f"{file.url} is not the file that it should be: {size} bytes with sha256 {digest}, "
            f"expected {expected}. Nothing of it was kept"
        )
    return digest


def _by_hub(file: File, target: Path) -> Path | None:
    """Fetch by huggingface_hub, which knows its users' licences; None where that is missing."""
    try:
        from huggingface_hub import hf_hub_download  # type: ignore[import-not-found]
    except ImportError:
        return None
    repository, _, path = file.url.removeprefix(f"{HUB}/").partition("/resolve/main/")
    kept = hf_hub_download(repository, path, local_dir=target.parent / ".hub")
    return Path(kept)


def _by_url(file: File, part: Path, progress: bool) -> None:
    """Fetch into ``part``, going on where it ends; tried again after a cut that brought more."""
    for attempt in range(TRIES):
        before = part.stat().st_size if part.exists() else 0
        try:
            return _one_try(file, part, progress)
        except urllib.error.HTTPError as error:
            error.close()
            raise OSError(f"the server says {error.code} {error.reason}") from error
        except (OSError, EOFError, http.client.HTTPException) as error:
            there = part.stat().st_size if part.exists() else 0
            if there <= before or attempt == TRIES - 1:
                raise OSError(
                    f"{getattr(error, 'reason', None) or error} ({there} bytes are there, to go on "
                    "with)"
                ) from error


def _one_try(file: File, part: Path, progress: bool) -> None:
    from tqdm import tqdm

    state = beside(part.with_suffix(""), "state")
    known = state.read_text() if state.exists() else ""
    start = part.stat().st_size if part.exists() and (known or file.sha256) else 0
    headers = {"User-Agent": "jaxdiff", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": known} if known else {})
    with _answer(urllib.request.Request(file.url, headers=headers), start) as answer:
        start = _begins(answer, start)
        total = _total(answer, start)
        if file.size is not None and total not in (None, file.size):
            raise ValueError(f"{file.url} has {total} bytes, not {file.size}")
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - start > free:
            raise OSError(f"{total - start} bytes do not fit on the disk, which has {free} left")
        most = total if total is not None else file.size
        _keep_validator(answer, state)
        bar = tqdm(
            total=most, initial=start, unit="B", unit_scale=True, desc=part.stem,
            disable=not progress, leave=False,
        )  # fmt: skip
        with bar, open(part, "ab" if start else "wb") as out:
            while block := answer.read(BLOCK):
                if most is not None and out.tell() + len(block) > most:
                    raise ValueError(f"{file.url} sends more than the {most} bytes that it has")
                out.write(block)
                bar.update(len(block))
            if total is not None and out.tell() < total:
                raise EOFError(f"cut off after {out.tell()} of {total} bytes")


@contextlib.contextmanager
def _answer(request: urllib.request.Request, start: int) -> Iterator[Any]:
    """Open an address; where the requested part is not there, all of it."""
    try:
        answer = urllib.request.urlopen(request, timeout=PATIENCE)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        error.close()
        request.remove_header("Range")
        request.remove_header("If-range")
        answer = urllib.request.urlopen(request, timeout=PATIENCE)
    with answer:
        if urllib.parse.urlsplit(answer.geturl()).scheme not in ("https", "http"):
            raise OSError(f"it leads to {answer.geturl()!r:.200}")
        yield answer


def _keep_validator(answer: Any, state: Path) -> None:
    """Keep what shows whether the server has the same file next time, if the answer has that."""
    for name in ("ETag", "Last-Modified"):
        if VALIDATOR.fullmatch(answer.headers.get(name) or ""):
            return write_text(state, answer.headers[name])
    state.unlink(missing_ok=True)


def _begins(answer: Any, start: int) -> int:
    """Return at which byte an answer begins: where was requested, or at the first."""
    given = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range") or "")
    return start if answer.status == 206 and given and int(given[1]) == start else 0


def _total(answer: Any, start: int) -> int | None:
    length = answer.headers.get("Content-Length")
    return start + int(length) if length and length.isdecimal() else None


def _digest(path: Path) -> Any:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256")
