"""The worker with a child of its own, as one that loads data has: `python -m tests.faults.load_worker`."""

from __future__ import annotations

import subprocess
import sys

CHILD = "import time; time.sleep(600)"

if __name__ == "__main__":
    subprocess.Popen([sys.executable, "-c", CHILD])
    from studio.worker import main

    sys.exit(main())
