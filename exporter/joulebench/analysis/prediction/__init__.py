"""Predicts failures: confidence against outcomes, and a risk for every task."""
