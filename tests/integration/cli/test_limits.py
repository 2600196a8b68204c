"""What the spending limits have left: `i2v limits`, estimate and doctor, as processes in the sandbox."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal

from i2v.doctor.checks import check_limits
from i2v.doctor.findings import Level
from i2v.ledger.day_spend import DaySpend, Entry
from i2v.s3.storage import Storage
from sandbox import Sandbox
from sandbox.synthetic_images import make_jpeg
from tests.support.forked_command import forked_i2v
from tests.support.i2v_command import Result, bare_env
from tests.support.settings import MakeSettings

LIMITS = {"*": {"day": 5, "month": 100}, "team-a": {"month": 2}, "team-b": {"day": 1}}


def put_spend(sandbox: Sandbox) -> None:
    """Let team-a spend $1.90 today, and a run without a label $0.50."""
    day = datetime.now(UTC).date().isoformat()
    entries = {
        "one:1": Entry(run_id="one", label="team-a", paid_usd=Decimal("1.90")),
        "two:1": Entry(run_id="two", paid_usd=Decimal("0.50")),
    }
    body = DaySpend(day=day, entries=entries).model_dump_json().encode()
    sandbox.s3().put_object(Bucket=sandbox.bucket, Key=f"jobs/days/{day}.json", Body=body)


def run_i2v(sandbox: Sandbox, *words: str, **variables: str) -> Result:
    """Run the command in the sandbox under the limits."""
    limits = {"I2V_LIMITS": json.dumps(LIMITS), **variables}
    return forked_i2v(*words, env=bare_env(**{**sandbox.env, **limits}))


def test_limits_shows_what_each_has_left(sandbox: Sandbox) -> None:
    """By label and period, as a table and as JSON, and nothing is written."""
    put_spend(sandbox)
    before = sandbox.keys()
    found = run_i2v(sandbox, "limits", "--json")
    left = {(one["label"], one["period"]): (one["spent_usd"], one["left_usd"]) for one in found.report["limits"]}
    assert left == {
        ("*", "day"): (2.4, 2.6),
        ("*", "month"): (2.4, 97.6),
        ("team-a", "month"): (1.9, 0.1),
        ("team-b", "day"): (0.0, 1.0),
    }
    shown = run_i2v(sandbox, "limits").out
    assert "I2V_LIMITS (label 'team-a', month)" in shown
    assert "$0.10" in shown
    assert sandbox.keys() == before
    assert "No spending limit is set" in run_i2v(sandbox, "limits", I2V_LIMITS="").out


def test_an_estimate_says_what_its_limits_have_left(sandbox: Sandbox) -> None:
    """Of those that cover its label."""
    put_spend(sandbox)
    sandbox.put_image("images/a.jpg", make_jpeg(400, 400))
    words = ("run", f"s3://{sandbox.bucket}/images/", "--prompt", "it moves", "--dry-run", "--json")
    found = run_i2v(sandbox, *words, "--label", "team-a")
    assert [(one["label"], one["period"]) for one in found.report["limits"]] == [
        ("*", "day"),
        ("*", "month"),
        ("team-a", "month"),
    ]
    assert "I2V_LIMITS (label 'team-a', month) has $0.10 of $2.00 left until " in found.err


async def test_doctor_warns_of_a_limit_that_covers_no_video(sandbox: Sandbox, make_settings: MakeSettings) -> None:
    """It names each limit with what is left."""
    put_spend(sandbox)
    bucket = {"I2V_BUCKET": sandbox.bucket}
    with Storage(sandbox.s3()) as storage:
        finding = await check_limits(make_settings(**bucket, I2V_LIMITS=json.dumps(LIMITS)), storage)
        fine = await check_limits(make_settings(**bucket, I2V_DAILY_CAP_USD="9"), storage)
        none = await check_limits(make_settings(**bucket), storage)
    assert (finding.level, fine.level, none.level) == (Level.WARNING, Level.OK, Level.OK)
    assert "I2V_LIMITS (label 'team-a', month) has $0.10 of $2.00 left until " in finding.message
    assert "not set" in none.message
