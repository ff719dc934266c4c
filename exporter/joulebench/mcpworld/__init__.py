"""The files of the MCPWorld client: result JSON, monitor CSV and tables, read as they are and written as it names them."""
