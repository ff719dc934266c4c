"""The outside programs that Joulebench asks over HTTP, one file each."""
