"""What is true and who would say it: facts, personas, the exact observer and the ideal learners."""
