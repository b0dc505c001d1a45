"""What is known of ticketing systems: the presets, and what reads them."""
