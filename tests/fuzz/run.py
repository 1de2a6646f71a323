"""Search for crashes: `make fuzz FUZZ_SECONDS=60`.

Each target runs in a process of its own for so many seconds: a quarter of them with hypothesis, which makes and
shrinks inputs, the rest with atheris, which varies them by the lines that they reach, from the hostile corpus on, and
keeps what reaches new ones in .cache/fuzz. A crash prints its input, and the run ends with 1: add it to CRASHES in
test_targets.py.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from typing import Any

from tests.assets import CACHE

FOLDER = CACHE / "fuzz"
_MADE = re.compile(r"hypothesis made (\d+) inputs")
_DONE = re.compile(r"Done (\d+) runs")
_PULSE = re.compile(r"^#(\d+)\s", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", help="default: all")
    parser.add_argument("--seconds", type=int, default=60, help="budget of each target")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        _fuzz(arguments.inside, arguments.seconds)
        return
    from tests.fuzz.targets import TARGETS

    names = arguments.targets or list(TARGETS)
    results = [_run(name, arguments.seconds) for name in names]
    print(
        f"{sum(runs for runs, _ in results):,} inputs to {len(names)} targets, {sum(bad for _, bad in results)} crashes"
    )
    sys.exit(any(bad for _, bad in results))


def _run(name: str, seconds: int) -> tuple[int, bool]:
    """Inputs tried, and whether one crashed."""
    started = time.monotonic()
    command = [sys.executable, "-m", "tests.fuzz.run", "--inside", name, "--seconds", str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    said = done.stdout + done.stderr
    counts = [int(number) for number in (_DONE.findall(said) or _PULSE.findall(said))]
    runs = sum(map(int, _MADE.findall(said))) + (counts[-1] if counts else 0)
    print(f"{name:14s} {runs:>10,} inputs in {time.monotonic() - started:4.0f} s", "CRASH" if done.returncode else "")
    if done.returncode:
        print("\n".join(line for line in said.splitlines() if not line.startswith(("INFO:", "WARNING:", "#")))[-4000:])
    return runs, bool(done.returncode)


def _fuzz(name: str, seconds: int) -> None:
    """Runs inside a process of its own: libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["agentsft"], enable_loader_override=False):
        from tests.fuzz.targets import TARGETS
    from hypothesis import HealthCheck, given, settings
    from hypothesis import strategies as st

    target = TARGETS[name]
    made = 0

    @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck), max_examples=200)
    @given(target.values if target.values is not None else st.binary(max_size=500))
    def test(value: object) -> None:
        nonlocal made
        made += 1
        try:
            target.check(value)
        except BaseException:
            print(f"CRASHES: ({name!r}, {value!r})", file=sys.stderr, flush=True)
            raise

    end = time.monotonic() + seconds / 4
    while time.monotonic() < end:
        test()
    print(f"hypothesis made {made} inputs", flush=True)

    corpus = FOLDER / name
    corpus.mkdir(parents=True, exist_ok=True)
    if target.values is None:

        def feed(data: bytes) -> None:
            try:
                target.check(data)
            except BaseException:
                print(f"CRASHES: ({name!r}, {data!r})", file=sys.stderr, flush=True)
                raise

        for number, seed in enumerate(_seeds(name)):
            (corpus / f"seed-{number}").write_bytes(seed)
    else:
        handle: Any = test
        feed = handle.hypothesis.fuzz_one_input
    # A search of a pattern may take its half second, and a first input loads a tokenizer.
    flags = [
        f"-max_total_time={seconds - seconds // 4}",
        "-timeout=60",
        "-rss_limit_mb=0",
        "-max_len=4096",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *flags, f"-artifact_prefix={FOLDER}/crash-{name}-", str(corpus)], feed)
    atheris.Fuzz()


def _seeds(name: str) -> list[bytes]:
    from tests.hostile import files, rows

    if name == "table":
        return [content for content, _ in files.TABLES.values() if len(content) < 4096]
    if name == "parquet":
        return [_parquet()]
    lines = [bad.line for model in rows.BAD_ROWS.values() for bad in model if len(bad.line) < 2048]
    content = [rows.GOOD, files.LIST, b'{"rows": ' + files.LIST + b"}"]
    return [*content, *lines, *(b"[" + rows.GOOD + b", " + line + b"]" for line in lines)]


def _parquet() -> bytes:
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "id": 1}]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer, compression="none")
    return buffer.getvalue()


if __name__ == "__main__":
    main()
