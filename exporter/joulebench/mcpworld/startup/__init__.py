"""The directory that ``joulebench run`` puts on the path of the Pythons it starts; nothing here is imported by name."""
