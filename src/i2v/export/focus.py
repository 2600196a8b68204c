"""The rows of `costs`: one for each attempt that cost something, in the columns of FOCUS 1.2.

FOCUS is the FinOps Open Cost and Usage Specification. It has all mandatory columns, those of the others that apply, and
columns of our own, which begin with `x_` as it asks.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Any

from i2v.export.rows import AttemptRow
from i2v.ledger.ledger_info import provider_host
from i2v.money import ZERO
from i2v.request import MODEL
from i2v.settings import Settings

VERSION = "1.2"
PROVIDER = "APIXO"
UNIT = "Videos"


def cost_row(row: AttemptRow, settings: Settings) -> dict[str, Any]:
    """Return what an attempt cost. All prices are the same: i2v knows no discounts."""
    sku = f"{MODEL} {row.mode_and_duration}"
    costs = ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost")
    return {
        **dict.fromkeys(costs, row.cost_usd),
        "BillingAccountId": settings.account_label,
        "BillingAccountName": f"{settings.account_label} at {provider_host(settings)}",
        "BillingCurrency": "USD",
        "BillingPeriodStart": _midnight(row.day.replace(day=1)),
        "BillingPeriodEnd": _midnight((row.day.replace(day=1) + timedelta(days=31)).replace(day=1)),
        "ChargePeriodStart": _midnight(row.day),
        "ChargePeriodEnd": _midnight(row.day + timedelta(days=1)),
        "ChargeCategory": "Usage",
        "ChargeClass": None,
        "ChargeDescription": f"1 video, {sku}, {'possibly charged' if row.possibly_charged_usd > ZERO else 'charged'}",
        "ChargeFrequency": "Usage-Based",
        "ConsumedQuantity": 1,
        "ConsumedUnit": UNIT,
        "ContractedUnitPrice": row.cost_usd,
        "InvoiceIssuerName": PROVIDER,
        "ListUnitPrice": row.cost_usd,
        "PricingCategory": "Standard",
        "PricingQuantity": 1,
        "PricingUnit": UNIT,
        "ProviderName": PROVIDER,
        "PublisherName": PROVIDER,
        "ResourceId": row.job,
        "ResourceName": row.image,
        "ResourceType": "Video",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": MODEL,
        "ServiceSubcategory": "Generative AI",
        "SkuId": sku,
        "SkuMeter": UNIT,
        "SkuPriceId": sku,
        "Tags": {**row.extra, **({"label": row.label} if row.label else {})},
        "x_Attempt": row.attempt,
        "x_AtRisk": row.at_risk_usd,
        "x_Folder": row.folder,
        "x_Label": row.label,
        "x_Outcome": row.outcome,
        "x_PossiblyCharged": row.possibly_charged_usd,
        "x_RunId": row.run_id,
        "x_TaskId": row.task_id,
    }


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
