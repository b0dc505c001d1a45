"""Fakes of ticketing systems, based on the documentation of their APIs."""
