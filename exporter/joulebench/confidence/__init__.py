"""How sure the model was of a tool call: pure functions over rows and text of a reply, for push, bench and proxy alike."""
