"""What the benchmarks begin with: one thread, an allocator that keeps what is freed, and the name of the machine.

``import alone`` before torch starts the script anew with that set, since glibc and OpenMP read it when a process starts. glibc gives
large tensors back at every free, and page faults would drown all kernels alike; ``--malloc default`` leaves that as it is.
"""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

SETTINGS = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "100000000000",
    "MALLOC_TOP_PAD_": "268435456",
    "OMP_NUM_THREADS": "1",
    "TRIMTAB_BENCH": "1",
}
if "--malloc" not in sys.argv and "TRIMTAB_BENCH" not in os.environ:
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **SETTINGS})


def machine() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return f"{line.partition(':')[2].strip()}, {os.cpu_count()} processors"
    return platform.processor()
