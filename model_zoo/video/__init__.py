"""Systems that are trained on clips, and what they share."""
