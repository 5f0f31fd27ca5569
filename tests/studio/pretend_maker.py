"""A drawing process that is quick: `python -m tests.studio.pretend_maker` does what it is told."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any


def main() -> None:
    """Answer what is asked until the input ends."""
    lock = threading.Lock()

    def tell(**values: Any) -> None:
        with lock:
            print(json.dumps(values), flush=True)

    def later(number: int, seconds: float) -> None:
        time.sleep(seconds)
        tell(id=number, ok=True, pid=os.getpid())

    for line in sys.stdin:
        request = json.loads(line)
        number, verb = request["id"], request["verb"]
        if verb == "warm":
            tell(loaded={"base": request["base"], "device": request.get("device", "cpu"), "bytes": 7})
        if verb == "die":
            os._exit(3)
        if verb == "fail":
            tell(id=number, ok=False, error="one line", kind=request["kind"])
            continue
        threading.Thread(target=later, args=(number, request.get("seconds", 0)), daemon=True).start()


if __name__ == "__main__":
    main()
