"""`make deploy`: set up the Prefect server for i2v, and update only what differs. Safe to run at any time.

python -m deployments.setup [--notify TYPE/NAME] [--image NAME:TAG [--build] [--steps FILE]]
"""

import argparse
import asyncio
import logging
import os
import sys
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.base import ServerType
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from deployments import Change, SetupResult
from deployments.automations import alerts, dead_runs, event_automations, lost_runs, set_up_automation
from deployments.blocks import set_up_blocks
from deployments.container_steps import STEPS, check_pool, with_image
from deployments.sync_deployments import load_deployments, read_config, set_up_deployment
from deployments.work_pool import heartbeat_seconds, job_environment, read_pool, set_up_pool
from i2v.cli.prefect.connection import check_api
from i2v.cli.prefect.server_errors import describe_server_error, shown_api_url
from i2v.errors import I2vError, Stopped, UsageError

DESCRIPTION = """\
Set up your Prefect server for i2v: work pool, queues, block types, deployments and automations.
Nothing is duplicated or deleted; existing objects are updated only where they differ from prefect.yaml. What users set
is kept: whether schedules, automations and deployments are on, the limits of the pool and its queues, what an alert
does, and `since` of `nightly`."""
EPILOG = """\
PREFECT_API_URL selects the server:

  export PREFECT_API_URL=http://127.0.0.1:4200/api PREFECT_WORKER_QUERY_SECONDS=2
  make deploy
  .venv/bin/prefect worker start --pool i2v      # on each machine that runs flows
  .venv/bin/python -m doors                      # receives new images and callbacks

Exit codes: 0 done · 2 wrong usage or settings · 3 the server does not respond. See docs/deploying.md."""
STEPS_HELP = f"the file with the steps for containers; {STEPS.name} by default, prefect.git.yaml clones the flows"
NOTIFY_HELP = (
    "the notification block that sends the messages (a batch is done, a run failed, a job is unknown, the budget is "
    "nearly spent), e.g. slack-webhook/alerts; create it in the UI under Blocks. Without it, new ones only show in the "
    "event feed, and existing ones keep their actions"
)

START_SECONDS = 60.0
"""How long to wait for a server that is starting; a new database takes 15 s."""
NO_PROMPT = """
I2V_DEFAULT_PROMPT is not set here. If the workers do not have it either, images that land without a prompt of their own
are refused: see docs/settings.md."""


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = argparse.ArgumentParser(
        "python -m deployments.setup",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--notify", metavar="TYPE/NAME", help=NOTIFY_HELP)
    parser.add_argument("--image", metavar="NAME:TAG", help="the image of runs that are containers")
    parser.add_argument("--build", action="store_true", help="build and push the image first")
    parser.add_argument("--steps", metavar="FILE", type=Path, default=STEPS, help=STEPS_HELP)
    options = parser.parse_args(arguments)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        asyncio.run(_run(options))
    except I2vError as error:
        print(f"make deploy: {error}", file=sys.stderr)  # noqa: T201 - command output
        return error.exit_code
    return 0


async def _run(options: argparse.Namespace) -> None:
    if not PREFECT_API_URL.value():
        hint = "Set it to your server: export PREFECT_API_URL=http://127.0.0.1:4200/api"
        raise UsageError("PREFECT_API_URL is not set", hint)
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):  # with retries a failure takes 15 s
        await check_api(wait_seconds=START_SECONDS)
    if options.build and not options.image:
        raise UsageError("--build needs an image", "Add --image registry.example.com/i2v:0.1.0")
    async with get_client() as client:
        try:
            await _set_up_and_print(client, await _config(client, options), options.notify)
        except PrefectHTTPStatusError as error:
            request, response = error.request, error.response
            raise Stopped(
                f"The Prefect server rejected {request.method} {request.url.path}: "
                f"{response.status_code} {response.text[:200]}",
                "Check that its version matches",
            ) from None
        except httpx.TransportError as error:
            raise Stopped(*describe_server_error(error)) from None


async def _config(client: PrefectClient, options: argparse.Namespace) -> dict[str, Any]:
    if not options.image:
        return read_config()
    check_pool(await read_pool(client))
    return await with_image(read_config(), options.image, options.steps, build=options.build)


async def _set_up_and_print(client: PrefectClient, config: dict[str, Any], notify: str | None) -> None:
    block = await _find_block(client, notify) if notify else None
    changes: list[Change] = []
    async for result in set_up(client, block, config):
        _print(str(result))
        changes.append(result.change)
    counts = " · ".join(f"{changes.count(change)} {change}" for change in Change if change in changes)
    _print(f"\n{counts} on {shown_api_url()}")
    if not os.environ.get("I2V_DEFAULT_PROMPT"):
        _print(NO_PROMPT)


def _print(line: str) -> None:
    """Print a line of output. A reader that has gone, as in `make deploy | head`, does not end the setup."""
    with suppress(BrokenPipeError):
        print(line, flush=True)  # noqa: T201 - command output
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that Python's flush at exit succeeds


async def set_up(
    client: PrefectClient, block: UUID | None = None, config: dict[str, Any] | None = None
) -> AsyncIterator[SetupResult]:
    """Set up everything in order of dependency; `block` is the notification block that sends the alerts.

    `config` is prefect.yaml, or a variant of it.
    """
    pool = await read_pool(client)
    deployments = load_deployments(config or read_config(), job_environment(pool, os.environ))
    flows = sorted({each.flow for each in deployments})
    for result in [*await set_up_pool(client, pool), *await set_up_blocks(client)]:
        yield result
    for deployment in deployments:
        yield await set_up_deployment(client, deployment)
    automations = [
        dead_runs(flows, heartbeat_seconds(pool)),
        lost_runs(flows),
        *alerts(flows, block, is_cloud=client.server_type is ServerType.CLOUD),
    ]
    for deployment in deployments:
        automations += await event_automations(client, deployment)
    for automation in automations:
        yield await set_up_automation(client, automation)


async def _find_block(client: PrefectClient, notify: str) -> UUID:
    """Return the id of the block `type/name`. Raise `UsageError` if it does not exist."""
    block_type, _, name = notify.partition("/")
    try:
        return (await client.read_block_document_by_name(name, block_type, include_secrets=False)).id
    except (ObjectNotFound, PrefectHTTPStatusError):
        hint = "Create it in the UI under Blocks, e.g. a Slack Webhook named alerts: --notify slack-webhook/alerts"
        raise UsageError(f"The block {notify} does not exist on the server", hint) from None


if __name__ == "__main__":
    sys.exit(main())
