"""The study spec: reading, checking and describing it."""
