"""Prices of the price list (``--prices.file``), so that no dashboard carries a literal."""

from __future__ import annotations

from joulebench.metrics.metric import gauge

PRICE_ELECTRICITY = gauge(
    "price_electricity_per_joule",
    "Price of electricity by the price list; times 3.6 million it is the price per kWh.",
    ("currency",),
)
PRICE_HARDWARE = gauge(
    "price_hardware_per_second", "What the machine costs by being there; absent where the price list does not say.", ("currency",)
)
PRICE_API = gauge(
    "price_api_per_token",
    "What an API takes for one token, by kind of token; cached_prompt is absent where the price list gives none.",
    ("api_model", "token", "currency"),
)
PRICE_AS_OF = gauge(
    "price_as_of_timestamp_seconds",
    "Day on which the price was last looked up; item is electricity, hardware or the API's model.",
    ("item",),
)
