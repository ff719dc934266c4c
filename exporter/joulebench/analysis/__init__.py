"""What finished runs say when they are looked at together: whether a confidence predicts failure, and what that is worth."""
