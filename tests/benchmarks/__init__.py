"""``make bench``: how right the joules are and what they cost, beside other tools, on fake GPUs whose joules are known.

Prints and writes ``.build/bench/report.txt``. Nothing asserts on time: a busy machine gives other numbers, not a failure.
"""
