"""`make fuzz`: looks, with the help of coverage (atheris), for bytes that a decoder of
`tests/decoders.py` neither reads nor refuses in one line.

    python tests/fuzz/fuzz.py [--seconds 30] [NAME …]

Each decoder has a folder of its own in tests/fuzz/corpus: what reached new code before. What
breaks a decoder is left in tests/fuzz/broken; add it to the tests when you have mended it.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
CORPUS, BROKEN = HERE / "corpus", HERE / "broken"
LONGEST = 4096
"""Bytes of an input."""
KEPT = 40
"""Inputs of one decoder that stay in the corpus: the shortest."""

sys.path.insert(0, str(HERE.parent))


def folder_of(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower())


def fuzz_one(name: str, arguments: list[str]) -> None:
    """In a process of its own: libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["flctl"]):
        from decoders import TABLE

        from flctl.errors import FlctlError

    decodes = next(entry for entry in TABLE if entry.name == name)

    def one(data: bytes) -> None:
        try:
            decodes.read(data)
        except FlctlError as error:
            if not str(error).isprintable():
                raise RuntimeError(f"not one printable line: {error!r}") from error

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def begin(name: str, seconds: int) -> bool:
    """Whether nothing broke."""
    from decoders import TABLE

    good = next(entry for entry in TABLE if entry.name == name).good()
    corpus = CORPUS / folder_of(name)
    corpus.mkdir(parents=True, exist_ok=True)
    BROKEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="flctl-fuzz-") as folder:
        fresh = Path(folder)
        (fresh / "good").write_bytes(good[:LONGEST])
        limits = [f"-max_len={LONGEST}", "-timeout=30", "-rss_limit_mb=4096", "-verbosity=0"]
        marks = [f"-artifact_prefix={BROKEN}/{folder_of(name)}-"]
        call = [sys.executable, __file__, "--only", name]
        ran = subprocess.run(
            [*call, *limits, *marks, f"-max_total_time={seconds}", str(corpus), str(fresh)],
            capture_output=True,
            text=True,
            check=False,
        )
    for old in sorted(corpus.iterdir(), key=lambda path: path.stat().st_size)[KEPT:]:
        old.unlink()
    held = ran.returncode == 0
    print(f"{name:28} {len(list(corpus.iterdir())):5d} inputs  {'ok' if held else 'BROKEN'}")
    if not held:
        print(ran.stdout[-1500:], ran.stderr[-3000:], file=sys.stderr)
    return held


def main() -> int:
    if sys.argv[1:2] == ["--only"]:
        fuzz_one(sys.argv[2], sys.argv[3:])
        return 0
    from decoders import TABLE

    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--seconds", type=int, default=30)
    options.add_argument("names", nargs="*")
    given = options.parse_args()
    names = [entry.name for entry in TABLE if not entry.slow]
    chosen = [name for name in names if name in given.names or not given.names]
    held = [begin(name, given.seconds) for name in chosen]
    return 0 if chosen and all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
