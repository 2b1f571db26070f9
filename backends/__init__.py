"""The quantizer: one contract, several implementations."""
