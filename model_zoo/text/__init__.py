"""What text towers share: a tokenizer, noun phrases, and a transformer."""
