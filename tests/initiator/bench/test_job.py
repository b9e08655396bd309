from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from initiator.bench.job import ENGINES, Job, load_jobs, run_job, show_outcome
from iser.errors import ConfigError, UsageError
from tests.target.peer import TARGET, serving


async def test_a_mixed_job_on_a_real_target() -> None:
    async with serving() as (_, port):
        job = Job(
            read_percent=50, size=8192, depth=4, runtime=0.1, shape="S8", strategy="indirect", pattern="sequential"
        )
        engine = await ENGINES["iser"](f"iser://127.0.0.1:{port}/{TARGET}", job)
        outcome = await run_job(engine, job)
        with pytest.raises(UsageError, match="no 4194304 bytes"):
            await run_job(engine, Job(size=4 << 20))
        await engine.close()
    assert outcome.reads
    assert outcome.writes
    data = outcome.to_json()
    assert data["read"]["ios"] == len(outcome.reads)
    assert data["write"]["bytes_per_second"] == pytest.approx(len(outcome.writes) * 8192 / outcome.seconds)
    text = io.StringIO()
    show_outcome(outcome, Console(file=text, width=150))
    assert "read " in text.getvalue()
    assert "p99.9" in text.getvalue()


def test_jobs_of_a_file_share_what_stands_on_top(tmp_path: Path) -> None:
    path = tmp_path / "load.toml"
    path.write_text('depth = 3\nruntime = 2\n[jobs.a]\nsize = "64K"\n[jobs.b]\ndepth = 5\n')
    assert load_jobs(path) == [Job("a", size=65536, depth=3, runtime=2.0), Job("b", depth=5, runtime=2.0)]
    path.write_text("depth = 3\n")
    assert load_jobs(path) == [Job("load", depth=3)]
    assert len(load_jobs(Path("configs/bench-job.toml"))) == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("depth = ", "is not TOML"),
        ("deep = 3", "deep is no setting"),
        ("depth = 0", "1 to 1024"),
        ('depth = "many"', "no number of bytes"),
        ("depth = 1.5", "give a number"),
        ("shape = 3", "in quotes"),
        ("jobs = 3", "a table for each job"),
        ('[jobs.a]\nshape = "S77"', "jobs.a: shape 'S77'"),
    ],
)
def test_a_fault_in_a_file_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "load.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        load_jobs(path)
    with pytest.raises(ConfigError, match=r"cannot be read: No such file or directory$"):
        load_jobs(tmp_path / "none.toml")


@pytest.mark.parametrize(
    "changes", [{"read_percent": 101}, {"size": 100}, {"runtime": 0}, {"pattern": "zigzag"}, {"offset": 3}]
)
def test_settings_out_of_bounds(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="give"):
        Job(**changes)
