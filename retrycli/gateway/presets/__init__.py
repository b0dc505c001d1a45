"""Presets, which describe ticketing systems, and the code that reads them."""
