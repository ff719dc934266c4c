"""``--prices.file`` as metrics, so that no dashboard carries a price in its queries."""

from __future__ import annotations

from joulebench import catalogue
from joulebench.prices import PriceList
from joulebench.scrape.collector import Values


class PricesCollector:
    name = "prices"
    metrics = (catalogue.PRICE_ELECTRICITY, catalogue.PRICE_HARDWARE, catalogue.PRICE_API, catalogue.PRICE_AS_OF)

    def __init__(self, prices: PriceList) -> None:
        self._prices = prices

    def collect(self, sheet: Values) -> None:
        prices = self._prices
        for item, metric, price in (
            ("electricity", catalogue.PRICE_ELECTRICITY, prices.electricity),
            ("hardware", catalogue.PRICE_HARDWARE, prices.hardware),
        ):
            if price is not None:
                sheet.value(metric, price.per_unit, (prices.currency,))
                sheet.value(catalogue.PRICE_AS_OF, price.as_of, (item,))
        for api in prices.api:
            for token, value in api.per_token.items():
                sheet.value(catalogue.PRICE_API, value, (api.model, token, prices.currency))
            sheet.value(catalogue.PRICE_AS_OF, api.as_of, (api.model,))
