"""What was asked: questions, what they run, memory and reports."""
