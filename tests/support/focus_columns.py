"""The columns of FOCUS 1.2 with their feature level, whether null is allowed, and their type.

From `specification/columns/` of FinOps-Open-Cost-and-Usage-Spec/FOCUS_Spec at its tag v1.2.
"""

from __future__ import annotations

from typing import NamedTuple


class FocusColumn(NamedTuple):
    """One column of the published list."""

    level: str
    may_be_null: bool
    kind: str


FOCUS_COLUMNS = {
    "AvailabilityZone": FocusColumn("Recommended", True, "String"),
    "BilledCost": FocusColumn("Mandatory", False, "Decimal"),
    "BillingAccountId": FocusColumn("Mandatory", False, "String"),
    "BillingAccountName": FocusColumn("Mandatory", True, "String"),
    "BillingAccountType": FocusColumn("Conditional", False, "String"),
    "BillingCurrency": FocusColumn("Mandatory", False, "String"),
    "BillingPeriodEnd": FocusColumn("Mandatory", False, "Date/Time"),
    "BillingPeriodStart": FocusColumn("Mandatory", False, "Date/Time"),
    "CapacityReservationId": FocusColumn("Conditional", True, "String"),
    "CapacityReservationStatus": FocusColumn("Conditional", True, "String"),
    "ChargeCategory": FocusColumn("Mandatory", False, "String"),
    "ChargeClass": FocusColumn("Mandatory", True, "String"),
    "ChargeDescription": FocusColumn("Mandatory", True, "String"),
    "ChargeFrequency": FocusColumn("Recommended", False, "String"),
    "ChargePeriodEnd": FocusColumn("Mandatory", False, "Date/Time"),
    "ChargePeriodStart": FocusColumn("Mandatory", False, "Date/Time"),
    "CommitmentDiscountCategory": FocusColumn("Conditional", True, "String"),
    "CommitmentDiscountId": FocusColumn("Conditional", True, "String"),
    "CommitmentDiscountName": FocusColumn("Conditional", True, "String"),
    "CommitmentDiscountQuantity": FocusColumn("Conditional", True, "Decimal"),
    "CommitmentDiscountStatus": FocusColumn("Conditional", True, "String"),
    "CommitmentDiscountType": FocusColumn("Conditional", True, "String"),
    "CommitmentDiscountUnit": FocusColumn("Conditional", True, "String"),
    "ConsumedQuantity": FocusColumn("Conditional", True, "Decimal"),
    "ConsumedUnit": FocusColumn("Conditional", True, "String"),
    "ContractedCost": FocusColumn("Mandatory", False, "Decimal"),
    "ContractedUnitPrice": FocusColumn("Conditional", True, "Decimal"),
    "EffectiveCost": FocusColumn("Mandatory", False, "Decimal"),
    "InvoiceId": FocusColumn("Recommended", True, "String"),
    "InvoiceIssuerName": FocusColumn("Mandatory", False, "String"),
    "ListCost": FocusColumn("Mandatory", False, "Decimal"),
    "ListUnitPrice": FocusColumn("Conditional", True, "Decimal"),
    "PricingCategory": FocusColumn("Conditional", True, "String"),
    "PricingCurrency": FocusColumn("Conditional", True, "String"),
    "PricingCurrencyContractedUnitPrice": FocusColumn("Conditional", True, "Decimal"),
    "PricingCurrencyEffectiveCost": FocusColumn("Conditional", True, "Decimal"),
    "PricingCurrencyListUnitPrice": FocusColumn("Conditional", True, "Decimal"),
    "PricingQuantity": FocusColumn("Mandatory", True, "Decimal"),
    "PricingUnit": FocusColumn("Mandatory", True, "String"),
    "ProviderName": FocusColumn("Mandatory", False, "String"),
    "PublisherName": FocusColumn("Mandatory", False, "String"),
    "RegionId": FocusColumn("Conditional", True, "String"),
    "RegionName": FocusColumn("Conditional", True, "String"),
    "ResourceId": FocusColumn("Conditional", True, "String"),
    "ResourceName": FocusColumn("Conditional", True, "String"),
    "ResourceType": FocusColumn("Conditional", True, "String"),
    "ServiceCategory": FocusColumn("Mandatory", False, "String"),
    "ServiceName": FocusColumn("Mandatory", False, "String"),
    "ServiceSubcategory": FocusColumn("Recommended", False, "String"),
    "SkuId": FocusColumn("Conditional", True, "String"),
    "SkuMeter": FocusColumn("Conditional", True, "String"),
    "SkuPriceDetails": FocusColumn("Conditional", True, "JSON"),
    "SkuPriceId": FocusColumn("Conditional", True, "String"),
    "SubAccountId": FocusColumn("Conditional", True, "String"),
    "SubAccountName": FocusColumn("Conditional", True, "String"),
    "SubAccountType": FocusColumn("Conditional", True, "String"),
    "Tags": FocusColumn("Conditional", True, "JSON"),
}
