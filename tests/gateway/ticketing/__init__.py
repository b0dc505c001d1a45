"""Ticketing systems that can't be run here, played from what their makers say of their APIs."""
