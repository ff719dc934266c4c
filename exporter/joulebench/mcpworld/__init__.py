"""The MCPWorld client: its files read and written as it names them, its events recorded live, its monitor and tables."""
