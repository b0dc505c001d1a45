"""Fakes of ticketing systems that cannot run here, based on the documentation of their APIs."""
