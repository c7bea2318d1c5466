"""Build the site: ``python -m docs [--out DIR] [--notebooks off]``.

Pages are staged from the repository (:mod:`docs.sources`), pages of the reference made from the
package's public names (:mod:`docs.reference`), pictures drawn (:mod:`docs.figures`), and Sphinx
makes HTML of it, warnings being errors. Executed notebooks are kept by content. Nothing is fetched.
Links that leave the site are listed in ``outside_links.txt`` of the work folder, not followed.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from docs import figures, reference, sources


def main() -> int:
    """Build the site; return Sphinx's exit status."""
    parser = argparse.ArgumentParser(prog="python -m docs", description=__doc__)
    parser.add_argument("--out", type=Path, default=sources.ROOT / "build/site", help="the site")
    parser.add_argument(
        "--work", type=Path, default=sources.ROOT / "build/docs", help="pages, caches, notebooks"
    )
    parser.add_argument(
        "--notebooks", choices=("cache", "off"), default="cache",
        help="run those that have changed (cache), or none (off)",
    )  # fmt: skip
    chosen = parser.parse_args()
    began, folder = time.time(), chosen.work / "source"
    kept = sources.stage(folder) | reference.write_pages(folder / "api")
    kept |= figures.draw_all(folder / "figures")
    sources.write(chosen.work / "outside_links.txt", "\n".join([*sources.outside(), ""]))
    for path in folder.rglob("*"):
        if path.is_file() and path not in kept:
            path.unlink()
    done = subprocess.run(
        [
            sys.executable, "-m", "sphinx", "-b", "html", "-W", "-n", "--keep-going", "-q",
            "-c", str(sources.ROOT / "docs"), "-d", str(chosen.work / "doctrees"),
            "-D", f"nb_execution_mode={chosen.notebooks}",
            "-D", f"nb_execution_cache_path={chosen.work / 'notebooks'}",
            str(folder), str(chosen.out),
        ],
        env={**os.environ, "PYTHONPATH": str(sources.ROOT), "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    print(f"{chosen.out / 'index.html'}: {time.time() - began:.0f} s, status {done.returncode}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
