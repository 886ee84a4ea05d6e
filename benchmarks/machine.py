"""What every benchmark says of the machine it ran on."""
import os
import platform
from pathlib import Path


def processor() -> str:
    "The processor's name and how many logical cores this process may use."
    info = Path('/proc/cpuinfo')
    names = [line.split(':', 1)[1].strip() for line in info.read_text().splitlines() if line.startswith('model name')] if info.exists() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return f'{names[0] if names else platform.processor() or platform.machine()}, {cores} logical cores'
