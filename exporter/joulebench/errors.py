"""Every error Joulebench raises on purpose, one root for each thing a caller can do about it.

JoulebenchError
├── UserError            the input is wrong: the message says how to mend it; commands exit with 2
└── OutsideError         something outside failed; ordinary, recorded in the data, retried or reported
    ├── GpuError         NVML or AMD SMI answered with an error
    │   ├── GpuUnavailable   neither can be used on this machine (no library, no driver, no GPU)
    │   └── GpuLost          one GPU stopped answering
    ├── OllamaError      the Ollama API is unreachable or gave nonsense
    ├── GatewayError     the Pushgateway refused or could not be reached
    ├── PrometheusError  the Prometheus HTTP API refused or could not be reached
    │   └── QueryRefused     it will not work on this query (too many samples, say); a smaller one may do
    ├── EnergyApiError   the exporter's window energy API refused (EnergyRefused) or could not be reached
    ├── ModelError       the LLM server refused, broke off or could not be reached
    └── ProcessError     a program that Joulebench starts (Prometheus, Pushgateway, ...) did not come up
"""

from __future__ import annotations

from joulebench.metrics.label_text import label_text

MAX_ERROR_LENGTH = 1000


class JoulebenchError(Exception):
    """Root of all errors raised on purpose."""


class UserError(JoulebenchError):
    """Bad input; the message names the input and how to mend it."""


class OutsideError(JoulebenchError):
    """Something outside this process failed."""


class GpuError(OutsideError):
    """NVML or AMD SMI answered with an error."""


class GpuUnavailable(GpuError):
    """No usable NVML or AMD SMI: no library, no driver or no GPU."""


class GpuLost(GpuError):
    """A GPU that was there stopped answering."""


class OllamaError(OutsideError):
    """The Ollama API is unreachable or answered nonsense."""


class GatewayError(OutsideError):
    """The Pushgateway is unreachable or refused a push."""


class PrometheusError(OutsideError):
    """The Prometheus HTTP API is unreachable or refused a query."""


class QueryRefused(PrometheusError):
    """The Prometheus HTTP API understood a query and will not answer it: it loads too much, or takes too long."""


class EnergyApiError(OutsideError):
    """The exporter's window energy API is unreachable or refused a window."""


class EnergyRefused(EnergyApiError):
    """It refused this window for good: no later answer would be one to this question."""


class ModelError(OutsideError):
    """The LLM server is unreachable, refused the request or broke off."""


class ProcessError(OutsideError):
    """A program that Joulebench starts did not come up."""


def format_error(error: BaseException, longest: int = MAX_ERROR_LENGTH) -> str:
    """``Type: message`` in one printable line of at most ``longest`` characters. Never raises, whatever the error itself does."""
    try:
        message = str(error)
    except Exception:
        message = ""
    name = type(error).__name__
    return label_text(f"{name}: {message}" if message else name, longest)
