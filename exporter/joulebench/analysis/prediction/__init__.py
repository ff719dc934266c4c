"""What tells failures before they happen: confidence held against outcomes, and a risk for every task."""
