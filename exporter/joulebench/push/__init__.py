"""What a benchmark calls: Run -> Task -> Call, kept in a journal and pushed through the Pushgateway."""
