"""`make deploy`: put on the Prefect server what i2v needs, and change there only what differs.

    python -m deployments.setup [--notify KIND/NAME]

It may be run again at any time: after an upgrade, after a change to prefect.yaml, or to see that all is well.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from deployments import Change, SetupResult
from deployments.automations import alerts, dead_runs, lost_runs, set_up_automation, triggers
from deployments.blocks import set_up_blocks
from deployments.prefect_yaml import load_deployments, read_config, set_up_deployment
from deployments.work_pool import set_up_pool
from i2v.errors import I2vError, Stopped, UsageError

DESCRIPTION = """\
Put on your Prefect server what i2v needs: work pool, queues, block types, deployments and automations.
Nothing is made twice, and nothing is deleted: what is there is compared, and changed only where it differs from
prefect.yaml. What people set is kept: whether schedules, automations and deployments are on, limits of the pool and
its queues, what an alert does, and from when on `nightly` takes images."""
EPILOG = """\
The server is the one that PREFECT_API_URL names:

  export PREFECT_API_URL=http://127.0.0.1:4200/api
  make deploy
  .venv/bin/prefect worker start --pool i2v      # on each machine that shall run it
  .venv/bin/python -m doors                      # where new images and callbacks come in

Exit codes: 0 done · 2 wrong usage or settings · 3 the server does not answer. docs/deploying.md tells the rest."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; gives its exit code."""
    given = _parser().parse_args(arguments)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        asyncio.run(_run(given.notify))
    except I2vError as error:
        print(f"make deploy: {error}", file=sys.stderr)  # noqa: T201 - a command speaks
        return error.exit_code
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m deployments.setup",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--notify",
        metavar="KIND/NAME",
        help="the notification block that sends the alerts (a run failed, a job is unknown, the budget is nearly "
        "spent), such as slack-webhook/alerts; make it in the UI under Blocks. Without it the alerts show in the "
        "server's feed of events only, or keep doing what you set there",
    )
    return parser


async def _run(notify: str | None) -> None:
    if not PREFECT_API_URL.value():
        raise UsageError(
            "PREFECT_API_URL is not set", "Set it to your server: export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    async with get_client() as client:
        await _reach(client)
        try:
            counts = await _tell(client, notify)
        except PrefectHTTPStatusError as error:
            raise Stopped(f"The Prefect server refused: {_reason(error)}", "Is it of the same version?") from None
        except httpx.TransportError as error:
            raise _gone(error) from None
    print(f"\n{counts} on {PREFECT_API_URL.value()}")  # noqa: T201 - a command speaks


async def _reach(client: PrefectClient) -> None:
    """Prove that the server answers.

    Raises:
        Stopped: it does not.
    """
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):  # or it takes a quarter of a minute to say no
        failure = await client.api_healthcheck()
    if failure:
        raise _gone(failure)


def _gone(failure: Exception) -> Stopped:
    return Stopped(
        f"The Prefect server at {PREFECT_API_URL.value()} does not answer: {type(failure).__name__}",
        "Start it (prefect server start, with deployments/server.env), or correct PREFECT_API_URL",
    )


def _reason(error: PrefectHTTPStatusError) -> str:
    return f"{error.request.method} {error.request.url.path}: {error.response.status_code} {error.response.text[:200]}"


async def _tell(client: PrefectClient, notify: str | None) -> str:
    block = await _notifier(client, notify) if notify else None
    did: list[Change] = []
    async for line in set_up(client, block):
        print(line, flush=True)  # noqa: T201 - a command speaks
        did.append(line.did)
    return " · ".join(f"{did.count(word)} {word}" for word in Change if word in did)


async def set_up(client: PrefectClient, block: UUID | None = None) -> AsyncIterator[SetupResult]:
    """Bring everything to what it should be, in the order in which one needs the other.

    Args:
        client: the server.
        block: the notification block that sends the alerts.
    """
    config = read_config()
    wanted = load_deployments(config)
    flows = sorted({each.flow for each in wanted})
    for line in [*await set_up_pool(client), *await set_up_blocks(client)]:
        yield line
    for each in wanted:
        yield await set_up_deployment(client, each)
    automations = [dead_runs(flows), lost_runs(flows), *alerts(flows, block)]
    for each, given in zip(wanted, config["deployments"], strict=True):
        automations += await triggers(client, each, given.get("triggers", []))
    for automation in automations:
        yield await set_up_automation(client, automation)


async def _notifier(client: PrefectClient, notify: str) -> UUID:
    """The id of the block `kind/name`.

    Raises:
        UsageError: there is none.
    """
    kind, _, name = notify.partition("/")
    try:
        return (await client.read_block_document_by_name(name, kind, include_secrets=False)).id
    except (ObjectNotFound, PrefectHTTPStatusError):
        raise UsageError(
            f"There is no block {notify} on the server",
            "Make one in the UI under Blocks, such as a Slack Webhook named alerts: --notify slack-webhook/alerts",
        ) from None


if __name__ == "__main__":
    sys.exit(main())
