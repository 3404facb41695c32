"""Fuzzing of what reads other people's files: pictures, COCO JSON, VOC lists, tables, configs, command lines.

    python tests/stress/fuzz.py [--seconds 600] [--readers jpeg png coco ...] [--seed 0]

Valid files are mutated at random. What is right: a result, or one line (MlclError). What is counted: tracebacks (any
other exception), hangs (an input that takes longer than the time-out), crashes (a process that dies; a segmentation
fault is one) and refusals of too much memory. Each reader runs in a child process, which keeps its current input in a
file, so that it survives a crash. Inputs that did harm are kept in ``--keep`` (default: a temporary folder).

With ``atheris`` installed (pip install atheris) the readers written in Python run under it, guided by the branches of
``mlcl`` that an input reaches; without, mutations are guided by the lines that they reach first (``sys.settrace``).
"""

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as the tests find the package "stress"
from stress.fuzz_inputs import READERS, changes_of, mutated, reader_of, seeds

try:
    import atheris
except ImportError:
    atheris = None

PARSERS = ("config", "flags")  # a thousand functions per input: following them leaves time for a tenth of the inputs
TIMEOUT = 20  # seconds for one input
MEMORY = 6 << 30  # bytes of address space beside what the imports took
# --- The child: one reader, many inputs


class Harm(Exception):
    """An input that took too long."""


def child(name: str, folder: Path, seconds: float, seed: int, guided: bool) -> None:
    """Try inputs until the time is over; counts and harm go to files."""
    read = reader_of(name, folder)
    read(seeds(name)[0])  # imports and first-time costs
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGALRM, _too_long)
    counts = {"inputs": 0, "read": 0, "refused": 0, "tracebacks": 0, "hangs": 0, "found": 0}
    current, end = folder / "current", time.monotonic() + seconds
    told: set[str] = set()

    def save() -> None:
        (folder / "counts.json").write_text(json.dumps(counts))

    def attempt(data: bytes) -> None:
        from mlcl.errors import MlclError

        current.write_bytes(data)
        counts["inputs"] += 1
        signal.alarm(TIMEOUT)
        try:
            read(data)
            counts["read"] += 1
        except MlclError as error:
            counts["refused"] += 1
            if len(str(error)) > 5000:
                harm("long", data, f"a message of {len(str(error)):,} characters: {str(error)[:200]}")
        except Exception as error:
            hung = "Harm: " in repr(error) or isinstance(error, Harm)  # the command line makes a line of anything
            counts["hangs" if hung else "tracebacks"] += 1
            harm("hang" if hung else "traceback", data, traceback.format_exc())
        finally:
            signal.alarm(0)
        if counts["inputs"] % 50 == 0:
            save()

    def harm(kind: str, data: bytes, text: str) -> None:
        key = "".join(text.splitlines()[-4:])[-300:]
        digest = hashlib.sha1(key.encode(errors="replace")).hexdigest()[:8]
        if digest not in told:
            told.add(digest)
            (folder / f"{kind}-{digest}").write_bytes(data)
            (folder / f"{kind}-{digest}.txt").write_text(text, errors="replace")

    if guided and atheris is not None and name in ("coco", "voc", "csv", "jpeg"):
        corpus = folder / "corpus"
        corpus.mkdir(exist_ok=True)
        for number, data in enumerate(seeds(name)):
            (corpus / str(number)).write_bytes(data)

        def one(data: bytes) -> None:
            attempt(data)
            if time.monotonic() > end:
                counts["found"] = len(list(corpus.iterdir()))
                save()
                os._exit(0)

        options = [
            f"-max_total_time={int(seconds)}",
            f"-seed={seed + 1}",
            "-timeout=60",
            "-rss_limit_mb=0",
            "-verbosity=0",
        ]

        def mutate(data: bytes, largest: int, number: int) -> bytes:
            """Half of the time as libFuzzer does, which knows what comparisons an input has failed."""
            rng = random.Random(number)
            made = mutated(data, seeds_of, rng) if rng.random() < 0.5 else atheris.Mutate(data, len(data))
            return made[:largest]

        seeds_of = seeds(name)
        atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=mutate, enable_python_coverage=True)
        atheris.Fuzz()
        return
    guided = guided and name not in PARSERS
    rng, pool, change = random.Random(f"{name}-{seed}"), seeds(name), changes_of(name)
    first, lines = len(pool), set()
    while time.monotonic() < end:
        data = change(rng.choice(pool), pool, rng)
        if not guided:
            attempt(data)
            continue
        before = len(lines)
        sys.settrace(lambda frame, event, _: _tracer(frame, lines))
        try:
            attempt(data)
        finally:
            sys.settrace(None)
        if len(lines) > before and len(pool) < 2000:
            pool.append(data)
    counts["found"] = len(pool) - first
    save()


def _tracer(frame, lines: set):
    file = frame.f_code.co_filename
    if "/mlcl/" not in file:
        return None

    def line(frame, event, _):
        lines.add((file, frame.f_lineno))
        return line

    return line


def _too_long(*_: object) -> None:
    raise Harm(f"more than {TIMEOUT} s")


# --- The parent: a child per reader, again after a crash


def watch(name: str, folder: Path, seconds: float, seed: int, guided: bool) -> dict[str, int]:
    """Run a reader's children for so long; what they counted, with the crashes."""
    folder.mkdir(parents=True, exist_ok=True)
    total = {"crashes": 0}
    end, start = time.monotonic() + seconds, seed
    while (left := end - time.monotonic()) > 1:
        (folder / "counts.json").write_text("{}")
        command = [sys.executable, __file__, "--child", name, str(folder), str(left), str(start), str(int(guided))]
        with (folder / "said.txt").open("wb") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said)
            try:
                status = process.wait(left + 120)
            except subprocess.TimeoutExpired:  # in C code, where no signal is looked at
                process.kill()
                status = process.wait()
                total["hangs"] = total.get("hangs", 0) + 1
                (folder / f"hang-in-c-{start}").write_bytes((folder / "current").read_bytes())
            else:
                if status:
                    total["crashes"] += 1
                    if (folder / "current").exists():
                        (folder / f"crash-{status}-{start}").write_bytes((folder / "current").read_bytes())
                    (folder / f"crash-{status}-{start}.txt").write_bytes((folder / "said.txt").read_bytes()[-3000:])
        for key, count in json.loads((folder / "counts.json").read_text() or "{}").items():
            total[key] = total.get(key, 0) + count
        start += 1
        if total["crashes"] > 20:
            break
    return total


def main() -> int:
    """Fuzz; 1 if something did harm."""
    if sys.argv[1:2] == ["--child"]:
        name, folder, seconds, seed, guided = sys.argv[2:]
        if guided == "1" and atheris is not None:
            with atheris.instrument_imports(include=["mlcl.data"]):
                import mlcl.data  # noqa: F401
        child(name, Path(folder), float(seconds), int(seed), guided == "1")
        return 0
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=600, help="for all readers together (default: 600)")
    parser.add_argument("--readers", nargs="+", choices=READERS, default=READERS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", action="store_true", help="without guidance: more inputs")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that did harm")
    options = parser.parse_args()
    keep = options.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    bad = 0
    weights = {name: 4 if name in PARSERS else 1 for name in options.readers}
    print(
        f"{'reader':8} {'inputs':>9} {'read':>9} {'refused':>9} {'tracebacks':>10} {'hangs':>6} {'crashes':>7}",
        flush=True,
    )
    for name in options.readers:
        seconds = options.seconds * weights[name] / sum(weights.values())
        count = watch(name, (keep / name).absolute(), seconds, options.seed, not options.plain)
        shown = [count.get(key, 0) for key in ("inputs", "read", "refused", "tracebacks", "hangs", "crashes")]
        widths = zip(shown, (9, 9, 9, 10, 6, 7), strict=True)
        print(f"{name:8} {' '.join(f'{value:{width},}' for value, width in widths)}", flush=True)
        bad += sum(shown[3:])
    print(f"inputs that did harm, if any: {keep}" if bad else "nothing did harm")
    return 1 if bad else 0


if __name__ == "__main__":
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
    sys.exit(main())
