"""All checks (`examine`), and those of the provider's account, the ledger and callbacks."""

import asyncio
import json
from http import HTTPStatus

from i2v.advised_commands import command
from i2v.apixo.callbacks import check_callbacks
from i2v.apixo.client import ApixoClient
from i2v.doctor.bucket import BucketChecks, check_bucket
from i2v.doctor.findings import Check, Finding, Level, run_check
from i2v.errors import FetchError
from i2v.ledger.ledger import Ledger
from i2v.ledger.ledger_info import provider_host
from i2v.money import money_text
from i2v.net.fetcher import Fetcher
from i2v.pricing import price_usd
from i2v.reports.limit_usage import read_usage
from i2v.request import Mode
from i2v.s3.failures import PERMISSIONS
from i2v.s3.storage import Storage
from i2v.settings import Settings

HEALTH_LIMIT_BYTES = 1 << 16


async def examine(settings: Settings, storage: Storage) -> list[Finding]:
    """Run all checks that the settings allow, concurrently."""
    checks: dict[str, Check] = {
        "prompts": lambda: check_prompts(settings),
        "callbacks": lambda: check_callback_address(settings),
    }
    key = asyncio.ensure_future(run_check("key", lambda: check_key(settings)))
    bucket = await run_check("bucket", lambda: check_bucket(settings, storage))
    if bucket.level is Level.OK or bucket.hint == PERMISSIONS:  # else the others would all fail for the same reason
        s3_checks = BucketChecks(settings, storage).by_name() | {
            "ledger": lambda: check_ledger(settings, storage),
            "limits": lambda: check_limits(settings, storage),
        }
        checks = s3_checks | checks
    others = await asyncio.gather(*(run_check(name, check) for name, check in checks.items()))
    return [await key, bucket, *others]


async def check_key(settings: Settings) -> Finding:
    """Check that the provider accepts the key, and that the balance buys a video."""
    async with ApixoClient(settings) as client:
        balance = await client.balance(tries=2)
    cheapest = price_usd(Mode.STANDARD, 6, settings.prices_usd)
    message = f"{provider_host(settings)} accepts the key; the balance is ${money_text(balance)}"
    if balance < cheapest:
        return Finding("key", Level.WARNING, message, f"The cheapest video costs ${money_text(cheapest)}: add balance")
    return Finding("key", Level.OK, message)


async def check_ledger(settings: Settings, storage: Storage) -> Finding:
    """Check that the ledger belongs to this provider account and is not paused."""
    info = await Ledger(storage, settings).info.read()
    if info is None:
        return Finding("ledger", Level.OK, f"{settings.jobs} is empty: the first run creates the ledger")
    host, account = provider_host(settings), settings.account_label
    if (info.host, info.account) != (host, account):
        message = (
            f"{settings.jobs} belongs to {info.host}, account {info.account!r}, not to {host}, account {account!r}"
        )
        return Finding("ledger", Level.FAULT, message, "Use a bucket or I2V_JOBS_PREFIX of its own for each account")
    if info.paused:
        return Finding("ledger", Level.WARNING, "submits are paused", f"Resume them with: {command('resume')}")
    return Finding("ledger", Level.OK, f"{settings.jobs} belongs to {info.host}, account {info.account!r}")


async def check_limits(settings: Settings, storage: Storage) -> Finding:
    """Check that each spending limit has money left for a video."""
    usages = await read_usage(storage, settings)
    if not usages:
        return Finding("limits", Level.OK, "none for all runs: I2V_DAILY_CAP_USD and I2V_LIMITS are not set")
    cheapest = price_usd(Mode.STANDARD, 6, settings.prices_usd)
    message = "; ".join(usage.in_words for usage in usages)
    if any(usage.left_usd < cheapest for usage in usages):
        hint = f"The cheapest video costs ${cheapest}: raise the limit, or wait until it resets"
        return Finding("limits", Level.WARNING, message, hint)
    return Finding("limits", Level.OK, message)


async def check_prompts(settings: Settings) -> Finding:
    """Check that images that land in the bucket without a prompt of their own get one."""
    if settings.default_prompt or "" in settings.prompts_by_prefix:
        return Finding("prompts", Level.OK, "images without a prompt of their own get the default prompt")
    message = "images without a prompt of their own are refused: I2V_DEFAULT_PROMPT is not set"
    if settings.sqs_queue_url or settings.door_token:
        hint = "Set I2V_DEFAULT_PROMPT for the workers, or upload each image with its prompt (docs/usage.md)"
        return Finding("prompts", Level.WARNING, message, hint)
    return Finding("prompts", Level.OK, message)


async def check_callback_address(settings: Settings) -> Finding:
    """Check that callbacks are off, or that secrets and address are usable and the door answers there."""
    base = settings.callback_base_url
    if base is None and not settings.callback_secrets:
        message = "off: runs poll; I2V_CALLBACK_BASE_URL and I2V_CALLBACK_SECRET turn them on"
        return Finding("callbacks", Level.OK, message)
    await check_callbacks(settings)
    async with Fetcher(settings) as fetcher:
        try:
            response = await fetcher.fetch_bytes(f"{base}/healthz", limit=HEALTH_LIMIT_BYTES)
        except FetchError as error:
            return _unreachable_door(error)
    if not _is_live(response.body):
        hint = "Check I2V_CALLBACK_BASE_URL and the proxy's routes"
        return Finding("callbacks", Level.FAULT, f"{base}/healthz is not answered by the door", hint)
    return Finding("callbacks", Level.OK, f"the door answers at {base}, the provider's address for callbacks")


def _unreachable_door(error: FetchError) -> Finding:
    if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
        hint = "Read /healthz on the door's own host: it says what is wrong"
        return Finding("callbacks", Level.FAULT, f"the door is not ready: {error.message}", hint)
    hint = "Start python -m doors and its proxy; until then, reconcile polls jobs without a callback"
    return Finding("callbacks", Level.FAULT, f"the door cannot be reached: {error.message}", hint)


def _is_live(body: bytes) -> bool:
    try:
        health = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(health, dict) and health.get("live") is True
