"""How a link names exactly one task: by a regular expression for its id, in characters that an address keeps.

Grafana decodes the address of a link before it follows it, however often it was encoded: all after a # in an id is lost, and an &
begins another parameter. The key has ``\\x23`` for a #: an address keeps that, and as a regular expression it is a # again.
The variable of the task's dashboard offers the same keys, under the ids themselves.
"""

from __future__ import annotations

from scripts.dashboards.fields import Json
from scripts.dashboards.layout import result_variable
from scripts.dashboards.promql import latest

from joulebench import metrics as m

ESCAPED = "\\#&+%.*?()[]{}|^$\"'"
"""What an address or a regular expression takes for something else. The backslash comes first: the others bring one along."""
REPEATED = "#.&+%()"
"""Those of which an id may have two."""
LEFT_OVER = "".join(f"\\\\x{ord(character):02x}" for character in ESCAPED if character not in "\\.")
"""Where there are even more of them, a dot stands for the last three."""


def keyed(expr: str) -> str:
    """With the label key."""
    found = f'label_replace({expr}, "key", "$1", "task_id", "(.*)")'
    for character in (*ESCAPED, *REPEATED):
        code = f"\\\\x{ord(character):02x}"
        found = f'label_replace({found}, "key", "$1{code}$2", "key", "(.*){code}(.*)")'
    for _ in range(3):
        found = f'label_replace({found}, "key", "$1.$2", "key", "(.*)[{LEFT_OVER}](.*)")'
    return found


def task_variable() -> Json:
    """One task of the chosen run: its id is shown, its key goes into queries and addresses."""
    query = f"max by (task_id, key) ({keyed(latest(m.TASK_INFO))})"
    return result_variable("task_id", "Task", query, '/key="(?<value>.*?)"[,}]|task_id="(?<text>.*?)"[,}]/g')
