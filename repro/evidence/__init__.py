"""Claims, verdicts, intervals, records and their rendering: what counts as reproduced, for any paper.

Knows nothing of networks, of bit-widths or of what a value means. Importing it loads neither numpy nor scipy nor
matplotlib: they are imported by the functions that use them, so that commands without arithmetic start at once.
"""
