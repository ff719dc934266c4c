"""The metering reverse proxy in front of a model server: passes bytes on unchanged and measures beside them."""
