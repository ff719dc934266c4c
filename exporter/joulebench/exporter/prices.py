"""``--prices.file`` as metrics, so that no dashboard carries a price in its queries."""

from __future__ import annotations

from joulebench import metrics
from joulebench.exporter.collector import Values
from joulebench.prices import PriceList


class PricesCollector:
    name = "prices"
    metrics = (metrics.PRICE_ELECTRICITY, metrics.PRICE_HARDWARE, metrics.PRICE_API, metrics.PRICE_AS_OF)

    def __init__(self, prices: PriceList) -> None:
        self._prices = prices

    def collect(self, sheet: Values) -> None:
        prices = self._prices
        for item, metric, price in (
            ("electricity", metrics.PRICE_ELECTRICITY, prices.electricity),
            ("hardware", metrics.PRICE_HARDWARE, prices.hardware),
        ):
            if price is not None:
                sheet.value(metric, price.per_unit, (prices.currency,))
                sheet.value(metrics.PRICE_AS_OF, price.as_of, (item,))
        for api in prices.api:
            for token, value in api.per_token.items():
                sheet.value(metrics.PRICE_API, value, (api.model, token, prices.currency))
            sheet.value(metrics.PRICE_AS_OF, api.as_of, (api.model,))
