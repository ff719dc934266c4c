"""From counter changes to the energy of a window: pure, and shared by the exporter's ring and the post-run export."""
