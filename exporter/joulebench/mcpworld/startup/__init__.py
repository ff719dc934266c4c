"""The directory that ``joulebench run`` puts on the path of the Pythons it starts.

``python -m joulebench.mcpworld.startup`` prints it, for a PYTHONPATH that does the same without the launcher.
"""
