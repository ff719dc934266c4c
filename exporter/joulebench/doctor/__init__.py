"""Whether finished results can be believed: checks that each say what they found, why it matters and how to mend it."""
