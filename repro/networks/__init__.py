"""The networks of both papers, and how a float network becomes a quantized one."""
