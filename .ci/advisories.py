"""Tell of known security advisories against the pinned libraries; it reports and never fails a build.

`make audit` runs this with pip-audit in an environment of its own, which asks the package index and sends it
nothing but names and versions of public libraries. An index without advisories (a mirror) says "not audited".
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PINNED = Path(__file__).resolve().parents[1] / "constraints.txt"


def report(found: list[dict[str, Any]]) -> list[str]:
    """One line per advisory, and one that says how much was looked at."""
    lines = []
    for one in found:
        for advisory in one.get("vulns", ()):
            fixed = ", ".join(advisory.get("fix_versions", ())) or "none yet"
            lines.append(f"{one['name']} {one['version']}: {advisory['id']}; fixed in {fixed}")
    skipped = [one["name"] for one in found if "skip_reason" in one]
    asked = len(found) - len(skipped)
    lines.append(f"advisories: {len(lines)} against {asked} of {len(found)} pinned libraries")
    if skipped:
        lines.append(f"not audited, the package index has no advisories of them: {len(skipped)}")
    return lines


def main() -> None:
    """Ask, and print."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--format", "json"]
    command += ["--progress-spinner", "off", "--timeout", "30", "--requirement", str(PINNED)]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, timeout=600)
        print("\n".join(report(json.loads(asked.stdout)["dependencies"])))
    except (subprocess.TimeoutExpired, ValueError, KeyError) as error:
        print(f"advisories: couldn't be asked for ({type(error).__name__})")


if __name__ == "__main__":
    main()
