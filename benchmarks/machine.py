"""What every benchmark says of the machine it ran on, and of where the simulator comes from."""
import os
import platform
from pathlib import Path


# beside every figure on DRIVE of a network that learnt from simulated eyes
SIMULATOR = ("The simulator's ranges were set against all 40 photographs of DRIVE, the test part included (chapter 01), "
             "so what learnt from its eyes is not wholly a stranger to DRIVE's test photographs.")


def processor() -> str:
    "The processor's name and how many logical cores this process may use."
    info = Path('/proc/cpuinfo')
    names = [line.split(':', 1)[1].strip() for line in info.read_text().splitlines() if line.startswith('model name')] if info.exists() else []
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return f'{names[0] if names else platform.processor() or platform.machine()}, {cores} logical cores'
