"""Paper B: the methods of Tables 1-4 as rows of one table, the arithmetic of Delta_B, and what running a row means."""
