"""Prices from the price list (``--prices.file``), so that no dashboard contains a price."""

from __future__ import annotations

from joulebench.metrics.metric import gauge

PRICE_ELECTRICITY = gauge(
    "price_electricity_per_joule",
    "Price of electricity for one joule; times 3.6 million it is the price per kWh.",
    ("currency",),
)
PRICE_PUE = gauge(
    "price_pue_ratio",
    "Power usage effectiveness: energy of the building divided by that of the machine; absent where the price list has none.",
)
PRICE_HARDWARE = gauge(
    "price_hardware_per_second", "Hardware cost per second; absent where the price list has none.", ("currency",)
)
PRICE_API = gauge(
    "price_api_per_token",
    "API price for one token, by kind of token; cached_prompt is absent where the price list has none.",
    ("api_model", "token", "currency"),
)
PRICE_AS_OF = gauge(
    "price_as_of_timestamp_seconds",
    "Date on which the price was last looked up; item is electricity, hardware or the API model.",
    ("item",),
)
