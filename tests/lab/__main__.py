"""``python -m tests.lab [SCRIPT]``: boot the lab, run a bash script (standard input without one), show what it says."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.lab import LabError, Machine, prepare

_HOUR = 3600.0


def main() -> int:
    """Exit code of the script; 1 if there is no lab."""
    script = Path(sys.argv[1]).read_text() if len(sys.argv) > 1 else sys.stdin.read()
    try:
        with Machine.boot(prepare()) as machine:
            result = machine.run(script, seconds=_HOUR, check=False)
    except LabError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(result.out)
    sys.stderr.write(result.err)
    return result.exit


if __name__ == "__main__":
    sys.exit(main())
