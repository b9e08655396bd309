from __future__ import annotations

import json

from initiator.bench.environment import describe_environment


def test_what_it_ran_on() -> None:
    found = describe_environment("loopback")
    assert found["fabric"] == "loopback"
    assert found["python"].startswith("CPython 3")
    assert found["processors"] >= 1
    assert json.loads(json.dumps(found)) == found
