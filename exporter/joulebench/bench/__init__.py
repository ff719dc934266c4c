"""The built-in agent benchmark: small file tasks, safe tools, honest grades. It uses the push door as any benchmark would."""
