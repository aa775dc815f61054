#!/usr/bin/env python3
"""The sweeps through the kernel, IPVS among them, in Debian 12's own, which qemu emulates. See README.md."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rig import BenchError, find_tool

from tests.lab.space import Space
from tests.vm.machine import Machine, VmError, base_system

__all__ = ["command", "main"]

EXIT_CANNOT = 2
CHECKOUT = Path(__file__).resolve().parents[1]
FOLDER = CHECKOUT / "build/vm"
SOURCE = "/usr/src/pybalancer"
RESULT = Path(__file__).with_name("results") / "vm.json"
ONLY = ("kernel", "dns")
# Of the image, most of it never written.
SIZE = "8G"
MEMORY_MB = 2048
# Emulated: some twenty times slower than the machine (seconds).
WITHIN = 1500.0


def main(arguments: Sequence[str] | None = None) -> int:
    """0: measured; 2: not; 130: interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--again", action="store_true", help="with the image that the last run has made")
    parser.add_argument("--only", nargs="+", default=ONLY, metavar="NAME", help=f"of run.py, default: {' '.join(ONLY)}")
    parser.add_argument("--out", type=Path, default=RESULT, metavar="FILE", help="default: bench/results/vm.json")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if not options.again:
            make_image()
        found = boot(options.only)
    except (BenchError, VmError, OSError, subprocess.SubprocessError) as error:
        print(f"vm.py: {error}", file=sys.stderr)
        return EXIT_CANNOT
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{options.out}; to see it: .venv/bin/python bench/run.py --again {options.out} --out FOLDER")
    return 0


def make_image() -> None:
    """A Debian system with a kernel and what is measured, as one file. VmError where it cannot be made."""
    with contextlib.closing(_Nowhere()) as space:
        machine = Machine("bench", base_system(FOLDER), FOLDER, space)
        machine.provision("bench/guest.sh", "bench", CHECKOUT)
    image = FOLDER / "bench.img"
    image.unlink(missing_ok=True)
    subprocess.run([find_tool("mke2fs"), "-q", "-t", "ext4", "-d", machine.root, image, SIZE], check=True)


class _Nowhere(Space):
    """It is never started in it."""

    def __init__(self) -> None:
        super().__init__("nowhere")

    def close(self) -> None:
        self.kill()


def command(kernel: Path, initrd: Path, image: Path, result: Path, only: Sequence[str]) -> list[str]:
    """qemu: no network, no screen, two cores, what it says on the first serial line and what it found on the second."""
    append = "root=/dev/vda rw console=ttyS0 quiet panic=-1 mitigations=off "
    append += f"init={SOURCE}/bench/guest.sh -- run {SOURCE} {' '.join(only)}"
    return [
        *(find_tool("qemu-system-x86_64"), "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"),
        *("-m", str(MEMORY_MB), "-nic", "none", "-display", "none", "-no-reboot", "-monitor", "none"),
        *("-kernel", str(kernel), "-initrd", str(initrd), "-append", append),
        *("-drive", f"file={image},if=virtio,format=raw,snapshot=on"),
        *("-serial", "stdio", "-serial", f"file:{result}"),
    ]


def boot(only: Sequence[str]) -> dict[str, object]:
    """What run.py found there. BenchError where it found nothing."""
    root, result = FOLDER / "bench", FOLDER / "bench.json"
    kernels = sorted(root.glob("boot/vmlinuz-*"))
    if not kernels:
        raise BenchError("there is no image yet: run without --again")
    kernel = kernels[-1]
    initrd = kernel.with_name(kernel.name.replace("vmlinuz", "initrd.img"))
    result.unlink(missing_ok=True)
    words = command(kernel, initrd, FOLDER / "bench.img", result, only)
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace") as qemu:
        alarm = threading.Timer(WITHIN, qemu.kill)
        alarm.start()
        try:
            assert qemu.stdout is not None
            for line in qemu.stdout:
                print(line.rstrip(), flush=True)
        except BaseException:
            qemu.kill()
            raise
        finally:
            alarm.cancel()
    try:
        found: dict[str, object] = json.loads(result.read_bytes())
    except (OSError, ValueError):
        raise BenchError(f"it did not say what it has found (within {WITHIN:.0f} s)") from None
    return found


if __name__ == "__main__":
    if os.geteuid():
        sys.exit("vm.py: root is needed, to make a Debian system")
    sys.exit(main())
